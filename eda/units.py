"""Units: numbers, shares, durations and dates as people write them."""

from __future__ import annotations

import numpy as np

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000  # milliseconds
YEAR = 365.25 * DAY


def count(value: float) -> str:
    """`1234.5` as `1,234`; below ten one decimal is kept where there is one."""
    if abs(value) < 10 and value != round(value):
        return f"{value:.1f}"
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """`12345` as `12k`: three digits at most, for labels on a bar."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """`0.1234` as `12.3%`; small shares keep two digits, and only nothing at all is `0%`."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    value = 100 * share
    if value < 0.01:
        return "less than 0.01%"
    if value < 1:
        return f"{value:.2g}%"
    if 99.9 < value < 100:
        return "more than 99.9%"
    return f"{value:.1f}%" if value < 100 else f"{value:,.0f}%"


def duration(milliseconds: float) -> str:
    """`5400000` as `1.5 hours`."""
    if milliseconds == 0:
        return "none"
    for size, name in ((YEAR, "year"), (DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (SECOND, "second")):
        if milliseconds >= size:
            value = milliseconds / size
            text = f"{value:.0f}" if value >= 10 or round(value, 1) == round(value) else f"{value:.1f}"
            return f"{text} {name}" if text == "1" else f"{text} {name}s"
    return f"{milliseconds:.0f} ms"


def date(milliseconds: int, with_time: bool = False) -> str:
    """Milliseconds since 1970 (UTC) as `2011-12-09`, or `2011-12-09 12:50`."""
    stamp = np.datetime64(int(milliseconds), "ms")
    return str(stamp.astype("datetime64[m]")).replace("T", " ") if with_time else str(stamp.astype("datetime64[D]"))


def plural(number: float, noun: str) -> str:
    """`1 user`, `2 users`, `2.5 users`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"
