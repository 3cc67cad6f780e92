"""One SELECT to a Dataset: DuckDB reads, codes and sorts, in parallel and out of core."""

from __future__ import annotations

import os
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from zoo.data.dataset import Clock, DataError, Dataset, Events
from zoo.data.sources import cache, entities
from zoo.data.sources.timestamps import to_milliseconds

COLUMNS = ("user", "item", "timestamp", "score", "action", "domain", "price")
_CANONICAL = "^(0|-?[1-9][0-9]{0,17})$"  # an integer that is written back exactly as it was read


def connect(cache_dir: str | None = None) -> duckdb.DuckDBPyConnection:
    """A private in-memory DuckDB that spills into the cache, loads no extension and keeps the order of files."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    connection = duckdb.connect(
        config={
            "threads": os.cpu_count() or 1,
            "memory_limit": f"{memory // 2 // 2**20}MiB",
            "temp_directory": str(cache.directory(cache_dir) / "spill"),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "true",
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quoted(identifier: str) -> str:
    """A column or table name, safe inside SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text value, safe inside SQL."""
    return "'" + text.replace("'", "''") + "'"


def collect(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    *,
    name: str,
    clock: Clock = "global",
    users: str | pd.DataFrame | None = None,
    items: str | pd.DataFrame | None = None,
    notes: tuple[str, ...] = (),
    infer_ids: bool = False,
) -> Dataset:
    """The Dataset of a SELECT.

    Args:
        sql: a SELECT of `user` and `item` and, where there are any, `timestamp`, `score`, `action`, `domain` and
            `price`, with the rows in the order of the file. Ids may be integers, floats or text; times any form that
            `timestamps.to_milliseconds` reads. A row without a user or an item is dropped and counted in a note.
        name: what messages and reports call the data.
        clock: whether timestamps of different users compare; `order` where there is no timestamp.
        users, items: features: SQL or frames whose column `user` / `item`, or else whose first column, is the id.
        notes: what the reader did before.
        infer_ids: ids were read as text from a format without types; if each is a canonical integer (no leading
            zero, no sign but minus), they become int64.

    Raises:
        DataError: a value that cannot be used, with its row (counted from 1, without a header).
    """
    kinds = _materialise(connection, sql, name)
    if not _scalar(connection, "SELECT count(*) FROM log"):
        raise DataError(f"{name}: no rows; wanted at least one event")
    said = list(notes)
    for side in ("user", "item"):
        said += _number_ids(connection, side, kinds[side], infer_ids, name)
    columns = {"user": "u.code", "item": "i.code"}
    labels: dict[str, tuple[str, ...]] = {}
    joins = 'JOIN user_ids u ON log."user" = u.id JOIN item_ids i ON log."item" = i.id'
    if "timestamp" in kinds:
        columns["timestamp"], more = to_milliseconds(connection, "log", "timestamp", kinds["timestamp"], name)
        said += more
    for column in ("score", "price"):
        if column in kinds:
            columns[column] = _number(connection, column, name, missing=column == "price")
    for column in ("action", "domain"):
        if column in kinds:
            labels[column] = _label(connection, column, name)
            columns[column] = f"{column}_codes.code"
            joins += (
                f" JOIN {column}_codes ON coalesce(CAST(log.{column} AS VARCHAR), 'missing') = {column}_codes.label"
            )
    features = {
        "user": entities.read(connection, users, "user", name),
        "item": entities.read(connection, items, "item", name),
    }
    events = _events(connection, columns, joins)
    return Dataset(
        events,
        features["user"],
        features["item"],
        clock if events.timestamp is not None else "order",
        labels,
        name,
        tuple(said),
    )


def _materialise(connection: duckdb.DuckDBPyConnection, sql: str, name: str) -> dict[str, str]:
    """Makes the table `log` of the SELECT, in its order; returns the SQL type of each column."""
    found = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {sql}").fetchall()}
    missing = [column for column in ("user", "item") if column not in found]
    if missing:
        raise DataError(f"{name}: no column {missing[0]!r} among {', '.join(found)}")
    kinds, selected = {}, []
    for column in COLUMNS:
        if column not in found:
            continue
        kind, value = found[column], quoted(column)
        if column in ("user", "item"):
            kind, value = _id_type(column, kind, name)
        kinds[column] = kind
        selected.append(f"{value} AS {quoted(column)}")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE log AS SELECT {', '.join(selected)} FROM ({sql})")
    return kinds


def _id_type(side: str, kind: str, name: str) -> tuple[str, str]:
    """(SQL type of an id, SQL that reads it so)."""
    value = quoted(side)
    if kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"):
        return "BIGINT", f"CAST({value} AS BIGINT)"
    if kind in ("FLOAT", "DOUBLE"):
        return "DOUBLE", f"CASE WHEN NOT isnan({value}) THEN CAST({value} AS DOUBLE) END"
    if kind in ("VARCHAR", "UUID") or kind.startswith("ENUM"):
        return "VARCHAR", f"CAST({value} AS VARCHAR)"
    raise DataError(f"{name}: {side} ids are of the type {kind}; wanted integers, floats or text")


def _number_ids(connection: duckdb.DuckDBPyConnection, side: str, kind: str, infer: bool, name: str) -> list[str]:
    """Makes the table `{side}_ids` (id, code), codes by first appearance; returns notes."""
    column = quoted(side)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {side}_ids AS SELECT id, CAST(row_number() OVER (ORDER BY first) - 1 AS INTEGER) AS code "
        f"FROM (SELECT {column} AS id, min(rowid) AS first FROM log WHERE {column} IS NOT NULL GROUP BY ALL) ORDER BY code"
    )
    if not _scalar(connection, f"SELECT count(*) FROM {side}_ids"):
        raise DataError(f"{name}: no row has a {side}")
    dropped = _scalar(connection, f"SELECT count(*) FROM log WHERE {column} IS NULL")
    canonical = (
        kind == "VARCHAR"
        and infer
        and _scalar(connection, f"SELECT bool_and(regexp_full_match(id, '{_CANONICAL}')) FROM {side}_ids")
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {side}_entities AS SELECT {'CAST(id AS BIGINT)' if canonical else 'id'} AS id, code "
        f"FROM {side}_ids ORDER BY code"
    )
    return [f"{dropped:,} rows without a {side} were dropped"] if dropped else []


def _number(connection: duckdb.DuckDBPyConnection, column: str, name: str, missing: bool) -> str:
    value = f"TRY_CAST({column} AS DOUBLE)"
    empty = f"{column} IS NULL OR CAST({column} AS VARCHAR) = ''"
    bad = connection.execute(
        f"SELECT rowid + 1, CAST({column} AS VARCHAR) FROM log WHERE "
        f"NOT coalesce(isfinite({value}), false) {f'AND NOT ({empty})' if missing else ''} ORDER BY rowid LIMIT 1"
    ).fetchone()
    if bad:
        met = "is missing" if bad[1] in (None, "") else f"is {bad[1]!r}"
        raise DataError(f"{name}, row {bad[0]:,}: {column} {met}; wanted a finite number: correct or drop the row")
    return f"CAST({value} AS FLOAT)"


def _label(connection: duckdb.DuckDBPyConnection, column: str, name: str) -> tuple[str, ...]:
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {column}_codes AS SELECT label, CAST(row_number() OVER (ORDER BY first) - 1 AS INTEGER) "
        f"AS code FROM (SELECT coalesce(CAST({column} AS VARCHAR), 'missing') AS label, min(rowid) AS first FROM log "
        "GROUP BY 1)"
    )
    labels = [row[0] for row in connection.execute(f"SELECT label FROM {column}_codes ORDER BY code").fetchall()]
    if len(labels) > np.iinfo(np.int16).max:
        raise DataError(
            f"{name}: {len(labels):,} different values of {column}; wanted at most {np.iinfo(np.int16).max:,}"
        )
    return tuple(labels)


def _events(connection: duckdb.DuckDBPyConnection, columns: dict[str, str], joins: str) -> Events:
    selected = ", ".join(f"{value} AS {quoted(column)}" for column, value in columns.items())
    order = ", ".join(str(1 + list(columns).index(c)) for c in ("user", "timestamp") if c in columns)
    arrays: dict[str, Any] = connection.execute(
        f"SELECT {selected} FROM log {joins} ORDER BY {order}, log.rowid"
    ).fetchnumpy()
    types = {
        "user": np.int32,
        "item": np.int32,
        "timestamp": np.int64,
        "score": np.float32,
        "price": np.float32,
        "action": np.int16,
        "domain": np.int16,
    }
    plain = {c: np.ma.filled(a, np.nan) if np.ma.isMaskedArray(a) else a for c, a in arrays.items()}
    plain = {c: np.ascontiguousarray(a, types[c]) for c, a in plain.items()}
    return Events(plain.pop("user"), plain.pop("item"), plain.pop("timestamp", None), plain)


def _scalar(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return row[0] if row else None
