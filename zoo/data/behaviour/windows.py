"""Which time is input and which is target: the official splitter's two windows, and cut-offs inside the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.data import dates
from zoo.data.behaviour.log import BUY, DAY, BehaviourLog
from zoo.data.dataset import DataError


@dataclass(frozen=True)
class Windows:
    """Half-open times in milliseconds: what lies before `start` is input, then come two windows of targets.

    Source: `data_utils.split_data` of the RecSys Challenge 2025.
    """

    start: int
    middle: int
    end: int

    @property
    def train(self) -> tuple[int, int]:
        """Targets that a judge's probe learns from."""
        return self.start, self.middle

    @property
    def validation(self) -> tuple[int, int]:
        """Targets that it is measured on."""
        return self.middle, self.end

    def summary(self) -> str:
        """One line for people."""
        start, middle, end = (dates.to_text(time) for time in (self.start, self.middle, self.end))
        return f"input before {start}, targets to learn from before {middle}, targets to predict before {end}"


def official(log: BehaviourLog, days: int) -> Windows:
    """The two windows of `days` days that end with the last purchase; the first begins at midnight.

    Raises:
        DataError: no purchases, or nothing lies before the windows.
    """
    buys = log.time[log.kind == BUY]
    if not len(buys):
        raise DataError(f"{log.name}: no purchases; windows of targets end with the last one")
    last = int(buys.max())
    start = (last - (2 * days - 1) * DAY) // DAY * DAY
    earliest = int(log.time.min())
    if start <= earliest:
        raise DataError(
            f"{log.name}: two windows of {days} days before the last purchase leave no input: the log begins "
            f"{dates.to_text(earliest)}; set behaviour.window_days lower"
        )
    if not ((buys >= start) & (buys < start + days * DAY)).any():
        raise DataError(
            f"{log.name}: no purchase between {dates.to_text(start)} and {dates.to_text(start + days * DAY)}: "
            "nothing to learn from; set behaviour.window_days higher"
        )
    return Windows(start, start + days * DAY, last + 1)


def cut_offs(log: BehaviourLog, end: int, days: int, most: int, step: int) -> np.ndarray:
    """Times, latest first, each with a window of `days` days behind it that ends by `end`, and some log before it.

    Supervised labels come from here: nothing at or after `end` is ever seen.

    Args:
        end: milliseconds; the start of the targets.
        most: so many cut-offs at most.
        step: days between two.

    Raises:
        DataError: there is no room for any.
    """
    earliest = int(log.time.min())
    cuts = end - days * DAY - np.arange(most, dtype=np.int64) * step * DAY
    # At least a window of input, or half of what there is where that is less.
    room = min(days * DAY, (end - days * DAY - earliest) // 2)
    cuts = cuts[cuts >= earliest + max(room, 1)]
    if not len(cuts):
        raise DataError(
            f"{log.name}: its input is too short for labels of {days} days inside it (it begins "
            f"{dates.to_text(earliest)} and ends {dates.to_text(end)}); set behaviour.window_days lower"
        )
    return cuts
