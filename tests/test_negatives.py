"""Negatives: never a known positive, the stated distribution, exact log-q, an end for people who know everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.negatives import KnownPairs, NegativeSampler, log_popularity
from zoo.data.vocabulary import NUM_SPECIALS, PAD, Vocabulary


def world(lists, num_items, untrained=0):
    """Histories of `lists` of item numbers from 0, and their catalogue."""
    items = Vocabulary(np.arange(num_items + untrained), num_items)
    user = np.arange(len(lists), dtype=np.int32) + NUM_SPECIALS
    histories = Histories.from_lists(lists, items, user)
    counts = np.bincount(histories.item, minlength=items.size)
    return histories, Catalogue(Vocabulary(np.arange(len(lists)), len(lists)), items, counts)


LISTS = st.lists(st.lists(st.integers(0, 11), max_size=15), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.sampled_from([0.0, 0.75, 1.0]), st.integers(0, 2**32 - 1))
def test_no_known_item_no_special_and_exact_log_q(lists, power, seed):
    histories, catalogue = world(lists, 12, untrained=3)
    sampler = NegativeSampler(histories, catalogue, power)
    users = np.repeat(histories.user, 3)
    items, log_q = sampler.draw(users, 5, np.random.default_rng(seed))
    assert items.shape == log_q.shape == (len(users), 5)
    assert items.dtype == np.int32
    assert log_q.dtype == np.float32
    weights = np.maximum(catalogue.item_counts[NUM_SPECIALS : NUM_SPECIALS + 12], 1).astype(float) ** power
    for row, user in enumerate(users):
        known = set(lists[user - NUM_SPECIALS])
        if len(known) == 12:
            assert (items[row] == PAD).all()
            assert (log_q[row] == 0).all()
            continue
        numbers = items[row] - NUM_SPECIALS
        assert ((numbers >= 0) & (numbers < 12)).all(), "only trained items"
        assert not known & set(numbers.tolist())
        free = [i for i in range(12) if i not in known]
        expected = np.log(weights[numbers] / weights[free].sum())
        np.testing.assert_allclose(log_q[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_draws_follow_the_stated_probabilities(power):
    lists = [[0] * 40 + [1] * 20 + [2] * 4 + [3, 4], [0, 2]]
    histories, catalogue = world(lists, 6)
    sampler = NegativeSampler(histories, catalogue, power)
    items, log_q = sampler.draw(histories.user[1:], 60_000, np.random.default_rng(1))
    tokens, counts = np.unique(items, return_counts=True)
    assert set(tokens - NUM_SPECIALS) == {1, 3, 4, 5}
    for token, count in zip(tokens, counts, strict=True):
        assert count / items.size == pytest.approx(np.exp(log_q[items == token][0]), abs=0.01)


def test_one_free_item_is_found():
    histories, catalogue = world([list(range(999)), [999]], 1000)
    items, log_q = NegativeSampler(histories, catalogue).draw(histories.user[:1], 50, np.random.default_rng(0))
    assert (items == 999 + NUM_SPECIALS).all()
    np.testing.assert_allclose(log_q, 0, atol=1e-6)


def test_the_same_seed_draws_the_same():
    histories, catalogue = world([[1, 2], [3]], 9)
    sampler = NegativeSampler(histories, catalogue, 0.75)
    first, second = (sampler.draw(histories.user, 20, np.random.default_rng(5))[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_user_without_history_may_get_any_item():
    histories, catalogue = world([[1], []], 4)
    items, _ = NegativeSampler(histories, catalogue).draw(histories.user[1:], 400, np.random.default_rng(0))
    assert set(items[0] - NUM_SPECIALS) == {0, 1, 2, 3}


@settings(max_examples=60, deadline=None)
@given(LISTS, st.integers(0, 2**32 - 1))
def test_known_pairs_against_sets(lists, seed):
    histories, catalogue = world(lists, 12)
    known = KnownPairs(histories, catalogue.items.size)
    rng = np.random.default_rng(seed)
    users = rng.integers(0, catalogue.users.size, 20)
    items = rng.integers(0, catalogue.items.size, 9)
    sets = {u + NUM_SPECIALS: {i + NUM_SPECIALS for i in history} for u, history in enumerate(lists)}
    expected = np.array([[item in sets.get(user, ()) for item in items.tolist()] for user in users.tolist()])
    np.testing.assert_array_equal(known.contains(users[:, None], items[None, :]), expected)
    np.testing.assert_array_equal(known.among(users, items), expected)


def test_log_popularity():
    _, catalogue = world([[0, 0, 0, 1]], 2, untrained=1)
    np.testing.assert_allclose(np.exp(log_popularity(catalogue))[NUM_SPECIALS:], [0.75, 0.25, 0.25])
