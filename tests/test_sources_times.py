"""Times of a table: which forms are read, and in what unit numbers are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from config import Columns
from tests.test_sources_table import DAY, load, pairs
from zoo.data.dataset import Dataset

# ----------------------------------------------------------------------------------------------------- times

pytestmark = pytest.mark.usefixtures("own_cache")

INSTANT = pd.Timestamp("2020-03-01T12:34:56.789Z").value // 10**6


@pytest.mark.parametrize(
    "values, milliseconds",
    [
        ([0, 1_583_066_096], [0, 1_583_066_096_000]),
        ([1_583_066_096_789], [INSTANT]),
        ([INSTANT * 1000], [INSTANT]),
        ([INSTANT * 10**6], [INSTANT]),
        ([1_583_066_096.789], [INSTANT]),
        ([1_583_066_096_789.0], [INSTANT]),
        (["2020-03-01T12:34:56.789Z", "2020-03-01 13:34:56.789+01:00"], [INSTANT, INSTANT]),
        (["2020-03-01 12:34:56"], [INSTANT - 789]),
        (["2020-03-01", "2020/03/02"], [INSTANT // DAY * DAY, INSTANT // DAY * DAY + DAY]),
        ([" 1583066096 "], [INSTANT - 789]),
        (["1583066096.789"], [INSTANT]),
        ([pd.Timestamp("2020-03-01T12:34:56.789")], [INSTANT]),
        ([pd.Timestamp("2020-03-01T13:34:56.789+01:00")], [INSTANT]),
        ([pd.Timestamp("2020-03-01").date()], [INSTANT // DAY * DAY]),
        (np.array(["2020-03-01T12:34:56.789"], "datetime64[s]"), [INSTANT - 789]),
        (np.array(["2020-03-01T12:34:56.789"], "datetime64[ns]"), [INSTANT]),
    ],
)
def test_times_become_milliseconds(values, milliseconds):
    dataset = Dataset.from_frame(pd.DataFrame({"user": 1, "item": range(len(values)), "time": values}))
    assert dataset.events.timestamp.dtype == np.int64
    assert dataset.events.timestamp.tolist() == milliseconds
    assert dataset.notes == ()


def test_mixed_precision_is_read_and_stated():
    frame = pd.DataFrame({"user": 1, "item": range(3), "ts": [1_583_066_096, 1_583_066_096_789, 1_583_066_097]})
    dataset = Dataset.from_frame(frame)
    assert dataset.events.timestamp.tolist() == [INSTANT - 789, INSTANT, INSTANT - 789 + 1000]
    assert dataset.notes == ("timestamps mix units (2 seconds, 1 milliseconds): each read by its own magnitude",)
    frame = pd.DataFrame({"user": 1, "item": range(2), "ts": ["2020-03-01", "2020-03-01 12:00:00"]})
    assert "1 of 2 timestamps are dates without a time" in Dataset.from_frame(frame).notes[0]


def test_numbers_that_can_be_no_time_are_told_of(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("user,item,paid\n1,2,95\n1,3,12\n")
    assert load(file, columns=Columns(timestamp="paid")).notes == (
        "paid is read as a time, the newest of 1970; if it is none, name the right column with data.columns.timestamp, "
        "or set that to null",
    )


def test_days_written_as_numbers():
    frame = pd.DataFrame({"user": 1, "item": range(2), "date": [20200301, 20200302]})
    dataset = Dataset.from_frame(frame)
    assert dataset.events.timestamp.tolist() == [INSTANT // DAY * DAY, INSTANT // DAY * DAY + DAY]
    assert dataset.notes == ("timestamps such as 20240131 are read as days, at midnight UTC",)
    dataset = Dataset.from_frame(frame.assign(date=[20200301, 20209999]))  # no days, so seconds
    assert dataset.events.timestamp.tolist() == [20200301_000, 20209999_000]


def test_small_and_large_numbers_of_one_clock_keep_their_order():
    # Milliseconds since an epoch of one's own: small ones must not be taken for seconds.
    times = [0, 5_000, 200_000_000_000]
    dataset = Dataset.from_frame(pd.DataFrame({"user": 1, "item": range(3), "ts": times}), clock="relative")
    assert dataset.events.timestamp.tolist() == times
    assert dataset.clock == "relative"


def test_without_times_the_order_of_the_file_counts():
    dataset = Dataset.from_frame(pd.DataFrame({"user": [2, 1, 2], "item": [9, 8, 7]}))
    assert dataset.clock == "order"
    assert dataset.events.timestamp is None
    assert pairs(dataset) == [(1, 8), (2, 9), (2, 7)]
