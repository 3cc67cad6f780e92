"""What a table that cannot be read is told: one line, which names file, row and cure."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.test_sources_table import FRAME, error_of, write
from zoo.data.dataset import DataError, Dataset

pytestmark = pytest.mark.usefixtures("own_cache")


# ---------------------------------------------------------------------------------------------------- bad input


def test_missing_files_are_named_with_the_nearest(tmp_path):
    write(tmp_path, "orders.csv", "user,item\n1,2\n")
    assert "no such file or folder; did you mean" in error_of(tmp_path / "ordres.csv")
    assert "no file matches" in error_of(tmp_path / "*.parquet")
    (tmp_path / "empty").mkdir()
    assert "holds no table" in error_of(tmp_path / "empty")
    assert "the file is empty" in error_of(write(tmp_path, "empty.csv", ""))
    assert "the file is empty" in error_of(write(tmp_path, "none.csv.gz", ""))


LONG = "user,item\n" + "".join(f"{random.Random(i).random()},{i}\n" for i in range(5000))
BAD = {
    "header only": ("log.csv", "user,item\n", "no rows"),
    "wrong delimiter": ("log.csv", "user#item\n1#2\n", "line 1 is one column, 'user#item'"),
    "no header": ("log.tsv", "196\t242\t3\n1\t2\t3\n", "no user column among '196', '242', '3'"),
    "column twice": ("log.csv", "user,item,User\n1,2,3\n", "names the column 'User' twice"),
    "too many fields": (
        "log.csv",
        "user,item\n1,2\n1,2,3\n",
        "log.csv: line 3: the number of fields is 3 and 2 in the",
    ),
    "too few fields": ("log.csv", "user,item\n1,2\n1\n", "log.csv: line 3: the number of fields is 1"),
    "open quote": ("log.csv", 'user,item\n1,2\n1,"x\n2,3\n', "line 3: a quote is opened and not closed"),
    "mixed line ends": ("log.csv", "user,item\r\n1,2\n3,4\r\n", "lines end alike"),
    "bad time": ("log.csv", "user,item,time\n1,2,2020-01-01\n1,2,soon\n", "row 2: timestamp 'soon' is no time"),
    "german time": ("log.csv", "user,item,time\n1,2,31.01.2020\n", "row 1: timestamp '31.01.2020' is no time"),
    "no time": ("log.csv", "user,item,time\n1,2,5\n1,2,\n", "row 2: timestamp is missing"),
    "negative time": ("log.csv", "user,item,time\n1,2,5\n1,3,-5\n", "row 2: timestamp '-5' is no time after 1970"),
    "infinite time": ("log.csv", "user,item,time\n1,2,inf\n", "row 1: timestamp 'inf'"),
    "NaN score": ("log.csv", "user,item,score\n1,2,5\n1,3,nan\n", "row 2: score is 'nan'; wanted a finite number"),
    "infinite score": ("log.csv", "user,item,score\n1,2,-Infinity\n", "row 1: score is '-Infinity'"),
    "huge score": ("log.csv", "user,item,score\n1,2,1e300\n", "row 1: score is '1e300'"),
    "no number": ("log.csv", "user,item,rating\n1,2,good\n", "row 1: score is 'good'"),
    "no score": ("log.csv", "user,item,rating\n1,2,\n", "row 1: score is missing"),
    "bad price": ("log.csv", "user,item,price\n1,2,\n1,2,3 €\n", "row 2: price is '3 €'"),
    "no ids": ("log.csv", "user,item\n,2\n", "no row has both a user and an item"),
    "latin-1": ("log.csv", "user,item\n1,2\n1,é\n".encode("latin-1"), "line 3: not UTF-8; convert it first: iconv"),
    "latin-1 header": ("log.csv", "user,größe\n1,2\n".encode("latin-1"), "line 1: not UTF-8"),
    "UTF-16": ("log.csv", "user,item\n1,2\n".encode("utf-16"), "UTF-16"),
    "binary": ("log.csv", b"\x00\x01\x02", "binary data"),
    "truncated gzip": ("log.csv", gzip.compress(LONG.encode())[:9000], "gzip stream ends too early"),
    "truncated header": ("log.csv", gzip.compress(LONG.encode())[:12], "gzip stream ends too early"),
    "no parquet": ("log.parquet", "user,item\n1,2\n", "log.parquet"),
    "truncated parquet": ("log.parquet", b"PAR1" + b"\x07" * 99, "log.parquet"),
    "bad JSON": ("log.jsonl", '{"user": 1, "item": 2}\n{"user": 1,\n', "line 2: not valid JSON"),
    "latin-1 JSON": ("log.jsonl", '{"user": 1, "item": "é"}\n'.encode("latin-1"), "line 1: not UTF-8"),
    "mixed JSON ids": (
        "log.jsonl",
        '{"user": 1, "item": 2}\n{"user": null, "item": 2}\n{"user": "1", "item": 2}\n',
        'row 3: user id "1" is of another type',
    ),
    "JSON list ids": ("log.jsonl", '{"user": [1], "item": 2}\n', "user ids are of the type BIGINT[]"),
    "JSON no table": ("log.jsonl", "1\n2\n", "no user column among"),
}


@pytest.mark.parametrize("name, content, said", BAD.values(), ids=BAD.keys())
def test_bad_files(tmp_path, name, content, said):
    message = error_of(write(tmp_path, name, content))
    assert said in message
    assert "log." in message


@pytest.mark.parametrize(
    "column, values, said",
    [
        ("user", [1, "a"], "row 2: 'a' is a str and 1 a int; column 'user' must be of one type"),
        ("item", ["a", None, 2.5], "row 3: 2.5 is a float and 'a' a str; column 'item' must"),
        ("note", [object(), object()], "frame: no table can hold a object; column 'note' must"),
        ("user", [True, False], "user ids are of the type BOOLEAN"),
        ("item", pd.to_datetime(["2020-01-01", "2020-01-02"]), "item ids are of the type TIMESTAMP"),
        ("score", [1.0, np.inf], "row 2: score is 'inf'"),
        ("score", [1.0, np.nan], "row 2: score is missing"),
        ("time", [5, -1], "row 2: timestamp -1 is negative"),
        ("time", pd.to_datetime(["2020-01-01", None]), "row 2: timestamp is missing"),
        ("time", [True, False], "timestamp is of the type BOOLEAN"),
    ],
)
def test_bad_frames(column, values, said):
    frame = pd.DataFrame({"user": range(len(values)), "item": range(len(values)), column: values})
    with pytest.raises(DataError) as caught:
        Dataset.from_frame(frame)
    assert said in str(caught.value)


def test_the_row_of_an_error_is_that_of_its_file(tmp_path):
    write(tmp_path, "a.csv", "user,item,time\n" + "1,2,5\n" * 10)
    write(tmp_path, "b.csv", "user,item,time\n1,2,5\n1,2,x\n")
    assert error_of(tmp_path / "*.csv").startswith(f"{tmp_path / 'b.csv'}, row 2: timestamp 'x'")


def test_files_of_several_sorts_are_not_mixed(tmp_path):
    write(tmp_path, "a.csv", "user,item\n1,2\n")
    write(tmp_path, "b.csv", "item,user\n1,2\n")
    assert "differs from that of" in error_of(tmp_path)
    FRAME.to_parquet(tmp_path / "b.csv")
    assert "are of two kinds" in error_of(tmp_path)
    write(tmp_path, "b.csv", gzip.compress(b"user,item\n1,2\n"))
    assert "some files are gzip" in error_of(tmp_path)


def test_no_permission(tmp_path, monkeypatch):
    path = write(tmp_path, "log.csv", "user,item\n1,2\n")
    opened, walked = Path.open, os.walk

    def refuse(self, *arguments, **options):
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert f"{path}: no permission" in error_of(path)
    monkeypatch.setattr(Path, "open", opened)

    def refuse_folder(top, onerror=None):
        onerror(PermissionError(13, "Permission denied", str(top)))
        return walked(top)

    monkeypatch.setattr(os, "walk", refuse_folder)
    assert f"{tmp_path}: no permission" in error_of(tmp_path)
