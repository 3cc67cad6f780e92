"""Appending one event at a time is the same as reading the whole history."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import main
from config import ConfigError, override
from tests.test_hstu import histories as timed_histories
from tests.test_parity import set_numpy_weights
from tests.test_sequences import catalogue, histories
from zoo import registry
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.sequential import SequentialRecommender
from zoo.streaming import Stream

MAX_LENGTH = 12


def streamable():
    specs = {name: registry.get(name) for name in registry.list_models()}
    return [n for n, s in specs.items() if issubclass(s.model, SequentialRecommender) and hasattr(s.model, "extend")]


@pytest.mark.once
def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(
        r"```python\n(.*?)```", Path(main.__file__).with_name("README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    options = ["--model", "sasrec", "--preset", "tiny", "--override", "train.epochs=1,sample.num_users=60"]
    assert not main.main(["train_validation_model", *options])
    assert not main.main(["train_production_model", *options])
    capsys.readouterr()
    exec(example, {})
    recommended = re.findall(r"\d+", capsys.readouterr().out)
    assert len(set(recommended) - {"1012", "1040", "1007", "1031"}) == len(recommended) == 10


VARIANTS = [*((name, "") for name in streamable()), ("sasrec", ",num_heads=2,relative_bias=true")]


@pytest.fixture(params=VARIANTS, ids="".join)
def model(request):
    name, knobs = request.param
    spec = registry.get(name)
    built = spec.model(override(spec.preset("tiny"), [f"max_length={MAX_LENGTH}{knobs}"]).model, catalogue())
    set_numpy_weights(built)
    return built


def grown(log, items, timestamp=None, query_time=None):
    """The histories with one more event each."""
    ends = log.offsets[1:]
    return Histories(
        log.user,
        log.offsets + np.arange(len(log) + 1),
        np.insert(log.item, ends, items).astype(np.int32),
        None if timestamp is None else np.insert(log.timestamp, ends, timestamp),
        query_time=query_time,
    )


def test_appends_equal_the_whole_history(model):
    log = histories([0, 1, 5, 3, MAX_LENGTH - 6])
    stream, rng = Stream(model, log), np.random.default_rng(0)
    np.testing.assert_allclose(stream.vectors, model.vectors(log), rtol=1e-5, atol=1e-5)
    for _ in range(6):
        items = rng.integers(3, 23, len(log)).astype(np.int32)
        log = grown(log, items)
        np.testing.assert_allclose(stream.append(items), model.vectors(log), rtol=1e-5, atol=1e-5)


def test_a_full_window_starts_again_from_its_newest_half(model):
    stream = Stream(model, histories([MAX_LENGTH + 5, MAX_LENGTH - 1]))
    for step in range(MAX_LENGTH + 3):
        vectors = stream.append(np.array([4, 5], np.int32) + step % 7)
        np.testing.assert_allclose(vectors, model.vectors(stream.histories), rtol=1e-5, atol=1e-5)
        assert stream.histories.lengths.min() > MAX_LENGTH // 2


@pytest.mark.once
def test_nobody_else_is_read_again(model, monkeypatch):
    stream, anew = Stream(model, histories([MAX_LENGTH, 3, MAX_LENGTH - 1, 5, 6])), []
    read = Stream._read
    monkeypatch.setattr(Stream, "_read", lambda self, rows: (anew.append(rows.tolist()), read(self, rows)))
    for _ in range(3):
        vectors = stream.append(np.full(5, 4, np.int32))
        np.testing.assert_allclose(vectors, model.vectors(stream.histories), rtol=1e-5, atol=1e-5)
    assert anew == [[0], [2]]


@pytest.mark.parametrize("query_time", [False, True])
def test_events_are_appended_with_their_times(query_time):
    spec = registry.get("hstu")
    knobs = [f"max_length={MAX_LENGTH},query_time={query_time}"]
    model = spec.model(override(spec.preset("tiny"), knobs).model, catalogue())
    set_numpy_weights(model)
    log, rng = timed_histories([1, 2, 5, MAX_LENGTH - 1]), np.random.default_rng(0)
    stream = Stream(model, log)
    np.testing.assert_allclose(stream.vectors, model.vectors(log), rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="give `timestamp`"):
        stream.append(np.full(4, 5))
    now = log.timestamp[log.offsets[1:] - 1]
    for _ in range(2 * MAX_LENGTH):
        now = now + 1000 * rng.choice([0, 1, 60, 100_000], len(log))
        asked = now + 5_000
        vectors = stream.append(rng.integers(3, 23, len(log)), now, query_time=asked)
        np.testing.assert_allclose(vectors, model.vectors(stream.histories), rtol=1e-5, atol=1e-5)
        assert (stream.histories.timestamp[stream.histories.offsets[1:] - 1] == now).all()
    at_once = stream.append(rng.integers(3, 23, len(log)), now)
    np.testing.assert_allclose(at_once, model.vectors(stream.histories), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flags", ["use_actions=true", "query_action=true", "use_actions=true,query_action=true"])
@pytest.mark.parametrize("name", streamable())
def test_events_are_appended_with_their_actions(name, flags):
    spec, rng = registry.get(name), np.random.default_rng(0)
    items = dataclasses.replace(catalogue(), labels={"action": ("view", "cart", "buy")})
    model = spec.model(override(spec.preset("tiny"), [f"max_length={MAX_LENGTH},{flags}"]).model, items)
    set_numpy_weights(model)
    log = histories([0, 1, 5, MAX_LENGTH - 2])
    log = dataclasses.replace(log, columns={"action": rng.integers(2, 6, len(log.item)).astype(np.int16)})
    stream = Stream(model, log)
    for _ in range(MAX_LENGTH):
        action, asked = rng.integers(2, 6, (2, len(log)))
        vectors = stream.append(rng.integers(3, 23, len(log)), action=action, query_action=asked)
        np.testing.assert_allclose(vectors, model.vectors(stream.histories), rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="give `action`"):
        stream.append(np.full(4, 5))


def test_what_cannot_be_continued_says_so():
    with pytest.raises(ConfigError, match="cannot be continued"):
        Stream(object(), histories([3]))
