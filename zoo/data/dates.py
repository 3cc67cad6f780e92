"""Dates of the options, and the milliseconds that everything is counted in."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from config import ConfigError


def to_milliseconds(date: str, option: str) -> int:
    """Milliseconds since 1970 (UTC unless the date names a zone) of a date such as 2024-01-31 or 2024-01-31T12:00.

    `day 1082` is the midnight that many days after 1970-01-01, the day 0 of logs that do not say when theirs was.

    Raises:
        ConfigError: the text is no date; the message names `option`.
    """
    if day := re.fullmatch(r"day (\d{1,5})", date.strip()):
        return int(day[1]) * 24 * 60 * 60 * 1000
    try:
        if not date[:4].isdigit():  # pandas also knows "now", "today" and "NaT": no two runs would agree
            raise ValueError(date)
        stamp = pd.Timestamp(date)
        if stamp.tzinfo is not None:
            stamp = stamp.tz_convert(None)
        return int(stamp.to_datetime64().astype("datetime64[ms]").astype(np.int64))
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{option}={date!r}: not a date; write 2024-01-31, 2024-01-31T12:00 or day 1082") from None


def to_text(milliseconds: int) -> str:
    """A point in time for people, in UTC."""
    return str(np.datetime64(int(milliseconds), "ms")).replace("T", " ")[:19]
