"""The embedded DuckDB: how it is opened, asked, watched, and what its errors mean to people."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from zoo.data.dataset import DataError
from zoo.data.sources import cache

CANONICAL_INTEGER = "0|-?[1-9][0-9]{0,17}"  # written back exactly as it was read, and it fits int64
_INTEGERS = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")} | {
    "INTEGER",
    "UINTEGER",
}
_VECTORS_AT_ONCE = 500  # of 2,048 rows: a million
_PROGRESS_AFTER = 2.0  # seconds of silence before a long step shows how far it is


def connect(cache_dir: str | None = None) -> duckdb.DuckDBPyConnection:
    """A private in-memory DuckDB that keeps the order of files, spills into the cache and loads no extension."""
    folder = cache.directory(cache_dir) / "datasets"  # where the leavings of a process that was killed are deleted
    with suppress(OSError):  # who never spills can do without
        folder.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(
        config={
            "threads": str(os.cpu_count() or 1),
            "memory_limit": "50%",  # the arrays that come out need the rest
            "temp_directory": str(folder / f"spill-{os.getpid()}"),  # whose parent DuckDB does not make
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "true",
        }
    )
    for setting in ("TimeZone = 'UTC'", "enable_progress_bar = true", "enable_progress_bar_print = false"):
        connection.execute(f"SET {setting}")
    return connection


def quoted(identifier: str) -> str:
    """A column or table name, safe inside SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text value, safe inside SQL."""
    return "'" + text.replace("'", "''") + "'"


def schema(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """{column: SQL type} of a SELECT."""
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE {sql}").fetchall()}


def id_type(value: str, kind: str, where: str) -> tuple[str, str]:
    """The SQL type that ids of the type `kind` are kept in (BIGINT, DOUBLE, VARCHAR, JSON) and SQL that reads them so.

    Raises:
        DataError: no type of ids; the message starts with `where`.
    """
    if kind in _INTEGERS or re.fullmatch(r"DECIMAL\(\d+,0\)", kind):
        return "BIGINT", f"CAST({value} AS BIGINT)"
    if kind in ("FLOAT", "DOUBLE"):
        return "DOUBLE", f"CASE WHEN NOT isnan({value}) THEN CAST({value} AS DOUBLE) END"
    if kind in ("VARCHAR", "UUID") or kind.startswith("ENUM"):
        return "VARCHAR", f"CAST({value} AS VARCHAR)"
    if kind == "JSON":  # DuckDB's word for a column of JSON lines that holds several types
        return "JSON", value
    raise DataError(f"{where} ids are of the type {kind}; wanted integers, floats or text")


def fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, np.ndarray]:
    """The columns of a SELECT: numbers as they are (NULL is NaN), the rest as objects (NULL is None)."""
    columns: dict[str, Any] = connection.execute(sql).fetchnumpy()
    for name, array in columns.items():
        if np.ma.isMaskedArray(array):
            empty, kind = (None, object) if array.dtype.kind == "O" else (np.nan, float)
            columns[name] = np.ma.filled(array.astype(kind), empty)
    return columns


def fetch_events(connection: duckdb.DuckDBPyConnection, sql: str, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns of a SELECT of many rows, each of its NumPy type; NULL is NaN.

    The rows come in blocks, and each block is made narrow before the next one comes: whole columns of what DuckDB
    returns, and once more joined, would be several times the result.
    """
    result = connection.execute(sql)
    blocks: dict[str, list[np.ndarray]] = {}
    while len(block := result.fetch_df_chunk(_VECTORS_AT_ONCE)) or not blocks:
        for name in map(str, block.columns):
            blocks.setdefault(name, []).append(block[name].to_numpy(types[name]))
    return {name: np.concatenate(blocks.pop(name)) for name in list(blocks)}


def scalar(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The first value of a SELECT."""
    row = connection.execute(sql).fetchone()
    return row[0] if row else None


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns an error of DuckDB into one line that says what to do."""
    try:
        yield
    except duckdb.Error as error:
        raise DataError(f"{name}: {_explanation(str(error))}") from None


def _explanation(message: str) -> str:
    line = re.search(r"Line: (\d+)", message)
    where = f"line {int(line[1]):,}: " if line else ""
    if broken := re.search(r'Malformed JSON in file "(.*)", at byte', message):
        row = _broken_line(Path(broken[1]))
        where = f"line {row:,}: " if row else ""
    if "not utf-8" in message or "UTF-8" in message:
        return f"{where}not UTF-8; convert it first: iconv -f latin1 -t utf-8 OLD > NEW"
    if broken:
        return f"{where}not valid JSON; wanted one object a line"
    if "GZIP" in message:
        return "the gzip stream ends too early or is damaged; copy the file again"
    if counts := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message):
        return f"{where}the number of fields is {counts[2]} and {counts[1]} in the header; correct it or quote the text"
    if cast := re.search(r'converting column "(.*)"\. Could not convert string "(.*)" to \'(.*)\'', message):
        wanted = "a whole number" if cast[3] == "BIGINT" else "a number"
        return f"{where}{cast[1]} is {cast[2]!r}; wanted {wanted}: correct the line or drop it"
    if "unterminated quote" in message:
        return f"{where}a quote is opened and not closed; close it, or double the quotes that belong to the text"
    if "state machine" in message:
        return f"{where}not a regular CSV; check the quotes, and that all lines end alike"
    if "Out of Memory" in message or "No space left" in message:
        return "neither the memory nor the disk is large enough; choose a larger disk with data.cache_dir=FOLDER"
    if made := re.search(r'Failed to create directory "(.*)/datasets/spill-', message):
        return f"larger than the memory, and {made[1]} cannot hold the rest; name a folder with data.cache_dir=FOLDER"
    text = re.sub(r"^[A-Za-z -]*Error: ", "", message.split("\n")[0]).strip()
    candidates = re.search(r"Candidate bindings: (.*)", message)
    return f"{text} It has {candidates[1]}" if candidates else text


def _broken_line(file: Path) -> int | None:
    """The first line of a file of JSON lines that is no JSON in UTF-8 (DuckDB's own count differs by one)."""
    with file.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
    with gzip.open(file) if is_gzip else file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                json.loads(line.strip() or b"null")
            except ValueError:
                return number
    return None


@contextmanager
def progress(connection: duckdb.DuckDBPyConnection, name: str) -> Iterator[Callable[[str], None]]:
    """Shows on stderr how far the running query is, once the work takes longer than a moment.

    Yields:
        a function that says what is being done now.
    """
    done, doing = threading.Event(), [""]

    def watch() -> None:
        if done.wait(_PROGRESS_AFTER):
            return
        bar_format = "{desc} {percentage:3.0f}% |{bar}| {elapsed}"
        with tqdm(total=100, bar_format=bar_format, file=sys.stderr, leave=False) as bar:
            while not done.wait(0.5):
                bar.n = max(0, round(connection.query_progress()))
                bar.set_description_str(f"{name}: {doing[0]}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda step: doing.__setitem__(0, step)
    finally:
        done.set()
        watcher.join()


def arrow(rows: pd.DataFrame | pa.Table, name: str) -> pa.Table:
    """Rows as an Arrow table, of one type a column.

    Raises:
        DataError: a column that mixes types, with the first row that differs.
    """
    if isinstance(rows, pa.Table):
        return rows
    columns = {}
    for column, values in rows.items():
        try:
            columns[str(column)] = pa.array(values, from_pandas=True)
        except pa.ArrowException:
            raise DataError(f"{name}{_odd_one(values)}; column {str(column)!r} must be of one type") from None
    return pa.table(columns)


def _odd_one(values: pd.Series) -> str:
    """The first value whose type is not that of the first one, with its row."""
    present = values[values.notna()]
    types = present.map(type)
    odd = np.flatnonzero(types != types.iloc[0])
    if not len(odd):
        return f": no table can hold a {types.iloc[0].__name__}"
    row, first, value = np.flatnonzero(values.notna())[odd[0]], present.iloc[0], present.iloc[odd[0]]
    return f", row {row + 1:,}: {value!r} is a {type(value).__name__} and {first!r} a {type(first).__name__}"
