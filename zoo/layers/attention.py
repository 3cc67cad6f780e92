"""Self-attention over packed rows: an event sees its own sequence, and in a causal layer nothing later.

Legend: R rows, L slots of a row, D width, H heads, T wanted slots, B sequences, M appended events.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo import backends
from zoo.layers.dropout import Dropout
from zoo.layers.relative_bias import DistanceBias, joined

HIDDEN = -1e9  # logit of what may not be seen; finite, so that no row of weights can become NaN
SMALL = 0.02  # standard deviation of the start of what is added to a residual: blocks begin near the identity (GPT-2)


def visible(segment: Any, causal: bool) -> Any:
    """(R, L, L) bool: whether slot i may see slot j: same sequence and, if causal, not later.

    Every slot sees itself, so that no row of the attention is empty.

    Args:
        segment: (R, L) which sequence of the row each slot belongs to.
    """
    return (_same_and_earlier if causal else _same)(segment)


@backends.fused
def _same(segment: Any) -> Any:
    return ops.equal(segment[:, :, None], segment[:, None, :])


@backends.fused
def _same_and_earlier(segment: Any) -> Any:
    place = ops.arange(segment.shape[1], dtype="int32")
    same = ops.equal(segment[:, :, None], segment[:, None, :])
    return ops.logical_and(same, ops.greater_equal(place[:, None], place[None, :]))


def hiding(seen: Any, dtype: Any) -> Any:
    """(R, 1, L, L) what is added to the logits of attention, of (R, L, L) bool: whether slot i may see slot j."""
    return ops.cast(_hiding(seen), dtype)[:, None]


@backends.fused
def _hiding(seen: Any) -> Any:
    return ops.where(seen, 0.0, HIDDEN)


def at_slots(array: Any, wanted: Any = None) -> Any:
    """(T, ...) of (R, L, ...) at slots (T,) counted through all rows; None: at all, (R * L, ...)."""
    flat = ops.reshape(array, (-1, *array.shape[2:]))
    return flat if wanted is None else ops.take(flat, wanted, axis=0)


def small() -> Any:
    """Initializer of a kernel whose product is added to a residual."""
    return keras.initializers.RandomNormal(stddev=SMALL)


def placed(cache: Any, new: Any, position: Any) -> Any:
    """Keys or values (B, H, L, D) with those of new events (B, H, M, D) at their positions (B, M)."""
    slots = ops.arange(cache.shape[2], dtype="int32")
    here = ops.equal(position[:, :, None], slots[None, None, :])  # (B, M, L)
    kept = ops.cast(ops.logical_not(ops.any(here, axis=1)), new.dtype)[:, None, :, None]
    place = ops.transpose(ops.cast(here, new.dtype), (0, 2, 1))[:, None]  # (B, 1, L, M)
    return cache * kept + ops.matmul(place, new)


class SelfAttention(keras.layers.Layer):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2).

    Args:
        dim: D, a multiple of `num_heads`.
        num_heads: H.
        dropout: of the attention weights.
        by_distance: what the distance between two events adds to their logit, by head; None: nothing.
        mixing: what is seen counts from the start; else next to nothing does (`SMALL`), and training begins near the
            identity. A masked event has nothing to say of itself: from the identity it takes long to look around.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float = 0.0,
        by_distance: DistanceBias | None = None,
        mixing: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.by_distance = by_distance
        self.query = keras.layers.Dense(dim, name="query")
        # A bias of the keys would shift a query's logits alike, one of the values is the output's: neither is needed.
        self.key_value = keras.layers.Dense(2 * dim, use_bias=False, name="key_value")
        start = "glorot_uniform" if mixing else small()
        self.output_dense = keras.layers.Dense(dim, kernel_initializer=start, name="output")
        self.drop = Dropout(dropout)

    def call(self, x: Any, seen: Any, bias: Any, place: Any = None, wanted: Any = None, training: bool = False) -> Any:
        """(R, L, D) -> (R, L, D), or the `wanted` alone, (T, D).

        Args:
            x: (R, L, D) what the queries are made of.
            seen: (R, L, D) what the keys and values are made of.
            bias: (R, 1, L, L) added to the logits: 0 where slot i sees slot j, HIDDEN where it may not.
            place: (R, L) of each event, from which distances are counted; None: events are as far apart as their slots.
            wanted: (T,) slots, counted through all rows; None: all.
        """
        key, value = self._keys_and_values(seen)
        if place is None:
            place = ops.arange(x.shape[1], dtype="int32")
        looking = place[..., None]
        if wanted is not None and not training:  # few are: each gets the keys and values of its row
            row = wanted // x.shape[1]
            x, key, value = at_slots(x, wanted)[:, None], ops.take(key, row, axis=0), ops.take(value, row, axis=0)
            bias = at_slots(bias[:, 0], wanted)[:, None, None]
            if len(place.shape) == 1:
                looking = (wanted % place.shape[0])[:, None, None]
            else:
                looking, place = at_slots(place, wanted)[:, None, None], ops.take(place, row, axis=0)
        if self.by_distance is not None:
            bias = joined(bias, self.by_distance(looking - place[..., None, :]))
        mixed = self._mixed(self._heads(self.query(x)), key, value, bias, training)
        return self.output_dense(mixed if wanted is None else at_slots(mixed, wanted if training else None))

    def extend(self, x: Any, seen: Any, position: Any, cache: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        """The same for events appended to B sequences whose keys and values are known; costs O(L) an event.

        Args:
            x, seen: (B, M, D) of the new events.
            position: (B, M) place of each in its sequence, below L.
            cache: keys and values (B, H, L, D / H) by position; those at and after a new event are not looked at.

        Returns:
            (B, M, D), and the cache with the new events in it.
        """
        keys, values = (placed(old, new, position) for old, new in zip(cache, self._keys_and_values(seen), strict=True))
        slots = ops.arange(keys.shape[2], dtype="int32")
        distance = position[:, :, None] - slots[None, None, :]  # (B, M, L)
        bias = hiding(ops.greater_equal(distance, 0), x.dtype)
        if self.by_distance is not None:
            bias = joined(bias, self.by_distance(distance))
        mixed = self._mixed(self._heads(self.query(x)), keys, values, bias, False)
        return self.output_dense(mixed), (keys, values)

    def _keys_and_values(self, seen: Any) -> tuple[Any, Any]:
        if not self.key_value.built:
            self.key_value.build(seen.shape)
        weights = ops.cast(self.key_value.kernel, self.compute_dtype)  # which are fewer to split than what they make
        key, value = (self._heads(ops.matmul(seen, half)) for half in ops.split(weights, 2, axis=-1))
        return key, value

    def _mixed(self, query: Any, key: Any, value: Any, bias: Any, training: bool) -> Any:
        """(R, M, D) the values by their weights, of queries (R, H, M, D / H)."""
        query = query * query.shape[-1] ** -0.5
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) + bias
        weights = self.drop.softmax(logits, training=training)  # (R, H, L, L)
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return ops.reshape(mixed, (*ops.shape(mixed)[:2], value.shape[1] * value.shape[3]))

    def _heads(self, x: Any) -> Any:
        shape = ops.shape(x)
        split = ops.reshape(x, (shape[0], shape[1], self.num_heads, x.shape[-1] // self.num_heads))
        return ops.transpose(split, (0, 2, 1, 3))  # (R, H, L, D / H)
