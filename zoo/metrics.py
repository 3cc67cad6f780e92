"""Ranking metrics as pure NumPy functions: of the ranks of targets, and of recommended lists.

Accuracy is a function of where the targets of each user stand in that user's ranked catalogue. A user's targets are
`ranks[offsets[u]:offsets[u + 1]]`: positions from 1 in one list, hence distinct, in any order; MISS where a target
cannot be recommended at all. Lists are rows of item tokens, best first, padded with PAD on the right.

Legend: n users, T targets, K list length, V items (special tokens included), D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.data.vocabulary import NUM_SPECIALS, PAD

MISS = int(np.iinfo(np.int32).max)  # the rank of a target that no list can hold

# ---------------------------------------------------------------------------------------- accuracy, from ranks


def hit_rate(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(n,) 1 where at least one target is among the first k, else 0."""
    return (_sum(ranks <= k, offsets) > 0).astype(np.float64)


def recall(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(n,) share of the user's targets among the first k: |top-k ∩ targets| / |targets|."""
    return _sum(ranks <= k, offsets) / _count(offsets)


def precision(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(n,) share of the first k that are targets: |top-k ∩ targets| / k, also where a list cannot hold k items."""
    return _sum(ranks <= k, offsets) / k


def ndcg(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(n,) DCG / ideal DCG with binary gains (Järvelin & Kekäläinen, TOIS 2002).

    DCG@k = Σ_{targets with rank r ≤ k} 1 / log2(1 + r); the ideal list starts with all targets:
    IDCG@k = Σ_{r=1..min(k, |targets|)} 1 / log2(1 + r).
    """
    gains = np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks.astype(np.float64)), 0.0)
    ideal = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))
    return _sum(gains, offsets) / ideal[np.minimum(_count(offsets), k).astype(np.int64) - 1]


def mrr(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(n,) reciprocal rank of the first target, 0 where it is not among the first k (Voorhees, TREC-8 1999)."""
    best = np.full(len(offsets) - 1, MISS, np.int64)
    np.minimum.at(best, _user(offsets), ranks)
    return np.where(best <= k, 1.0 / best, 0.0)


def average_precision(ranks: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(n,) AP@k = 1 / min(k, |targets|) · Σ_{targets with rank r ≤ k} precision@r; its mean over users is MAP@k.

    The divisor is what a perfect list of length k would collect, so that 1 can be reached (as in trec_eval with a cut
    and in the Kaggle definition; Baeza-Yates & Ribeiro-Neto, Modern Information Retrieval, divide by |targets|).
    """
    user = _user(offsets)
    order = np.lexsort((ranks, user))
    found = np.arange(len(ranks)) - offsets[user] + 1  # targets of the user up to this one, by rank
    ordered = ranks[order]
    terms = np.where(ordered <= k, found / ordered, 0.0)
    return _sum(terms, offsets) / np.minimum(_count(offsets), k)


ACCURACY: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "hit_rate": hit_rate,
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}


def per_user(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """(n,) mean over the rows of each user, where a user has several: `owner` (rows,) says whose each is, from 0."""
    return np.bincount(owner, values) / np.bincount(owner)


def _user(offsets: np.ndarray) -> np.ndarray:
    """(T,) the user of each target."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _count(offsets: np.ndarray) -> np.ndarray:
    """(n,) targets of each user, at least 1: a user without targets scores 0."""
    return np.maximum(np.diff(offsets), 1)


def _sum(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n,) sum of the values of each user's targets."""
    return np.bincount(_user(offsets), values, minlength=len(offsets) - 1)


# ---------------------------------------------------------------------------------------- lists


def coverage(lists: np.ndarray, num_items: int) -> float:
    """Share of the catalogue that occurs in any of the lists (Herlocker et al., TOIS 2004)."""
    return len(np.unique(lists[lists != PAD])) / num_items


def mean_of_lists(lists: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) mean of `values` (V,) over the items of each list (n, K); 0 for an empty list.

    Novelty is this mean of `self_information`, popularity bias this mean of `popularity_percentile`.
    """
    real = lists != PAD
    return np.where(real, values[lists], 0.0).sum(axis=1) / np.maximum(real.sum(axis=1), 1)


def self_information(item_counts: np.ndarray) -> np.ndarray:
    """(V,) bits: −log2 p(item), p the item's share of the training events (Zhou et al., PNAS 2010).

    An item never trained on is taken as seen once, for its information would be infinite.
    """
    return -np.log2(np.maximum(item_counts, 1) / max(int(item_counts.sum()), 1))


def popularity_percentile(item_counts: np.ndarray) -> np.ndarray:
    """(V,) share of the catalogue with fewer training events than the item, those with as many counting half.

    Its mean over the catalogue is .5, so a list above .5 favours what is popular (Abdollahpouri et al., RMSE 2019
    compare lists with histories; a percentile compares them with the catalogue and needs no cut between head and tail).
    """
    real = item_counts[NUM_SPECIALS:]
    ordered = np.sort(real)
    ranks = np.searchsorted(ordered, real, "left") + np.searchsorted(ordered, real, "right")
    return np.concatenate([np.zeros(NUM_SPECIALS), ranks / (2.0 * max(len(real), 1))])


def diversity(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n,) intra-list diversity: 1 − mean cosine over the pairs of a list (Smyth & McClave 2001; Ziegler et al. 2005).

    The K(K−1)/2 cosines are never formed: with unit vectors their sum is (‖Σv‖² − Σ‖v‖²) / 2.

    Args:
        lists: (n, K) tokens.
        vectors: (V, D) of unit length; an item that nothing describes is a zero vector, similar to nothing.

    Returns:
        0 for a list without a pair.
    """
    real = lists != PAD
    listed = vectors[lists] * real[:, :, None]  # (n, K, D)
    total = listed.sum(axis=1, dtype=np.float64)
    similarity = np.square(total).sum(axis=1) - np.square(listed).sum(axis=(1, 2), dtype=np.float64)
    size = real.sum(axis=1)
    return np.where(size > 1, 1.0 - similarity / np.maximum(size * (size - 1), 1), 0.0)


def item_vectors(items: np.ndarray, attributes: np.ndarray, num_items: int, width: int = 128) -> np.ndarray:
    """(num_items, width) unit vectors such that <a, b> is the cosine of the attribute sets of two items.

    Up to `width` different attributes a dimension is an attribute and the cosine exact. Beyond, each attribute gets a
    random dimension and sign (feature hashing, Weinberger et al., ICML 2009): the inner product is unbiased, with a
    standard error of about 1/√width a pair, the same for every model, because the signs are fixed.

    Args:
        items, attributes: (E,) pairs, non-negative integers.
    """
    size = int(attributes.max()) + 1 if len(attributes) else 1
    if size <= width:
        dimension, sign = np.arange(size), np.ones(size, np.float32)
    else:
        random = np.random.default_rng(0)
        dimension = random.integers(0, width, size)
        sign = random.choice(np.array([-1, 1], np.float32), size)
    vectors = np.zeros((num_items, min(size, width)), np.float32)
    np.add.at(vectors, (items, dimension[attributes]), sign[attributes])
    norm = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return vectors / np.where(norm > 0, norm, 1.0)


# ---------------------------------------------------------------------------------------- uncertainty


def bootstrap(values: np.ndarray, resamples: int, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of per-user `values`, users drawn with replacement (Efron 1979).

    Drawing n users is drawing how often each distinct value comes up, a multinomial: the cost depends on the number of
    distinct values, not of users. More than 256 of them are first gathered into 256 bins, each standing for its mean.

    Returns:
        (low, high).
    """
    means, counts = _distinct(values)
    drawn = np.random.default_rng([seed, 0xB007]).multinomial(len(values), counts / len(values), resamples)
    low, high = np.quantile(drawn @ means / len(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _distinct(values: np.ndarray, bins: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """(values, counts) of the distinct values, or of `bins` equal bins where there are more."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= bins:
        return distinct, counts
    place = np.floor((distinct - distinct[0]) / (distinct[-1] - distinct[0]) * (bins - 1e-9)).astype(np.int64)
    size = np.bincount(place, counts, minlength=bins)
    total = np.bincount(place, counts * distinct, minlength=bins)
    return total[size > 0] / size[size > 0], size[size > 0].astype(np.int64)


def sign_flip(differences: np.ndarray, resamples: int, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that paired `differences` are symmetric around 0 (Fisher 1935).

    The sign of each difference is drawn anew; p is how often their sum is then as far from 0 as it was,
    (1 + #{|drawn| ≥ |observed|}) / (1 + resamples). Differences of one size are drawn together, as a binomial.
    """
    different = differences[differences != 0]
    if not len(different):
        return 1.0
    sizes, counts = _distinct(np.abs(different))
    flips = np.random.default_rng([seed, 0xF119]).binomial(counts, 0.5, (resamples, len(counts)))
    drawn = np.abs((2 * flips - counts) @ sizes)
    tolerance = 1e-9 * float(counts @ sizes)  # equal sums may differ in their last bits
    return float((1 + np.count_nonzero(drawn >= abs(different.sum()) - tolerance)) / (1 + resamples))
