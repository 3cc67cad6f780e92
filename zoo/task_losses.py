"""Losses of models with several tasks: pure functions, in `keras.ops`; scalars, as in `zoo.losses`.

Legend: B batch, C candidates, P positives of a row, T tasks.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from zoo.losses import NEVER, weighted_mean


def focal(scores: Any, targets: Any, weights: Any, alpha: float = 0.5, gamma: float = 2.0) -> Any:
    """Focal loss (Lin et al. 2017, eq. 5): -a (1 - p)^gamma log p, where p is the probability of what is true.

    What is already likely counts less. With gamma 0 and alpha 0.5 it is half of binary cross-entropy.

    Args:
        scores: (B,) logits.
        targets: (B,) 0 or 1.
        weights: (B,).
        alpha: a of targets 1; that of targets 0 is 1 - alpha.
        gamma: 0 or more.
    """
    right = (2.0 * targets - 1.0) * scores
    a = alpha * targets + (1.0 - alpha) * (1.0 - targets)
    hard = ops.exp(-gamma * ops.softplus(right))  # (1 - p)^gamma, with a finite gradient everywhere
    return weighted_mean(a * hard * ops.softplus(-right), weights)


def multi_positive_nce(scores: Any, positives: Any, shares: Any, weights: Any, excluded: Any = None) -> Any:
    """InfoNCE of several positives: -sum_p share_p log softmax(scores)_p / sum_p share_p, over all candidates.

    The positives of a row compete with each other, too: it is the cross-entropy to their distribution.

    Args:
        scores: (B, C).
        positives: (B, P) columns; whatever where the share is 0.
        shares: (B, P) how much each positive counts, 0 or more.
        weights: (B,); 0 of a row without positives.
        excluded: (B, C) bool, candidates that are none; no positive is.
    """
    if excluded is not None:
        scores = ops.where(excluded, NEVER, scores)
    surprise = ops.logsumexp(scores, axis=1, keepdims=True) - ops.take_along_axis(scores, positives, axis=1)
    return weighted_mean(ops.sum(shares * surprise, axis=1) / ops.maximum(ops.sum(shares, axis=1), 1e-12), weights)


def novelty(scores: Any, popularity: Any, weights: Any) -> Any:
    """Mean over rows of sum_c softmax(scores)_c popularity_c: how much is laid on what everybody takes.

    Args:
        scores: (B, C).
        popularity: (C,), of the most popular candidates summing to one.
        weights: (B,).
    """
    share = ops.exp(scores - ops.logsumexp(scores, axis=1, keepdims=True))  # softmax, also of a single candidate
    return weighted_mean(ops.matmul(share, popularity[:, None])[:, 0], weights)


def huber(scores: Any, targets: Any, weights: Any, delta: float = 1.0) -> Any:
    """Huber 1964: e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), of e = score - target; all (B,)."""
    error = ops.absolute(scores - targets)
    bounded = ops.minimum(error, delta)
    return weighted_mean(bounded * (error - 0.5 * bounded), weights)


def balanced(losses: Any, log_variances: Any, weights: Any) -> Any:
    """Uncertainty weighting (Kendall et al. 2018, eq. 10): sum_t w_t (exp(-s_t) loss_t + s_t / 2).

    Args:
        losses: (T,).
        log_variances: (T,) s, learned.
        weights: (T,) fixed factors of tasks; 0 where nothing was asked, or s would fall for ever at no loss.
    """
    return ops.sum(weights * (ops.exp(-log_variances) * losses + 0.5 * log_variances))
