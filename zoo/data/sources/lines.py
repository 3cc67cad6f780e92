"""Text files that are no tables: one record a line, its words apart by blanks."""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from zoo.data.dataset import DataError
from zoo.data.sources import files
from zoo.data.sources.connection import explained, literal, scalar


def read_lines(connection: duckdb.DuckDBPyConnection, path: str, name: str) -> None:
    """Makes the table `lines` (number, line): the lines of a text file, plain or gzip, that are not blank.

    Raises:
        DataError: a file that cannot be read as UTF-8 text, or holds no line.
    """
    paths = ", ".join(literal(glob.escape(str(file))) for file in files.find(path))
    with explained(name):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE lines AS SELECT * FROM (SELECT row_number() OVER () AS number, trim(line, "
            f"chr(32) || chr(13)) AS line FROM read_csv([{paths}], columns = {{'line': 'VARCHAR'}}, "
            "header = false, auto_detect = false, delim = '\x1f', quote = '', escape = '', strict_mode = false, "
            "max_line_size = 100000000)) WHERE line <> ''"
        )
    if not scalar(connection, "SELECT count(*) FROM lines"):
        raise DataError(f"{name}: no line with anything in it; wanted at least one event")


def words(text: str) -> str:
    """SQL of the list of words in an SQL text."""
    return f"list_filter(string_split_regex({text}, '\\s+'), lambda word: word <> '')"


def refuse(connection: duckdb.DuckDBPyConnection, table: str, wrong: str, name: str, wanted: str) -> None:
    """Raises a DataError that shows the first row of `table` (number, line, ...) for which the SQL `wrong` holds."""
    row = connection.execute(f"SELECT number, line FROM {table} WHERE {wrong} ORDER BY number LIMIT 1").fetchone()
    if row:
        shown = row[1] if len(row[1]) <= 60 else row[1][:57] + "..."
        raise DataError(f"{name}, line {row[0]:,}: {shown!r}; wanted {wanted}")


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file's bytes, plain or gzip.

    Raises:
        PermissionError: it may not be read.
        DataError: a file that is not there, or is a damaged gzip.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except PermissionError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: cannot be read ({reason}); check the path or copy the file again") from None


def encoding(path: Path) -> str:
    """`utf-8` where a file is that, else `latin-1`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with opened(path) as file:
        try:
            while chunk := file.read(1 << 20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8"
