"""Top-k against a full sort of exactly rounded scores."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import topk
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.topk import InnerProductIndex, top_k, top_of_scores


def exact_scores(queries, items):
    return (queries.astype(np.float64) @ items.astype(np.float64).T).astype(np.float32)


def sorted_lists(scores, k, exclude=None, allowed=None):
    """The definition: sort every row by (-score, token), without what may not be found."""
    scores = scores.copy()
    scores[:, :NUM_SPECIALS] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    if exclude is not None:
        scores[exclude.row_of_event, exclude.item] = -np.inf
    tokens, best = np.zeros((len(scores), k), np.int32), np.full((len(scores), k), -np.inf, np.float32)
    for row, values in enumerate(scores):
        order = [
            token for token in sorted(range(len(values)), key=lambda t: (-values[t], t)) if values[token] > -np.inf
        ]
        tokens[row, : len(order[:k])], best[row, : len(order[:k])] = order[:k], values[order[:k]]
    return tokens, best


def random_histories(rng, num, num_tokens, longest):
    lengths = rng.integers(0, longest + 1, num)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(np.zeros(num, np.int32), offsets, rng.integers(0, num_tokens, lengths.sum()).astype(np.int32))


def assert_same(got, expected):
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert got[0].dtype == np.int32


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(1, 40),
    num_tokens=st.integers(NUM_SPECIALS + 1, 900),
    dim=st.integers(1, 24),
    k=st.sampled_from([1, 3, 20, 300]),
    ties=st.sampled_from(["none", "grid", "twins", "zero"]),
    seen=st.booleans(),
    some=st.booleans(),
)
def test_equals_a_full_sort(seed, num, num_tokens, dim, k, ties, seen, some):
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((num, dim)).astype(np.float32)
    items = rng.standard_normal((num_tokens, dim)).astype(np.float32)
    if ties == "grid":
        queries, items = np.round(queries), np.round(items)
    elif ties == "twins":
        items = items[rng.integers(0, max(num_tokens // 20, 1), num_tokens)]
    elif ties == "zero":
        queries[rng.random(num) < 0.5] = 0
        items[rng.random(num_tokens) < 0.5] = 0
    exclude = random_histories(rng, num, num_tokens, 2 * num_tokens) if seen else None
    allowed = rng.random(num_tokens) < 0.4 if some else None
    scores = exact_scores(queries, items)
    expected = sorted_lists(scores, k, exclude, allowed)
    tile, block = topk.TILE, topk.BLOCK
    try:
        topk.TILE, topk.BLOCK = 32, 7  # many tiles and blocks, although the test is small
        assert_same(top_k(queries, items, k, exclude, allowed), expected)
    finally:
        topk.TILE, topk.BLOCK = tile, block
    if exclude is not None:
        scores[exclude.row_of_event, exclude.item] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    assert_same(top_of_scores(scores, k), expected)


@pytest.mark.once
@pytest.mark.parametrize(("size", "k"), [(1_003, 5), (1_003, 60), (300, 90), (8_000, 1)])
def test_the_best_of_a_row_are_found_among_groups(size, k):
    """With ties, and with hardly anything that may be found."""
    rng = np.random.default_rng(size + k)
    scores = rng.integers(0, 40, (30, size)).astype(np.float32)
    scores[10:20] = rng.standard_normal((10, size))
    scores[20:, 2 * k :] = -np.inf
    scores[25:, k // 2 :] = -np.inf
    assert_same(top_of_scores(scores, k), sorted_lists(scores, k))


@pytest.mark.parametrize("scale", [1e-40, 1e-6, 1.0, 1e6])
def test_many_tiles_at_full_size(scale):
    rng = np.random.default_rng(1)
    queries = (rng.standard_normal((80, 16)) * scale).astype(np.float32)
    items = rng.standard_normal((15_000, 16)).astype(np.float32)
    items[7_000:] = items[rng.integers(0, 7_000, 8_000)]  # twins in other tiles
    exclude = random_histories(rng, 80, 15_000, 400)
    tokens, scores = top_k(queries, items, 50, exclude)
    expected = exact_scores(queries, items)
    expected[:, :NUM_SPECIALS] = -np.inf
    expected[exclude.row_of_event, exclude.item] = -np.inf
    order = np.argsort(-expected, axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(tokens, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(expected, order, axis=1))


def test_short_vectors_are_not_looked_at(monkeypatch):
    """Items whose length cannot reach anybody's list cost nothing, and the lists are those of a full sort."""
    rng = np.random.default_rng(4)
    queries, items = rng.standard_normal((50, 8), np.float32), rng.standard_normal((60_000, 8), np.float32)
    items[rng.permutation(60_000)[:50_000]] *= 1e-3
    looked = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, out: looked.append(b.shape[1]) or matmul(a, b, out=out))
    tokens, scores = top_k(queries, items, 20)
    blocks = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert sum(looked) < min(blocks, 50) * 20_000
    expected = exact_scores(queries, items)
    expected[:, :NUM_SPECIALS] = -np.inf
    order = np.argsort(-expected, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(tokens, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(expected, order, axis=1))


def test_a_tie_of_everything_stays_small_and_goes_by_token():
    """All items alike: the margin lets every one through, and each tile must be settled before the next."""
    queries, items = np.ones((64, 8), np.float32), np.full((60_000, 8), 0.1, np.float32)
    tokens, scores = top_k(queries, items, 5)
    np.testing.assert_array_equal(tokens, np.tile(np.arange(5) + NUM_SPECIALS, (64, 1)))
    assert len(np.unique(scores)) == 1


def test_the_size_of_a_batch_changes_nothing():
    rng = np.random.default_rng(2)
    queries, items = rng.standard_normal((200, 33), np.float32), rng.standard_normal((5_000, 33), np.float32)
    index = InnerProductIndex(items)
    whole = index.search(queries, 20)
    for size in (1, 7, 64):
        parts = [index.search(queries[start : start + size], 20) for start in range(0, 200, size)]
        assert_same([np.concatenate(arrays) for arrays in zip(*parts, strict=True)], whole)


def test_nothing_to_find():
    queries, items = np.ones((4, 3), np.float32), np.ones((9, 3), np.float32)
    for found in (
        top_k(queries, items, 5, allowed=np.zeros(9, bool)),
        top_k(queries, items[:NUM_SPECIALS], 5),
        top_of_scores(np.full((4, 9), -np.inf, np.float32), 5),
        top_of_scores(np.zeros((4, NUM_SPECIALS), np.float32), 5),
    ):
        assert_same(found, (np.zeros((4, 5)), np.full((4, 5), -np.inf)))
    assert top_k(queries[:0], items, 5)[0].shape == (0, 5)
    assert top_of_scores(np.zeros((0, 9), np.float32), 5)[0].shape == (0, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_diverged_model_is_refused(value):
    queries, items = np.ones((4, 3), np.float32), np.ones((9, 3), np.float32)
    queries[2, 1] = value
    if value != 1e30:  # large, but its products are finite
        with pytest.raises(DataError, match="diverged"):
            top_k(queries, items, 2)
    items[5, 1] = value
    with pytest.raises(DataError, match="diverged"):
        top_k(queries, items, 2)
    with pytest.raises(DataError, match="diverged"), np.errstate(over="ignore", invalid="ignore"):
        top_of_scores(queries @ items.T, 2)


def test_a_list_of_everything():
    rng = np.random.default_rng(3)
    queries, items = rng.standard_normal((30, 5), np.float32), rng.standard_normal((6_000, 5), np.float32)
    tokens, scores = top_k(queries, items, 7_000)
    assert_same((tokens, scores), top_of_scores(exact_scores(queries, items), 7_000))
    assert (np.sort(tokens[:, :5997], axis=1) == np.arange(NUM_SPECIALS, 6_000)).all() and not tokens[:, 5997:].any()
