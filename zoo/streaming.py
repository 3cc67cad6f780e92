"""Streaming: the state of histories that grow by one event at a time, without reading them again.

Legend: B histories, L events of a window, M appended events, D width.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from config import ConfigError
from zoo import backends
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.sequences import seconds
from zoo.data.vocabulary import PAD
from zoo.sequential import SequentialRecommender


class Stream:
    """B users of whom one event after another arrives; an append costs O(L), not O(L^2).

    A model that can be streamed has `empty_cache(B)`, a dict of arrays, and `extend(inputs, cache)`, which gives the
    states (B, M, D) of M further events, and the cache with them in it. What the state says is what the whole model
    says of `window`: up to `max_length` events, all there are; a user who has more starts again from the newest half.

    Attributes:
        model: what makes the states.
        window: (B, L) int32 tokens of the events that the state is made of, oldest first; PAD behind them.
        timestamp: (B, L) int64 milliseconds of these events; None where the model does not look at times, or the
            histories have none.
        lengths: (B,) how many they are.
        vectors: (B, D) float32, as `model.vectors` would give of the windows.

    Raises:
        ConfigError: the model looks at both sides of an event, or is no model of sequences.
    """

    def __init__(self, model: Any, histories: Histories):
        if not (isinstance(model, SequentialRecommender) and hasattr(model, "extend")):
            raise ConfigError(f"{type(model).__name__} cannot be continued event by event; use its `vectors`")
        self.model = model
        self._extend = backends.compiled(self._extended, model)
        self._cache = model.empty_cache(len(histories))
        self._told = getattr(model.config, "query_time", False)
        self.window = histories.padded(model.config.max_length)
        self.lengths = np.minimum(histories.lengths, model.config.max_length)
        self.timestamp = None
        if getattr(model.config, "use_time", False) and histories.timestamp is not None:
            index, real = histories.windows(histories.offsets[:-1], histories.offsets[1:], model.config.max_length)
            self.timestamp = np.where(real, np.append(histories.timestamp, 0)[index], 0)
        elif self._told:
            raise DataError("the events have no timestamps, which model.query_time=true needs")
        self._asked = histories.query_time
        self.vectors = np.zeros((0, 0), np.float32)
        self._read()

    def append(
        self, items: np.ndarray, timestamp: np.ndarray | None = None, query_time: np.ndarray | None = None
    ) -> np.ndarray:
        """One more event of every user.

        Args:
            items: (B,) tokens.
            timestamp: (B,) milliseconds of these events, where the stream has times.
            query_time: (B,) milliseconds at which the next item is asked for, of a model with the flag; None: at once.

        Returns:
            (B, D) the new `vectors`.

        Raises:
            DataError: the stream has times and `timestamp` is not given.
        """
        if self.timestamp is not None and timestamp is None:
            raise DataError("the histories have times, the event that is appended has none; give `timestamp`")
        full = np.flatnonzero(self.lengths == self.window.shape[1])
        if len(full):
            self._forget(full)
        users = np.arange(len(self.lengths))
        self.window[users, self.lengths] = items
        if self.timestamp is not None:
            self.timestamp[users, self.lengths] = timestamp
        self.lengths = self.lengths + 1
        self._asked = query_time
        # To a model that is told the time of the next event, the one before the last looks different now.
        changed = 2 if self._told else 1
        if len(full) or self.lengths.min() < changed:
            self._read()
        else:
            position = self.lengths[:, None] + np.arange(-changed, 0)
            self.vectors = self._step(position, np.full(len(users), changed - 1))
        return self.vectors

    def _forget(self, users: np.ndarray) -> None:
        """Keeps the newest half of the full windows."""
        size = self.window.shape[1]
        kept = size // 2
        for column, empty in ((self.window, PAD), (self.timestamp, 0)):
            if column is not None:
                column[users, :kept] = column[users, size - kept :]
                column[users, kept:] = empty
        self.lengths[users] = kept

    def _read(self) -> None:
        """Makes the state of the windows anew."""
        position = np.broadcast_to(np.arange(self.window.shape[1]), self.window.shape)
        self.vectors = self._step(position, np.maximum(self.lengths - 1, 0))

    def _step(self, position: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The vectors of the events `wanted` (B,) out of those at `position` (B, M) of the windows, which are read."""
        rows = np.arange(len(position))[:, None]
        events = {"item": self.window[rows, position], "position": position.astype(np.int32)}
        if self.timestamp is not None:
            first = self.timestamp[:, :1]
            real = position < self.lengths[:, None]
            events["time"] = np.where(real, seconds(self.timestamp[rows, position] - first), 0)
            if self._told:
                following = self.timestamp[rows, np.minimum(position + 1, self.window.shape[1] - 1)]
                last = position == self.lengths[:, None] - 1
                asked = self.timestamp[rows, position] if self._asked is None else self._asked[:, None]
                events["next_time"] = np.where(real, seconds(np.where(last, asked, following) - first), 0)
        vectors, self._cache = self._extend({"events": events, "cache": self._cache, "wanted": wanted.astype(np.int32)})
        return keras.ops.convert_to_numpy(vectors).astype(np.float32)

    def _extended(self, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        states, cache = self.model.extend(inputs["events"], inputs["cache"])
        rows = keras.ops.arange(keras.ops.shape(states)[0], dtype="int32") * states.shape[1] + inputs["wanted"]
        flat = keras.ops.reshape(states, (-1, states.shape[-1]))
        return self.model.compared(keras.ops.take(flat, rows, axis=0)), cache
