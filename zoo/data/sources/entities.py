"""Feature tables of users and items to Entities."""

from __future__ import annotations

import re
from typing import TypeAlias

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from zoo.data.dataset import DataError, Entities
from zoo.data.sources.connection import arrow, fetch, id_type, quoted, schema

Table: TypeAlias = str | pd.DataFrame | pa.Table  # SQL or rows
_CODES = r"\[\s*\d+([\s,]+\d+)*[\s,]*\]"  # text codes as text: [12 3 4] or [12, 3, 4]
NO_CODE = -1  # fills text codes of an entity that has none, or fewer than others


def read(connection: duckdb.DuckDBPyConnection, table: Table | None, side: str, known: Entities, name: str) -> Entities:
    """`known` with the features of `table`; entities that occur only in the table follow, in its order.

    Numbers, booleans and times (as milliseconds) become float64; lists and `|`-separated text multi-labels; arrays of
    a fixed length and text such as `[12 3 4]` 2-D integers; other text is a category. A missing value is NaN, None or,
    in text codes, NO_CODE.

    Args:
        table: SQL or rows; the column named `side`, else the first one, holds the ids.
        side: `user` or `item`.
        known: the entities of the log.
        name: what messages call the log.

    Raises:
        DataError: an id that is missing, occurs twice or is not of the type of the log's ids.
    """
    if table is None:
        return known
    where = f"{side} features of {name}"
    view = f"{side}_features"
    if isinstance(table, str):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {view} AS SELECT * FROM (\n{table}\n)")
    else:
        connection.register(f"{view}_rows", arrow(table, where))
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {view} AS SELECT * FROM {view}_rows")
        connection.unregister(f"{view}_rows")
    kinds = schema(connection, f"SELECT * FROM {view}")
    key = next((column for column in kinds if column.lower() == side), next(iter(kinds)))
    ids = _ids(connection, view, key, kinds.pop(key), known.ids, where)
    position = pd.Index(known.ids).get_indexer(pd.Index(ids))
    new = position < 0
    position[new] = len(known) + np.arange(np.count_nonzero(new))
    everyone = np.concatenate([known.ids, ids[new]]) if new.any() else known.ids
    columns = {
        column: _spread(values, np.arange(len(known)), len(everyone)) for column, values in known.columns.items()
    }
    for column, kind in kinds.items():
        columns[column] = _spread(_values(connection, view, column, kind), position, len(everyone))
    connection.execute(f"DROP TABLE {view}")
    return Entities(everyone, columns)


def _ids(
    connection: duckdb.DuckDBPyConnection, view: str, key: str, kind: str, log_ids: np.ndarray, where: str
) -> np.ndarray:
    """The ids of a feature table, in the type of the log's."""
    kind, value = id_type(quoted(key), kind, f"{where}: {key}")
    wanted = {"i": "BIGINT", "f": "DOUBLE"}.get(log_ids.dtype.kind, "VARCHAR")
    row = connection.execute(
        f"SELECT rowid + 1, CAST({value} AS VARCHAR) FROM {view} WHERE TRY_CAST({value} AS {wanted}) IS NULL OR "
        f"CAST(TRY_CAST({value} AS {wanted}) AS {kind}) <> {value} ORDER BY rowid LIMIT 1"
    ).fetchone()
    if row:
        problem = (
            "is missing" if row[1] is None else f"{row[1]!r} is not of the type of the log's ids ({log_ids.dtype})"
        )
        raise DataError(f"{where}, row {row[0]:,}: {key} {problem}; write ids alike in both tables")
    double = connection.execute(
        f"SELECT CAST({value} AS VARCHAR), min(rowid) + 1, max(rowid) + 1 FROM {view} GROUP BY 1 "
        "HAVING count(*) > 1 ORDER BY 2 LIMIT 1"
    ).fetchone()
    if double:
        raise DataError(f"{where}: {key} {double[0]!r} occurs twice, in rows {double[1]:,} and {double[2]:,}; keep one")
    return fetch(connection, f"SELECT CAST({value} AS {wanted}) AS id FROM {view} ORDER BY rowid")["id"]


def _values(connection: duckdb.DuckDBPyConnection, view: str, column: str, kind: str) -> np.ndarray:
    """One feature, a row per row of the table."""
    value = quoted(column)
    if re.fullmatch(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|U?INTEGER|FLOAT|DOUBLE|BOOLEAN|DECIMAL.*", kind):
        value = f"CAST({value} AS DOUBLE)"
    elif kind == "DATE" or kind.startswith("TIMESTAMP"):
        value = f"CAST(epoch_ms(CAST({value} AS TIMESTAMP)) AS DOUBLE)"
    elif kind.endswith("]"):
        fixed = re.fullmatch(r"U?(TINY|SMALL|BIG)?INT(EGER)?\[\d+\]", kind)
        lists = _column(connection, view, f"CAST({value} AS {'BIGINT' if fixed else 'VARCHAR'}[])")
        return (
            _codes(lists)
            if fixed
            else _objects([None if v is None else [x for x in v if x is not None] for v in lists])
        )
    else:
        value = f"CAST({value} AS VARCHAR)"
        row = connection.execute(
            f"SELECT bool_and(regexp_full_match({value}, '{_CODES}')), bool_or(contains({value}, '|')) FROM {view}"
        ).fetchone()
        assert row is not None
        if row[0]:
            return _codes(_column(connection, view, f"CAST(regexp_extract_all({value}, '\\d+') AS BIGINT[])"))
        if row[1]:
            return _objects(_column(connection, view, f"list_filter(string_split({value}, '|'), lambda x: x <> '')"))
        return _objects(_column(connection, view, value))
    return fetch(connection, f"SELECT {value} AS value FROM {view} ORDER BY rowid")["value"]


def _column(connection: duckdb.DuckDBPyConnection, view: str, value: str) -> list:
    return [row[0] for row in connection.execute(f"SELECT {value} FROM {view} ORDER BY rowid").fetchall()]


def _codes(lists: list) -> np.ndarray:
    """(n, longest) int64 of lists of integers, filled with NO_CODE on the right."""
    table = np.full((len(lists), max((len(codes) for codes in lists if codes), default=1)), NO_CODE, np.int64)
    for row, codes in enumerate(lists):
        table[row, : len(codes or ())] = codes or ()
    return table


def _objects(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _spread(values: np.ndarray, position: np.ndarray, size: int) -> np.ndarray:
    """`values` at `position` in an array of `size` rows, the other rows missing."""
    empty = {"f": np.nan, "i": NO_CODE}.get(values.dtype.kind)
    spread = np.full((size, *values.shape[1:]), empty, values.dtype)
    spread[position] = values
    return spread
