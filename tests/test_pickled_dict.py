"""Foreign pickles: plain dictionaries are read, everything else is refused in a line, and nothing in them runs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import load


def read(path: Path, layout="auto") -> Dataset:
    return load(DataConfig(path=str(path), layout=layout))


def history(dataset: Dataset, user) -> list:
    row = int(np.flatnonzero(dataset.users.ids == user)[0])
    return dataset.items.ids[dataset.events.item[dataset.events.user == row]].tolist()


def test_a_pickled_dictionary(tmp_path):
    histories = defaultdict(list, {7: [3, 1], 5: (2,), 9: np.array([1, 2])})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"log{protocol}.pkl"
        path.write_bytes(pickle.dumps(histories, protocol))
        dataset = read(path)
        assert [history(dataset, user) for user in (7, 5, 9)] == [[3, 1], [2], [1, 2]]
    zipped = tmp_path / "log.pkl.gz"
    zipped.write_bytes(gzip.compress(pickle.dumps({"é": ["007"], "b": ["8", "9"]})))
    assert history(read(zipped), "é") == ["007"]
    mixed = tmp_path / "arrays.pkl"
    arrays = {1: np.array(["a", "é"]), 2: np.array(["b", "ccc"], object), 3: np.array(["a"], dtype=">U3")}
    mixed.write_bytes(pickle.dumps(arrays))
    assert [history(read(mixed), user) for user in (1, 2, 3)] == [["a", "é"], ["b", "ccc"], ["a"]]
    scalars = tmp_path / "scalars.pkl"
    scalars.write_bytes(pickle.dumps({np.int64(4): [np.int32(5), np.int64(6)], 5: [], 6: [5]}))
    dataset = read(scalars)
    assert dataset.users.ids.tolist() == [4, 6]
    assert history(dataset, 4) == [5, 6]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluated:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("attack", [Malicious, Evaluated])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_runs_nothing(tmp_path, attack, protocol):
    witness = tmp_path / "witness"
    path = tmp_path / "log.pkl"
    path.write_bytes(pickle.dumps({1: [attack(witness)]}, protocol))
    with pytest.raises(DataError, match="refused") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not witness.exists()


class Lying:
    """An array of objects whose content would be addresses: reading them would read any memory."""

    def __init__(self, arguments):
        self.arguments = arguments

    def __reduce__(self):
        return np.ndarray, self.arguments


class OutsidePickler(pickle.Pickler):
    def persistent_id(self, value):
        return "somewhere" if value == "item" else None


def test_no_way_round_the_list_of_names(tmp_path):
    structured = np.zeros(2, dtype=[("item", "i8")])
    outside = io.BytesIO()
    OutsidePickler(outside).dump({1: ["item"]})
    attacks = {
        b"cnumpy\nload\n.": "numpy.load",
        b"cbuiltins\ngetattr\n.": "builtins.getattr",
        b"c__builtin__\neval\n.": "__builtin__.eval",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\ndict\n(I0\ntS'b'\ntR.": "class dict",
        pickle.dumps({1: structured}): "type",
        pickle.dumps({1: np.zeros((2, 2))}): "shape",
        pickle.dumps({1: Lying(((1,), np.dtype("O"), b"12345678"))}): "not a readable pickle",
        outside.getvalue(): "outside object",
    }
    for number, (attack, wanted) in enumerate(attacks.items()):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(attack)
        with pytest.raises(DataError, match=wanted) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ([1, 2], "holds list"),
        ({}, "empty dictionary"),
        ({1: 5}, "user 1 has int"),
        ({1: [(2, 3)]}, r"item \(2, 3\)"),
        ({1: ["a", 2]}, "text like the others"),
        ({1: [1, "a"]}, "integers or text"),
        ({1: [2**70]}, "int64"),
        ({(1, 2): [3]}, "user"),
    ],
)
def test_a_pickle_of_something_else(tmp_path, content, wanted):
    path = tmp_path / "log.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=wanted) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_pickle(tmp_path):
    whole = pickle.dumps({n: [n, n + 1] for n in range(200)})
    for size in (0, 1, 10, len(whole) // 2):
        path = tmp_path / "log.pkl"
        path.write_bytes(whole[:size])
        with pytest.raises(DataError) as caught:
            read(path, layout="pickled_dict")
        assert "\n" not in str(caught.value)
