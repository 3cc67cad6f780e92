"""Packed rows: every sequence whole, once, and hardly a slot empty."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import DataConfig, RunConfig, SplitConfig, TrainConfig
from zoo.data import sources, splits
from zoo.data.catalogue import prepare
from zoo.data.loaders.packing import pack, rounded
from zoo.data.loaders.sequences import NextItemLoader
from zoo.sequential import SequentialConfig

pytestmark = pytest.mark.once


@given(st.lists(st.integers(1, 9), max_size=60), st.booleans())
def test_every_sequence_lies_whole_in_one_row(lengths, closely):
    lengths = np.array(lengths, np.int64)
    packing = pack(lengths, 9, closely)
    taken = np.zeros((packing.num_rows, 9), int)
    for row, start, length in zip(packing.row, packing.start, lengths, strict=True):
        assert start + length <= 9
        taken[row, start : start + length] += 1
    assert taken.max(initial=0) <= 1
    assert (taken.sum(axis=1) > 0).all()
    if closely:  # no two rows could be one: at most one is half empty or less
        assert (taken.sum(axis=1) * 2 <= 9).sum() <= 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(0, 5))
def test_layout_is_what_a_loop_would_make(lengths, seed):
    lengths = np.array(lengths, np.int64)
    packing = pack(lengths, 7)
    begins = np.cumsum(lengths) - lengths
    rows = np.random.default_rng(seed).permutation(packing.num_rows + 2) - 1  # one row before, one behind the last
    index, position, segment = packing.layout(rows, begins)
    assert index.shape == position.shape == segment.shape == (len(rows), 7)
    for place, row in enumerate(rows):
        mine = np.flatnonzero(packing.row == row)
        mine = mine[np.argsort(packing.start[mine])]
        expected = [
            (begins[s] + i, i, ordinal + 1, packing.start[s] + i)
            for ordinal, s in enumerate(mine)
            for i in range(lengths[s])
        ]
        slots = [slot for *_, slot in expected]
        assert np.flatnonzero(segment[place]).tolist() == sorted(slots)
        for event, at, ordinal, slot in expected:
            assert (index[place, slot], position[place, slot], segment[place, slot]) == (event, at, ordinal)
    slots = np.flatnonzero(segment)
    assert np.array_equal(begins[packing.sequences(rows, segment, slots)], (index - position).reshape(-1)[slots])


def test_natural_lengths_fill_nearly_every_slot():
    lengths = np.clip(np.random.default_rng(0).lognormal(4.3, 1.0, 6000).astype(int), 1, 200)
    assert pack(lengths, 200).fill > 0.98
    lengths = np.clip(np.random.default_rng(0).lognormal(1.8, 0.6, 20000).astype(int), 1, 50)
    assert pack(lengths, 50).fill > 0.98


def test_few_sequences_fill_nearly_every_slot_closely():
    lengths = np.clip(np.random.default_rng(0).lognormal(2.7, 1.26, 1000).astype(int), 1, 300)
    assert pack(lengths, 300, closely=True).fill > 0.99 > 0.9 > pack(lengths, 300).fill
    assert pack(np.array([60, 59, 58, 57]), 300, closely=True).num_rows == 1


def test_a_length_out_of_range_is_refused():
    with pytest.raises(ValueError, match="wanted 1 to 4"):
        pack(np.array([3, 5]), 4)


@pytest.mark.parametrize("all_events", [False, True])
@pytest.mark.parametrize(
    "file, length", [("ml-1m/sasrec_ml-1m.txt.gz", 200), ("amazon-s3rec-timegaps/Beauty.txt.gz", 50)]
)
def test_an_epoch_of_real_data_computes_few_empty_slots(file, length, all_events):
    path = Path(__file__).parents[2] / "shared" / "data" / file
    if not path.exists():
        pytest.skip(f"{file} is not there")
    data = DataConfig(path=str(path), layout="pairs" if "ml-1m" in file else "sequences")
    prepared = prepare(splits.split(sources.load(data), SplitConfig()))
    model = SequentialConfig(max_length=length, all_events=all_events)
    config = RunConfig(model=model, train=TrainConfig(batch_size=128))
    loader = NextItemLoader(prepared.train, prepared.catalogue, config)
    loader.set_epoch(0)
    real = sum(int((loader[i][0]["segment"] > 0).sum()) for i in range(len(loader)))
    computed = sum(loader[i][0]["segment"].size for i in range(len(loader)))
    inputs = prepared.train.lengths - 1
    assert real == (inputs if all_events else np.minimum(inputs, length)).clip(0).sum()
    assert computed <= 1.15 * real


def test_sizes_are_few():
    assert [rounded(n) for n in (1, 7, 8, 15, 16, 17, 100, 113, 250)] == [1, 7, 8, 15, 16, 18, 104, 120, 256]
    assert len({rounded(n) for n in range(64, 128)}) == 9
