"""One SELECT to a Dataset: DuckDB reads, codes and sorts, in parallel and out of core."""

from __future__ import annotations

import duckdb
import numpy as np

from zoo.data.dataset import Clock, DataError, Dataset, Entities, Events
from zoo.data.sources import entities
from zoo.data.sources.connection import (
    CANONICAL_INTEGER,
    connect,
    explained,
    fetch,
    fetch_events,
    id_type,
    literal,
    progress,
    quoted,
    scalar,
    schema,
)
from zoo.data.sources.timestamps import RowError, to_milliseconds

__all__ = ["COLUMNS", "collect", "connect", "literal", "quoted"]

COLUMNS = {  # of an event table: the type in `Events`; ids are coded
    "user": np.int32,
    "item": np.int32,
    "timestamp": np.int64,
    "score": np.float32,
    "action": np.int16,
    "domain": np.int16,
    "price": np.float32,
}


def collect(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    *,
    name: str,
    clock: Clock = "global",
    users: entities.Table | None = None,
    items: entities.Table | None = None,
    notes: tuple[str, ...] = (),
    infer_ids: bool = False,
) -> Dataset:
    """The Dataset of a SELECT.

    Args:
        sql: a SELECT of `user` and `item` and, where there are any, `timestamp`, `score`, `action`, `domain` and
            `price`, with the rows in the order of the file. Ids are integers, floats or text; times any form that
            `timestamps.to_milliseconds` reads. A row without a user or an item is dropped and counted in a note; a
            row without an action or a domain has the label `missing`; a price may be missing, a score only in a log
            with actions, where a view has none.
        name: what messages and reports call the data.
        clock: whether timestamps of different users compare; `order` where there is no timestamp.
        users, items: features: SQL, a frame or an Arrow table whose column `user` / `item`, or else whose first
            column, is the id. Ids that occur only there are entities too.
        notes: what the reader did before.
        infer_ids: ids were read as text from a format without types: where each of them is a canonical integer
            (no leading zero, no plus, at most 18 digits) they become int64, else all stay text.

    Returns:
        users and items in the order of their ids, so that the order of the rows decides nothing but ties of time.

    Raises:
        DataError: a value that cannot be used, with its row (counted from 1, without a header).
    """
    with explained(name), progress(connection, name) as step:
        step("reading")
        kinds = _materialise(connection, sql, name)
        step("coding")
        ids, joins, said = {}, "", list(notes)
        for side in ("user", "item"):
            ids[side], dropped = _code_ids(connection, side, infer_ids and kinds[side] == "VARCHAR", name)
            joins += f" JOIN {side}_codes ON log.{side} = {side}_codes.value"
            said += dropped
        columns = {"user": "user_codes.code", "item": "item_codes.code"}
        labels: dict[str, tuple[str, ...]] = {}
        if "timestamp" in kinds:
            columns["timestamp"], more = to_milliseconds(connection, kinds["timestamp"], name)
            said += more
        for column in ("score", "price"):
            if column in kinds:
                columns[column] = _number(connection, column, name, may_miss=column == "price" or "action" in kinds)
        for column in ("action", "domain"):
            if column in kinds:
                labels[column] = _code_labels(connection, column, name)
                columns[column] = f"{column}_codes.code"
                joins += f" JOIN {column}_codes ON log.{column} = {column}_codes.value"
        step("sorting")
        events = _events(connection, columns, joins)
        step("features")
        tables = {
            "user": entities.read(connection, users, "user", Entities(ids["user"]), name),
            "item": entities.read(connection, items, "item", Entities(ids["item"]), name),
        }
        connection.execute("DROP TABLE log")
    known = clock if events.timestamp is not None else "order"
    return Dataset(events, tables["user"], tables["item"], known, labels, name, tuple(said))


# ------------------------------------------------------------------------------------------------------ steps


def _materialise(connection: duckdb.DuckDBPyConnection, sql: str, name: str) -> dict[str, str]:
    """Makes the table `log` of the SELECT, whose rowid is the order; returns the SQL type of each column."""
    found = schema(connection, sql)
    for column in ("user", "item"):
        if column not in found:
            raise DataError(f"{name}: no column {column!r} among {', '.join(found)}")
    kinds, selected = {}, []
    for column in COLUMNS:
        if column in found:
            kind, value = found[column], quoted(column)
            if column in ("user", "item"):
                kind, value = id_type(value, kind, f"{name}: {column}")
            elif column in ("action", "domain"):
                value = f"coalesce(CAST({value} AS VARCHAR), 'missing')"
            kinds[column] = kind
            selected.append(f"{value} AS {quoted(column)}")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE log AS SELECT {', '.join(selected)} FROM (\n{sql}\n)")
    for side in ("user", "item"):
        if kinds[side] == "JSON":
            _refuse_mixed(connection, side, name)
    if not scalar(connection, "SELECT count(*) FROM log"):
        raise DataError(f"{name}: no rows; wanted at least one event below the header")
    return kinds


def _refuse_mixed(connection: duckdb.DuckDBPyConnection, side: str, name: str) -> None:
    """Raises: the column of JSON values holds ids of several types."""
    row = connection.execute(
        f"SELECT rowid + 1, CAST({side} AS VARCHAR) FROM log WHERE json_type({side}) <> 'NULL' "
        f"QUALIFY json_type({side}) <> first(json_type({side})) OVER (ORDER BY rowid) ORDER BY rowid LIMIT 1"
    ).fetchone()
    if row is None:
        raise DataError(f"{name}: {side} ids are JSON objects or lists; wanted integers, floats or text")
    number, value = row
    raise RowError(name, number, f"{side} id {value} is of another type than those before it; write all ids alike")


def _code_ids(connection: duckdb.DuckDBPyConnection, side: str, infer: bool, name: str) -> tuple[np.ndarray, list[str]]:
    """Makes the table `{side}_codes` (value, code), in the order of the ids; returns the ids and notes."""
    _code(connection, side, '"user" IS NOT NULL AND item IS NOT NULL', "TRY_CAST(value AS BIGINT), " if infer else "")
    if not scalar(connection, f"SELECT count(*) FROM {side}_codes"):
        raise DataError(f"{name}: no row has both a user and an item")
    value = "value"
    if infer and scalar(
        connection, f"SELECT bool_and(regexp_full_match(value, '{CANONICAL_INTEGER}')) FROM {side}_codes"
    ):
        value = "CAST(value AS BIGINT)"
    ids = fetch(connection, f"SELECT {value} AS id FROM {side}_codes ORDER BY code")["id"]
    missing = scalar(connection, f"SELECT count(*) FROM log WHERE {side} IS NULL")
    return ids, [f"{missing:,} {'row' if missing == 1 else 'rows'} without {side} dropped"] if missing else []


def _code_labels(connection: duckdb.DuckDBPyConnection, column: str, name: str) -> tuple[str, ...]:
    """Makes the table `{column}_codes` (value, code), in the order of the labels; returns them."""
    _code(connection, column, "true")
    labels = connection.execute(f"SELECT value FROM {column}_codes ORDER BY code").fetchall()
    if len(labels) > np.iinfo(np.int16).max:
        raise DataError(
            f"{name}: {len(labels):,} different values of {column}; wanted at most {np.iinfo(np.int16).max:,}: "
            "leave the column out with data.query"
        )
    return tuple(label for (label,) in labels)


def _code(connection: duckdb.DuckDBPyConnection, column: str, where: str, first: str = "") -> None:
    """Makes the table `{column}_codes`; `first` is SQL to order by before the value itself."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {column}_codes AS "
        f"SELECT value, CAST(row_number() OVER (ORDER BY {first}value) - 1 AS INTEGER) AS code "
        f"FROM (SELECT DISTINCT {column} AS value FROM log WHERE {where})"
    )


def _number(connection: duckdb.DuckDBPyConnection, column: str, name: str, may_miss: bool) -> str:
    """SQL of a finite float32.

    Raises:
        RowError: one that is not, or that is missing and may not be.
    """
    value = f"TRY_CAST({column} AS FLOAT)"
    bad = connection.execute(
        f"SELECT rowid + 1, CAST({column} AS VARCHAR) FROM log WHERE coalesce(NOT isfinite({value}), true)"
        f"{f' AND {column} IS NOT NULL' if may_miss else ''} ORDER BY rowid LIMIT 1"
    ).fetchone()
    if bad:
        met = "is missing" if bad[1] is None else f"is {bad[1]!r}"
        raise RowError(
            name, bad[0], f"{column} {met}; wanted a finite number: correct the row, drop it, or leave {column} out"
        )
    return value


def _events(connection: duckdb.DuckDBPyConnection, columns: dict[str, str], joins: str) -> Events:
    """The events in order, coded."""
    selected = ", ".join(f"{value} AS {quoted(column)}" for column, value in columns.items())
    order = "1, 3" if "timestamp" in columns else "1"
    typed = fetch_events(connection, f"SELECT {selected} FROM log {joins} ORDER BY {order}, log.rowid", COLUMNS)
    return Events(typed.pop("user"), typed.pop("item"), typed.pop("timestamp", None), typed)
