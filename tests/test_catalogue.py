"""Vocabularies, counts, features and histories come from the training part alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_datasets import dataset_of, datasets, objects

from config import SampleConfig, SplitConfig
from zoo.data import splits
from zoo.data.catalogue import Catalogue, prepare, prepare_as
from zoo.data.dataset import DataError, Dataset, Entities
from zoo.data.sources.synthetic import read
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN

STRATEGIES = ("leave_one_out", "temporal", "by_user")


def split_or_none(dataset: Dataset, strategy: str) -> splits.Split | None:
    try:
        return splits.split(dataset, SplitConfig(strategy=strategy, fraction=0.2))
    except DataError:
        return None


@given(datasets(min_events=6), st.sampled_from(STRATEGIES))
def test_training_part_alone(dataset, strategy):
    split = split_or_none(dataset, strategy)
    if split is None:
        return
    prepared = prepare(split)
    catalogue = prepared.catalogue
    events = dataset.events
    trained = [
        (u, i)
        for u, i, part in zip(events.user.tolist(), events.item.tolist(), split.part.tolist(), strict=True)
        if part == splits.TRAIN
    ]
    for k, (vocabulary, entities, token) in enumerate(
        (
            (catalogue.users, dataset.users, prepared.user_token),
            (catalogue.items, dataset.items, prepared.item_token),
        )
    ):
        order = list(dict.fromkeys(pair[k] for pair in trained))  # first appearance first
        assert vocabulary.num_trained == len(order)
        assert vocabulary.ids[: len(order)].tolist() == entities.ids[order].tolist()
        rest = [row for row in range(len(entities)) if row not in order]
        assert vocabulary.ids[len(order) :].tolist() == (entities.ids[rest].tolist() if entities.columns else [])
        assert token.tolist() == vocabulary.encode(entities.ids).tolist()
    counts = np.zeros(catalogue.items.size, np.int64)
    for _, item in trained:
        counts[prepared.item_token[item]] += 1
    assert catalogue.item_counts.tolist() == counts.tolist()
    assert not catalogue.item_counts[:NUM_SPECIALS].any()
    assert prepared.train.item.tolist() == [int(prepared.item_token[item]) for _, item in trained]
    assert (prepared.train.lengths > 0).all()
    assert len(prepared.train) == catalogue.users.num_trained


@given(datasets(min_events=6), st.sampled_from(STRATEGIES), st.sampled_from(["validation", "test"]))
def test_cases_hold_what_was_known_and_what_came(dataset, strategy, name):
    split = split_or_none(dataset, strategy)
    if split is None:
        return
    prepared = prepare(split)
    histories, targets = prepared.cases(name)
    rows = split.users(name)
    assert len(histories) == len(targets) == len(rows)
    assert np.array_equal(histories.user, targets.user)
    for k, row in enumerate(rows.tolist()):
        mine = dataset.events.user == row
        known = prepared.item_token[dataset.events.item[mine & np.isin(split.part, splits.KNOWN[name])]]
        target = prepared.item_token[dataset.events.item[mine & (split.part == splits.TARGET[name])]]
        assert histories.item[histories.offsets[k] : histories.offsets[k + 1]].tolist() == known.tolist()
        assert targets.item[targets.offsets[k] : targets.offsets[k + 1]].tolist() == target.tolist()
    assert (targets.lengths > 0).all()
    if len(histories.item) and strategy == "leave_one_out":
        last = histories.columns["position"][histories.offsets[1:] - 1]
        assert (last < targets.columns["position"]).all()  # never the future


@given(datasets(min_events=1))
def test_all_histories_are_everything(dataset):
    prepared = prepare(splits.everything(dataset))
    histories = prepared.all_histories()
    assert histories.item.tolist() == prepared.item_token[dataset.events.item].tolist()
    assert len(histories) == dataset.num_users
    assert histories.user.tolist() == list(range(NUM_SPECIALS, NUM_SPECIALS + dataset.num_users))


@given(datasets(min_events=6))
def test_prepare_as_its_own_catalogue_changes_nothing(dataset):
    split = split_or_none(dataset, "leave_one_out")
    if split is None:
        return
    prepared = prepare(split)
    again = prepare_as(split, prepared.catalogue)
    assert again.user_token.tolist() == prepared.user_token.tolist()
    assert again.item_token.tolist() == prepared.item_token.tolist()
    assert again.train.item.tolist() == prepared.train.item.tolist()


def test_prepare_as_knows_only_its_own_ids():
    old = prepare(splits.everything(dataset_of([(0, 0, 1), (0, 2, 2)], 1, 3)))
    new = prepare_as(splits.everything(dataset_of([(0, 1, 1), (1, 2, 2)], 2, 3)), old.catalogue)
    assert new.user_token.tolist() == [3, UNKNOWN]
    assert new.item_token.tolist() == [3, UNKNOWN, 4]


def test_an_item_of_the_test_part_is_unknown_unless_it_has_features():
    events = [(0, 0, 1), (0, 1, 2), (0, 2, 3)]
    plain = prepare(splits.leave_one_out(dataset_of(events, 1, 4)))
    assert plain.catalogue.items.size == NUM_SPECIALS + 1
    assert plain.cases("test")[1].item.tolist() == [UNKNOWN]
    known = prepare(splits.leave_one_out(dataset_of(events, 1, 4, features=True)))
    assert known.catalogue.items.size == NUM_SPECIALS + 4
    assert known.catalogue.items.trained_size == NUM_SPECIALS + 1
    assert known.cases("test")[1].item.tolist() == [known.item_token[2]]
    assert known.catalogue.item_features.bags.shape[0] == NUM_SPECIALS + 4


def assert_equal(one: Catalogue, other: Catalogue) -> None:
    for name in ("users", "items"):
        assert getattr(one, name).sha256 == getattr(other, name).sha256
        assert getattr(one, name).ids.dtype == getattr(other, name).ids.dtype
    assert np.array_equal(one.item_counts, other.item_counts)
    assert one.labels == other.labels
    for name in ("user_features", "item_features"):
        mine, its = getattr(one, name), getattr(other, name)
        assert (mine is None) == (its is None)
        if mine is not None:
            assert (mine.names, mine.number_names) == (its.names, its.number_names)
            assert np.array_equal(mine.bags, its.bags)
            assert np.array_equal(mine.numbers, its.numbers)
            assert mine.numbers.shape == its.numbers.shape


@pytest.mark.parametrize(
    "dataset",
    [
        read(SampleConfig(num_users=20)),
        dataset_of([(0, 0, 1), (1, 1, 2)], 2, 2),
        dataset_of([(0, 0, 1), (1, 1, 2)], 2, 2, features=True),
    ],
    ids=["sample", "plain", "features"],
)
def test_a_catalogue_survives_a_file(dataset, tmp_path):
    catalogue = prepare(splits.everything(dataset)).catalogue
    np.savez(tmp_path / "catalogue.npz", **catalogue.arrays())
    with np.load(tmp_path / "catalogue.npz", allow_pickle=False) as arrays:
        assert_equal(Catalogue.from_arrays(dict(arrays)), catalogue)


@given(st.lists(st.text(max_size=6), min_size=1, max_size=6, unique=True))
def test_any_text_survives_as_an_id(ids):
    dataset = dataset_of([(0, row, row) for row in range(len(ids))], 1, len(ids))
    dataset = dataclasses.replace(dataset, items=Entities(objects(ids)))
    catalogue = prepare(splits.everything(dataset)).catalogue
    back = Catalogue.from_arrays(catalogue.arrays())
    assert back.items.ids.tolist() == ids
    assert back.items.ids.dtype == object
