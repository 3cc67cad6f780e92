"""Sessions side by side: slot b of batch i goes on where slot b of batch i - 1 was (GRU4Rec, Hidasi et al. 2016).

    batch      0   1   2   3   4   5
    slot 0     a1  a2  a3  d1  d2  e1      a session that is over is followed at once by the next one that waits
    slot 1     b1  b2  c1  c2  c3  .       nothing waits any more: weight 0

Legend: B slots, N negatives, T batches of an epoch, n sessions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.loader import Loader
from zoo.data.loaders.sequences import NextItemLoader, actions
from zoo.data.negatives import NegativeSampler, touched
from zoo.data.vocabulary import NUM_SPECIALS, PAD


class SessionParallelLoader(Loader):
    """One event of each of `train.batch_size` sessions is to predict its next one. A batch is

    x["item"]               (B, 1) int32 the event; PAD in an empty slot
    x["action"]             (B, 1) int32 what the event is, with `model.use_actions`, and
    x["next_action"]        (B, 1) int32 what the next one is, with `model.query_action`: see `sequences`
    x["fresh"]              (B, 1) bool whether a session begins here: what the slot remembers is of another one
    x["negatives"]          (B + N,) int32 candidates of all slots: everybody's next items, then what was drawn; absent
                            with `loss=softmax`, as are the following
    x["excluded"]           (B, B + N) bool candidates that are none of this slot's: its own next item, empty slots'
    x["negatives_log_q"]    (B + N,) float32 logq * log-frequency, times `popularity_power` for what was drawn
    x["log_q"]              (B, 1) float32 the same of the positives
    x["touched"]            (U,) int32 of `negatives.touched`, with `model.touched_items`
    y                       (B, 1) int32 the next item; PAD in an empty slot
    weight                  (B, 1) float32: column `weight` of the next event; 0 where it is no trained item

    Sessions come by the time of their first event, in every epoch alike. As in the official code, a drawn item that
    equals the next one stays a candidate, and frequencies are counts.
    """

    in_order = True

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__(histories, catalogue, config)
        sessions = np.flatnonzero(histories.lengths > 1)
        if histories.timestamp is not None:
            first = histories.timestamp[histories.offsets[sessions]]
            sessions = sessions[np.argsort(first, kind="stable")]
        inputs = histories.lengths[sessions] - 1  # the last event is only a target
        batch, slot = take_turns(inputs, self.rows_per_batch)
        size = int((batch + inputs).max(initial=0))
        offset = np.arange(inputs.sum()) - np.repeat(np.cumsum(inputs) - inputs, inputs)
        place = (np.repeat(batch, inputs) + offset) * self.rows_per_batch + np.repeat(slot, inputs)
        self._event = np.full(size * self.rows_per_batch, -1, np.int64)  # of each slot of each batch, one after another
        self._event[place] = np.repeat(histories.offsets[sessions], inputs) + offset
        self._fresh = np.zeros(len(self._event), bool)
        self._fresh[place[offset == 0]] = True
        self._weights = histories.columns.get("weight")
        model: Any = config.model
        self._sampler = None
        if model.loss != "softmax":
            self._sampler = NegativeSampler(histories, catalogue, model.popularity_power)
            self._log_count = np.log(np.maximum(catalogue.item_counts, 1)).astype(np.float32) * model.logq

    @property
    def num_examples(self) -> int:
        return len(self._event)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        event = np.where(real, self._event[rows], -1)
        filled = event >= 0
        items = self.histories.item
        y = np.where(filled, items[event + 1], PAD).astype(np.int32)
        weight = (y >= NUM_SPECIALS).astype(np.float32)
        if self._weights is not None:
            weight *= self._weights[event + 1]
        x = {"item": np.where(filled, items[event], PAD).astype(np.int32)[:, None], "fresh": self._fresh[rows][:, None]}
        x |= actions(self.histories, event[:, None], filled[:, None], self.config.model)
        if self._sampler is not None:
            model: Any = self.config.model
            drawn = self._sampler.draw_any(model.num_negatives, rng)
            x["negatives"] = np.concatenate([y, drawn])
            x["excluded"] = np.zeros((len(y), len(y) + len(drawn)), bool)
            x["excluded"][:, : len(y)] = np.eye(len(y), dtype=bool) | (weight == 0)
            log_q = self._log_count[y]
            x["log_q"] = log_q[:, None]
            if model.touched_items:
                x["touched"] = touched(self.catalogue, x["item"], x["negatives"])
            x["negatives_log_q"] = np.concatenate([log_q, self._log_count[drawn] * model.popularity_power])
        return x, y[:, None], weight[:, None]

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, np.ndarray]:
        return NextItemLoader.inputs(histories, catalogue, model_config)


def take_turns(counts: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn it is, where: each session in its order takes the slot that is free first, the lowest of several.

    Args:
        counts: (n,) batches that each session takes, at least 1.
        slots: B.

    Returns:
        (n,) the first batch of each session, and (n,) its slot.
    """
    batch, slot = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    free_at = np.zeros(slots, np.int64)
    done = 0
    while done < len(counts):  # once for all sessions that begin together
        now = free_at.min()
        free = np.flatnonzero(free_at == now)[: len(counts) - done]
        turn = slice(done, done + len(free))
        batch[turn], slot[turn] = now, free
        free_at[free] = now + counts[turn]
        done += len(free)
    return batch, slot
