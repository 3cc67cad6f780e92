"""Sequences of events, packed: each row of a batch holds several, and hardly a slot is padding.

What every model of sequences sees, in training, evaluation and serving:

    item      (R, L) int32 tokens, oldest first; PAD where the slot is empty
    position  (R, L) int32 place in its own sequence, from 0
    segment   (R, L) int32 which sequence of the row; 0 where the slot is empty
    time      (R, L) int32 seconds since the first event of the sequence; with `model.use_time` and a log with times
    next_time (R, L) int32 the same of the next event, whether or not it is seen; after the last event the history's
              `query_time`, or its own time where that is not known; with `model.query_time` alone
    action    (R, L) int32 tokens of `Catalogue.actions`, what each event is; UNKNOWN where that is not known; with
              `model.use_actions`
    next_action (R, L) int32 the same of the next event, whether or not it is seen; after the last event the history's
              `query_action`; with `model.query_action` alone
    slot      (B,) int32 flat slots (of R * L) whose states are wanted: the last event of each history, or what is to
              be predicted; absent where all are

Legend: R rows, L slots of a row, B histories, N negatives, n histories, E events.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.loader import Loader
from zoo.data.loaders.packing import pack, rounded
from zoo.data.negatives import NegativeSampler, touched
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN


class SequenceLoader(Loader):
    """Sequences of events of the training histories, packed once; each epoch permutes the rows.

    `train.batch_size` counts sequences: a batch has as many rows as hold that many on average.

    Attributes:
        packing: where each sequence lies.
    """

    min_length = 1  # slots of the shortest sequence there is anything to learn from

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__(histories, catalogue, config)
        model: Any = config.model
        begins, lengths = self.windows(model.max_length)
        worth = lengths >= self.min_length
        self._timed = _timed(histories, model)
        self._begins = begins[worth]
        self._weights = histories.columns.get("weight")
        self._sampler = None
        if model.loss not in ("softmax", "sce"):
            self._sampler = NegativeSampler(histories, catalogue, model.popularity_power)
        self.packing = pack(lengths[worth], model.max_length)
        share = self.packing.num_rows / max(len(self._begins), 1)
        self.rows_per_batch = max(round(config.train.batch_size * share), 1)

    @abc.abstractmethod
    def windows(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Position of the first event, and number of events, of each sequence that is input."""

    @property
    def num_examples(self) -> int:
        return self.packing.num_rows

    def rows(self, rows: np.ndarray, real: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """(x, index (R, L) of each slot's event in the flat arrays, real (R, L) whether there is one)."""
        index, position, segment = self.packing.layout(np.where(real, rows, -1), self._begins)
        x = events_at(self.histories, index, position, segment)
        x |= actions(self.histories, index, segment > 0, self.config.model)
        if self._timed:
            x |= _times(self.histories, index, position, segment, self.config.model)
        return x, index, segment > 0

    def asked(
        self, x: dict[str, np.ndarray], event: np.ndarray, real: np.ndarray, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """(x, y, weight) of a batch in which `x` is to predict events.

        Args:
            event: (R, L) or (T,) the events to be predicted, as positions in the flat arrays.
            real: the same shape; False where there is none.

        Returns:
            x, where the loss needs them with

            x["negatives"]          (N,) int32, or (..., N) with `model.share_negatives=false`
            x["negatives_log_q"]    the same shape, float32 log-probability of each under the sampler
            x["log_q"]              the shape of `event`, float32, the same of the positives
            x["touched"]            (U,) int32 of `negatives.touched`, with `model.touched_items`
            x["noise"]              (D or D + 1, n) float32 of `scalable_cross_entropy`, transposed, n = 2 sqrt(slots)

            y int32 items, PAD where there is none, and weight float32, column `weight` of the event; 0 where it is no
            trained item; both of the shape of `event`.
        """
        y = np.where(real, self.histories.item[event], PAD)
        weight = (y >= NUM_SPECIALS).astype(np.float32)
        if self._weights is not None:
            weight *= self._weights[event]
        model: Any = self.config.model
        if self._sampler is not None:
            shape = (model.num_negatives,) if model.share_negatives else (*y.shape, model.num_negatives)
            x["negatives"] = self._sampler.draw_any(int(np.prod(shape)), rng).reshape(shape)
            log_p = np.maximum(self._sampler.log_p, -100).astype(np.float32)  # -inf of what is never drawn: no number
            x["negatives_log_q"], x["log_q"] = log_p[x["negatives"]], log_p[y]
            if model.touched_items:
                x["touched"] = touched(self.catalogue, x["item"], y, x["negatives"])
        if model.loss == "sce":
            buckets = min(int(2 * y.size**0.5), y.size)
            x["noise"] = rng.standard_normal((model.embedding_dim + model.item_bias, buckets), np.float32)
        return x, y, weight

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, np.ndarray]:
        ends = histories.offsets[1:]
        lengths = np.clip(histories.lengths, 1, model_config.max_length)  # an empty history is one slot of PAD
        packing = pack(lengths, model_config.max_length, closely=True)
        rows = np.arange(rounded(packing.num_rows))
        index, position, segment = packing.layout(rows, np.maximum(ends - lengths, 0))
        slot = (packing.row * packing.row_length + packing.start + lengths - 1).astype(np.int32)
        return laid_out(histories, index, position, segment, slot, model_config) | {"slot": slot}


class NextItemLoader(SequenceLoader):
    """Every event of a sequence is to predict the next one: x without `slot`, y and weight (R, L), see `asked`."""

    def windows(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        starts = self.histories.offsets[:-1]
        ends = np.maximum(self.histories.offsets[1:] - 1, starts)  # the last event is no input, only a target
        model: Any = self.config.model
        return cut(starts, ends, max_length, model.all_events)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, index, filled = self.rows(rows, real)
        return self.asked(x, np.minimum(index + 1, len(self.histories.item) - 1), filled, rng)


def cut(starts: np.ndarray, ends: np.ndarray, max_length: int, everything: bool) -> tuple[np.ndarray, np.ndarray]:
    """Windows of at most `max_length` events over the stretches [start, end): the last one of each, or, with
    `everything`, as many as hold every event once, cut from the end.

    Returns:
        first event and length of each window; an empty stretch has one of length 0.
    """
    if not everything:
        first = np.maximum(starts, ends - max_length)
        return first, ends - first
    counts = np.maximum(-(-(ends - starts) // max_length), 1)
    stretch = np.repeat(np.arange(len(starts)), counts)
    later = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(stretch))  # windows of the stretch after this one
    stop = ends[stretch] - later * max_length
    first = np.maximum(starts[stretch], stop - max_length)
    return first, stop - first


def laid_out(
    histories: Histories, index: np.ndarray, position: np.ndarray, segment: np.ndarray, slot: np.ndarray, model: Any
) -> dict[str, np.ndarray]:
    """What a model sees of histories that end with a question: all of `inputs` but `slot`.

    Args:
        index, position, segment: (R, L) as `Packing.layout` gives them; an empty history has one slot.
        slot: (n,) flat slot of each history's last event.
    """
    x = events_at(histories, index, position, segment) | actions(histories, index, segment > 0, model)
    empty = slot[histories.lengths == 0]
    for name in x.keys() & {"item", "action"}:
        x[name].reshape(-1)[empty] = PAD
    if model.query_action:
        asked = histories.query_action
        x["next_action"].reshape(-1)[slot] = UNKNOWN if asked is None else asked
    if _timed(histories, model):
        x |= _times(histories, index, position, segment, model)
        if model.query_time:
            asked = x["time"].reshape(-1)[slot]
            if histories.query_time is not None:
                first = np.append(_stamps(histories), 0)[(index - position).reshape(-1)[slot]]
                asked = np.where(histories.lengths > 0, seconds(histories.query_time - first), 0)
            x["next_time"].reshape(-1)[slot] = asked
    return x


def events_at(histories: Histories, index: np.ndarray, position: np.ndarray, segment: np.ndarray) -> dict:
    """The events at `index`, laid out."""
    items = histories.item[index] if len(histories.item) else np.zeros(index.shape, np.int32)
    item = np.where(segment > 0, items, PAD).astype(np.int32)
    return {"item": item, "position": position, "segment": segment}


def actions(histories: Histories, index: np.ndarray, real: np.ndarray, model: Any) -> dict[str, np.ndarray]:
    """What the model sees of the actions of the events at `index`: their own, and those of the events after them.

    Args:
        index: positions in the flat arrays.
        real: the same shape; False where there is no event.
    """
    known = histories.columns.get("action")
    if known is None or not len(known):
        known = np.full(len(histories.item) + 1, UNKNOWN, np.int32)
    x = {}
    if model.use_actions:
        x["action"] = np.where(real, known[index], PAD).astype(np.int32)
    if model.query_action:
        x["next_action"] = np.where(real, known[np.minimum(index + 1, len(known) - 1)], PAD).astype(np.int32)
    return x


def _timed(histories: Histories, model: Any) -> bool:
    """Whether the model sees the times of these histories.

    Raises:
        DataError: it must be told when an item is asked for, and the histories have no times.
    """
    if getattr(model, "query_time", False) and histories.timestamp is None:
        raise DataError("the events have no timestamps, which model.query_time=true needs; set it to false")
    return getattr(model, "use_time", False) and histories.timestamp is not None


def _times(
    histories: Histories, index: np.ndarray, position: np.ndarray, segment: np.ndarray, model: Any
) -> dict[str, np.ndarray]:
    """The times of the events at `index`, laid out; from the first of the sequence, so that a clock may be shifted."""
    stamps = _stamps(histories)
    first = stamps[index - position]
    x = {"time": np.where(segment > 0, seconds(stamps[index] - first), 0)}
    if model.query_time:
        following = stamps[np.minimum(index + 1, len(stamps) - 1)]
        x["next_time"] = np.where(segment > 0, seconds(following - first), 0)
    return x


def _stamps(histories: Histories) -> np.ndarray:
    """(E,) milliseconds of the events; where nobody has one, one that is never looked at."""
    if histories.timestamp is None or not len(histories.timestamp):
        return np.zeros(1, np.int64)
    return histories.timestamp


def seconds(milliseconds: np.ndarray) -> np.ndarray:
    """int32, from 0."""
    return np.clip(milliseconds // 1000, 0, np.iinfo(np.int32).max).astype(np.int32)
