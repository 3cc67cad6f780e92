"""Logs of several domains: put back into one order, or named one by one."""

import gzip
import pickle

import numpy as np
import pytest

from config import DataConfig
from zoo.data.dataset import DataError
from zoo.data.sources import layouts, load
from zoo.data.sources.trigrec import in_order

pytestmark = pytest.mark.once
SIDES = ([1, 2, 3, 4], [11, 12, 13, 14])
CROSS = ([11, 1, 12, 2, 13, 14], [11, 1, 12, 2, 3, 4])


def read(path, **options):
    return load(DataConfig(path=str(path), **options))


def told(dataset):
    """(user, domain, item) of every event, in order."""
    events, names = dataset.events, dataset.labels["domain"]
    domains = [names[code] for code in events.columns["domain"].tolist()]
    users, items = dataset.users.ids[events.user].tolist(), dataset.items.ids[events.item].tolist()
    return list(zip(users, domains, items, strict=True))


def test_two_merged_lists_make_one_order():
    events = in_order(SIDES, CROSS)
    assert events == [(1, 11, 1), (0, 1, 3), (1, 12, 5), (0, 2, 7), (0, 3, 8), (0, 4, 8), (1, 13, 8), (1, 14, 8)]
    known = in_order(SIDES, ([11, 1, 12, 13, 2, 14], [11, 1, 12, 2, 3, 4]))
    assert [item for _, item, _ in known] == [11, 1, 12, 13, 2, 3, 4, 14]
    assert [time for *_, time in known] == [1, 3, 5, 6, 7, 8, 8, 8]
    with pytest.raises(ValueError):
        in_order(SIDES, ([11, 1, 2, 12, 13, 14], CROSS[1]))
    with pytest.raises(ValueError):
        in_order(SIDES, (CROSS[0][:-1], CROSS[1]))


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "pkl"])
def test_trigrec(tmp_path, kind):
    files = {"food_all": SIDES[0], "kitchen_all": SIDES[1], "cross_f_train": CROSS[0], "cross_k_train": CROSS[1]}
    for name, items in files.items():
        path = tmp_path / f"{name}.{kind}"
        if kind == "pkl":
            path.write_bytes(pickle.dumps({0: items, 5: [item + 20 for item in items]}))
            continue
        lines = f"0\t{' '.join(map(str, items))}\n5\t{' '.join(str(item + 20) for item in items)}\n".encode()
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    assert layouts.recognise(str(tmp_path)) == "trigrec"
    dataset = read(tmp_path)
    expected = [(0, ("food", "kitchen")[domain], item) for domain, item, _ in in_order(SIDES, CROSS)]
    assert told(dataset)[:8] == expected
    assert [item - 20 for *_, item in told(dataset)[8:]] == [item for *_, item in expected]
    assert dataset.clock == "relative" and dataset.events.timestamp[:8].tolist() == [
        1000, 3000, 5000, 7000, 8000, 8000, 8000, 8000,
    ]  # fmt: skip
    if kind == "txt":
        (tmp_path / "food_all.txt").write_text("0\t1 2 3 9\n5\t21 22 23 24\n")
        with pytest.raises(DataError, match="sequence 0 is not the same in its four files"):
            read(tmp_path)
        (tmp_path / "food_all.txt").write_text("0 1 2 3\n")
        with pytest.raises(DataError, match=r"food_all.txt, line 1: '0 1 2 3'; wanted"):
            read(tmp_path)
        (tmp_path / "cross_f_train.txt").unlink()
        with pytest.raises(DataError, match=r"cross_f_train.txt: missing"):
            read(tmp_path, layout="trigrec")


def test_tricdr(tmp_path):
    (tmp_path / "toy.txt").write_text("7\t1 3\n9\t2\n")
    (tmp_path / "game.txt").write_text("7\t2 1\n9\t1\n")
    (tmp_path / "mix.txt").write_text("7\t1 5 4 3\n9\t2 4\n")
    assert layouts.recognise(str(tmp_path)) == "tricdr"
    assert told(read(tmp_path)) == [
        (7, "toy", 1), (7, "game", 5), (7, "game", 4), (7, "toy", 3), (9, "toy", 2), (9, "game", 4),
    ]  # fmt: skip
    (tmp_path / "mix.txt").write_text("7\t1 5 4 3\n9\t2 5\n")
    with pytest.raises(DataError, match="mix does not hold the items of game and toy"):
        read(tmp_path)


def test_several_logs_with_one_clock(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,time\n1,x,1700000000\n1,y,1700000300\n2,x,1700000000\n")
    (tmp_path / "b.csv").write_text("user,item,time\n1,z,1700000100\n3,z,1700000000\n")
    dataset = read(f"food={tmp_path / 'a.csv'},kitchen={tmp_path / 'b.csv'}")
    assert told(dataset) == [
        (1, "food", "x"), (1, "kitchen", "z"), (1, "food", "y"), (2, "food", "x"), (3, "kitchen", "z"),
    ]  # fmt: skip
    assert dataset.clock == "global" and dataset.name == "food+kitchen" and not dataset.notes
    features = tmp_path / "items.csv"
    features.write_text("item,colour\nx,red\nz,blue\n")
    dataset = read(f"food={tmp_path / 'a.csv'},kitchen={tmp_path / 'b.csv'}", items=str(features))
    assert dataset.items.columns["colour"].tolist() == ["red", None, "blue"]


def test_several_logs_without_times_or_with_the_same_ids(tmp_path):
    (tmp_path / "a.txt").write_text("1 5\n1 6\n2 5\n")
    (tmp_path / "b.txt").write_text("1 5\n2 8\n")
    dataset = read(f"b={tmp_path / 'b.txt'},a={tmp_path / 'a.txt'}")
    assert told(dataset) == [(1, "b", "b:5"), (1, "a", "a:5"), (1, "a", "a:6"), (2, "b", "b:8"), (2, "a", "a:5")]
    assert dataset.clock == "order" and "no common clock" in dataset.notes[-1]
    assert np.array_equal(dataset.users.ids, [1, 2])


def test_a_folder_may_bear_a_sign_of_equality(tmp_path, monkeypatch):
    (tmp_path / "year=2024").mkdir()
    (tmp_path / "year=2024" / "a.csv").write_text("user,item\n1,5\n2,6\n")
    monkeypatch.chdir(tmp_path)
    assert len(read("year=2024/*.csv").events) == 2


def test_several_logs_that_do_not_fit(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\n1,5\n2,5\n")
    (tmp_path / "b.csv").write_text("user,item\nann,5\nbob,8\n")
    with pytest.raises(DataError, match=r"user ids are int64 in a, string in b"):
        read(f"a={tmp_path / 'a.csv'},b={tmp_path / 'b.csv'}")
    with pytest.raises(DataError, match=r"'b\.csv' has no name"):
        read(f"a={tmp_path / 'a.csv'},b.csv")
    with pytest.raises(DataError, match="two logs are named a"):
        read(f"a={tmp_path / 'a.csv'},a={tmp_path / 'b.csv'}")
    with pytest.raises(DataError, match=r"nowhere.csv"):
        read(f"a={tmp_path / 'a.csv'},b={tmp_path / 'nowhere.csv'}")
