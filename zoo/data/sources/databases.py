"""An SQLite file or a PostgreSQL server through its Arrow driver (ADBC): `data.query` runs in the database."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlsplit

import duckdb

from zoo.data.dataset import DataError
from zoo.data.sources.columns import listed
from zoo.data.sources.connection import quoted

_BATCH_ROWS = 2**18  # SQLite has no column types: the driver takes those of the first batch


def is_postgresql(path: str) -> bool:
    """Whether `path` is the URL of a PostgreSQL server."""
    return path.startswith(("postgresql://", "postgres://"))


def postgresql_name(url: str) -> str:
    """What messages call the database: its URL without a user and a password."""
    parts = urlsplit(url)
    return f"postgresql://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def read_postgresql(connection: duckdb.DuckDBPyConnection, url: str, query: str | None, table: str) -> None:
    """Makes `table` of the rows of `query`, which runs in a read-only transaction of the server.

    Raises:
        DataError: no query, no driver, no connection, or the query fails.
    """
    name = postgresql_name(url)
    if not query:
        raise DataError(f'{name}: a database needs data.query="SELECT buyer AS user, sku AS item FROM orders"')
    driver = _driver("postgresql", name)
    try:
        with driver.connect(url) as server, server.cursor() as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            server.commit()
            _copy(connection, cursor, query, table)
    except (driver.Error, OSError, duckdb.Error) as error:
        raise DataError(f"{name}: {_line(error)}") from None


def read_sqlite(connection: duckdb.DuckDBPyConnection, file: Path, query: str | None, table: str) -> None:
    """Makes `table` of the rows of `query`, or of the only table, of an SQLite file that is opened for reading.

    Raises:
        DataError: no query and several tables, no driver, no SQLite file, a column of mixed types, a failing query.
    """
    driver = _driver("sqlite", file.name)
    # `immutable` keeps SQLite from making -wal and -shm files beside it; not where a writer has rows waiting there.
    waiting = file.with_name(file.name + "-wal")
    mode = "mode=ro" if waiting.exists() and waiting.stat().st_size else "mode=ro&immutable=1"
    try:
        with driver.connect(f"file:{quote(str(file.resolve()))}?{mode}") as base, base.cursor() as cursor:
            query = query or f"SELECT * FROM {quoted(_only_table(cursor, file.name))}"
            query = _typed(cursor, query, file.name)
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": _BATCH_ROWS})
            _copy(connection, cursor, query, table)
    except (driver.Error, OSError, duckdb.Error) as error:
        raise DataError(f"{file.name}: {_line(error)}") from None


def _copy(connection: duckdb.DuckDBPyConnection, cursor: Any, query: str, table: str) -> None:
    cursor.execute(query)
    rows = cursor.fetch_record_batch()
    connection.register("database_rows", rows)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {quoted(table)} AS SELECT * FROM database_rows")
    connection.unregister("database_rows")


def _only_table(cursor: Any, name: str) -> str:
    cursor.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'")
    tables = [row[0] for row in cursor.fetchall()]
    if len(tables) != 1:
        raise DataError(
            f"{name}: {len(tables)} tables ({listed(tables)}); choose with "
            'data.query="SELECT buyer AS user, sku AS item FROM TABLE"'
        )
    return tables[0]


def _typed(cursor: Any, query: str, name: str) -> str:
    """`query` with one type a column: SQLite types each value, Arrow each column."""
    query = query.strip().rstrip(";")
    cursor.execute(f"SELECT * FROM (\n{query}\n) LIMIT 0")
    columns = [column[0] for column in cursor.description]
    types = ", ".join(f"typeof({quoted(column)})" for column in columns)
    cursor.execute(f"SELECT DISTINCT {types} FROM (\n{query}\n)")
    combinations = cursor.fetchall()
    selected = []
    for position, column in enumerate(columns):
        met = {row[position] for row in combinations} - {"null"}
        if len(met) > 1 and met != {"integer", "real"}:
            raise DataError(
                f"{name}: the column {column!r} mixes {' and '.join(sorted(met))}; "
                f'write all alike: data.query="SELECT CAST({column} AS TEXT) AS {column}, ..."'
            )
        kind = {"text": "TEXT", "real": "REAL", "integer": "INTEGER"}.get(max(met, default="text"), "TEXT")
        selected.append(f"CAST({quoted(column)} AS {kind}) AS {quoted(column)}")
    return f"SELECT {', '.join(selected)} FROM (\n{query}\n)"


def _driver(database: str, name: str) -> ModuleType:
    package = f"adbc-driver-{database}"
    try:
        return importlib.import_module(f"{package.replace('-', '_')}.dbapi")
    except ImportError:
        raise DataError(f"{name}: reading it needs a driver; pip install {package}") from None


def _line(error: Exception) -> str:
    """What a driver says, in one line and without the SQL that it was given."""
    text = re.split(r"\n*Query was:|\nquery:|\nLINE \d+:", str(error))[0]
    text = re.sub(r"^([A-Z_]+: )?(\[\w+\] )?", "", text)
    return " ".join(text.split())
