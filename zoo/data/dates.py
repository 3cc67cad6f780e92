"""Dates of the options, and the milliseconds that everything is counted in."""

from __future__ import annotations

import numpy as np
import pandas as pd

from config import ConfigError


def to_milliseconds(date: str, option: str) -> int:
    """Milliseconds since 1970 (UTC unless the date names a zone) of a date such as 2024-01-31 or 2024-01-31T12:00.

    Raises:
        ConfigError: the text is no date; the message names `option`.
    """
    try:
        if not date[:4].isdigit():  # pandas also knows "now", "today" and "NaT": no two runs would agree
            raise ValueError(date)
        stamp = pd.Timestamp(date)
        if stamp.tzinfo is not None:
            stamp = stamp.tz_convert(None)
        return int(stamp.to_datetime64().astype("datetime64[ms]").astype(np.int64))
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{option}={date!r}: not a date; write 2024-01-31 or 2024-01-31T12:00") from None


def to_text(milliseconds: int) -> str:
    """A point in time for people, in UTC."""
    return str(np.datetime64(int(milliseconds), "ms")).replace("T", " ")[:19]
