"""External ids to tokens and back. One reserved space everywhere: padding, mask, unknown, then real ids."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

PAD, MASK, UNKNOWN = 0, 1, 2
NUM_SPECIALS = 3  # specials come first, so that a growing catalogue never moves a token


@dataclass(frozen=True)
class Vocabulary:
    """A bijection between external ids and tokens NUM_SPECIALS .. size - 1.

    The first `num_trained` ids occur in the training events, in order of first appearance; the rest are known from
    a feature table only.

    Attributes:
        ids: (n,) int64, float64 or object array of str; no duplicates.
        num_trained: how many of them were seen in training.
    """

    ids: np.ndarray
    num_trained: int

    @property
    def size(self) -> int:
        """V: rows of an embedding table, specials included."""
        return len(self.ids) + NUM_SPECIALS

    @property
    def trained_size(self) -> int:
        """Tokens below this were seen in training (or are specials)."""
        return self.num_trained + NUM_SPECIALS

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.ids, dtype=self.ids.dtype)

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of `ids`, int32 of the same shape; UNKNOWN where an id is not in the vocabulary.

        A number finds the text that it is written as; a text never finds a number.
        """
        ids = np.asarray(ids)
        flat = ids.reshape(-1)
        if self.ids.dtype == object:
            flat = np.array([*map(str, flat.tolist()), None], dtype=object)[:-1]
        kind = flat.dtype if flat.dtype.kind in "if" else object
        found = self._index.get_indexer(pd.Index(flat, dtype=kind))
        return np.where(found < 0, UNKNOWN, found + NUM_SPECIALS).astype(np.int32).reshape(ids.shape)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """External ids of `tokens`.

        Raises:
            ValueError: a token is a special one, which has no external id.
        """
        tokens = np.asarray(tokens)
        if tokens.size and tokens.min() < NUM_SPECIALS:
            raise ValueError("a special token (padding, mask, unknown) has no external id")
        return self.ids[tokens - NUM_SPECIALS]

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the ids in their order."""
        return hashlib.sha256(json.dumps([self.num_trained, self.ids.tolist()]).encode()).hexdigest()
