import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import metrics
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.metrics import ACCURACY, MISS

pytestmark = pytest.mark.once


# ---------------------------------------------------------------------------------------- accuracy


def reference(name, ranked, targets, k):
    """The textbook, one user, one item of the list after the other."""
    relevant = [item in targets for item in ranked[:k]]
    hits = sum(relevant)
    if name == "hit_rate":
        return float(hits > 0)
    if name == "recall":
        return hits / len(targets)
    if name == "precision":
        return hits / k
    if name == "mrr":
        return next((1 / (i + 1) for i, yes in enumerate(relevant) if yes), 0.0)
    if name == "ndcg":
        dcg = sum(yes / np.log2(i + 2) for i, yes in enumerate(relevant))
        return dcg / sum(1 / np.log2(i + 2) for i in range(min(k, len(targets))))
    precisions = [sum(relevant[: i + 1]) / (i + 1) for i, yes in enumerate(relevant) if yes]
    return sum(precisions) / min(k, len(targets))


@st.composite
def ranked_users(draw):
    """Ranked catalogues of some users, and their targets, of which some may be outside."""
    size = draw(st.integers(1, 12))
    users = draw(st.integers(1, 6))
    ranked = [draw(st.permutations(range(size))) for _ in range(users)]
    targets = [
        draw(st.lists(st.integers(0, size + 3), min_size=1, max_size=size + 3, unique=True)) for _ in range(users)
    ]
    return ranked, targets


@given(ranked_users(), st.integers(1, 15))
@settings(deadline=None)
def test_accuracy_is_that_of_the_textbook(case, k):
    ranked, targets = case
    ranks = [order.index(t) + 1 if t in order else MISS for order, mine in zip(*case, strict=True) for t in mine]
    offsets = np.cumsum([0, *map(len, targets)])
    for name, function in ACCURACY.items():
        expected = [reference(name, order, set(mine), k) for order, mine in zip(ranked, targets, strict=True)]
        np.testing.assert_allclose(function(np.array(ranks), offsets, k), expected, atol=1e-12, err_msg=name)


def test_accuracy_by_hand():
    ranks, offsets = np.array([1, 3, 4, 2, MISS, 11], np.int32), np.array([0, 1, 3, 5, 6])
    log2 = np.log2
    expected = {  # users: {1}, {3, 4}, {2, outside}, {11}; k = 3
        "hit_rate": [1, 1, 1, 0],
        "recall": [1, 1 / 2, 1 / 2, 0],
        "precision": [1 / 3, 1 / 3, 1 / 3, 0],
        "ndcg": [1, (1 / 2) / (1 + 1 / log2(3)), (1 / log2(3)) / (1 + 1 / log2(3)), 0],
        "mrr": [1, 1 / 3, 1 / 2, 0],
        "map": [1, (1 / 3) / 2, (1 / 2) / 2, 0],
    }
    assert set(expected) == set(ACCURACY)
    for name, values in expected.items():
        np.testing.assert_allclose(ACCURACY[name](ranks, offsets, 3), values, rtol=1e-12, err_msg=name)


def test_a_perfect_list_scores_one_and_a_user_without_targets_zero():
    ranks, offsets = np.array([2, 1, 3]), np.array([0, 3, 3])
    for name, function in ACCURACY.items():
        assert function(ranks, offsets, 3).tolist() == [1, 0], name
    assert metrics.average_precision(ranks, offsets, 2)[0] == 1  # a list of two cannot hold three targets
    assert metrics.recall(ranks, offsets, 2)[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ACCURACY)
def test_accuracy_does_not_depend_on_the_order_of_targets(name):
    random = np.random.default_rng(0)
    ranks = random.permutation(40)[:12] + 1
    shuffled = np.concatenate([random.permutation(part) for part in np.split(ranks, [3, 7])])
    offsets = np.array([0, 3, 7, 12])
    np.testing.assert_allclose(ACCURACY[name](ranks, offsets, 10), ACCURACY[name](shuffled, offsets, 10), rtol=1e-15)


# ---------------------------------------------------------------------------------------- lists


LISTS = np.array([[3, 4, 5], [4, 7, 0], [3, 0, 0], [0, 0, 0]], np.int32)


def test_coverage_counts_items_once_and_no_padding():
    assert metrics.coverage(LISTS, num_items=8) == 4 / 8
    assert metrics.coverage(LISTS[3:], num_items=8) == 0


def test_novelty_is_mean_self_information():
    counts = np.array([0, 0, 0, 8, 4, 4, 0, 16])
    bits = metrics.self_information(counts)
    np.testing.assert_allclose(bits[3:], [2, 3, 3, 5, 1])  # of 32 events; the untrained item counts as seen once
    np.testing.assert_allclose(metrics.mean_of_lists(LISTS, bits), [8 / 3, 2, 2, 0])


def test_popularity_percentile_is_one_half_on_average():
    counts = np.concatenate([[9, 9, 9], np.random.default_rng(0).integers(0, 5, 30)])
    percentile = metrics.popularity_percentile(counts)
    for item in range(3, 33):
        lower, equal = (counts[3:] < counts[item]).sum(), (counts[3:] == counts[item]).sum()
        assert percentile[item] == pytest.approx((lower + equal / 2) / 30)
    assert percentile[3:].mean() == pytest.approx(0.5)


def test_diversity_is_one_minus_the_mean_pairwise_cosine():
    random = np.random.default_rng(1)
    raw = random.normal(size=(20, 5))
    raw[7] = 0  # an item that nothing describes is similar to nothing
    norm = np.linalg.norm(raw, axis=1, keepdims=True)
    vectors = (raw / np.where(norm > 0, norm, 1)).astype(np.float32)
    lists = np.array([random.permutation(np.arange(3, 20))[:6] for _ in range(9)])
    lists[2, 4:] = 0
    expected = []
    for row in lists:
        items = [item for item in row if item]
        expected.append(1 - np.mean([vectors[a] @ vectors[b] for a, b in itertools.combinations(items, 2)]))
    np.testing.assert_allclose(metrics.diversity(lists, vectors), expected, atol=1e-6)
    np.testing.assert_array_equal(metrics.diversity(LISTS[2:], vectors), [0, 0])  # lists without a pair


def test_item_vectors_give_the_cosine_of_attribute_sets():
    items = np.array([3, 3, 4, 4, 5, 6])
    attributes = np.array([0, 1, 1, 2, 2, 9])
    vectors = metrics.item_vectors(items, attributes, 8)
    assert vectors[3] @ vectors[4] == pytest.approx(0.5)
    assert vectors[4] @ vectors[5] == pytest.approx(1 / np.sqrt(2))
    assert vectors[3] @ vectors[6] == 0
    assert not vectors[[0, 7]].any()
    assert metrics.item_vectors(items[:0], attributes[:0], 4).shape == (4, 1)


def test_hashed_item_vectors_estimate_the_cosine():
    random = np.random.default_rng(2)
    held = random.random((60, 3000)) < random.uniform(0.02, 0.3, (60, 1))
    held[30:] |= held[:30]  # 30 pairs that share attributes
    items, attributes = np.nonzero(held)
    norm = held / np.sqrt(held.sum(axis=1, keepdims=True))
    error = (
        metrics.item_vectors(items, attributes, 60) @ metrics.item_vectors(items, attributes, 60).T - norm @ norm.T
    )[np.triu_indices(60, 1)]
    assert np.sqrt(np.mean(error**2)) < 1.2 / np.sqrt(128)
    assert abs(error.mean()) < 0.01


# ---------------------------------------------------------------------------------------- uncertainty


@pytest.mark.parametrize("draw", [lambda r: (r.random(900) < 0.1) * 1.0, lambda r: r.gamma(0.5, size=900)])
def test_bootstrap_is_the_plain_bootstrap(draw):
    values = draw(np.random.default_rng(3))  # two distinct values; 900 distinct values, skewed
    random = np.random.default_rng(4)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(4000)]
    width = np.ptp(np.quantile(means, [0.025, 0.975]))
    np.testing.assert_allclose(metrics.bootstrap(values, 4000), np.quantile(means, [0.025, 0.975]), atol=0.04 * width)


def test_bootstrap_is_seeded_and_of_one_value_when_all_agree():
    values = np.random.default_rng(0).random(50)
    assert metrics.bootstrap(values, 100, seed=1) == metrics.bootstrap(values, 100, seed=1)
    assert metrics.bootstrap(values, 100, seed=1) != metrics.bootstrap(values, 100, seed=2)
    assert metrics.bootstrap(np.full(7, 0.25), 100) == (0.25, 0.25)


def test_bootstrap_covers_the_truth():
    random = np.random.default_rng(5)
    inside = 0
    for seed in range(300):
        low, high = metrics.bootstrap((random.random(400) < 0.3) * 1.0, 500, seed)
        inside += low <= 0.3 <= high
    assert 0.90 < inside / 300 < 0.98


def test_sign_flip_approaches_the_exact_permutation_test():
    differences = np.array([0.5, 0.5, -0.25, 1.0, 0.0, 0.125, 0.5, -0.125, 0.75])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()))
    assert metrics.sign_flip(differences, 40_000) == pytest.approx(exact, abs=0.01)


def test_sign_flip_finds_what_is_there_and_nothing_where_nothing_is():
    random = np.random.default_rng(6)
    assert metrics.sign_flip(random.normal(0.3, 1, 500), 2000) < 0.01
    assert metrics.sign_flip(np.zeros(10), 100) == 1
    p = np.array([metrics.sign_flip(random.normal(0, 1, 400), 200, seed) for seed in range(200)])
    assert 0.35 < p.mean() < 0.65 and (p < 0.05).mean() < 0.12  # uniform under the hypothesis


def test_special_tokens_have_no_popularity():
    assert not metrics.popularity_percentile(np.array([5, 5, 5, 1]))[:NUM_SPECIALS].any()
