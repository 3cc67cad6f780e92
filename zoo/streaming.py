"""Streaming: the state of histories that grow by one event at a time, without reading them again.

Legend: B histories, L events of a window, M appended events, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from config import ConfigError
from zoo import backends, question
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.sequences import laid_out
from zoo.sequential import SequentialRecommender


class Stream:
    """B users of whom one event after another arrives; an append costs O(L), not O(L^2).

    A model that can be streamed has `empty_cache(B)`, a dict of arrays, and `extend(inputs, cache)`, which gives the
    states (B, M, D) of M further events, and the cache with them in it. What the state says is what the whole model
    says of `histories`: up to `max_length` events, all there are; a user who has more starts again from the newest
    half, so that a stream answers for half to a whole window where `model.vectors` of all events reads a whole one.

    Attributes:
        model: what makes the states.
        histories: the events that the state is made of, and the question that it answers.
        vectors: (B, D) float32, `model.vectors(histories)`.

    Raises:
        ConfigError: the model looks at both sides of an event, or is no model of sequences.
        DataError: it is told when an item is asked for, and the histories have no times.
    """

    def __init__(self, model: Any, histories: Histories):
        if not (isinstance(model, SequentialRecommender) and hasattr(model, "extend")):
            raise ConfigError(f"{type(model).__name__} cannot be continued event by event; use its `vectors`")
        self.model = model
        self.max_length = model.config.max_length
        # To a model that is told the next question, the event before the last looks different once it is answered.
        told = question.told_time(model.config) or question.told_action(model.config)
        self._changed = 2 if told else 1
        self._extend = backends.compiled(self._extended, model)
        self._append = backends.compiled(self._extended, model, small=True)
        self._cache: dict[str, Any] = {}
        self.histories = _newest(histories, np.minimum(histories.lengths, self.max_length))
        self.vectors = np.zeros((0, 0), np.float32)
        self._read(np.arange(len(histories)))

    def append(
        self,
        items: np.ndarray,
        timestamp: np.ndarray | None = None,
        action: np.ndarray | None = None,
        query_time: np.ndarray | None = None,
        query_action: np.ndarray | None = None,
    ) -> np.ndarray:
        """One more event of every user, and the next question, of a model that is told it.

        Args:
            items: (B,) tokens.
            timestamp: (B,) milliseconds, where the histories have times.
            action: (B,) tokens, where the histories have actions.
            query_time: (B,) milliseconds at which the next item is asked for; None: at once.
            query_action: (B,) token of the action that is asked for; None: any.

        Returns:
            (B, D) the new `vectors`.

        Raises:
            DataError: the histories have times or actions, and the event has none.
        """
        old = self.histories
        full = old.lengths == self.max_length
        kept = _newest(old, np.where(full, self.max_length // 2, old.lengths))
        ends = kept.offsets[1:]
        columns = {}
        if "action" in kept.columns:
            columns["action"] = np.insert(kept.columns["action"], ends, _given(action, "action"))
        self.histories = Histories(
            kept.user,
            kept.offsets + np.arange(len(kept) + 1),
            np.insert(kept.item, ends, items),
            None if kept.timestamp is None else np.insert(kept.timestamp, ends, _given(timestamp, "timestamp")),
            columns,
            query_time,
            query_action,
        )
        lengths = self.histories.lengths
        anew = np.flatnonzero(full | (lengths < self._changed))
        if len(anew) < len(lengths):
            position = np.maximum(lengths[:, None] + np.arange(-self._changed, 0), 0)
            self.vectors, self._cache = self._step(self._append, self.histories, self._cache, position)
        if len(anew):
            self._read(anew)
        return self.vectors

    def _read(self, rows: np.ndarray) -> None:
        """Makes the state of the windows `rows` anew."""
        count = len(self.histories)
        size = min(1 << (len(rows) - 1).bit_length(), count)  # few numbers of rows: each is compiled once
        padded = np.pad(rows, (0, size - len(rows)), mode="edge")
        everywhere = np.broadcast_to(np.arange(self.max_length), (size, self.max_length))
        windows, empty = self.histories.take(padded), self.model.empty_cache(size)
        vectors, cache = self._step(self._extend, windows, empty, everywhere)
        if len(rows) == count:
            self.vectors, self._cache = vectors, cache
            return
        old = {name: np.array(keras.ops.convert_to_numpy(array)) for name, array in self._cache.items()}
        for name, array in old.items():
            array[padded] = keras.ops.convert_to_numpy(cache[name])
        self._cache = old
        self.vectors[padded] = vectors

    def _step(
        self, extend: Callable, windows: Histories, cache: dict[str, Any], position: np.ndarray
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """(vectors, cache) after reading the events at `position` (B, M) of the windows, the last ones among them."""
        count = len(windows)
        index, real = windows.windows(windows.offsets[:-1], windows.offsets[1:], self.max_length)
        last = np.maximum(windows.lengths - 1, 0)
        slot = np.arange(count) * self.max_length + last
        place = np.where(real, np.arange(self.max_length, dtype=np.int32), 0)
        events = laid_out(windows, index, place, real.astype(np.int32), slot, self.model.config)
        events = {name: np.take_along_axis(column, position, axis=1) for name, column in events.items()}
        del events["segment"]
        events["position"] = position.astype(np.int32)
        wanted = (last - position[:, 0]).astype(np.int32)
        vectors, cache = extend({"events": events, "cache": cache, "wanted": wanted})
        return np.array(keras.ops.convert_to_numpy(vectors), np.float32), cache

    def _extended(self, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        states, cache = self.model.extend(inputs["events"], inputs["cache"])
        rows = keras.ops.arange(keras.ops.shape(states)[0], dtype="int32") * states.shape[1] + inputs["wanted"]
        flat = keras.ops.reshape(states, (-1, states.shape[-1]))
        return self.model.compared(keras.ops.take(flat, rows, axis=0)), cache


def _newest(histories: Histories, counts: np.ndarray) -> Histories:
    """The last `counts` (B,) events of each history, with its question."""
    row = histories.row_of_event
    kept = np.arange(len(row)) >= histories.offsets[1:][row] - counts[row]
    return replace(
        histories,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        item=histories.item[kept],
        timestamp=None if histories.timestamp is None else histories.timestamp[kept],
        columns={name: column[kept] for name, column in histories.columns.items()},
    )


def _given(values: np.ndarray | None, name: str) -> np.ndarray:
    if values is None:
        raise DataError(f"the histories have a {name} of each event, the one that is appended has none; give `{name}`")
    return values
