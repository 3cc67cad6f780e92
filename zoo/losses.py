"""Losses: pure functions with the literature's names and formulas, in `keras.ops`.

Every loss returns a scalar: the mean over rows weighted by `weights`, so that padding (weight 0) counts for nothing.
The number of rows may be unknown while a graph is traced.

Legend: B batch, T tokens, t tokens of a chunk, D width, V items, N negatives.
"""

from __future__ import annotations

from typing import Any

from keras import ops
from keras.backend import standardize_dtype

from zoo import backends
from zoo.data.vocabulary import NUM_SPECIALS

NEVER = -1e9  # logit of a candidate that is not one; finite, so that no row can become NaN
CHUNK_BYTES = 2**22  # of logits that `softmax_cross_entropy` holds at once: they stay in the cache
CHUNK_ROWS = 128  # but never fewer rows than this


def weighted_mean(values: Any, weights: Any) -> Any:
    """Sum of weights * values / sum of weights; 0 where all weights are 0."""
    weights = ops.cast(weights, values.dtype)
    return ops.sum(weights * values) / ops.maximum(ops.sum(weights), 1e-12)


def mse(scores: Any, targets: Any, weights: Any) -> Any:
    """Mean squared error: (score - target)^2. All arguments share one shape."""
    return weighted_mean(ops.square(scores - targets), weights)


def bce(scores: Any, targets: Any, weights: Any) -> Any:
    """Binary cross-entropy with logits: softplus(s) - t s, targets in [0, 1]. All arguments share one shape."""
    return weighted_mean(ops.softplus(scores) - targets * scores, weights)


def bpr(positive: Any, negative: Any, weights: Any) -> Any:
    """Bayesian personalised ranking (Rendle et al. 2009): -log sigmoid(s+ - s-). All arguments share one shape."""
    return weighted_mean(ops.softplus(negative - positive), weights)


def gbce(
    positive: Any, negative: Any, weights: Any, num_items: int, calibration: float = 0.75, excluded: Any = None
) -> Any:
    """Generalised binary cross-entropy (gSASRec, Petrov & Macdonald 2023, eq. 10):
    -(log sigmoid(s+)^beta + sum over negatives of log(1 - sigmoid(s-))) / (N + 1).

    The power beta = alpha (t (1 - 1 / alpha) + 1 / alpha), with the sampling rate alpha = N / (num_items - 1), undoes
    the overconfidence that few negatives teach.

    Args:
        positive: (B,) score of each row's positive.
        negative: (B, N) scores of its negatives.
        weights: (B,).
        num_items: of the catalogue, from which negatives are drawn.
        calibration: t in [0, 1]; 0 is plain binary cross-entropy over 1 + N items, 1 makes beta = alpha.
        excluded: (B, N) bool, negatives that are none.
    """
    count = ops.shape(negative)[1]
    beta = gbce_power(count, num_items, calibration)
    against = ops.softplus(negative)  # -log(1 - sigmoid)
    if excluded is not None:
        against = ops.where(excluded, 0.0, against)
    return weighted_mean(
        (beta * ops.softplus(-positive) + ops.sum(against, axis=1)) / (ops.cast(count, "float32") + 1), weights
    )


def gbce_power(num_negatives: Any, num_items: int, calibration: float) -> Any:
    """beta of `gbce`, a scalar. `num_negatives` may be a tensor: TensorFlow need not know it while it traces."""
    rate = ops.cast(num_negatives, "float32") / max(num_items - 1, 1)
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def sampled_softmax(
    positive: Any, negative: Any, positive_log_q: Any, negative_log_q: Any, weights: Any, excluded: Any = None
) -> Any:
    """Softmax over the positive and sampled negatives, corrected for how likely each was sampled.

    The logit of candidate c is s(c) - log q(c) (Bengio & Senecal 2008), for the positive too.

    Args:
        positive: (B,) score of each row's positive.
        negative: (B, N) scores of its negatives.
        positive_log_q: (B,) log-probability that the sampler draws the positive.
        negative_log_q: (N,) or (B, N) the same for the negatives.
        weights: (B,).
        excluded: (B, N) bool, negatives that are none: equal to the positive, known to be liked, or padding.
    """
    positive = positive - positive_log_q
    negative = negative - negative_log_q
    if excluded is not None:
        negative = ops.where(excluded, NEVER, negative)
    logits = ops.concatenate([positive[:, None], negative], axis=1)  # (B, 1 + N)
    return weighted_mean(ops.logsumexp(logits, axis=1) - positive, weights)


def uniformly_sampled(states: Any, positive: Any, negative: Any, weights: Any, excluded: Any) -> Any:
    """`sampled_softmax` of states (T, D), whose positives are vectors (T, D), and the same negatives (N, D) for all.

    What each was drawn with is the same, and cancels.
    """
    scores = ops.cast(ops.matmul(states, ops.transpose(negative)), "float32")
    own = ops.cast(ops.sum(states * positive, axis=-1), "float32")
    return sampled_softmax(own, scores, 0.0, 0.0, weights, excluded)


def bpr_max(positive: Any, negative: Any, weights: Any, penalty: float = 0.0, excluded: Any = None) -> Any:
    """BPR-max (Hidasi & Karatzoglou 2018, eq. 10): -log sum_j p_j sigmoid(s+ - s_j) + penalty sum_j p_j s_j^2.

    p is the softmax of the negatives' scores: what ranks high counts, whatever the number of negatives.

    Args:
        positive: (B,) score of each row's positive.
        negative: (B, N) scores of its negatives.
        weights: (B,).
        penalty: on the scores of negatives.
        excluded: (B, N) bool, negatives that are none.
    """
    share = _softmax_of_negatives(negative, excluded)
    above = ops.sum(share * ops.sigmoid(positive[:, None] - negative), axis=1)
    size = ops.sum(share * ops.square(negative), axis=1)
    return weighted_mean(penalty * size - ops.log(above + 1e-24), weights)


def top1_max(positive: Any, negative: Any, weights: Any, excluded: Any = None) -> Any:
    """TOP1-max (Hidasi & Karatzoglou 2018, eq. 8): sum_j p_j (sigmoid(s_j - s+) + sigmoid(s_j^2)). Arguments as in
    `bpr_max`."""
    share = _softmax_of_negatives(negative, excluded)
    below = ops.sigmoid(negative - positive[:, None]) + ops.sigmoid(ops.square(negative))
    return weighted_mean(ops.sum(share * below, axis=1), weights)


def _softmax_of_negatives(negative: Any, excluded: Any) -> Any:
    return ops.softmax(negative if excluded is None else ops.where(excluded, NEVER, negative), axis=1)


def in_batch_softmax(scores: Any, items: Any, log_q: Any, weights: Any, known: Any = None) -> Any:
    """Softmax in which the positives of the other rows are the negatives (Yi et al. 2019).

    Args:
        scores: (B, B) score of row b's user for row c's item; the positives are the diagonal.
        items: (B,) item of each row: where it equals another row's, that is no negative of it.
        log_q: (B,) log-probability of each item in a batch; subtracted, since a popular item is a negative too often.
        weights: (B,); a row of weight 0 is no candidate either.
        known: (B, B) bool, or None: items that the row's user is known to like, no negatives of his.
    """
    same = ops.equal(items[:, None], items[None, :])
    excluded = ops.logical_or(same, ops.equal(weights, 0)[None, :])
    if known is not None:
        excluded = ops.logical_or(excluded, known)
    logits = scores - log_q[None, :]
    positive = ops.diagonal(logits)
    row = ops.arange(ops.shape(items)[0], dtype="int32")
    diagonal = ops.equal(row[:, None], row[None, :])
    logits = ops.where(ops.logical_and(excluded, ops.logical_not(diagonal)), NEVER, logits)
    return weighted_mean(ops.logsumexp(logits, axis=1) - positive, weights)


def scalable_cross_entropy(
    hidden: Any, table: Any, labels: Any, weights: Any, noise: Any, bucket_rows: int, bucket_items: int
) -> Any:
    """Softmax over the hardest negatives, found by random projections (SCE, Mezentsev et al. 2024, section 3).

    Each of n buckets has a random centre in the space of the states ("mix": noise with the states' own covariance) and
    holds the rows and the items with the largest inner products with it. Within a bucket each row is told from the
    bucket's items; of a row in several buckets the largest of its losses counts, one in none is left out.

    Args:
        hidden: (T, D) what is to predict the label.
        table: (V, D) vectors by token; the special tokens are no candidates.
        labels: (T,) tokens.
        weights: (T,); a row of weight 0 is in no bucket.
        noise: (n, D) standard normal.
        bucket_rows, bucket_items: how many of both a bucket holds, at most T and V - NUM_SPECIALS.
    """
    table = table[NUM_SPECIALS:]
    labels = ops.maximum(ops.cast(labels, "int32") - NUM_SPECIALS, 0)
    fixed, items = ops.cast(ops.stop_gradient(hidden), "float32"), ops.cast(ops.stop_gradient(table), "float32")
    spread = ops.matmul(ops.transpose(fixed), fixed)  # (D, D)
    spread = spread + ops.eye(spread.shape[0]) * (1e-6 * ops.trace(spread) + 1e-12)
    centres = ops.matmul(noise, ops.transpose(ops.cholesky(spread)))  # (n, D), distributed as noise (n, T) times hidden
    nearness = ops.where(ops.equal(weights, 0)[None, :], NEVER, ops.matmul(centres, ops.transpose(fixed)))
    row = ops.top_k(nearness, bucket_rows, sorted=False)[1]  # (n, rows)
    item = ops.top_k(ops.matmul(centres, ops.transpose(items)), bucket_items, sorted=False)[1]  # (n, items)
    state, label = ops.take(hidden, row, axis=0), ops.take(labels, row, axis=0)
    logits = ops.matmul(state, ops.transpose(ops.take(table, item, axis=0), (0, 2, 1)))
    logits = ops.cast(logits, "float32")  # (n, rows, items)
    logits = ops.where(ops.equal(label[:, :, None], item[:, None, :]), NEVER, logits)
    positive = ops.cast(ops.sum(state * ops.take(table, label, axis=0), axis=-1), "float32")[..., None]
    values = ops.logsumexp(ops.concatenate([positive, logits], axis=-1), axis=-1) - positive[..., 0]
    values, row = ops.reshape(values, (-1,)), ops.reshape(row, (-1,))
    # Of a row's losses the largest: the same bucket wins for value and gradient. Equal ones share.
    seen = ops.stop_gradient(values)
    largest = ops.segment_max(seen, row, num_segments=ops.shape(hidden)[0])
    wins = ops.cast(ops.greater_equal(seen, ops.take(largest, row, axis=0)), "float32")
    shared = ops.segment_sum(wins, row, num_segments=ops.shape(hidden)[0])
    wins = wins / ops.take(shared, row, axis=0) * ops.cast(ops.take(weights, row, axis=0), "float32")
    return weighted_mean(values, wins)


def softmax_cross_entropy(hidden: Any, table: Any, labels: Any, weights: Any, bias: Any = None) -> Any:
    """Exact softmax cross-entropy over the whole catalogue that never holds the (T, V) logits.

    Rows are worked through in chunks, and each chunk's gradient is taken while its logits are at hand: one pass,
    three matrix products, nothing kept for the backward pass but the gradients themselves. Sums are in float32
    whatever the precision of the arguments. No gradient flows into `labels` and `weights`.

    Args:
        hidden: (T, D) what is to predict the label.
        table: (V, D) vectors by token; the special tokens are no candidates.
        labels: (T,) tokens; whatever where the weight is 0.
        weights: (T,).
        bias: (V,) added to the logits, or None.
    """
    table = table[NUM_SPECIALS:]
    labels = ops.maximum(ops.cast(labels, "int32") - NUM_SPECIALS, 0)
    share = ops.cast(weights, "float32") / ops.maximum(ops.sum(ops.cast(weights, "float32")), 1e-12)
    if bias is None:
        return ops.custom_gradient(_softmax_forward)(hidden, table, labels, share)
    return ops.custom_gradient(_softmax_forward)(hidden, table, labels, share, bias[NUM_SPECIALS:])


def _surprise(logits: Any, likely: Any, label: Any) -> Any:
    """-log of the probability of the labels, (t,), from logits (t, V) and their softmax (t, V)."""

    def of_label(array):
        return ops.cast(ops.take_along_axis(array, label[:, None], axis=1)[:, 0], "float32")

    def largest(array):
        return ops.cast(ops.max(array, axis=1), "float32")

    probability = of_label(likely)

    def exactly():
        # log of the sum of exponentials, from the likeliest item: that of the label has rounded to zero.
        return largest(logits) - ops.log(largest(likely)) - of_label(logits)

    return ops.cond(ops.min(probability) < 1e-30, exactly, lambda: -ops.log(probability))


def _softmax_forward(hidden: Any, table: Any, labels: Any, share: Any, bias: Any = None) -> tuple[Any, Any]:
    """Value of `softmax_cross_entropy` for weights that sum to one, and the function of its gradient."""
    dim, items = table.shape[1], table.shape[0]
    rows = ops.shape(hidden)[0]  # a tensor where TensorFlow does not know it
    logit_bytes = 4 if standardize_dtype(hidden.dtype) == "float32" else 2
    size = max(CHUNK_BYTES // (items * logit_bytes), CHUNK_ROWS)
    size = min(size, rows) if isinstance(rows, int) else size
    count = (rows + size - 1) // size
    extra = count * size - rows  # rows of weight 0 that fill the last chunk
    filled = ops.concatenate([hidden, ops.zeros((extra, dim), hidden.dtype)], axis=0)
    fill = ops.zeros((extra,), "int32")
    filled_labels = ops.concatenate([labels, fill], axis=0)
    filled_share = ops.concatenate([share, ops.cast(fill, "float32")], axis=0)
    transposed = ops.transpose(table)

    def body(carry, chunk):
        loss, table_gradient, bias_gradient = carry
        part, label, weight = chunk
        logits = ops.matmul(part, transposed)  # (t, V)
        if bias is not None:
            logits = ops.cast(logits, "float32") + ops.cast(bias, "float32")
        likely = backends.softmax(logits)
        loss = loss + ops.sum(weight * _surprise(logits, likely, label))
        # The weights go onto the smaller factor; the label's -1, and the weights of the rows, come at the end.
        if bias is not None:
            bias_gradient = bias_gradient + ops.matmul(weight[None], likely)[0]
        likely = ops.cast(likely, part.dtype)
        weight = ops.cast(weight, part.dtype)[:, None]
        table_gradient = table_gradient + ops.cast(ops.matmul(ops.transpose(part * weight), likely), "float32")
        return (loss, table_gradient, bias_gradient), ops.matmul(likely, table)

    chunks = (
        ops.reshape(filled, (count, size, dim)),
        ops.reshape(filled_labels, (count, size)),
        ops.reshape(filled_share, (count, size)),
    )
    start = (ops.zeros(()), ops.zeros((dim, items)), ops.zeros((items,)))
    (loss, table_gradient, bias_gradient), hidden_gradient = backends.scan(body, start, chunks, hidden.dtype)
    hidden_gradient = ops.reshape(hidden_gradient, (-1, dim))[:rows] - ops.take(table, labels, axis=0)
    hidden_gradient = hidden_gradient * ops.cast(share, hidden.dtype)[:, None]
    weighted = ops.cast(hidden, "float32") * share[:, None]
    table_gradient = ops.transpose(table_gradient) - ops.segment_sum(weighted, labels, num_segments=items)

    def gradient(*args, upstream=None):
        scale = args[0] if upstream is None else upstream
        results = [
            hidden_gradient * ops.cast(scale, hidden.dtype),
            ops.cast(table_gradient * scale, table.dtype),
            None,
            None,
        ]
        if bias is not None:
            minus = ops.segment_sum(share, labels, num_segments=items)
            results.append(ops.cast((bias_gradient - minus) * scale, bias.dtype))
        return tuple(results)

    return loss, gradient


def info_nce(first: Any, second: Any, rows: Any, weights: Any) -> Any:
    """InfoNCE between two views, both ways (van den Oord et al. 2018; Chen et al. 2020): each row's one view is to find
    its other among those of the batch. Half of the sum of both `in_batch_softmax`.

    Args:
        first, second: (B, D) vectors of the views; the logits are their inner products.
        rows: (B,) what each row is: rows that are the same are no negatives of each other.
        weights: (B,); a row of weight 0 is no negative either.
    """
    scores = ops.cast(ops.matmul(first, ops.transpose(second)), "float32")
    equal = ops.zeros_like(scores[0])  # every row is as likely to be in a batch
    there = in_batch_softmax(scores, rows, equal, weights)
    return (there + in_batch_softmax(ops.transpose(scores), rows, equal, weights)) / 2


def gaussian_kl(mean: Any, log_variance: Any, weights: Any) -> Any:
    """(D,) divergence from N(0, I) of N(mean, variance), per dimension: (mean^2 + variance - 1 - log variance) / 2
    (Kingma & Welling 2014, appendix B), the mean over rows (B, D) weighted by `weights` (B,)."""
    mean, log_variance = ops.cast(mean, "float32"), ops.cast(log_variance, "float32")
    share = ops.cast(weights, "float32") / ops.maximum(ops.sum(ops.cast(weights, "float32")), 1e-12)
    divergence = (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance) / 2
    return ops.sum(share[:, None] * divergence, axis=0)
