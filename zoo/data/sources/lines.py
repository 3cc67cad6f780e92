"""Text files that are no tables: one record a line, its words apart by blanks."""

from __future__ import annotations

import duckdb

from zoo.data.dataset import DataError
from zoo.data.sources.connection import explained, literal, scalar


def read_lines(connection: duckdb.DuckDBPyConnection, path: str, name: str) -> None:
    """Makes the table `lines` (number, line): the lines of a text file, plain or gzip, that are not blank.

    Raises:
        DataError: a file that cannot be read as UTF-8 text, or holds no line.
    """
    with explained(name):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE lines AS SELECT * FROM (SELECT row_number() OVER () AS number, trim(line, "
            f"chr(32) || chr(13)) AS line FROM read_csv({literal(path)}, columns = {{'line': 'VARCHAR'}}, "
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
