"""Several logs of the same people as one, a domain each: `--data food=food.csv,kitchen=kitchen.csv`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from zoo.data.dataset import DataError, Dataset
from zoo.data.sources.engine import collect, connect

NAMED = re.compile(r"([\w-]+)=(.+)")


def named(path: str) -> dict[str, str]:
    """The logs that `path` names, by domain; empty where it names one log alone.

    Raises:
        DataError: one of several has no name, or two have the same.
    """
    parts = [NAMED.fullmatch(part.strip()) for part in path.split(",")]
    # One `name=` alone is a place: year=2024/*.parquet.
    if len(parts) < 2 or parts[0] is None or Path(path).exists() or "://" in path:
        return {}
    result = {}
    for text, part in zip(path.split(","), parts, strict=True):
        if part is None:
            raise DataError(
                f"--data {path}: {text!r} has no name; several logs are written food=food.csv,kitchen=kitchen.csv"
            )
        if part[1] in result:
            raise DataError(f"--data {path}: two logs are named {part[1]}; each is a domain of its own")
        result[part[1]] = part[2]
    return result


def merge(logs: dict[str, Dataset], cache_dir: str | None) -> Dataset:
    """One log with a column `domain`. Users with the same id are the same person.

    Where every log has times that compare between users, these are the clock. Where one has none, nobody knows which of
    two events of different domains came first: a user's events are those of the first log, then those of the next.
    Items whose ids occur in several logs are different ones, and called `food:17`.

    Raises:
        DataError: ids are numbers in one log and text in another.
    """
    timed = all(log.clock == "global" and log.events.timestamp is not None for log in logs.values())
    shared = set.intersection(*(set(log.events.columns) for log in logs.values())) & {"score", "price", "action"}
    ids = {name: log.items.ids for name, log in logs.items()}
    apart = len({item for values in ids.values() for item in values.tolist()}) < sum(map(len, ids.values()))
    tables = []
    for name, log in logs.items():
        events = log.events
        items = np.array([f"{name}:{item}" for item in ids[name].tolist()], object) if apart else ids[name]
        columns = {"user": log.users.ids[events.user], "item": items[events.item]}
        if timed:
            columns["timestamp"] = pa.array(events.timestamp, pa.timestamp("ms"))
        for column in sorted(shared):
            values = events.columns[column]
            columns[column] = np.array(log.labels["action"], object)[values] if column == "action" else values
        tables.append(pa.table(columns | {"domain": pa.array([name] * len(events), pa.string())}))
    for side in ("user", "item"):
        kinds = {name: table.schema.field(side).type for name, table in zip(logs, tables, strict=True)}
        if len(set(kinds.values())) > 1:
            told = ", ".join(f"{kind} in {name}" for name, kind in kinds.items())
            raise DataError(f"{side} ids are {told}; the same person must be called the same in all logs")
    notes = [f"{name}: {note}" for name, log in logs.items() for note in log.notes]
    if not timed:
        notes.append("no common clock: which of two events of different domains came first is not known")
    if any(log.items.columns or log.users.columns for log in logs.values()):
        notes.append("features that come with the logs are left out; give them by data.users and data.items")
    connection = connect(cache_dir)
    connection.register("events", pa.concat_tables(tables))
    selected = ", ".join(f'"{column}"' for column in tables[0].column_names)
    return collect(
        connection,
        f"SELECT {selected} FROM events",
        name="+".join(logs),
        clock="global" if timed else "order",
        notes=tuple(notes),
    )
