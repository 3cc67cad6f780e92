"""Arrays of Python objects in files: numbers and text are read, all else is refused, and nothing in them runs."""

import numpy as np
import pytest

from tests.test_pickled_dict import Evaluated, Malicious
from zoo.data.dataset import DataError
from zoo.data.sources.unpickling import load_array

pytestmark = pytest.mark.once


def saved(path, values):
    np.save(path, np.array(values, object), allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("values", "kind"),
    [([3, 10], "i"), ([np.int64(3), np.int32(10)], "i"), ([0.5, 2], "f"), (["b", "é"], "U"), ([], "f")],
)
def test_objects_become_numbers_or_text(tmp_path, values, kind):
    found = load_array(saved(tmp_path / "array.npy", values))
    assert found.tolist() == values and found.dtype.kind == kind


def test_plain_arrays_stay_as_they_are(tmp_path):
    for array in (np.arange(6, dtype=np.int16).reshape(2, 3), np.array(["a", "bc"]), np.array([[0.5]], np.float32)):
        np.save(tmp_path / "array.npy", array)
        found = load_array(tmp_path / "array.npy")
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


@pytest.mark.parametrize("attack", [Malicious, Evaluated])
def test_a_malicious_array_runs_nothing(tmp_path, attack):
    witness = tmp_path / "witness"
    with pytest.raises(DataError, match="refused") as caught:
        load_array(saved(tmp_path / "array.npy", [1, attack(witness)]))
    assert "\n" not in str(caught.value) and not witness.exists()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, "a"], "type int, str; wanted"),
        ([1, None], "type NoneType, int; wanted"),
        ([True], "type bool; wanted"),
        ([[1], [2, 3]], "type list; wanted"),
        ([2**70], "numbers of 64 bits"),
        ([[1, 2], [3, 4]], r"array of the shape \(2, 2\)"),
    ],
)
def test_an_array_of_something_else(tmp_path, values, wanted):
    with pytest.raises(DataError, match=wanted) as caught:
        load_array(saved(tmp_path / "array.npy", values))
    assert "\n" not in str(caught.value) and "array.npy" in str(caught.value)


def test_a_damaged_array(tmp_path):
    path = saved(tmp_path / "array.npy", list(range(50)))
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:40], whole[:130], whole[:-3], whole[128:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a") as caught:
            load_array(path)
        assert "\n" not in str(caught.value)
