"""Rows out of DuckDB: in blocks, in the types that are asked for."""

import numpy as np
import pytest

from zoo.data.dataset import DataError
from zoo.data.sources import connection as connections

pytestmark = pytest.mark.once
TYPES = {"code": np.int32, "price": np.float32}


@pytest.fixture
def database(tmp_path):
    return connections.connect(str(tmp_path))


def test_rows_come_in_order_whatever_the_size_of_the_blocks(database, monkeypatch):
    monkeypatch.setattr(connections, "_VECTORS_AT_ONCE", 1)
    sql = "SELECT 9999 - i AS code, CASE WHEN i % 2 = 0 THEN i END AS price FROM range(10000) AS t(i) ORDER BY i"
    columns = connections.fetch_events(database, sql, TYPES)
    assert {name: column.dtype for name, column in columns.items()} == TYPES
    np.testing.assert_array_equal(columns["code"], np.arange(10000)[::-1])
    np.testing.assert_array_equal(columns["price"][::2], np.arange(0, 10000, 2))
    assert np.isnan(columns["price"][1::2]).all()


def test_no_rows_are_empty_columns_of_their_types(database):
    columns = connections.fetch_events(database, "SELECT 1 AS code, 2.5 AS price WHERE false", TYPES)
    assert {name: (column.dtype, len(column)) for name, column in columns.items()} == {
        "code": (np.int32, 0),
        "price": (np.float32, 0),
    }


def test_an_unread_result_of_an_earlier_query_is_in_nobodys_way(database):
    assert connections.scalar(database, "SELECT i FROM range(10) AS t(i)") == 0
    assert len(connections.fetch_events(database, "SELECT 1 AS code, 2.5 AS price", TYPES)["code"]) == 1


SORTED = "SELECT CAST(hash(i) % 1000000 AS INTEGER) AS code, 1.0 AS price FROM range(3000000) AS t(i) ORDER BY code"


def small(folder):
    """A connection whose memory cannot hold what is sorted."""
    connection = connections.connect(str(folder))
    connection.execute("SET memory_limit = '40MB'; SET threads = 1")
    return connection


def test_what_is_larger_than_the_memory_is_spilled_into_a_cache_that_is_new(tmp_path):
    folder = tmp_path / "not" / "yet"
    codes = connections.fetch_events(small(folder), SORTED, TYPES)["code"]
    assert len(codes) == 3_000_000 and (np.diff(codes) >= 0).all()
    assert folder.exists()


def test_a_cache_that_cannot_be_written_is_told_when_it_is_needed(tmp_path):
    (tmp_path / "file").write_text("")
    connection = small(tmp_path / "file")
    assert connections.scalar(connection, "SELECT 1") == 1
    told = pytest.raises(DataError, match=r"^log: larger than the memory.*cache_dir")
    with told, connections.explained("log"):
        connections.fetch_events(connection, SORTED, TYPES)
