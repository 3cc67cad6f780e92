"""Any table of interactions: files, a function that returns a frame, a database, or SQL."""

from __future__ import annotations

import importlib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa

from config import Columns, DataConfig
from zoo.data.dataset import Clock, DataError, Dataset
from zoo.data.sources import databases, engine, files
from zoo.data.sources.columns import listed, recognise
from zoo.data.sources.connection import CANONICAL_INTEGER, arrow, connect, explained, quoted, scalar, schema
from zoo.data.sources.timestamps import RowError

DAWN = 631_152_000_000  # milliseconds: 1990, before which hardly a log begins
YEAR = 31_556_952_000  # milliseconds


@dataclass(frozen=True)
class Table:
    """A table that DuckDB can read.

    Attributes:
        sql: a SELECT of all of it, in order.
        name: what messages call it.
        text: its values are text without types, as in a CSV.
        files: the files it lies in, if it does.
    """

    sql: str
    name: str
    text: bool = False
    files: tuple[Path, ...] = ()


def read(path: str, data: DataConfig) -> Dataset:
    """The Dataset of the table at `path`: columns by their usual names, by `data.columns` or by `data.query`.

    `data.query` is SQL over the view `data` (the table at `path`, text columns that hold only numbers made numbers)
    and over any file it names itself; in a database it runs there. A query that joins or groups should end in ORDER
    BY where the order of equal times matters.

    Raises:
        DataError: what is met, what is wanted and what to do, in one line.
    """
    connection = connect(data.cache_dir)
    is_path = path != DataConfig.model_fields["path"].default
    in_database = is_path and is_database(path)
    if is_path:
        table = open_table(connection, path, query=data.query if in_database else None)
    else:
        table = Table("", "data.query")
    if data.query and not in_database:
        if is_path:
            with explained(table.name):
                connection.execute(f"CREATE TEMP VIEW data AS {typed(connection, table)}")
        table = Table(_one_select(data.query), "data.query")
    with explained(table.name):
        found = list(schema(connection, table.sql))
        roles = recognise(found, data.columns, table.name)
    selected = ", ".join(f"{quoted(column)} AS {quoted(role)}" for role, column in roles.items())
    try:
        dataset = engine.collect(
            connection,
            f"SELECT {selected} FROM (\n{table.sql}\n)",
            name=table.name,
            notes=_without_time(found, roles),
            infer_ids=table.text,
        )
    except RowError as error:
        raise _located(connection, table, error) from None
    return replace(dataset, notes=(*dataset.notes, *_long_ago(dataset, roles)))


def from_frames(
    events: pd.DataFrame | pa.Table,
    users: pd.DataFrame | pa.Table | None,
    items: pd.DataFrame | pa.Table | None,
    name: str,
    clock: Clock,
    columns: Columns,
) -> Dataset:
    """The Dataset of frames: see `Dataset.from_frame`."""
    connection = connect()
    table = arrow(events, name)
    roles = recognise(table.column_names, columns, name)
    connection.register("frame", table)
    selected = ", ".join(f"{quoted(column)} AS {quoted(role)}" for role, column in roles.items())
    return engine.collect(connection, f"SELECT {selected} FROM frame", name=name, clock=clock, users=users, items=items)


def _without_time(found: list[str], roles: dict[str, str]) -> tuple[str, ...]:
    """Says so where no column was taken for the time and one may have been meant."""
    unused = [column for column in found if column not in roles.values()]
    if "timestamp" in roles or not unused:
        return ()
    return (f"no time: the order of the rows is that of the events (unused: {listed(unused)}; data.columns.timestamp)",)


def _long_ago(dataset: Dataset, roles: dict[str, str]) -> tuple[str, ...]:
    """Says so where what was taken for the time is too small to be one: a price, a rank."""
    newest = 0 if dataset.events.timestamp is None else int(dataset.events.timestamp.max())
    if "timestamp" not in roles or newest >= DAWN:
        return ()
    return (
        f"{roles['timestamp']} is read as a time, the newest of {1970 + newest // YEAR}; if it is none, name the right "
        "column with data.columns.timestamp, or set that to null",
    )


def features(connection: duckdb.DuckDBPyConnection, path: str, side: str, given: Columns) -> str:
    """SQL of the feature table at `path`, the ids of `side` (`user` or `item`) as the column of that name."""
    table = open_table(connection, path)
    with explained(table.name):
        names = list(schema(connection, table.sql))
        asked = getattr(given, side)
        role = recognise(names, Columns(**{side: asked} if asked in names else {}), table.name, wanted=())
        key = role.get(side) or next((name for name in names if name.lower() == "id"), names[0])
        # Ids stay as they are written: the log's own decide whether they are numbers.
        sql = typed(connection, table, keep=key)
    return f"SELECT {quoted(key)} AS {side}, * EXCLUDE ({quoted(key)}) FROM (\n{sql}\n)"


# ----------------------------------------------------------------------------------------------------- tables


def is_database(path: str) -> bool:
    """Whether `path` is a PostgreSQL URL or an SQLite file."""
    return databases.is_postgresql(path) or (Path(path).is_file() and files.kind(Path(path)) == "sqlite")


def is_function(path: str) -> bool:
    """Whether `path` is `module:function`."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path) is not None and not Path(path).exists()


def is_in_files(path: str) -> bool:
    """Whether `path` means files with rows, and nothing but them."""
    return not is_function(path) and not is_database(path)


def open_table(connection: duckdb.DuckDBPyConnection, path: str, query: str | None = None) -> Table:
    """The table at `path`; `query` is for a database.

    Raises:
        DataError: nothing is there, or it is no table.
    """
    if databases.is_postgresql(path):
        databases.read_postgresql(connection, path, query, "from_database")
        return Table("SELECT * FROM from_database", databases.postgresql_name(path))
    if is_function(path):
        connection.register("from_function", _call(path))
        return Table("SELECT * FROM from_function", path)
    found = files.find(path)
    name = Path(path).name if len(found) == 1 else path
    if [files.kind(file) for file in found] == ["sqlite"]:
        databases.read_sqlite(connection, found[0], query, "from_database")
        return Table("SELECT * FROM from_database", name)
    with explained(name):
        sql, text = files.select(connection, found, name)
    return Table(sql, name, text, tuple(found))


def typed(connection: duckdb.DuckDBPyConnection, table: Table, keep: str | None = None) -> str:
    """SQL of `table` in which text columns that hold only numbers are numbers; needs one reading of the file.

    Integers are those that are written back as they were read; a number with a leading zero is text. The column
    `keep` stays as it is.
    """
    if not table.text:
        return table.sql
    names = [name for name in schema(connection, table.sql) if name != keep]
    tests = []
    for column in map(quoted, names):
        tests += [
            f"bool_and(regexp_full_match({column}, '{CANONICAL_INTEGER}'))",
            f"bool_and(TRY_CAST({column} AS DOUBLE) IS NOT NULL AND NOT regexp_matches({column}, '^[+-]?0[0-9]')) "
            f"FILTER (WHERE {column} IS NOT NULL)",
        ]
    row = connection.execute(f"SELECT {', '.join(tests)} FROM ({table.sql})").fetchone() if tests else ()
    assert row is not None
    casts = []
    for position, name in enumerate(names):
        kind = "BIGINT" if row[2 * position] else "DOUBLE" if row[2 * position + 1] else None
        if kind:
            casts.append(f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}")
    return f"SELECT * REPLACE ({', '.join(casts)}) FROM ({table.sql})" if casts else table.sql


def _call(path: str) -> pa.Table:
    """The frame that `module:function` returns; modules of the working directory are found."""
    module, _, function = path.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        made = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: no module {error.name!r} here or among the installed ones") from None
    finally:
        sys.path.remove(os.getcwd())
    maker = getattr(made, function, None)
    if not callable(maker):
        raise DataError(f"{path}: the module has no function {function!r}")
    try:
        frame = maker()
    except Exception as error:
        raise DataError(
            f"{path}: the function raised {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if hasattr(frame, "__arrow_c_stream__") and not isinstance(frame, pd.DataFrame | pa.Table):
        frame = pa.table(frame)
    if not isinstance(frame, pd.DataFrame | pa.Table):
        raise DataError(f"{path}: the function returned a {type(frame).__name__}; wanted a DataFrame")
    return arrow(frame, path)


def _one_select(query: str) -> str:
    """The query, if it is one statement that only reads."""
    with explained("data.query"):
        statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise DataError(f"data.query={query!r}: wanted one SELECT")
    return statements[0].query.strip().rstrip(";")


def _located(connection: duckdb.DuckDBPyConnection, table: Table, error: RowError) -> DataError:
    """The error with the one file that its row lies in."""
    row = error.row
    for file in table.files if len(table.files) > 1 else ():
        sql, _ = files.select(connection, [file], table.name)
        count = scalar(connection, f"SELECT count(*) FROM ({sql})")
        if row <= count:
            return RowError(str(file), row, error.problem)
        row -= count
    return error
