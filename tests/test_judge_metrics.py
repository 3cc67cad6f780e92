import numpy as np
import pytest

from zoo import judge_metrics as metrics

pytestmark = pytest.mark.once


def naive_auroc(labels, scores):
    """Every pair of a positive and a negative, one after the other."""
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, positive in zip(scores, labels, strict=True)
        if positive
        for b, other in zip(scores, labels, strict=True)
        if not other
    ]
    return sum(wins) / len(wins) if wins else np.nan


def drawn(seed, n=60, labels=7, steps=9):
    """Labels that the scores tell something of, and scores with many ties."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, labels)) < 0.3).astype(np.float32)
    return truth, np.round((rng.random((n, labels)) + 0.4 * truth) * steps) / steps


@pytest.mark.parametrize("seed", range(4))
def test_auroc_counts_pairs_and_half_of_the_ties(seed):
    labels, scores = drawn(seed)
    labels[:, 2], labels[:, 4] = 0, 1
    expected = [naive_auroc(labels[:, t], scores[:, t]) for t in range(labels.shape[1])]
    np.testing.assert_allclose(metrics.auroc(labels, scores), expected, rtol=1e-12)
    assert np.isnan(metrics.auroc(labels, scores)[[2, 4]]).all()


def test_auroc_of_a_perfect_an_inverted_and_a_constant_score():
    labels = np.array([[0], [0], [1], [1]])
    scores = np.array([1.0, 2.0, 3.0, 4.0])[:, None]
    assert metrics.auroc(labels, scores) == [1.0]
    assert metrics.auroc(labels, -scores) == [0.0]
    assert metrics.auroc(labels, 0 * scores) == [0.5]
    assert metrics.auroc(labels, scores.astype(np.float16)) == [1.0]


def test_influence_is_that_of_leaving_a_client_out():
    labels, scores = drawn(1, n=300)
    labels[:, 3] = 0
    influence = metrics.auroc_influence(labels, scores)
    assert abs(influence.mean()) < 1e-12

    def mean(rows):
        return np.nanmean(metrics.auroc(labels[rows], scores[rows]))

    whole = mean(slice(None))
    left_out = np.array([mean(np.delete(np.arange(300), i)) for i in range(300)])
    np.testing.assert_allclose((whole - left_out) * 299, influence, atol=0.05)
    # Its squares are the variance over clients: what drawing them again and again gives.
    rng = np.random.default_rng(0)
    spread = np.std([mean(rng.integers(0, 300, 300)) for _ in range(500)])
    assert np.sqrt(np.square(influence).sum()) / 300 == pytest.approx(spread, rel=0.1)


def test_diversity_is_entropy_over_that_of_equal_probabilities():
    probabilities = np.array([[0.2] * 8, [1e-9] * 7 + [1.0], [0.5, 0.25, 0.25, 0, 0, 0, 0, 0], [0] * 8], np.float64)
    found = metrics.diversity(probabilities)
    np.testing.assert_allclose(found, [1, 0, 1.5 / 3, 0], atol=1e-6)
    row = np.random.default_rng(0).random(5)
    share = row / row.sum()
    expected = -sum(p * np.log2(p + 1e-9) for p in share) / np.log2(5)
    assert metrics.diversity(row[None])[0] == pytest.approx(expected, rel=1e-12)
    assert metrics.diversity(np.full((3, 1), 0.4)).tolist() == [0, 0, 0]


def test_novelty_is_what_the_official_code_gives():
    """The challenge's own figures, for all mass on the ten most popular."""
    popularity = np.arange(100.0)
    for mass, expected in ((0.001, 0.905), (0.01, 0.366), (0.5, 0.0)):
        probabilities = np.full((4, 100), 1e-7)
        probabilities[:, 90:] = mass
        listed = metrics.list_popularity(probabilities, popularity)
        np.testing.assert_allclose(listed, mass, rtol=1e-6)
        assert metrics.novelty(listed.mean()) == pytest.approx(expected, abs=5e-4)
    assert metrics.novelty(0.0) == 1
    step = 1e-6
    slope = (metrics.novelty(0.02 + step) - metrics.novelty(0.02 - step)) / (2 * step)
    assert metrics.novelty_slope(0.02) == pytest.approx(slope, rel=1e-5)


def test_list_popularity_is_the_loop_over_the_best_labels():
    rng = np.random.default_rng(3)
    probabilities, popularity = rng.random((6, 30)), rng.random(30)
    top = sum(sorted(popularity)[-10:])
    for row, found in zip(probabilities, metrics.list_popularity(probabilities, popularity), strict=True):
        best = sorted(range(30), key=lambda t: -row[t])[:10]
        assert found == pytest.approx(sum(row[t] * popularity[t] / top for t in best))
    few = metrics.list_popularity(probabilities[:, :3], popularity[:3])  # fewer labels than places
    np.testing.assert_allclose(few, probabilities[:, :3] @ (popularity[:3] / popularity[:3].sum()))
    np.testing.assert_array_equal(metrics.list_popularity(np.ones((1, 3)), np.zeros(3)), [0])
    tied = metrics.list_popularity(np.full((1, 12), 0.5), np.arange(12.0))  # the first ten, of popularity 0 to 9
    np.testing.assert_allclose(tied, 0.5 * 45 / 65)


def test_borda_gives_as_many_points_as_there_are_entries_below():
    scores = np.array([[0.9, 0.2], [0.8, 0.2], [0.5, 0.9], [0.1, 0.1]])
    assert metrics.borda(scores).tolist() == [3 + 1.5, 2 + 1.5, 1 + 3, 0]
    assert metrics.borda(np.zeros((3, 0))).tolist() == [0, 0, 0]
