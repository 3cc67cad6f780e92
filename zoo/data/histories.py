"""Histories: everybody's events in order, as one flat array and one array of offsets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from zoo.data.dataset import Events
from zoo.data.vocabulary import PAD, UNKNOWN, Vocabulary


@dataclass(frozen=True)
class Histories:
    """n histories in tokens; history r is `item[offsets[r]:offsets[r + 1]]`, oldest first.

    Attributes:
        user: (n,) int32 user tokens; UNKNOWN for a person who was never trained on.
        offsets: (n + 1,) int64.
        item: (E,) int32 item tokens; UNKNOWN for an item outside the catalogue.
        timestamp: (E,) int64 milliseconds, or None.
        columns: further event columns (E,): score, domain, weight ..., and action as int16 tokens of
            `Catalogue.actions`.
        query_time: (n,) int64 milliseconds at which the next item is asked for, or None; only models with the flag
            `query_time` look at it.
        query_action: (n,) int16 token of the action that is asked for (what will they *buy* next), or None; only
            models with the flag `query_action` look at it.
    """

    user: np.ndarray
    offsets: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    query_time: np.ndarray | None = None
    query_action: np.ndarray | None = None

    @classmethod
    def from_events(
        cls,
        events: Events,
        rows_of: np.ndarray,
        users: np.ndarray,
        items: np.ndarray,
        actions: np.ndarray | None = None,
    ) -> Histories:
        """Histories of the dataset users `rows_of` (ascending), from events sorted by user.

        Args:
            events: sorted by user.
            rows_of: (n,) rows of the data set's users, ascending; a user without events gets an empty history.
            users: token of each of the data set's users.
            items: token of each of the data set's items.
            actions: token of each of the data set's actions, where it has any.

        Raises:
            ValueError: an event belongs to a user who is not among `rows_of`.
        """
        rows = rows_of.astype(events.user.dtype)  # else a long column is copied to the wider type
        starts = np.searchsorted(events.user, rows, side="left")
        ends = np.searchsorted(events.user, rows, side="right")
        offsets = np.zeros(len(rows_of) + 1, np.int64)
        np.cumsum(ends - starts, out=offsets[1:])
        if offsets[-1] != len(events):
            raise ValueError("an event belongs to a user outside `rows_of`")
        columns = dict(events.columns)
        if actions is not None:
            columns["action"] = actions[columns["action"]]
        return cls(users[rows_of], offsets, items[events.item], events.timestamp, columns)

    @classmethod
    def from_lists(cls, lists: list[list], items: Vocabulary, user: np.ndarray | None = None) -> Histories:
        """Histories of plain lists of external item ids, oldest first."""
        lengths = np.array([len(history) for history in lists], np.int64)
        flat = [item for history in lists for item in history]
        array = np.array(flat, dtype=object if any(isinstance(i, str) for i in flat) else None)
        tokens = items.encode(array) if flat else np.zeros(0, np.int32)
        if user is None:
            user = np.full(len(lists), UNKNOWN, np.int32)
        return cls(user, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), tokens)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def owner(self) -> np.ndarray:
        """(n,) whose each row is, as a number: here each has an owner of its own."""
        return np.arange(len(self))

    @property
    def people(self) -> Histories:
        """The histories of the owners."""
        return self

    @property
    def lengths(self) -> np.ndarray:
        """(n,) events in each history."""
        return np.diff(self.offsets)

    @property
    def row_of_event(self) -> np.ndarray:
        """(E,) the history that each event belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    def take(self, rows: np.ndarray | slice) -> Histories:
        """The histories at `rows`, in that order."""
        rows = np.arange(len(self))[rows]
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            flat: np.ndarray | slice = slice(int(starts[0]), int(starts[-1] + lengths[-1]))  # contiguous: a view
        else:
            flat = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Histories(
            self.user[rows],
            offsets,
            self.item[flat],
            None if self.timestamp is None else self.timestamp[flat],
            {name: column[flat] for name, column in self.columns.items()},
            None if self.query_time is None else self.query_time[rows],
            None if self.query_action is None else self.query_action[rows],
        )

    def batches(self, size: int):
        """Consecutive slices of at most `size` histories."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def windows(self, starts: np.ndarray, ends: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Right-padded windows over the flat arrays: the last `max_length` events of [start, end).

        Args:
            starts, ends: (B,) positions in the flat arrays.

        Returns:
            index (B, max_length) into the flat arrays (0 on padding), and real (B, max_length), True on events.
        """
        first = np.maximum(starts, ends - max_length)
        index = first[:, None] + np.arange(max_length)[None, :]
        real = index < ends[:, None]
        return np.where(real, index, 0), real

    def padded(self, max_length: int) -> np.ndarray:
        """(n, max_length) int32: the most recent items of every history, oldest first, padded on the right."""
        index, real = self.windows(self.offsets[:-1], self.offsets[1:], max_length)
        if not len(self.item):
            return np.full(index.shape, PAD, np.int32)
        return np.where(real, self.item[index], PAD).astype(np.int32)


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of histories, many of the same one: made a batch at a time, for together they may be quadratic.

    Attributes:
        people: h histories.
        owner: (n,) the history of each row, ascending.
        lengths: (n,) its first so many events.
        query_time, query_action: (n,) as of `Histories`, or None.
    """

    people: Histories
    owner: np.ndarray
    lengths: np.ndarray
    query_time: np.ndarray | None = None
    query_action: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, rows: np.ndarray | slice) -> Prefixes:
        """The beginnings at `rows` (indices), in that order."""
        query_time = None if self.query_time is None else self.query_time[rows]
        query_action = None if self.query_action is None else self.query_action[rows]
        return Prefixes(self.people, self.owner[rows], self.lengths[rows], query_time, query_action)

    def batches(self, size: int):
        """Consecutive runs of at most `size` beginnings, each as histories of their own."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            people, owner, lengths = self.people, self.owner[rows], self.lengths[rows]
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            event = np.repeat(people.offsets[owner] - offsets[:-1], lengths) + np.arange(offsets[-1])
            yield Histories(
                people.user[owner],
                offsets,
                people.item[event],
                None if people.timestamp is None else people.timestamp[event],
                {name: column[event] for name, column in people.columns.items()},
                None if self.query_time is None else self.query_time[rows],
                None if self.query_action is None else self.query_action[rows],
            )
