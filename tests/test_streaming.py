"""Appending one event at a time is the same as reading the whole history."""

import numpy as np
import pytest

from config import ConfigError, override
from tests.test_parity import set_numpy_weights
from tests.test_sequences import catalogue, histories
from zoo import registry
from zoo.data.histories import Histories
from zoo.sequential import SequentialRecommender
from zoo.streaming import Stream

MAX_LENGTH = 12


def streamable():
    specs = {name: registry.get(name) for name in registry.list_models()}
    return [n for n, s in specs.items() if issubclass(s.model, SequentialRecommender) and hasattr(s.model, "extend")]


@pytest.fixture(params=streamable())
def model(request):
    spec = registry.get(request.param)
    built = spec.model(override(spec.preset("tiny"), [f"max_length={MAX_LENGTH}"]).model, catalogue())
    set_numpy_weights(built)
    return built


def grown(log, items):
    """The histories with one more item each."""
    rows = [[*log.item[a:b].tolist(), i] for a, b, i in zip(log.offsets[:-1], log.offsets[1:], items, strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Histories(log.user, offsets, np.concatenate(rows).astype(np.int32))


def of_windows(stream):
    offsets = np.concatenate([[0], np.cumsum(stream.lengths)]).astype(np.int64)
    items = np.concatenate([row[:n] for row, n in zip(stream.window, stream.lengths, strict=True)])
    return Histories(np.zeros(len(stream.lengths), np.int32), offsets, items.astype(np.int32))


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
        np.testing.assert_allclose(vectors, model.vectors(of_windows(stream)), rtol=1e-5, atol=1e-5)
        assert stream.lengths.min() > MAX_LENGTH // 2


def test_what_cannot_be_continued_says_so():
    with pytest.raises(ConfigError, match="cannot be continued"):
        Stream(object(), histories([3]))
