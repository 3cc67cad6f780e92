"""Metrics of the RecSys Challenge 2025 as pure NumPy functions of labels and predicted probabilities.

Source: https://github.com/Synerise/recsys2025, whose formulas are kept. Its handling of labels of one class (an area of
0, counted in the mean) is left to the caller, who sees them as NaN.

Legend: n clients, T labels, N entries, k places of a client's list.
"""

from __future__ import annotations

import numpy as np

TOP_K = 10  # places of a list whose popularity makes the novelty


def auroc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(T,) area under the ROC curve of each label: chance that a positive scores above a negative, ties counting half.

    From the ranks of the positives among all, those of equal scores shared (Mann & Whitney 1947).

    Args:
        labels: (n, T), 0 or 1.
        scores: (n, T), of any scale.

    Returns:
        NaN for a label without a positive or without a negative.
    """
    result = np.full(labels.shape[1], np.nan)
    for t, (positive, score) in enumerate(zip(labels.T > 0, scores.T, strict=True)):
        found = int(np.count_nonzero(positive))
        if 0 < found < len(score):
            ordered = np.sort(score)
            wanted = score[positive]
            ranks = np.searchsorted(ordered, wanted, "left") + np.searchsorted(ordered, wanted, "right") + 1  # twice
            result[t] = (ranks.sum() / 2 - found * (found + 1) / 2) / (found * (len(score) - found))
    return result


def auroc_influence(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) how far each client moves the mean over labels of `auroc`, labels of one class left out.

    The mean of the squares over n is the variance of that metric over clients; the same of the difference of two
    entries' influences is that of their difference (DeLong, DeLong & Clarke-Pearson, Biometrics 1988).

    Args:
        labels: (n, T), 0 or 1.
        scores: (n, T).
    """
    n, total, measured = len(labels), np.zeros(len(labels)), 0
    for positive, score in zip(labels.T > 0, scores.T, strict=True):
        found = int(np.count_nonzero(positive))
        if not 0 < found < n:
            continue
        above, below = np.sort(score[positive]), np.sort(score[~positive])
        measured += 1
        wins = np.empty(n)  # share of the other class that each stands on the right side of
        wins[positive] = _share_below(below, score[positive])
        wins[~positive] = 1 - _share_below(above, score[~positive])
        scale = np.where(positive, n / found, n / (n - found))
        total += scale * (wins - wins[positive].mean())
    return total / max(measured, 1)


def _share_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of `ordered` below each value, equal ones counting half."""
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return both / (2 * len(ordered))


def diversity(probabilities: np.ndarray) -> np.ndarray:
    """(n,) entropy of each client's probabilities, scaled to a sum of 1, over that of equal ones: log2 T.

    Args:
        probabilities: (n, T).

    Returns:
        0 where there is one label alone.
    """
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    share = probabilities / np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12)
    return -(share * np.log2(share + 1e-9)).sum(axis=1) / np.log2(probabilities.shape[1])


def list_popularity(probabilities: np.ndarray, popularity: np.ndarray, k: int = TOP_K) -> np.ndarray:
    """(n,) Σ probability · popularity over the k most probable labels of each client, equal ones by their place.

    Args:
        probabilities: (n, T).
        popularity: (T,), scaled here so that the k most popular sum to 1.
    """
    k = min(k, len(popularity))
    weight = popularity / max(float(np.sort(popularity)[::-1][:k].sum()), 1e-12)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return (np.take_along_axis(probabilities, best, axis=1) * weight[best]).sum(axis=1)


def novelty(popularity: float) -> float:
    """(1 − popularity)^100, of the mean of `list_popularity` over clients."""
    return max(1.0 - popularity, 0.0) ** 100


def novelty_slope(popularity: float) -> float:
    """Derivative of `novelty`."""
    return -100 * max(1.0 - popularity, 0.0) ** 99


def borda(scores: np.ndarray) -> np.ndarray:
    """(N,) points of each entry, summed over tasks: as many as there are entries below it, equal ones counting half.

    Args:
        scores: (N, tasks).
    """
    above = scores[:, None] > scores[None]
    equal = scores[:, None] == scores[None]
    return above.sum(axis=(1, 2)) + (equal.sum(axis=(1, 2)) - scores.shape[1]) / 2
