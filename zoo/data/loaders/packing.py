"""Packing: several sequences in one row of fixed length, so that hardly a slot is padding.

Legend: n sequences, R rows, L slots of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = 8  # numbers of rows between a power of two and the next


@dataclass(frozen=True)
class Packing:
    """Where each of n sequences lies in R rows of L slots; none is split and none overlaps another.

    Attributes:
        row_length: L.
        lengths: (n,) slots of each sequence, 1 to L.
        row, start: (n,) its row and its first slot.
        num_rows: R.
        order: (n,) the sequences by row, then by start.
        offsets: (R + 1,) the sequences of row r are `order[offsets[r]:offsets[r + 1]]`.
    """

    row_length: int
    lengths: np.ndarray
    row: np.ndarray
    start: np.ndarray
    num_rows: int
    order: np.ndarray
    offsets: np.ndarray

    @property
    def fill(self) -> float:
        """Share of the slots that hold an event."""
        return float(self.lengths.sum() / max(self.num_rows * self.row_length, 1))

    def layout(self, rows: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The slots of some rows.

        Args:
            rows: (B,) rows to lay out; one outside [0, R) is left empty.
            begins: (n,) position of each sequence's first event in the flat arrays of events.

        Returns:
            index (B, L) int64 of the event in each slot (0 where there is none), position (B, L) int32 in its
            sequence from 0, and segment (B, L) int32: 1, 2, ... by sequence, 0 where the slot is empty.
        """
        inside = (rows >= 0) & (rows < self.num_rows)
        known = np.where(inside, rows, 0)
        counts = np.where(inside, self.offsets[known + 1] - self.offsets[known], 0)
        ordinal = _ranges(counts)  # 0, 1, ... in each row
        sequences = self.order[np.repeat(self.offsets[known], counts) + ordinal]
        lengths = self.lengths[sequences]
        position = _ranges(lengths)
        slot = np.repeat(np.repeat(np.arange(len(rows)), counts) * self.row_length + self.start[sequences], lengths)
        slot = slot + position
        shape = (len(rows), self.row_length)
        index, positions, segment = (np.zeros(shape, kind) for kind in (np.int64, np.int32, np.int32))
        index.reshape(-1)[slot] = np.repeat(begins[sequences], lengths) + position
        positions.reshape(-1)[slot] = position
        segment.reshape(-1)[slot] = np.repeat(ordinal + 1, lengths)
        return index, positions, segment

    def sequences(self, rows: np.ndarray, segment: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """The sequence that lies at each flat `slot` of the layout of `rows`, given its `segment`."""
        return self.order[self.offsets[rows[slot // self.row_length]] + segment.reshape(-1)[slot] - 1]


def pack(lengths: np.ndarray, row_length: int, closely: bool = False) -> Packing:
    """Packs sequences greedily: into each row the longest one that still fits, until none does.

    Rows that hold the same lengths are made together, so the time hardly depends on the number of sequences.

    Args:
        lengths: (n,) each from 1 to `row_length`.
        closely: fill each row as far as anything fits. Otherwise what is still free in a row counts as no more than
            the length packed last, and a few hundred sequences leave up to a fifth of the slots empty; so it was when
            the numbers of the models of sequences were recorded.

    Raises:
        ValueError: a length is out of range.
    """
    if len(lengths) and not (lengths.min() >= 1 and lengths.max() <= row_length):
        raise ValueError(f"lengths from {lengths.min()} to {lengths.max()}; wanted 1 to {row_length}")
    by_length = np.argsort(lengths, kind="stable")
    left = np.bincount(lengths, minlength=row_length + 1)
    following = np.cumsum(left) - left  # of each length: where its sequences not packed yet begin in `by_length`
    row, start = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    num_rows = 0
    while left.any():
        pattern = _fullest(left, row_length, closely)
        times = min(left[length] // count for length, count in pattern)
        used = 0
        for length, count in pattern:
            chosen = by_length[following[length] : following[length] + count * times]
            row[chosen] = num_rows + np.repeat(np.arange(times), count)
            start[chosen] = used + np.tile(np.arange(count), times) * length
            following[length] += count * times
            left[length] -= count * times
            used += count * length
        num_rows += times
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_rows))]).astype(np.int64)
    return Packing(row_length, lengths, row, start, num_rows, np.lexsort((start, row)), offsets)


def rounded(count: int) -> int:
    """`count` rows or a little more: one of `SHAPES` numbers between a power of two and the next."""
    step = 1 << max(int(count).bit_length() - SHAPES.bit_length(), 0)
    return -(-count // step) * step


def _fullest(left: np.ndarray, room: int, closely: bool) -> list[tuple[int, int]]:
    """[(length, how many)] of one row, given how many sequences of each length are left."""
    pattern = []
    longest = room
    while len(fitting := np.flatnonzero(left[: min(room, longest) + 1])):
        length = int(fitting[-1])
        count = min(int(left[length]), room // length)
        pattern.append((length, count))
        room, longest = room - count * length, length - 1
        if not closely:
            room = min(room, longest)
    return pattern


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0 to count - 1, for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
