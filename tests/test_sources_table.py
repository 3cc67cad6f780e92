"""Any table to a Dataset: what is read, in which order, and what bad input is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Columns, DataConfig
from zoo.data import sources
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import engine, files
from zoo.data.sources.columns import USUAL_NAMES, recognise

SHARED = Path(__file__).parents[2] / "shared" / "data"
DAY = 86_400_000


pytestmark = pytest.mark.usefixtures("own_cache")


def load(path, **settings) -> Dataset:
    return sources.load(DataConfig(path=str(path), **settings))


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def error_of(path, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pairs(dataset: Dataset) -> list[tuple]:
    """(user id, item id) of the events, in order."""
    users, items = dataset.users.ids[dataset.events.user], dataset.items.ids[dataset.events.item]
    return list(zip(users.tolist(), items.tolist(), strict=True))


# ---------------------------------------------------------------------------------------------- order and ids


def reference(rows: list[tuple]) -> tuple[list, list, list[tuple[int, int, int]]]:
    """Users and items in the order of their ids, and events sorted by (user, time, order): plain Python."""
    users = sorted({row[0] for row in rows})
    items = sorted({row[1] for row in rows})
    coded = [(users.index(user), items.index(item), time) for user, item, time in rows]
    return users, items, sorted(coded, key=lambda event: (event[0], event[2]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.text("ab 0é'\"😀", min_size=1, max_size=3), st.integers(0, 4)),
        min_size=1,
        max_size=40,
    )
)
def test_events_are_coded_by_id_and_sorted_stably(rows):
    frame = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    dataset = Dataset.from_frame(frame)
    users, items, events = reference(rows)
    assert dataset.users.ids.tolist() == users
    assert dataset.items.ids.tolist() == items
    assert dataset.users.ids.dtype == np.int64
    assert dataset.items.ids.dtype == object
    seconds = dataset.events.timestamp // 1000
    assert list(zip(dataset.events.user, dataset.events.item, seconds, strict=True)) == events


def test_many_rows_keep_the_order_of_the_file(tmp_path):
    # More rows than DuckDB hands to one thread, so that an order lost between threads would show.
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user": generator.integers(0, 5_000, 400_000),
            "item": generator.permutation(400_000).astype(str),
            "time": generator.integers(0, 3, 400_000),
        }
    )
    frame.to_parquet(tmp_path / "log.parquet", row_group_size=50_000)
    dataset = load(tmp_path / "log.parquet")
    expected = frame.sort_values(["user", "time"], kind="stable")
    assert pairs(dataset) == list(zip(expected["user"], expected["item"], strict=True))
    assert dataset.items.ids.tolist() == sorted(frame["item"])


IDS = {
    "integers": (["7", "-3", "0", "123456789012345678"], np.int64),
    "leading zeros": (["007", "7", "0"], object),
    "floats that are integers": (["1.0", "2.0"], object),
    "a sign": (["+1", "1"], object),
    "longer than int64": (["99999999999999999999", "1"], object),
    "spaces and emoji": ([" a b ", "😀", "NA", "null", "nan", "café"], object),
    "quotes": (['say "hi"', "it's", "a,b", "x\ny"], object),
}


@pytest.mark.parametrize("ids, dtype", IDS.values(), ids=IDS.keys())
def test_ids_of_a_csv_come_back_as_they_went_in(tmp_path, ids, dtype):
    frame = pd.DataFrame({"user": ids, "item": ids[::-1]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    dataset = load(tmp_path / "log.csv")
    assert dataset.users.ids.dtype == dtype
    assert {str(value) for value in dataset.users.ids.tolist()} == set(ids)
    assert {(str(user), str(item)) for user, item in pairs(dataset)} == set(zip(ids, ids[::-1], strict=True))


@pytest.mark.parametrize(
    "ids, dtype",
    [([1, 2], np.int64), ([1.0, 2.5], np.float64), (["1", "2"], object), (["01", "x y"], object)],
)
@pytest.mark.parametrize("form", ["parquet", "jsonl", "frame"])
def test_ids_of_a_typed_format_keep_their_type(tmp_path, form, ids, dtype):
    frame = pd.DataFrame({"user": ids, "item": ids})
    if form == "frame":
        dataset = Dataset.from_frame(frame)
    elif form == "parquet":
        frame.to_parquet(tmp_path / "log.parquet")
        dataset = load(tmp_path / "log.parquet")
    else:
        dataset = load(write(tmp_path, "log.jsonl", "".join(json.dumps({"user": i, "item": i}) + "\n" for i in ids)))
    assert dataset.users.ids.dtype == dtype
    assert dataset.users.ids.tolist() == ids


def test_json_text_that_looks_like_a_date_or_a_uuid_stays_text(tmp_path):
    ids = ["00000000-0000-0000-0000-00000000000A", "12:00:00", "2020-01-01"]
    lines = "".join(json.dumps({"user": i, "item": i, "ts": 1}) + "\n" for i in ids)
    assert load(write(tmp_path, "log.jsonl", lines)).users.ids.tolist() == ids
    two = load(write(tmp_path, "one.json", "\n".join(lines.splitlines()[:2])))
    assert two.users.ids.tolist() == ids[:2]
    array = "[" + ",".join(lines.splitlines()) + "]"
    assert load(write(tmp_path, "array.json", array)).users.ids.tolist() == ids


def test_rows_without_an_id_are_dropped_and_counted(tmp_path):
    dataset = load(write(tmp_path, "log.csv", "user,item\n1,a\n,b\n2,\n2,c\n"))
    assert pairs(dataset) == [(1, "a"), (2, "c")]
    assert dataset.items.ids.tolist() == ["a", "c"]
    assert dataset.notes == ("1 row without user dropped", "1 row without item dropped")


# ------------------------------------------------------------------------------------------------- file formats

ROWS = [(2, "b", 30), (1, "a", 20), (2, "a", 10), (1, "c", 20)]
FRAME = pd.DataFrame(ROWS, columns=["userId", "movieId", "timestamp"])
SORTED = [(1, "a"), (1, "c"), (2, "a"), (2, "b")]


def as_text(form: str) -> str:
    if form == "jsonl":
        return FRAME.to_json(orient="records", lines=True)
    return FRAME.to_csv(index=False, sep={"csv": ",", "tsv": "\t", "semicolon": ";", "bar": "|"}[form])


@pytest.mark.parametrize(
    "name, form",
    [
        ("log.csv", "csv"),
        ("log.tsv", "tsv"),
        ("log.txt", "semicolon"),
        ("log.dat", "bar"),
        ("log.csv.gz", "csv"),
        ("log.tsv.gz", "tsv"),
        ("log.jsonl", "jsonl"),
        ("log.ndjson.gz", "jsonl"),
        ("log.json", "jsonl"),
        ("log", "csv"),
        ("it's [1]*?.csv", "csv"),
        ("größe 😀.csv", "csv"),
    ],
)
def test_formats(tmp_path, name, form):
    before = write(tmp_path, name, as_text(form)).read_bytes()
    dataset = load(tmp_path / name)
    assert pairs(dataset) == SORTED
    assert dataset.events.timestamp.tolist() == [20_000, 20_000, 10_000, 30_000]
    assert dataset.name == name
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir() if entry.is_file()] == [(name, before)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace("userId", '"userId"'),
    ],
    ids=["byte-order mark", "windows lines", "both", "no last line end", "blank lines", "quoted header"],
)
def test_harmless_differences_of_a_csv(tmp_path, change):
    assert pairs(load(write(tmp_path, "log.csv", change(as_text("csv"))))) == SORTED


@pytest.mark.parametrize("how", ["folder", "glob", "parquet folder"])
def test_several_files_are_read_in_order_of_their_names(tmp_path, how):
    parts = [FRAME[2:], FRAME[:2]]
    for name, part in zip(("day=2", "day=1"), parts, strict=True):
        (tmp_path / "log" / name).mkdir(parents=True)
        if how == "parquet folder":
            part.to_parquet(tmp_path / "log" / name / "part.parquet")
        else:
            part.to_csv(tmp_path / "log" / name / "part.csv", index=False)
    write(tmp_path / "log", "_SUCCESS", "")
    write(tmp_path / "log", "README.md", "not a table")
    dataset = load(tmp_path / "log" if "folder" in how else tmp_path / "log" / "**" / "*.csv")
    assert pairs(dataset) == SORTED


def test_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "shop_log.py").write_text(
        "import pandas as pd\n"
        "def table(): return pd.DataFrame({'client': ['x', 'y'], 'sku': ['01', '1']})\n"
        "def number(): return 3\n"
        "def broken(): raise RuntimeError('the\\nwarehouse is closed')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert pairs(load("shop_log:table")) == [("x", "01"), ("y", "1")]
    assert "returned a int; wanted a DataFrame" in error_of("shop_log:number")
    assert "raised RuntimeError: the warehouse is closed" in error_of("shop_log:broken")
    assert "no function 'nope'" in error_of("shop_log:nope")
    assert "no module 'shop_logs'" in error_of("shop_logs:table")


# ---------------------------------------------------------------------------------------------------- columns


def test_usual_names_are_each_of_one_role():
    seen: dict[str, str] = {}
    for role, names in USUAL_NAMES.items():
        for name in names:
            assert seen.setdefault(name, role) == role
            assert name.isalnum() and name == name.lower()


@pytest.mark.parametrize(
    "found, roles",
    [
        (["CustomerID", "StockCode", "InvoiceDate", "UnitPrice"], "user item timestamp price"),
        (["client_id", "sku", "event_type", "datetime"], "user item action timestamp"),
        (["session", "aid", "ts", "type"], "user item timestamp"),
        (["user_id", "parent_asin", "rating", "timestamp"], "user item score timestamp"),
        (["session_id", "user id", "product-id", "domain"], "- user item domain"),
    ],
)
def test_recognised_columns(found, roles):
    expected = {role: column for role, column in zip(roles.split(), found, strict=False) if role != "-"}
    assert recognise(found, Columns(), "log") == expected


def test_given_columns_win_and_must_exist(tmp_path):
    path = write(tmp_path, "log.csv", "user,buyer,item\n1,x,a\n1,y,b\n")
    assert load(path, columns=Columns(user="buyer")).users.ids.tolist() == ["x", "y"]
    assert "no column 'byer' (data.columns.user); did you mean 'buyer'?" in error_of(path, columns=Columns(user="byer"))
    assert "no item column among 'user', 'thing'" in error_of(write(tmp_path, "b.csv", "user,thing\n1,a\n"))


def test_query_over_the_view_and_over_files(tmp_path):
    path = write(tmp_path, "log.csv", "who,what,cost,zip\n1,a,2.5,01\n2,b,10,1\n3,c,7,02\n")
    query = 'SELECT who AS "user", what AS item, cost AS price FROM data WHERE cost > 5 ORDER BY who DESC'
    dataset = load(path, query=query)
    assert pairs(dataset) == [(2, "b"), (3, "c")]
    assert dataset.events.columns["price"].tolist() == [10, 7]
    assert load(path, query="SELECT zip AS user, what AS item FROM data;").users.ids.tolist() == ["01", "02", "1"]
    free = f"SELECT who AS user, what AS item FROM read_csv('{path}') -- a comment"
    assert pairs(sources.load(DataConfig(query=free))) == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize(
    "query, said",
    [
        ("SELECT nope AS user FROM data", 'Referenced column "nope" not found'),
        ("SELEC 1", "syntax error"),
        ("DROP TABLE data", "wanted one SELECT"),
        ("COPY data TO 'stolen.csv'", "wanted one SELECT"),
        ("SELECT 1 AS user, 2 AS item; SELECT 2", "wanted one SELECT"),
        ("SELECT a AS thing, b AS item FROM data", "no user column among 'thing', 'item'"),
        ("SELECT a AS user, b AS item FROM 'gone.parquet'", "No files found"),
    ],
)
def test_bad_queries(tmp_path, monkeypatch, query, said):
    monkeypatch.chdir(tmp_path)
    message = error_of(write(tmp_path, "log.csv", "a,b\n1,2\n"), query=query)
    assert message.startswith("data.query")
    assert said in message
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["log.csv"]


def test_names_and_values_cannot_escape_into_sql(tmp_path):
    evil = 'x"; DROP TABLE log; --'
    text = pd.DataFrame({evil: [1, 2], "it'em": ["a'); DROP TABLE log; --", "b"]}).to_csv(index=False)
    dataset = load(write(tmp_path, "a'b.csv", text), columns=Columns(user=evil, item="it'em"))
    assert dataset.items.ids.tolist() == ["a'); DROP TABLE log; --", "b"]


# ----------------------------------------------------------------------------------------- further columns


def test_labels_scores_and_prices(tmp_path):
    text = "user,item,event_type,domain,rating,price\n1,a,view,shop,,\n1,b,cart,shop,1,2.25\n2,a,,app,2,1e3\n"
    dataset = load(write(tmp_path, "log.csv", text))
    columns = dataset.events.columns
    assert dataset.labels == {"action": ("cart", "missing", "view"), "domain": ("app", "shop")}
    assert columns["action"].tolist() == [2, 0, 1] and columns["action"].dtype == np.int16
    assert columns["domain"].tolist() == [1, 1, 0]
    np.testing.assert_array_equal(columns["score"], np.array([np.nan, 1, 2], np.float32))  # a view has no score
    np.testing.assert_array_equal(columns["price"], np.array([np.nan, 2.25, 1000], np.float32))


def test_feature_tables(tmp_path):
    log = write(tmp_path, "log.csv", "user,item\n1,a\n2,b\n")
    items = "title,item_id,price,genres,codes,zip\nA,a,1.5,x|y,[12 3 4],01234\nNew,c,,z,[5 6],00001\n"
    users = pd.DataFrame({"user": [3, 2], "age": [30.0, None], "tags": [["p", "q"], None], "old": [True, False]})
    users.to_parquet(tmp_path / "users.parquet")
    settings = {"users": str(tmp_path / "users.parquet"), "items": str(write(tmp_path, "items.csv", items))}
    dataset = load(log, **settings)
    assert dataset.items.ids.tolist() == ["a", "b", "c"]
    columns = dataset.items.columns
    assert columns["title"].tolist() == ["A", None, "New"]
    np.testing.assert_array_equal(columns["price"], [1.5, np.nan, np.nan])
    assert columns["genres"].tolist() == [["x", "y"], None, ["z"]]
    assert columns["codes"].tolist() == [[12, 3, 4], [-1, -1, -1], [5, 6, -1]]
    assert columns["codes"].dtype == np.int64
    assert columns["zip"].tolist() == ["01234", None, "00001"]
    assert dataset.users.ids.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(dataset.users.columns["age"], [np.nan, np.nan, 30])
    assert dataset.users.columns["tags"].tolist() == [None, None, ["p", "q"]]
    np.testing.assert_array_equal(dataset.users.columns["old"], [np.nan, 0, 1])
    assert dataset.num_users == 2


@pytest.mark.parametrize(
    "table, said",
    [
        ("user,age\n1,2\n1,3\n", "user '1' occurs twice, in rows 1 and 2"),
        ("user,age\n1,2\nbob,3\n", "row 2: user 'bob' is not of the type of the log's ids (int64)"),
        ("user,age\n1,2\n007,3\n", "row 2: user '007' is not of the type"),
        ("user,age\n1,2\n,3\n", "row 2: user is missing"),
    ],
)
def test_bad_feature_tables(tmp_path, table, said):
    log = write(tmp_path, "log.csv", "user,item\n1,a\n2,b\n")
    assert said in error_of(log, users=str(write(tmp_path, "users.csv", table)))


def test_ids_of_text_logs_match_integers_of_features():
    log = pd.DataFrame({"user": ["1", "02"], "item": [1, 2]})
    dataset = Dataset.from_frame(log, users=pd.DataFrame({"user": [1], "age": [5]}))
    assert dataset.users.ids.tolist() == ["02", "1"]
    assert dataset.users.columns["age"][1] == 5


# ------------------------------------------------------------------------------------------------------- engine


def test_collect_of_plain_sql():
    rows = "(5, 'x', DATE '2020-01-02'), (5, 'y', DATE '2020-01-01')"
    sql = f"SELECT * FROM (VALUES {rows}) t(user, item, timestamp)"
    features = "SELECT 'y' AS id, 3 AS size UNION ALL SELECT 'z', 4"
    dataset = engine.collect(engine.connect(), sql, name="shop", items=features, notes=("by hand",))
    assert pairs(dataset) == [(5, "y"), (5, "x")]
    assert dataset.items.ids.tolist() == ["x", "y", "z"]
    np.testing.assert_array_equal(dataset.items.columns["size"], [np.nan, 3, 4])
    assert dataset.notes == ("by hand",)


def test_no_extension_is_downloaded():
    connection = engine.connect()
    names = ("autoinstall_known_extensions", "autoload_known_extensions")
    assert [connection.execute(f"SELECT current_setting('{name}')").fetchone() for name in names] == [
        (False,),
        (False,),
    ]


def test_kind_of_a_file_is_seen_in_its_first_bytes(tmp_path):
    FRAME.to_parquet(tmp_path / "log.csv")
    assert files.kind(tmp_path / "log.csv") == "parquet"
    assert pairs(load(tmp_path / "log.csv")) == SORTED


def test_arrow_tables_and_columns_by_hand():
    table = pa.table({"buyer": [1, 2], "thing": pa.array(["a", "b"]).dictionary_encode()})
    dataset = Dataset.from_frame(table, columns=Columns(user="buyer", item="thing"), name="orders")
    assert pairs(dataset) == [(1, "a"), (2, "b")]
    assert dataset.name == "orders"


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
def test_movielens_latest_small():
    folder = SHARED / "ml-latest-small"
    dataset = load(folder / "ratings.csv.gz", layout="table", items=str(folder / "movies.csv.gz"))
    assert (dataset.num_users, dataset.num_items, len(dataset.events)) == (671, 9066, 100_004)
    assert dataset.events.columns["score"].min() == 0.5
    assert dataset.items.columns["genres"][np.flatnonzero(dataset.items.ids == 1)[0]][0] == "Adventure"


def test_the_order_of_the_rows_decides_nothing(tmp_path):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user": generator.integers(0, 30, 300),
            "item": generator.integers(0, 50, 300).astype(str),
            "time": generator.permutation(300),
            "action": generator.choice(["view", "buy"], 300),
        }
    )
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "shuffled.csv", index=False)
    assert load(tmp_path / "log.csv").sha256() == load(tmp_path / "shuffled.csv").sha256()
