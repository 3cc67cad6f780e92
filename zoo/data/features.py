"""Features of users and items as arrays: bags of tokens for everything named, numbers for everything measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from zoo.data.dataset import Entities
from zoo.data.vocabulary import PAD, UNKNOWN, Vocabulary

MAX_VALUES = 20_000  # values kept per column; the rarest become the column's `other`


@dataclass(frozen=True)
class FeatureTable:
    """A row per token of a vocabulary; specials and entities without a row are all padding and zeros.

    Attributes:
        bags: (V, M) int32: feature tokens of every entity, padded with 0 on the right. A category is one token, a
            multi-label several, a missing value none.
        names: name of each feature token, `column=value`; entry 0 is the padding.
        numbers: (V, F) float32, standardised by the training rows; a missing number is 0 and flagged by a column.
        number_names: name of each column of `numbers`.
    """

    bags: np.ndarray
    names: tuple[str, ...]
    numbers: np.ndarray
    number_names: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """Rows of an embedding table for the bags, padding included."""
        return len(self.names)


def encode_features(entities: Entities, token: np.ndarray, vocabulary: Vocabulary) -> FeatureTable | None:
    """The feature table of `entities` in the tokens of `vocabulary`; None without features.

    Standardisation and the set of known values come from entities that occur in training; a value that only other
    entities bear becomes the column's `other`.
    """
    if not entities.columns:
        return None
    known = token != UNKNOWN
    trained = known & (token < vocabulary.trained_size)
    names = [""]
    bags: list[list[int]] = [[] for _ in range(len(entities))]
    numbers: list[np.ndarray] = []
    number_names: list[str] = []
    for column, values in entities.columns.items():
        if values.ndim == 1 and values.dtype.kind in "fiub":
            for name, numeric in _standardise(column, values.astype(np.float64), trained):
                numbers.append(numeric)
                number_names.append(name)
            continue
        lists = _as_lists(values)
        counts = Counter(value for row in np.flatnonzero(trained) for value in lists[row])
        code = {}
        for value, _ in sorted(counts.most_common(MAX_VALUES)):
            code[value] = len(names)
            names.append(f"{column}={value}")
        other = len(names)
        names.append(f"{column}=other")
        for row in np.flatnonzero(known):
            bags[row].extend(code.get(value, other) for value in lists[row])
    width = max((len(bag) for bag in bags), default=0)
    table = np.full((vocabulary.size, max(width, 1)), PAD, np.int32)
    for row in np.flatnonzero(known):
        table[token[row], : len(bags[row])] = bags[row]
    dense = np.zeros((vocabulary.size, len(numbers)), np.float32)
    if numbers:
        dense[token[known]] = np.stack(numbers, axis=1)[known]
    return FeatureTable(table, tuple(names), dense, tuple(number_names))


def _standardise(column: str, values: np.ndarray, trained: np.ndarray) -> list[tuple[str, np.ndarray]]:
    missing = ~np.isfinite(values)
    usable = values[trained & ~missing]
    mean, deviation = (usable.mean(), usable.std()) if len(usable) else (0.0, 1.0)
    scaled = np.where(missing, 0.0, (values - mean) / (deviation if deviation > 0 else 1.0))
    columns = [(column, np.clip(scaled, -10.0, 10.0))]
    if missing.any():
        columns.append((f"{column} is missing", missing.astype(np.float64)))
    return columns


def _as_lists(values: np.ndarray) -> list[list[str]]:
    """Values of one column as a list of labels per entity."""
    if values.ndim == 2:  # text codes: a code means something at its position
        return [[f"{position}:{code}" for position, code in enumerate(row)] for row in values.tolist()]
    return [
        [] if value is None or value != value else [str(v) for v in value] if isinstance(value, list) else [str(value)]
        for value in values.tolist()
    ]
