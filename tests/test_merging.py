import numpy as np
import pytest

from zoo import merging
from zoo.data.dataset import DataError
from zoo.merging import merge

pytestmark = pytest.mark.once

CLIENTS = np.array([30, 10, 20, 40])


def block(rng, ids, width, scale=1.0, shift=0.0, dtype=np.float32):
    ids = rng.permutation(ids)
    return ids, (rng.standard_normal((len(ids), width)) * scale + shift).astype(dtype)


def standardized(values):
    return np.clip((values - values.mean(axis=0)) / values.std(axis=0), -5, 5)


def test_blocks_stand_side_by_side_in_the_order_of_the_clients():
    rng = np.random.default_rng(0)
    blocks = [block(rng, np.arange(10, 60, 10), 3, 100, 7), block(rng, CLIENTS, 5, 1e-3)]
    merged = merge(blocks, CLIENTS, np.float64)
    assert merged.shape == (4, 8)
    start = 0
    for ids, vectors in blocks:
        rows = [ids.tolist().index(client) for client in CLIENTS]
        width = vectors.shape[1]
        mine = merged[:, start : start + width]
        expected = standardized(vectors[rows].astype(np.float64)) * 0.3 / np.sqrt(2 * width)
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
        assert np.square(mine).sum(axis=1).mean() == pytest.approx(0.3**2 / 2)  # the same part for each block
        start += width
    assert merge(blocks, CLIENTS).dtype == np.float16


def test_many_clients_are_worked_on_in_pieces(monkeypatch):
    rng = np.random.default_rng(1)
    blocks = [block(rng, np.arange(50), 4, dtype=np.float16), block(rng, np.arange(45), 2)]
    whole = merge(blocks, np.arange(50))
    monkeypatch.setattr(merging, "CHUNK", 7)
    np.testing.assert_array_equal(merge(blocks, np.arange(50)), whole)


def test_a_client_that_a_block_lacks_gets_its_mean_and_is_counted():
    rng = np.random.default_rng(2)
    blocks = [block(rng, np.array([10, 20, 30]), 3), block(rng, np.array([10, 20, 30, 40, 50]), 2)]
    blocks[1][1][:, 1] = 7
    merged = merge(blocks, CLIENTS)
    assert not merged[3, :3].any() and merged[3, 3] and not merged[:, 4].any()
    assert merging.notes(blocks, CLIENTS) == (
        "block 1: 1 of 4 clients are not in it; they get its mean",
        "block 2: nobody asks for 1 of its 5 clients; they are left out",
        "block 2: 1 of 2 columns are the same for all clients",
    )


def test_outliers_and_huge_numbers_fit_float16():
    rng = np.random.default_rng(3)
    ids, vectors = block(rng, np.arange(1000), 2, 1e30)
    vectors[5] = 1e34
    merged = merge([(ids, vectors), block(rng, np.arange(1000), 2046)], np.arange(1000))
    assert merged.shape == (1000, 2048) and np.isfinite(merged).all()
    assert 0.5 < np.abs(merged).max() < 1.1  # five deviations of the narrow block's columns


def test_ids_may_be_text_and_one_client_is_enough():
    names = np.array(["b", "a"], object)
    merged = merge([(np.array(["a", "b"]), np.array([[1.0], [3.0]]))], names)
    assert merged.tolist() == [[np.float16(0.3)], [-np.float16(0.3)]]
    assert merge([(np.array([4]), np.array([[2.5, 1]]))], np.array([4])).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "no embeddings to merge"),
        ([(CLIENTS, np.zeros((4, 1500))), (CLIENTS, np.zeros((4, 600)))], r"1500 \+ 600 = 2,100 wide"),
        ([(CLIENTS, np.zeros(4))], "wanted"),
        ([(CLIENTS, np.zeros((3, 2)))], "wanted"),
        ([(CLIENTS, np.zeros((4, 0)))], "d at least 1"),
        ([(np.array([10, 10]), np.zeros((2, 2)))], "client 10 comes 2 times"),
        ([(np.array([1, 2]), np.zeros((2, 2)))], "none of its 2 clients"),
        ([(CLIENTS, np.full((4, 2), np.nan))], "block 1: a number is not finite"),
        ([(CLIENTS, np.array([[np.inf], [-np.inf], [0], [0]]))], "not finite"),
    ],
)
def test_what_cannot_be_merged_is_said_in_one_line(blocks, message):
    with pytest.raises(DataError, match=message) as error:
        merge(blocks, CLIENTS)
    assert "\n" not in str(error.value)
