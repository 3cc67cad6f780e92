"""Blocks of the hierarchical sequential transduction unit (Zhai et al. 2024) over packed rows.

Legend: R rows, L slots of a row, D width, H heads, T wanted slots, M appended events, N fixed divisor of the attention.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo import backends
from zoo.layers.attention import at_slots, placed
from zoo.layers.dropout import Dropout
from zoo.layers.normalize import LayerNorm
from zoo.layers.relative_bias import DistanceBias, joined

NUM_BUCKETS = 129
BUCKET_WIDTH = 0.301  # of the natural logarithm of seconds: ten years reach bucket 65
HIDDEN = -1e4  # logit of what may not be seen: its sigmoid is zero in every precision


# First second of each bucket that int32 seconds reach, and their end.
_REACHED = int(np.log(np.iinfo(np.int32).max) / BUCKET_WIDTH)
EDGES = np.append(np.ceil(np.exp(np.arange(_REACHED + 1) * BUCKET_WIDTH)), np.iinfo(np.int32).max).astype(np.int32)


def log_buckets(seconds: Any) -> Any:
    """int32 logarithmic bucket of each of these int32 numbers of seconds; of those below 1 it is 0.

    Logarithms differ between backends in their last bit, which decides where a time lies near an edge: a bucket is
    estimated from below and put right by comparing integers.
    """
    seconds = ops.clip(seconds, 1, int(EDGES[-1]) - 1)
    below = ops.cast(ops.maximum(ops.log(ops.cast(seconds, "float32")) / BUCKET_WIDTH - 1e-3, 0.0), "int32")
    return below + ops.cast(seconds >= ops.take(EDGES, below + 1), "int32")


def time_buckets(time: Any, next_time: Any) -> Any:
    """(R, M, L) int32 logarithmic bucket of |next_time_i - time_j|, from seconds (R, L) and (R, M)."""
    return log_buckets(ops.absolute(next_time[:, :, None] - time[:, None, :]))


class RelativeBias(keras.layers.Layer):
    """What is added to the logits: a number learned for each distance and, if wanted, each bucket of time.

    Args:
        max_length: distances go from 0 to this.
        use_time: learn the buckets too.
        num_heads: G, of which each has numbers of its own; 1: all heads share them.
    """

    def __init__(self, max_length: int, use_time: bool, num_heads: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.by_distance = DistanceBias(max_length, num_heads, name="by_distance")
        self.use_time = use_time
        self.num_heads = num_heads

    def build(self, *shapes: Any) -> None:
        """Creates the numbers of the buckets."""
        self.by_time = None
        if self.use_time:
            start = keras.initializers.RandomNormal(stddev=0.02)
            self.by_time = self.add_weight(shape=(self.num_heads, NUM_BUCKETS), initializer=start, name="by_time")

    def call(self, seen: Any, distance: Any, bucket: Any = None) -> Any:
        """(R, M, L) -> (R, G, M, L).

        Args:
            seen: (R, M, L) bool: whether event i sees event j.
            distance: (M, L) or (R, M, L) how many events j lies before i; whatever where it is not seen.
            bucket: (R, M, L) of the time between them; None where the events bear no time: all is bucket 0.
        """
        by_time: Any = 0.0
        if self.use_time:
            index = (ops.zeros((1, 1), "int32") if bucket is None else bucket)[..., None, :, :]
            if self.num_heads > 1:
                index = index + ops.arange(self.num_heads, dtype="int32")[:, None, None] * NUM_BUCKETS
            numbers = ops.take(ops.reshape(backends.dense_gradient(self.by_time), (-1,)), index)
            by_time = ops.cast(numbers, self.compute_dtype)
        shown = ops.cast(ops.where(seen[:, None], by_time, HIDDEN), self.compute_dtype)
        return joined(shown, self.by_distance(distance))


class HSTUBlock(keras.layers.Layer):
    """x + W (norm(A V) * U) with A = silu(Q K^T + bias) / N: no softmax, no scale of the logits, no other network.

    U, V, Q and K are silu(norm(x) W'); neither norm has weights, and that of A V is over all heads together.

    Args:
        dim: D.
        num_heads: H.
        query_dim: of a head's queries and keys.
        value_dim: of a head's values and gates.
        max_length: N, and the largest distance between events that the bias knows.
        use_time: bias by time too.
        dropout: of what W is applied to.
        per_head: each head has a bias of its own; the published code's heads share one.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        query_dim: int,
        value_dim: int,
        max_length: int,
        use_time: bool,
        dropout: float = 0.0,
        per_head: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.query_dim, self.value_dim = num_heads, query_dim, value_dim
        self.divisor = max_length
        self.bias = RelativeBias(max_length, use_time, num_heads if per_head else 1, name="bias")
        self.input_norm = LayerNorm(center=False, scale=False, name="input_norm")
        self.mixed_norm = LayerNorm(center=False, scale=False, name="mixed_norm")
        self.gate_value_query_key = keras.layers.Dense(
            2 * num_heads * (query_dim + value_dim),
            activation="silu",
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="gate_value_query_key",
        )
        self.output_dense = keras.layers.Dense(dim, name="output")
        self.drop = Dropout(dropout)

    def call(
        self, x: Any, seen: Any, distance: Any, bucket: Any = None, wanted: Any = None, training: bool = False
    ) -> Any:
        """(R, L, D) -> (R, L, D), or of `wanted` slots (T,), counted through all rows and few, (T, D).

        `seen`, `distance` (L, L) and `bucket` are as in `RelativeBias`.
        """
        gate, value, query, key = self._project(x)
        if wanted is None:
            return self._attend(x, gate, query, key, value, self.bias(seen, distance, bucket), training)
        row, place = wanted // x.shape[1], wanted % x.shape[1]
        key, value = ops.take(key, row, axis=0), ops.take(value, row, axis=0)
        x, gate, seen = (at_slots(part, wanted)[:, None] for part in (x, gate, seen))
        query = at_slots(ops.transpose(query, (0, 2, 1, 3)), wanted)[:, :, None]  # (T, H, 1, query_dim)
        bucket = None if bucket is None else at_slots(bucket, wanted)[:, None]
        bias = self.bias(seen, ops.take(distance, place, axis=0)[:, None], bucket)
        return self._attend(x, gate, query, key, value, bias, training)[:, 0]

    def extend(self, x: Any, position: Any, bucket: Any, cache: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        """`call` for M events appended to B sequences whose keys and values are known; costs O(L) an event.

        Args:
            x: (B, M, D) the new events.
            position: (B, M) place of each in its sequence, below L.
            bucket: (B, M, L) of the time between each and all; None where the events bear no time.
            cache: keys and values (B, H, L, ...) by position; those at and after a new event are not looked at.

        Returns:
            (B, M, D), and the cache with the new events in it.
        """
        gate, value, query, key = self._project(x)
        keys, values = placed(cache[0], key, position), placed(cache[1], value, position)
        distance = position[:, :, None] - ops.arange(keys.shape[2], dtype="int32")[None, None]
        bias = self.bias(ops.greater_equal(distance, 0), distance, bucket)
        return self._attend(x, gate, query, keys, values, bias, False), (keys, values)

    def _project(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Gate (R, L, H * value_dim); value, query and key (R, H, L, ...)."""
        sizes = [self.num_heads * size for size in (self.value_dim, self.value_dim, self.query_dim, self.query_dim)]
        ends = [sum(sizes[: i + 1]) for i in range(3)]
        gate, *parts = ops.split(self.gate_value_query_key(self.input_norm(x)), ends, axis=-1)
        return gate, *(self._heads(part) for part in parts)

    def _heads(self, x: Any) -> Any:
        shape = ops.shape(x)
        split = ops.reshape(x, (shape[0], shape[1], self.num_heads, x.shape[-1] // self.num_heads))
        return ops.transpose(split, (0, 2, 1, 3))

    def _attend(self, x: Any, gate: Any, query: Any, key: Any, value: Any, bias: Any, training: bool) -> Any:
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        weights = (_weights if training else _fused_weights)(logits, bias)
        mixed = ops.matmul(weights, value) / self.divisor  # (R, H, L, value_dim)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), ops.shape(gate))
        return x + self.output_dense(self.drop(self.mixed_norm(mixed) * gate, training=training))


def _weights(logits: Any, bias: Any) -> Any:
    """In training as it stands: a gradient in one loop of its own was no faster (benchmarks/LOG.md)."""
    return ops.silu(logits + bias)


_fused_weights = backends.fused(_weights)
