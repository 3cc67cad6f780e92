"""Times of any form to int64 milliseconds since 1970 (UTC), in SQL."""

from __future__ import annotations

import duckdb

from zoo.data.dataset import DataError

# A number is in the unit that its magnitude tells: (unit, smallest magnitude, milliseconds in one). Seconds reach the
# year 5138, milliseconds start in 1973, and so on.
UNITS = (
    ("seconds", 0, 1e3),
    ("milliseconds", 10**11, 1.0),
    ("microseconds", 10**14, 1e-3),
    ("nanoseconds", 10**17, 1e-6),
)
# Units are told apart row by row only where every number, in its own unit, lies between 1990 and 2100.
_PLAUSIBLE_MILLISECONDS = (631_152_000_000, 4_102_444_800_000)


class RowError(DataError):
    """A value that cannot be used, in the data row `row`, counted from 1."""

    def __init__(self, name: str, row: int, problem: str):
        super().__init__(f"{name}, row {row:,}: {problem}")
        self.row, self.problem = row, problem


def to_milliseconds(connection: duckdb.DuckDBPyConnection, kind: str, name: str) -> tuple[str, list[str]]:
    """SQL that turns the column `timestamp` of the table `log`, of the SQL type `kind`, into milliseconds; and notes.

    Integers and floats are seconds, milliseconds, microseconds or nanoseconds by the magnitude of the largest; where
    a column mixes units, each number is read by its own, and a note says so. Integers that are all of the form
    20240131 are days. Text holds such numbers, or ISO dates and date-times, as its first row does, in UTC unless they
    name a zone; a date without a time is its midnight.

    Raises:
        RowError: a time that is missing, unreadable or before 1970.
    """
    notes: list[str] = []
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        value = f"epoch_ms(CAST(timestamp AS {'TIMESTAMPTZ' if kind.endswith('ZONE') else 'TIMESTAMP'}))"
    elif kind == "VARCHAR":
        row = connection.execute(
            "SELECT TRY_CAST(first(timestamp) AS DOUBLE) IS NOT NULL, "
            r"bool_and(regexp_full_match(timestamp, '\s*-?[0-9]{1,18}\s*')), "
            "count(*) FILTER (WHERE length(trim(timestamp)) <= 10), count(*) FROM log WHERE timestamp IS NOT NULL"
        ).fetchone()
        assert row is not None
        numeric, exact, days, total = row
        if numeric:
            value, notes = _by_magnitude(connection, f"TRY_CAST(timestamp AS {'BIGINT' if exact else 'DOUBLE'})", exact)
        else:
            value = "epoch_ms(TRY_CAST(timestamp AS TIMESTAMPTZ))"
            if 0 < days < total:
                notes.append(f"{days:,} of {total:,} timestamps are dates without a time: read as midnight UTC")
    elif "INT" in kind or kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        exact = "INT" in kind
        value, notes = _by_magnitude(connection, f"CAST(timestamp AS {'BIGINT' if exact else 'DOUBLE'})", exact)
    else:
        raise DataError(f"{name}: timestamp is of the type {kind}; wanted a number, a date, or text that holds one")
    bad = connection.execute(
        f"SELECT rowid + 1, CAST(timestamp AS VARCHAR) FROM log WHERE coalesce(({value}) < 0, true) "
        "ORDER BY rowid LIMIT 1"
    ).fetchone()
    if bad:
        raise RowError(name, bad[0], _problem(bad[1], kind))
    return value, notes


def _problem(text: str | None, kind: str) -> str:
    if text is None:
        return "timestamp is missing; fill it, drop the row, or leave the column out with data.query"
    if kind == "VARCHAR":
        return (
            f"timestamp {text!r} is no time after 1970; write 2024-01-31 12:00:00 or seconds since 1970, or parse it: "
            "data.query=\"SELECT ..., strptime(TIME, '%d.%m.%Y %H:%M') AS timestamp FROM data\""
        )
    return f"timestamp {text} is negative or no time; wanted a time after 1970"


def _by_magnitude(connection: duckdb.DuckDBPyConnection, number: str, exact: bool) -> tuple[str, list[str]]:
    """SQL of a number as milliseconds, and a note where the column mixes units."""
    if exact and (days := _calendar_days(connection, number)):
        return days, ["timestamps such as 20240131 are read as days, at midnight UTC"]
    finite = number if exact else f"CASE WHEN isfinite({number}) THEN {number} END"
    counts, plausible, cases = [], [], []
    for position, (_, smallest, scale) in enumerate(UNITS):
        inside = f"abs({finite}) >= {smallest}"
        if position + 1 < len(UNITS):
            inside += f" AND abs({finite}) < {UNITS[position + 1][1]}"
        low, high = (round(bound / scale) for bound in _PLAUSIBLE_MILLISECONDS)
        counts.append(f"count(*) FILTER (WHERE {inside})")
        plausible.append(f"count(*) FILTER (WHERE {inside} AND {finite} BETWEEN {low} AND {high})")
        cases.append(f"WHEN {inside} THEN {_scaled(finite, scale, exact)}")
    row = connection.execute(f"SELECT {', '.join(counts + plausible)} FROM log").fetchone()
    assert row is not None
    found = [position for position in range(len(UNITS)) if row[position]]
    if len(found) > 1 and row[: len(UNITS)] == row[len(UNITS) :]:
        mixed = ", ".join(f"{row[position]:,} {UNITS[position][0]}" for position in found)
        return f"CASE {' '.join(cases)} END", [f"timestamps mix units ({mixed}): each read by its own magnitude"]
    scale = UNITS[found[-1]][2] if found else 1.0
    return _scaled(finite, scale, exact), []


def _calendar_days(connection: duckdb.DuckDBPyConnection, number: str) -> str | None:
    """SQL of numbers such as 20240131 as milliseconds, where all are such days (as seconds they lie in 1970)."""
    row = connection.execute(f"SELECT min({number}) >= 19000101 AND max({number}) <= 21001231 FROM log").fetchone()
    if not row or not row[0]:
        return None
    day = f"try_strptime(CAST({number} AS VARCHAR), '%Y%m%d')"
    row = connection.execute(f"SELECT bool_and({day} IS NOT NULL) FROM log").fetchone()
    return f"epoch_ms({day})" if row and row[0] else None


def _scaled(number: str, scale: float, exact: bool) -> str:
    """SQL of `number * scale` in whole milliseconds; integers are cut, floats rounded."""
    if exact:
        return f"{number} * {round(scale)}" if scale >= 1 else f"{number} // {round(1 / scale)}"
    return f"CAST(round({number} * {scale!r}) AS BIGINT)"
