"""Features of users and items as arrays: bags of tokens for everything named, numbers for everything measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd

from zoo.data.dataset import Entities
from zoo.data.vocabulary import PAD, UNKNOWN, Vocabulary

MIN_ENTITIES = 2  # trained entities that bear a value, at least: a value of one alone says no more than its id
MAX_VALUES = 20_000  # values kept per column; the rarest become the column's `other`
MAX_LABELS = 64  # labels kept per entity and column, the first ones: one odd row must not widen the whole table


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


@dataclass(frozen=True)
class _Labels:
    """The labels of one column: entity `row[i]` bears `value[code[i]]`; sorted by row, each label once a row.

    `text` says that each is all that the column says of an entity, and that some are of several words.
    """

    row: np.ndarray
    code: np.ndarray
    value: list[str]
    text: bool = False


def encode_features(entities: Entities, token: np.ndarray, vocabulary: Vocabulary) -> FeatureTable | None:
    """The feature table of `entities` in the tokens of `vocabulary`; None without features.

    Standardisation and the set of known values come from entities that occur in training. A value that fewer than
    MIN_ENTITIES of them bear, or that only others bear, becomes the column's `other`, or is missing where no trained
    entity bears an `other` to learn from. A column of text of which most are unlike all others (a title) is taken as
    the bag of its words.

    Args:
        entities: users or items.
        token: (N,) token of each entity; UNKNOWN where it has none.
        vocabulary: that the tokens are of.
    """
    if not entities.columns:
        return None
    known = token != UNKNOWN
    trained = known & (token < vocabulary.trained_size)
    names = [""]
    numbers: dict[str, np.ndarray] = {}
    used = np.zeros(len(entities), np.int64)  # filled slots of each bag
    slots: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for column, values in entities.columns.items():
        if values.ndim == 1 and values.dtype.kind in "fiub":
            numbers |= _standardise(column, values.astype(np.float64), trained)
            continue
        labels = _labels(values)
        kept, others, borne = _kept(labels, trained)
        if labels.text and others > borne / 2:
            labels = _words(values)
            kept, others, borne = _kept(labels, trained)
        other = len(names) + len(kept)
        feature = np.full(len(labels.value), other if others else PAD)
        feature[kept] = len(names) + np.arange(len(kept))
        names += [f"{column}={labels.value[code]}" for code in kept] + [f"{column}=other"] * (others > 0)
        row, tokens = labels.row, feature[labels.code]
        mine = known[row] & (tokens != PAD)
        is_other = np.flatnonzero(mine & (tokens == other))
        mine[is_other[1:][row[is_other[1:]] == row[is_other[:-1]]]] = False  # one `other` an entity says it all
        row, tokens = row[mine], tokens[mine]
        count = np.bincount(row, minlength=len(used))
        slots.append((row, np.arange(len(row)) - (np.cumsum(count) - count - used)[row], tokens))
        used += count
    bags = np.full((vocabulary.size, max(int(used.max(initial=0)), 1)), PAD, np.int32)
    for row, slot, tokens in slots:
        bags[token[row], slot] = tokens
    dense = np.zeros((vocabulary.size, len(numbers)), np.float32)
    for place, number in enumerate(numbers.values()):
        dense[token[known], place] = number[known]
    return FeatureTable(bags, tuple(names), dense, tuple(numbers))


def _standardise(column: str, values: np.ndarray, trained: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of mean 0 and deviation 1 over the trained rows, by name; and where they are missing, if any is."""
    missing = ~np.isfinite(values)
    usable = values[trained & ~missing]
    scale = np.abs(usable).max(initial=0.0) or 1.0  # so that not even the largest numbers overflow
    mean, deviation = ((usable / scale).mean(), (usable / scale).std()) if len(usable) else (0.0, 0.0)
    with np.errstate(over="ignore"):  # numbers of others may; they are clipped
        scaled = (np.where(missing, 0.0, values) / scale - mean) / (deviation if deviation > 1e-9 else 1.0)
    columns = {column: np.where(missing, 0.0, np.clip(scaled, -10.0, 10.0))}
    if missing.any():
        columns[f"{column} is missing"] = missing.astype(np.float64)
    return columns


def _labels(values: np.ndarray) -> _Labels:
    """Labels of one column: text codes (2-D; a code means something at its position), categories or lists of them."""
    if values.ndim == 2:
        row, position = np.nonzero(values >= 0)  # a negative code is a missing one
        base = int(values.max(initial=0)) + 1
        code, pairs = pd.factorize(position * base + values[row, position])
        return _Labels(row, code, [f"{pair // base}:{pair % base}" for pair in pairs.tolist()])
    if any(isinstance(value, list) for value in values):
        return _of_lists([value if isinstance(value, list) else [value] for value in values])
    code, unique = pd.factorize(values)
    row = np.flatnonzero(code >= 0)
    names = [str(value) for value in unique]
    return _Labels(row, code[row], names, text=any(" " in name for name in names))


def _words(values: np.ndarray) -> _Labels:
    """The words of one column of text, in small letters."""
    return _of_lists(pd.Series(values, dtype=object).fillna("").astype(str).str.lower().str.findall(r"\w+").tolist())


def _of_lists(lists: list[list]) -> _Labels:
    lists = [labels[:MAX_LABELS] for labels in lists]
    row = np.repeat(np.arange(len(lists)), [len(labels) for labels in lists])
    code, unique = pd.factorize(np.array([*chain.from_iterable(lists), None], object)[:-1])  # None: no array of arrays
    first = (code >= 0) & ~pd.Series(row * (len(unique) + 1) + code).duplicated().to_numpy()
    return _Labels(row[first], code[first], [str(value) for value in unique])


def _kept(labels: _Labels, trained: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Codes of the values that get a token of their own, in the order of their names.

    Returns:
        those codes; how many labels of trained entities are not among them; and how many there are.
    """
    counts = np.bincount(labels.code[trained[labels.row]], minlength=len(labels.value))
    often = np.flatnonzero(counts >= MIN_ENTITIES)
    often = often[np.argsort(np.array([labels.value[code] for code in often], str), kind="stable")]
    often = often[np.sort(np.argsort(-counts[often], kind="stable")[:MAX_VALUES])]
    return often, int(counts.sum() - counts[often].sum()), int(counts.sum())
