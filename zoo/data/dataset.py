"""Dataset: a star of three tables (events, users, items) held as columns of NumPy arrays."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from config import Columns, ConfigError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Clock = Literal["global", "relative", "order"]


class DataError(ValueError):
    """A mistake in the data: one line that names file, column and row, and says what to do."""


@dataclass(frozen=True)
class Events:
    """What happened, sorted by (user, timestamp, order in the file): a stable, stated order.

    Attributes:
        user: (E,) int32, rows of `Dataset.users`.
        item: (E,) int32, rows of `Dataset.items`.
        timestamp: (E,) int64 milliseconds, or None where the log has only an order.
        columns: further columns (E,), where the log has them: `score` float32, `price` float32, and `action`, `domain`
            as int16 codes into `Dataset.labels`.
    """

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray | slice) -> Events:
        """The events at `rows` (indices, a mask or a slice), in that order."""
        return Events(
            self.user[rows],
            self.item[rows],
            None if self.timestamp is None else self.timestamp[rows],
            {name: column[rows] for name, column in self.columns.items()},
        )


@dataclass(frozen=True)
class Entities:
    """Users or items: their original ids and their features, a row each.

    Attributes:
        ids: (N,) int64, float64 or object array of str: the ids as they came in.
        columns: features (N, ...), by name: float64 numbers (NaN: missing), object arrays of str (None: missing) for
            categories, object arrays of lists of str for multi-labels, or a 2-D integer array of text codes.
    """

    ids: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Dataset:
    """A log of interactions and what is known of its users and items.

    Attributes:
        clock: `global` where timestamps of different users compare, `relative` where only those within a user do,
            `order` where there are none.
        labels: names behind coded event columns, e.g. `{"action": ("view", "cart", "buy")}`.
        name: what to call it in reports.
        notes: what was done to it so far, a line each (reading, cleaning).
    """

    events: Events
    users: Entities
    items: Entities
    clock: Clock = "global"
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = "data"
    notes: tuple[str, ...] = ()

    @classmethod
    def from_frame(
        cls,
        events: pd.DataFrame | pa.Table,
        users: pd.DataFrame | pa.Table | None = None,
        items: pd.DataFrame | pa.Table | None = None,
        *,
        name: str = "frame",
        clock: Clock = "global",
        columns: Columns | None = None,
    ) -> Dataset:
        """The Dataset of tables in memory: what `--data` does, by hand.

        Args:
            events: a row an event, in order; columns are known by their usual names or by `columns`.
            users, items: features; the column `user` / `item`, else the first one, holds the ids.

        Raises:
            DataError: a column is missing or holds what cannot be used.
        """
        from zoo.data.sources import generic  # the reader builds on this module

        return generic.from_frames(events, users, items, name, clock, columns or Columns())

    @property
    def num_users(self) -> int:
        """Users with at least one event."""
        return int(np.count_nonzero(np.bincount(self.events.user, minlength=len(self.users))))

    @property
    def num_items(self) -> int:
        """Items with at least one event."""
        return int(np.count_nonzero(np.bincount(self.events.item, minlength=len(self.items))))

    def codes(self, column: str, names: Iterable[str], option: str) -> list[int]:
        """Codes of the named labels of the column `action` or `domain`, which `option` asks for.

        Raises:
            ConfigError: the log has no such column, or not this label (with the nearest).
        """
        known = self.labels.get(column)
        if known is None or column not in self.events.columns:
            raise ConfigError(
                f"{option}: {self.name} has no column of {column}s; set data.columns.{column} or unset {option}"
            )
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
                raise ConfigError(f"{option}: {self.name} has no {column} {name!r}; {hint}")
        return [known.index(name) for name in names]

    def take(self, rows: np.ndarray | slice, note: str = "") -> Dataset:
        """The data set with only the events at `rows`; users and items keep their rows."""
        notes = (*self.notes, note) if note else self.notes
        return replace(self, events=self.events.take(rows), notes=notes)

    def sha256(self) -> str:
        """Fingerprint of the events with all their columns, and of the original ids."""
        digest = hashlib.sha256(json.dumps([self.users.ids.tolist(), self.items.ids.tolist(), self.labels]).encode())
        columns = {"user": self.events.user, "item": self.events.item, **self.events.columns}
        if self.events.timestamp is not None:
            columns["timestamp"] = self.events.timestamp
        for name, column in sorted(columns.items()):
            digest.update(f"{name} {column.dtype} ".encode())
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for people."""
        users, items, events = self.num_users, self.num_items, len(self.events)
        density = events / max(users * items, 1)
        return f"{self.name}: {users:,} users, {items:,} items, {events:,} events, density {density:.3%}"
