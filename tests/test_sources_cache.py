"""Tables that were read once come from the cache, as they were."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from config import Columns
from tests.test_sources_table import load, write
from zoo.data import sources
from zoo.data.dataset import Dataset
from zoo.data.sources import cache

pytestmark = pytest.mark.usefixtures("own_cache")


# -------------------------------------------------------------------------------------------------------- cache


def same(one: Dataset, other: Dataset) -> None:
    assert one.sha256() == other.sha256()
    assert (one.clock, one.labels, one.name, one.notes) == (other.clock, other.labels, other.name, other.notes)
    for name, column in one.events.columns.items():
        np.testing.assert_array_equal(column, other.events.columns[name])
    for left, right in ((one.users, other.users), (one.items, other.items)):
        assert left.ids.dtype == right.ids.dtype
        assert list(left.columns) == list(right.columns)
        for name, column in left.columns.items():
            np.testing.assert_array_equal(column, right.columns[name])
            assert column.dtype == right.columns[name].dtype


def test_cache_gives_the_same_memory_mapped(tmp_path, monkeypatch):
    log = write(tmp_path, "log.csv", "user,item,time,action\né,1,5,view\n,1,5,view\nb,2,4,buy\n")
    items = write(tmp_path, "items.csv", "item,tags,codes,title\n1,a|b,[1 2],x\n3,c,[3 4],\n")
    plain = load(log, items=str(items))
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    first = load(log, items=str(items))
    assert isinstance(first.events.user, np.memmap)
    monkeypatch.setattr(sources, "_read", None)  # the second time nothing is read
    second = load(log, items=str(items))
    same(plain, first)
    same(plain, second)
    with pytest.raises(ValueError, match="read-only"):
        second.events.user[0] = 1


def test_cache_is_keyed_by_content_and_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    path = write(tmp_path, "log.csv", "user,item,buyer\n1,2,x\n2,3,y\n")
    stamp = path.stat().st_mtime_ns
    assert load(path).users.ids.tolist() == [1, 2]
    assert load(path, columns=Columns(user="buyer")).users.ids.tolist() == ["x", "y"]
    write(tmp_path, "log.csv", "user,item,buyer\n5,2,x\n2,3,y\n")
    os.utime(path, ns=(stamp, stamp))
    assert load(path).users.ids.tolist() == [2, 5]


def test_what_is_long_unused_leaves_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    old, used, new = (write(tmp_path, f"{name}.csv", f"user,item\n1,{name}\n") for name in ("old", "used", "new"))
    entries = tmp_path / "cache" / "recommender-zoo" / "datasets"
    load(old), load(used)
    (entries / "new-killed").mkdir()
    for entry in entries.iterdir():
        record = entry / "dataset.json"
        os.utime(record if record.exists() else entry, (0, 0))
    load(used)
    load(new)
    assert sorted(json.loads((entry / "dataset.json").read_text())["name"] for entry in entries.iterdir()) == [
        "new.csv",
        "used.csv",
    ]
    assert load(old).name == "old.csv"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "MIN_BYTES", 0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    dataset = load(write(tmp_path, "log.csv", "user,item\n1,2\n2,3\n"), cache_dir=str(tmp_path / "small"))
    assert dataset.num_users == 2
    assert "not cached" in capsys.readouterr().err
    assert list((tmp_path / "small" / "datasets").iterdir()) == []
