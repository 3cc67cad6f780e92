"""Streaming: the state of histories that grow by one event at a time, without reading them again.

Legend: B histories, L events of a window, M appended events, D width.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from config import ConfigError
from zoo import backends
from zoo.data.histories import Histories
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
        self.window = histories.padded(model.config.max_length)
        self.lengths = np.minimum(histories.lengths, model.config.max_length)
        self.vectors = np.zeros((0, 0), np.float32)
        self._read()

    def append(self, items: np.ndarray) -> np.ndarray:
        """One more event of every user.

        Args:
            items: (B,) tokens.

        Returns:
            (B, D) the new `vectors`.
        """
        full = np.flatnonzero(self.lengths == self.window.shape[1])
        if len(full):
            self._forget(full)
        users = np.arange(len(self.lengths))
        self.window[users, self.lengths] = items
        self.lengths = self.lengths + 1
        if len(full):
            self._read()
        else:
            last = (self.lengths - 1).astype(np.int32)[:, None]
            self.vectors = self._step(self.window[users[:, None], last], last, np.zeros(len(users), np.int32))
        return self.vectors

    def _forget(self, users: np.ndarray) -> None:
        """Keeps the newest half of the full windows."""
        size = self.window.shape[1]
        kept = size // 2
        self.window[users, :kept] = self.window[users, size - kept :]
        self.window[users, kept:] = PAD
        self.lengths[users] = kept

    def _read(self) -> None:
        """Makes the state of the windows anew."""
        position = np.broadcast_to(np.arange(self.window.shape[1], dtype=np.int32), self.window.shape)
        self.vectors = self._step(self.window, position, np.maximum(self.lengths - 1, 0).astype(np.int32))

    def _step(self, items: np.ndarray, position: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        inputs = {"item": items, "position": position, "wanted": wanted, **self._cache}
        vectors, self._cache = self._extend(inputs)
        return keras.ops.convert_to_numpy(vectors).astype(np.float32)

    def _extended(self, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        events = {key: inputs[key] for key in ("item", "position")}
        cache = {key: value for key, value in inputs.items() if key not in ("item", "position", "wanted")}
        states, cache = self.model.extend(events, cache)
        rows = keras.ops.arange(keras.ops.shape(states)[0], dtype="int32") * states.shape[1] + inputs["wanted"]
        flat = keras.ops.reshape(states, (-1, states.shape[-1]))
        return self.model.compared(keras.ops.take(flat, rows, axis=0)), cache
