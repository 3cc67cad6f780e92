"""Merging: vectors of several models side by side, as one entry of the RecSys Challenge 2025.

Legend: n clients that are asked for, b clients of a block, d width of a block, D width of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo.data.behaviour.statistics import CLIP, moments
from zoo.data.dataset import DataError
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary

MAX_WIDTH = 2048  # of an entry
CHUNK = 65_536  # clients that are worked on at once
LENGTH = 0.3  # of a merged row

Block = tuple[np.ndarray, np.ndarray]  # ids (b,) and vectors (b, d)


def merge(blocks: Sequence[Block], clients: np.ndarray, dtype: type = np.float16) -> np.ndarray:
    """(n, D) the blocks side by side, in the order of `clients`.

    Each column is centred and brought to one deviation over the clients asked for, and clipped at 5 deviations. Then
    blocks are scaled to equal parts in the squared length of a row, .3² on average, however wide they are. A block
    that lacks a client says of him what it says on average: zeros. What is told by how long a vector is (activity,
    mostly) survives; scaling each row to the same length would lose it.

    Why so short: a network on top, as the challenge's, starts with weights and biases within ±1/√D. From rows much
    longer than its biases it learns faster the more columns there are, and soon learns clients by heart.

    Args:
        blocks: ids of clients, each once, in any order, and their vectors.
        clients: (n,) ids whose rows are wanted.

    Raises:
        DataError: nothing to merge; a block that is no matrix, has an id twice, has a number that is not finite, or
            knows none of the clients; more than 2,048 columns.
    """
    if not blocks:
        raise DataError("no embeddings to merge; give at least one block")
    places = [rows(block, clients, f"block {number}") for number, block in enumerate(blocks, 1)]
    widths = [vectors.shape[1] for _, vectors in blocks]
    if sum(widths) > MAX_WIDTH:
        raise DataError(
            f"merged embeddings would be {' + '.join(map(str, widths))} = {sum(widths):,} wide; "
            f"an entry has at most {MAX_WIDTH:,}: leave out a block, or make a narrower one"
        )
    result = np.zeros((len(clients), sum(widths)), dtype)
    start = 0
    for number, ((_, vectors), place, width) in enumerate(zip(blocks, places, widths, strict=True), 1):
        there = np.flatnonzero(place >= 0)
        mean, deviation = moments(vectors, place[there])
        if not np.isfinite(mean).all():
            raise DataError(f"block {number}: a number is not finite (NaN or infinite); make its embeddings again")
        scale = LENGTH / (len(blocks) * width) ** 0.5
        for chunk in np.array_split(there, -(-len(there) // CHUNK)):
            values = (vectors[place[chunk]] - mean) / deviation
            result[chunk, start : start + width] = np.clip(values, -CLIP, CLIP) * scale
        start += width
    return result


def notes(blocks: Sequence[Block], clients: np.ndarray) -> tuple[str, ...]:
    """A line on each block that lacks clients, has others besides, or has columns that are the same for all."""
    said = []
    for number, block in enumerate(blocks, 1):
        (ids, vectors), place = block, rows(block, clients, f"block {number}")
        lacking = int(np.count_nonzero(place < 0))
        others = len(ids) - (len(clients) - lacking)
        constant = constant_columns(vectors)
        if lacking:
            said.append(f"block {number}: {lacking:,} of {len(clients):,} clients are not in it; they get its mean")
        if others:
            said.append(f"block {number}: nobody asks for {others:,} of its {len(ids):,} clients; they are left out")
        if constant:
            said.append(f"block {number}: {constant:,} of {vectors.shape[1]:,} columns are the same for all clients")
    return tuple(said)


def rows(block: Block, clients: np.ndarray, what: str) -> np.ndarray:
    """(n,) int64 row of a block of each client; -1 where it has none.

    Raises:
        DataError: ids and vectors do not fit each other, an id comes twice, or no client is in the block; the message
            starts with `what`.
    """
    ids, vectors = block
    if ids.ndim != 1 or vectors.ndim != 2 or len(ids) != len(vectors) or not vectors.shape[1]:
        raise DataError(
            f"{what}: ids of shape {ids.shape} and vectors of shape {vectors.shape}; wanted (b,) and (b, d), "
            "d at least 1"
        )
    values, counts = np.unique(ids, return_counts=True)
    if (twice := counts > 1).any():
        raise DataError(f"{what}: client {values[twice].tolist()[0]!r} comes {counts[twice][0]} times; wanted once")
    known = ids.astype(object) if ids.dtype.kind == "U" else ids
    tokens = Vocabulary(known, len(known)).encode(clients).astype(np.int64)
    place = np.where(tokens == UNKNOWN, -1, tokens - NUM_SPECIALS)
    if (place < 0).all():
        raise DataError(f"{what}: none of its {len(ids):,} clients is among the {len(clients):,} wanted ones")
    return place


def constant_columns(vectors: np.ndarray) -> int:
    """How many columns have one value for all clients."""
    return int(np.count_nonzero(vectors.min(axis=0) == vectors.max(axis=0))) if len(vectors) else 0
