"""Times of any form to int64 milliseconds since 1970 (UTC), in SQL."""

from __future__ import annotations

import duckdb

from zoo.data.dataset import DataError

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
# A number is read in the largest unit that keeps it before the year 5138: (unit, first magnitude, to milliseconds).
UNITS = (("seconds", 0.0, 1e3), ("milliseconds", 1e11, 1.0), ("microseconds", 1e14, 1e-3), ("nanoseconds", 1e17, 1e-6))
# Numbers of different units in one column are taken apart only where each, in its own unit, lies in 1990-2100.
_PLAUSIBLE = (631_152_000.0, 4_102_444_800.0)


def to_milliseconds(
    connection: duckdb.DuckDBPyConnection, table: str, column: str, kind: str, name: str
) -> tuple[str, list[str]]:
    """SQL that turns `column` of `table` (of the SQL type `kind`) into int64 milliseconds, and notes on how.

    Integers and floats are seconds, milliseconds, microseconds or nanoseconds by their magnitude; text is either
    such a number or an ISO date or date-time (UTC where it names no zone); dates are their midnight.

    Raises:
        DataError: a time that is missing, unreadable or before 1970, with its row.
    """
    notes: list[str] = []
    if kind == "VARCHAR":
        numeric = _one(connection, f"SELECT bool_and(TRY_CAST({column} AS DOUBLE) IS NOT NULL) FROM {table}")
        if numeric:
            exact = _one(
                connection,
                f"SELECT bool_and(TRY_CAST({column} AS BIGINT) IS NOT NULL AND NOT contains({column}, '.')) FROM {table}",
            )
            kind = "BIGINT" if exact else "DOUBLE"
            value = f"CAST({column} AS {kind})"
        else:
            value = f"epoch_ms(TRY_CAST({column} AS TIMESTAMPTZ))"
            days = _one(connection, f"SELECT count(*) FILTER (WHERE length(trim({column})) <= 10) FROM {table}")
            total = _one(connection, f"SELECT count(*) FROM {table}")
            if 0 < days < total:
                notes.append(f"{days:,} of {total:,} timestamps are dates without a time and count as midnight UTC")
    elif kind == "DATE" or kind.startswith("TIMESTAMP"):
        value = f"epoch_ms(CAST({column} AS {'TIMESTAMPTZ' if kind.endswith('ZONE') else 'TIMESTAMP'}))"
    elif kind in _INTEGERS or kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        value = column
    else:
        raise DataError(f"{name}: timestamp is of the type {kind}; wanted a number, a date or text that holds one")
    if kind in _INTEGERS or kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        value, notes = _by_magnitude(connection, table, value, kind in _INTEGERS)
    bad = connection.execute(
        f"SELECT rowid + 1, CAST({column} AS VARCHAR) FROM {table} WHERE ({value}) IS NULL OR ({value}) < 0 "
        f"ORDER BY rowid LIMIT 1"
    ).fetchone()
    if bad:
        row, text = bad
        if text is None:
            problem = "timestamp is missing; fill it, drop the row, or leave the column out with data.query"
        elif kind == "VARCHAR":
            problem = (
                f"timestamp {text!r} is not a time after 1970; write 2024-01-31 12:00:00 or a number of seconds, or "
                "parse it with data.query=\"SELECT ..., strptime(TIME, '%d.%m.%Y %H:%M') AS timestamp FROM data\""
            )
        else:
            problem = f"timestamp {text} is negative or no time; wanted a time after 1970"
        raise DataError(f"{name}, row {row:,}: {problem}")
    return f"CAST({value} AS BIGINT)", notes


def _by_magnitude(connection: duckdb.DuckDBPyConnection, table: str, value: str, exact: bool) -> tuple[str, list[str]]:
    """SQL of a number in milliseconds, and a note where the column mixes units."""
    finite = value if exact else f"CASE WHEN isfinite(CAST({value} AS DOUBLE)) THEN {value} END"
    counts, plausible = [], []
    for position, (_, start, scale) in enumerate(UNITS):
        end = UNITS[position + 1][1] if position + 1 < len(UNITS) else float("inf")
        low, high = (bound * 1e3 / scale for bound in _PLAUSIBLE)
        inside = f"{finite} >= {start:.0f}" + (f" AND {finite} < {end:.0f}" if end != float("inf") else "")
        counts.append(f"count(*) FILTER (WHERE {inside})")
        plausible.append(f"count(*) FILTER (WHERE {inside} AND {finite} BETWEEN {low:.0f} AND {high:.0f})")
    row = connection.execute(f"SELECT {', '.join(counts + plausible)} FROM {table}").fetchone()
    assert row is not None
    found = [position for position in range(len(UNITS)) if row[position]]
    if len(found) > 1 and all(row[position] == row[position + len(UNITS)] for position in found):
        cases = " ".join(
            f"WHEN {finite} >= {UNITS[position][1]:.0f} THEN {_scaled(finite, UNITS[position][2], exact)}"
            for position in reversed(found)
        )
        mixed = ", ".join(f"{row[position]:,} {UNITS[position][0]}" for position in found)
        return f"CASE {cases} END", [f"timestamps mix units ({mixed}); each is read by its own magnitude"]
    unit = UNITS[found[-1]] if found else UNITS[0]
    return _scaled(finite, unit[2], exact), []


def _scaled(value: str, scale: float, exact: bool) -> str:
    if exact:
        wide = f"CAST({value} AS BIGINT)"
        return f"{wide} * {scale:.0f}" if scale >= 1 else f"{wide} // {1 / scale:.0f}"
    return f"CAST(round(CAST({value} AS DOUBLE) * {scale!r}) AS BIGINT)"


def _one(connection: duckdb.DuckDBPyConnection, sql: str):
    row = connection.execute(sql).fetchone()
    return row[0] if row else None
