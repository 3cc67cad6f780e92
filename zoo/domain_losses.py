"""Losses between the vectors that users have in several domains: pure functions, in `keras.ops`; scalars.

Legend: U users, G domains, D width. `there` (U, G) is 1 where a user has events of the domain, else 0.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from zoo import losses
from zoo.layers.attention import HIDDEN
from zoo.layers.normalize import l2_normalize
from zoo.layers.pooling import weighted_mean


def told_apart(logits: Any, there: Any) -> Any:
    """Cross-entropy of the domain of each vector, from logits (U, G, G); each domain counts alike."""
    log_share = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    own = -ops.sum(log_share * ops.eye(there.shape[1], dtype="float32"), axis=-1)  # (U, G)
    return ops.mean(ops.sum(own * there, axis=0) / ops.maximum(ops.sum(there, axis=0), 1.0))


def contrast(vectors: Any, there: Any, history: Any, temperature: float) -> Any:
    """InfoNCE: a user's vector (U, G, D) of one domain finds that of his other domains among those of all users.

    Further windows of his own `history` (U,) are not among them.
    """
    total, domains = 0.0, there.shape[1]
    stranger = ops.logical_or(ops.not_equal(history[:, None], history), ops.eye(history.shape[0], dtype="bool"))
    for g in range(domains):
        elsewhere = there * ops.cast(ops.not_equal(ops.arange(domains), g), there.dtype)
        both = there[:, g] * ops.cast(ops.any(elsewhere > 0, axis=1), there.dtype)
        one, other = l2_normalize(vectors[:, g]), l2_normalize(weighted_mean(vectors, elsewhere))
        logits = ops.cast(ops.matmul(one, ops.transpose(other)), "float32") / temperature
        own = ops.cast(ops.sum(one * other, axis=-1), "float32") / temperature
        others = ops.logsumexp(ops.where(ops.logical_and(stranger, both > 0), logits, HIDDEN), axis=-1)
        total = total + losses.weighted_mean(ops.where(both > 0, others - own, 0.0), both)
    return total / domains


def alignment(cross: Any, common: Any, there: Any, users: Any) -> Any:
    """Mean square of the way from vectors (U, D) to the means of (U, G, D), which stand still; `users` (U,) weighs."""
    apart = cross - ops.stop_gradient(weighted_mean(common, there))
    return losses.weighted_mean(ops.mean(ops.square(apart), axis=-1), users)


def separation(cross: Any, specific: Any, there: Any, users: Any, euclidean: bool = False) -> Any:
    """By how much vectors (U, D) are nearer than 1 to the means of (U, G, D); `users` (U,) weighs.

    Near is the root of the mean square, for which 1 is far whatever the width, or the Euclidean distance.
    """
    apart = ops.square(cross - weighted_mean(specific, there))
    squares = (ops.sum if euclidean else ops.mean)(apart, axis=-1)
    return losses.weighted_mean(ops.relu(1.0 - ops.sqrt(squares + 1e-12)), users)
