"""Layout `pickled_dict`: a foreign pickle of {user: [item, ...]}, read without running anything that is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import unpickling
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.lines import opened


def read(path: str, data: DataConfig) -> Dataset:
    """The events of a dictionary of users' items, oldest first.

    Raises:
        DataError: anything but a dictionary of lists of ids in the file; above all whatever a pickle could run.
    """
    name = Path(path).name
    users: list = []
    items: list = []
    for user, history in histories(path):
        users.extend([user] * len(history))
        items.extend(history)
    table = pa.table({"user": _ids(users, "user", name), "item": _ids(items, "item", name)})
    connection = connect(data.cache_dir)
    connection.register("histories", table)
    return collect(connection, "SELECT user, item FROM histories", name=name, clock="order")


def histories(path: str) -> Iterator[tuple[Any, list | tuple]]:
    """The users of a pickled dictionary and their items, as they stand there.

    Raises:
        DataError: as in `read`.
    """
    name = Path(path).name
    with opened(Path(path)) as file:
        found = unpickling.load(file, name)
    if not isinstance(found, dict) or not found:
        kind = "an empty dictionary" if isinstance(found, dict) else type(found).__name__
        raise DataError(f"{name}: the pickle holds {kind}; wanted a dictionary of user: [item, item, ...]")
    for user, history in found.items():
        history = history.values if isinstance(history, unpickling.Array) else history
        if not isinstance(history, list | tuple):
            raise DataError(
                f"{name}: user {user!r} has {type(history).__name__} {history!r:.60}; wanted a list of items"
            )
        yield user, history


def _ids(values: list, side: str, name: str) -> pa.Array:
    """Ids of one type: integers or text."""
    kind = str if values and isinstance(values[0], str) else int
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            met = f"{value!r:.60} ({type(value).__name__})"
            raise DataError(
                f"{name}: {side} {met}; wanted {'text like the others' if kind is str else 'integers or text'}"
            )
    try:
        return pa.array(values, pa.string() if kind is str else pa.int64())
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError) as error:
        raise DataError(f"{name}: {side} ids: {error}; wanted int64 or text") from None
