"""Events of clients, packed, as vectors: what each is about, and the state after it.

Legend: R rows, L slots of a row, B clients, D width, V products.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo.layers.dropout import Dropout
from zoo.layers.embedding import IndexEmbedding
from zoo.layers.event_features import COARSE, MIDDLE, CodeEmbedding, FamilyFusion, ProductFeatures, normal
from zoo.layers.event_stack import EventStack
from zoo.layers.hstu import NUM_BUCKETS, log_buckets
from zoo.layers.normalize import LayerNorm

LATELY = (1, 3, 7, 14, 28, 56, 112)  # days


class EventEncoder(keras.layers.Layer):
    """Inputs as `zoo.data.loaders.behaviour_sequences` makes them -> contents and states (R, L, D) of the events.

    The content is the fusion of seven families. What is read by the stack is the content, the time to the cut-off and
    the time since the event before, both in buckets of the logarithm of seconds.

    Args:
        products: features of products, four of the families.
        all_at_once: make the features of all V products once, and let the events look them up; else for each event.
        num_kinds, num_urls, num_query_rows: rows of the tables of the other three.
        family_dim: width of a family.
        dim: D.
        gate_dim: width of the network that weighs the families.
        dropout: of what is read.
        stack: over the events.
    """

    def __init__(
        self,
        products: ProductFeatures,
        all_at_once: bool,
        num_kinds: int,
        num_urls: int,
        num_query_rows: int,
        family_dim: int,
        dim: int,
        gate_dim: int,
        dropout: float,
        stack: EventStack,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.products, self.all_at_once, self.stack = products, all_at_once, stack
        self.kind = IndexEmbedding(num_kinds, family_dim, normal(COARSE), name="kind")
        self.url = IndexEmbedding(num_urls, family_dim, normal(MIDDLE), name="url")
        self.query = CodeEmbedding(num_query_rows, family_dim, name="query")
        self.fusion = FamilyFusion(7, dim, gate_dim, name="fusion")
        self.to_cut_off = IndexEmbedding(NUM_BUCKETS, dim, normal(MIDDLE), name="to_cut_off")
        self.since_last = IndexEmbedding(NUM_BUCKETS + 1, dim, normal(MIDDLE), name="since_last")
        self.input_norm = LayerNorm(name="input_norm")
        self.drop = Dropout(dropout)

    def call(self, inputs: dict[str, Any], training: bool = False) -> tuple[Any, Any]:
        content = self.contents(inputs)
        gap = inputs["gap"]
        since_last = self.since_last(ops.where(ops.less(gap, 0), 0, 1 + log_buckets(gap)))
        x = content + self.to_cut_off(log_buckets(inputs["time"])) + since_last
        x = self.drop(self.input_norm(x), training=training)
        return content, self.stack(x, inputs["segment"], inputs["time"], training=training)

    def contents(self, inputs: dict[str, Any]) -> Any:
        """(..., D) what events are about, from `kind`, `item`, `url` (...) and `query` (..., K)."""
        prepare = self.fusion.prepare
        return self.fusion(
            [
                prepare(0, self.kind(inputs["kind"])),
                *self._of_products(inputs["item"]),
                prepare(5, self.url(inputs["url"])),
                prepare(6, self.query(inputs["query"])),
            ]
        )

    def _of_products(self, item: Any) -> list[Any]:
        if not self.all_at_once:
            return [self.fusion.prepare(1 + i, part) for i, part in enumerate(self.products(item))]
        everything = ops.arange(self.products.size, dtype="int32")
        table = [self.fusion.prepare(1 + i, part) for i, part in enumerate(self.products(everything))]
        width = table[0].shape[-1]
        found = ops.take(ops.concatenate(table, axis=-1), item, axis=0)
        return [found[..., i * width : (i + 1) * width] for i in range(len(table))]


def pooled(states: Any, inputs: dict[str, Any], num_kinds: int) -> Any:
    """What is known of each client, in one row of numbers, float32: the last state; the mean of all states and of
    those of each kind of event; the logarithm of 1 + how many events there were of each kind, of those together, and
    of each in the last 1 to 112 days.

    Args:
        states: (R, L, D).
        inputs: `segment`, `slot`, `kind` and `time`.
        num_kinds: kinds are 1, ..., num_kinds; another number is none of these.
    """
    flat = ops.cast(ops.reshape(states, (-1, states.shape[-1])), "float32")
    segment, kind, time = (ops.reshape(inputs[name], (-1,)) for name in ("segment", "kind", "time"))
    count = ops.shape(inputs["slot"])[0] + 1
    known = ops.logical_and(ops.greater(kind, 0), ops.less_equal(kind, num_kinds))
    place = segment * (num_kinds + 1) + ops.where(known, kind, 0)
    lately = ops.cast(ops.less(time[:, None], np.array(LATELY, np.int32) * 86_400), "float32")
    both = ops.concatenate([flat, ops.ones_like(flat[:, :1]), lately], axis=-1)
    sums = ops.segment_sum(both, place, num_segments=count * (num_kinds + 1))
    sums = ops.reshape(sums, (-1, num_kinds + 1, both.shape[-1]))[1:]  # (B, 1 + num_kinds, D + 1 + windows)
    kinds, dim = sums[:, 1:], flat.shape[-1]
    states_of = ops.concatenate([ops.sum(sums, axis=1, keepdims=True), kinds], axis=1)
    means = states_of[..., :dim] / ops.maximum(states_of[..., dim : dim + 1], 1.0)
    events_of = ops.concatenate([ops.sum(kinds, axis=1, keepdims=True), kinds], axis=1)[..., dim:]
    found = ops.concatenate([means, ops.log(1.0 + events_of)], axis=-1)
    last = ops.take(flat, inputs["slot"], axis=0)
    return ops.concatenate([last, ops.reshape(found, (-1, (num_kinds + 1) * both.shape[-1]))], axis=-1)
