"""Ids and texts as plain arrays, for files without pickles: UTF-8 bytes and offsets."""

from __future__ import annotations

import itertools

import numpy as np


def text_array(texts: list[str]) -> np.ndarray:
    """All texts behind each other, as bytes."""
    return np.frombuffer("".join(texts).encode(), np.uint8)


def pack(name: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Texts as the arrays `name` and `name.offsets`."""
    lengths = np.array([len(text.encode()) for text in texts], np.int64)
    return {name: text_array(texts), f"{name}.offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)}


def unpack(name: str, arrays: dict[str, np.ndarray]) -> list[str]:
    """Takes back what `pack` gave.

    Raises:
        KeyError: an array is missing.
    """
    data, offsets = arrays[name].tobytes(), arrays[f"{name}.offsets"].tolist()
    return [data[start:end].decode() for start, end in itertools.pairwise(offsets)]


def pack_ids(name: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Ids as arrays: numbers as they are, text packed, under `name.ids`."""
    return pack(f"{name}.ids", ids.tolist()) if ids.dtype == object else {f"{name}.ids": ids}


def unpack_ids(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Takes back what `pack_ids` gave.

    Raises:
        KeyError: an array is missing.
    """
    if f"{name}.ids.offsets" in arrays:
        return np.array([*unpack(f"{name}.ids", arrays), None], dtype=object)[:-1]
    return arrays[f"{name}.ids"]
