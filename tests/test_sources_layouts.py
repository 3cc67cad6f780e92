"""Layouts: every shared file loads with one call and the counts of its manifest; and what bad files get."""

from __future__ import annotations

import functools
import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from config import Columns, DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import layouts, load

SHARED = Path(__file__).parents[2] / "shared" / "data"


def read(path: Path | str, **options) -> Dataset:
    return load(DataConfig(path=str(path), **options))


@functools.cache
def read_shared(name: str, **options) -> Dataset:
    """A file of the shared data, read once for all tests."""
    return read(shared(name), **options)


def shared(name: str) -> Path:
    path = SHARED / name
    if not (path.exists() or list(SHARED.glob(name))):
        pytest.skip(f"{name} is not here")
    return path


def history(dataset: Dataset, user) -> list:
    """Items of one user, in order, by their ids."""
    row = int(np.flatnonzero(dataset.users.ids == user)[0])
    return dataset.items.ids[dataset.events.item[dataset.events.user == row]].tolist()


# ----------------------------------------------------------------------------------------------- real files

IN_ORDER = 'SELECT user_id AS "user", movie_id AS item, rating AS score FROM data '
COUNTS = [  # file, options, users, items, events, clock
    ("online-retail-cc0/online_retail_full.csv.gz", {}, 4_339, 3_665, 387_797, "global"),
    ("online-retail-cc0/online_retail_full.csv.gz", {"actions": ("buy", "cancel")}, 4_372, 3_684, 396_603, "global"),
    ("online-retail-cc0/purchases_user_item_timestamp.csv.gz", {}, 4_339, 3_665, 387_797, "global"),
    ("movietweetings-100k-mit", {}, 16_554, 10_506, 100_000, "global"),
    ("ml-latest-small", {}, 671, 9_066, 100_004, "global"),
    ("ml-100k", {}, 943, 1_682, 100_000, "global"),
    ("ml-100k/ml-100k.inter.gz", {}, 943, 1_682, 100_000, "global"),
    ("ml-1m/sasrec_ml-1m.txt.gz", {}, 6_040, 3_416, 999_611, "order"),
    ("ml-1m/ratings_users_1-2999.dat.gz", {}, 2_999, 3_615, 487_650, "global"),
    (
        "ml-1m/ratings_all_order_half_timestamps.csv.gz",
        {"query": IN_ORDER + "WHERE sasrec_order IS NOT NULL ORDER BY user_id, sasrec_order"},
        *(6_040, 3_416, 999_611, "order"),
    ),
    ("ml-1m/ratings_all_order_half_timestamps.csv.gz", {"query": IN_ORDER}, 6_040, 3_706, 1_000_209, "order"),
    ("amazon-s3rec-timegaps/Beauty.txt.gz", {}, 22_363, 12_101, 198_502, "relative"),
    ("amazon-s3rec-timegaps/Sports_and_Outdoors.txt.gz", {}, 35_598, 18_357, 296_337, "relative"),
    ("amazon-beauty-bert4rec/beauty.txt.gz", {}, 40_226, 54_542, 353_962, "order"),
    ("amazon-videogames-sasrec/Video.txt.gz", {}, 31_013, 23_715, 287_107, "order"),
    ("amazon-grocery-rechorus/train.csv.gz", {}, 14_681, 8_687, 121_892, "global"),
    ("yoochoose-100k", {}, 21_210, 2_933, 83_846, "global"),
    ("diginetica-sessions/train_sessions.txt.gz", {"layout": "sessions"}, 186_670, 43_097, 906_140, "order"),
    ("diginetica-sessions/test_prefix_target.txt.gz", {}, 60_858, 21_131, 306_404, "order"),
    ("tmall-sessions/train_sessions.txt.gz", {"layout": "sessions"}, 65_286, 40_727, 416_554, "order"),
    ("tmall-sessions/test_prefix_target.txt.gz", {}, 25_898, None, None, "order"),
    (
        "diginetica-raw-parts/train-purchases.csv.gz",
        {"columns": Columns(user="sessionId")},
        *(None, None, 18_025, "global"),
    ),
    ("otto-fixture-ccby/train.jsonl", {}, 20, 510, 862, "global"),
    ("completejourney-cc0", {}, 2_377, 20_902, 75_000, "global"),
    ("completejourney-cc0/transactions_sample.csv.gz", {}, 2_377, 20_902, 75_000, "global"),
    ("xdomain-food-kitchen-timestamps/interactions.csv.gz", {}, 16_579, 24_354 + 29_000, 163_234, "global"),
    ("xdomain-food-kitchen-trigrec", {}, 34_117, 19_569 + 22_795, 234_986 + 218_539, "relative"),
    ("xdomain-toy-game-tricdr", {}, 7_996, 37_868 + 11_735, 114_487 + 82_871, "order"),
    ("xdomain-food-kitchen-trigrec/food_all.txt.gz", {}, 34_117, 19_569, 234_986, "order"),
    ("xdomain-food-kitchen-trigrec/kitchen_all.txt.gz", {}, 34_117, 22_795, 218_539, "order"),
    ("xdomain-toy-game-tricdr/toy.txt.gz", {}, 7_996, 37_868, 114_487, "order"),
    ("xdomain-toy-game-tricdr/game.txt.gz", {}, 7_996, 11_735, 82_871, "order"),
    ("xdomain-toy-game-tricdr/mix.txt.gz", {}, 7_996, 37_868 + 11_735, 114_487 + 82_871, "order"),
]


@pytest.mark.parametrize(("name", "options", "users", "items", "events", "clock"), COUNTS)
def test_counts_of_the_manifest(name, options, users, items, events, clock):
    dataset = read_shared(name, **options)
    found = (dataset.num_users, dataset.num_items, len(dataset.events))
    assert [a for a, b in zip(found, (users, items, events), strict=True) if b] == [
        b for b in (users, items, events) if b
    ]
    assert dataset.clock == clock
    assert (np.diff(dataset.events.user) >= 0).all()


def test_half_the_diginetica_views_have_sessions_without_users():
    dataset = read_shared("diginetica-raw-parts/sample_train-item-views.csv.gz", columns=Columns(user="session_id"))
    with gzip.open(shared("diginetica-raw-parts/sample_train-item-views.csv.gz"), "rt") as file:
        lines = file.read().splitlines()[1:]
    assert len(dataset.events) == len(lines)
    assert dataset.num_users == len({line.split(";")[0] for line in lines})


def test_pairs_and_the_order_column_tell_one_story():
    pairs = read_shared("ml-1m/sasrec_ml-1m.txt.gz")
    ordered = read_shared(
        "ml-1m/ratings_all_order_half_timestamps.csv.gz",
        query=IN_ORDER + "WHERE sasrec_order IS NOT NULL ORDER BY user_id, sasrec_order",
    )
    original = dict(np.loadtxt(shared("ml-1m/sas_to_original_items.txt"), dtype=np.int64).tolist())
    people = dict(np.loadtxt(shared("ml-1m/sas_to_original_users.txt"), dtype=np.int64).tolist())
    for user in (1, 17, 6_040):
        assert [original[item] for item in history(pairs, user)] == history(ordered, people[user])


def test_gaps_become_a_clock_of_each_user():
    dataset = read_shared("amazon-s3rec-timegaps/Beauty.txt.gz")
    row = np.flatnonzero(dataset.users.ids == 1)[0]
    times = dataset.events.timestamp[dataset.events.user == row] / 1000
    assert history(dataset, 1) == [1, 2, 3, 4, 5]
    assert times.tolist() == [0, 0, 9_244_800, 9_244_800 + 62_899_200, 9_244_800 + 62_899_200]


def test_attributes_of_items_are_multi_labels():
    path = shared("amazon-s3rec-timegaps/Beauty_item2attributes.json.gz")
    dataset = read_shared("amazon-s3rec-timegaps/Beauty.txt.gz", items=str(path))
    with gzip.open(path) as file:
        wanted = json.load(file)
    labels = dict(zip(dataset.items.ids.tolist(), dataset.items.columns["attributes"], strict=True))
    assert labels[4] == ["1", "2", "3"]
    assert {str(item): [int(label) for label in row] for item, row in labels.items() if row is not None} == wanted


def test_movielens_features_of_three_forms():
    old = read_shared("ml-100k")
    movies = dict(zip(old.items.ids.tolist(), range(len(old.items)), strict=True))
    assert old.items.columns["title"][movies[1]] == "Toy Story (1995)"
    assert old.items.columns["genres"][movies[1]] == ["Animation", "Children's", "Comedy"]
    assert old.items.columns["year"][movies[1]] == 1995
    assert np.isnan(old.items.columns["year"][movies[267]])  # the one without a date
    users = dict(zip(old.users.ids.tolist(), range(len(old.users)), strict=True))
    assert [old.users.columns[name][users[1]] for name in ("gender", "age", "occupation")] == ["M", 24, "technician"]

    middle = read_shared("ml-1m/ratings_users_1-2999.dat.gz")
    movies = dict(zip(middle.items.ids.tolist(), range(len(middle.items)), strict=True))
    assert middle.items.columns["title"][movies[73]] == "Misérables, Les (1995)"  # latin-1
    assert len(middle.items) == 3_883
    assert len(middle.users) == 6_040
    users = dict(zip(middle.users.ids.tolist(), range(len(middle.users)), strict=True))
    assert [middle.users.columns[name][users[1]] for name in ("gender", "age", "occupation")] == [
        "F",
        1,
        "K-12 student",
    ]

    new = read_shared("ml-latest-small")
    movies = dict(zip(new.items.ids.tolist(), range(len(new.items)), strict=True))
    assert new.items.columns["genres"][movies[1]] == ["Adventure", "Animation", "Children", "Comedy", "Fantasy"]
    assert new.events.columns["score"].min() == 0.5


def test_movietweetings_keeps_leading_zeros():
    dataset = read_shared("movietweetings-100k-mit")
    assert dataset.items.ids.dtype == object
    assert "0104257" in set(dataset.items.ids)
    title = dict(zip(dataset.items.ids, dataset.items.columns["title"], strict=True))
    assert title["0104257"] == "A Few Good Men (1992)"


def test_complete_journey_has_domains_and_households():
    dataset = read_shared("completejourney-cc0")
    names = dataset.labels["domain"]
    per_domain = np.bincount(dataset.events.columns["domain"], minlength=len(names))
    assert per_domain[names.index("GROCERY")] == 47_411
    assert per_domain[names.index("DRUG GM")] == 7_942
    assert sum(age is not None for age in dataset.users.columns["age"]) == 801
    assert history(dataset, 1)[:2] == [8_091_337, 922_281]
    assert dataset.events.columns["price"][:2] == pytest.approx([3.22, 2.5])


def test_online_retail_says_what_it_left_out():
    dataset = read_shared("online-retail-cc0/online_retail_full.csv.gz")
    assert any("135,080 lines of unknown customers" in note for note in dataset.notes)
    assert dataset.labels["action"] == ("buy", "charge")
    reference = read_shared("online-retail-cc0/purchases_user_item_timestamp.csv.gz")
    for user in (12_347, 17_850, 18_287):
        assert sorted(history(dataset, user)) == sorted(history(reference, user))


# -------------------------------------------------------------------------------------------- made-up files


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))
    return path


def test_pairs_with_a_byte_order_mark_windows_ends_tabs_and_blank_lines(tmp_path):
    path = write(tmp_path / "log.txt", "\ufeffé 007\r\né  b\r\n\r\nz\tb\r\n")
    dataset = read(path, layout="pairs")
    assert dataset.users.ids.tolist() == ["z", "é"]
    assert history(dataset, "é") == ["007", "b"]  # no number: the zeros stay


def test_the_order_of_the_file_is_the_order_of_a_history(tmp_path):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 50, 5_000), rng.integers(0, 400, 5_000)
    path = write(tmp_path / "log.txt", "\n".join(f"{u} {i}" for u, i in zip(users, items, strict=True)))
    dataset = read(path)
    for user in range(50):
        assert history(dataset, user) == items[users == user].tolist()


def test_sequences_of_three_forms(tmp_path):
    dataset = read(write(tmp_path / "a.txt", "u a b\nv b a c\n"), layout="sequences")
    assert [history(dataset, user) for user in ("u", "v")] == [["a", "b"], ["b", "a", "c"]]
    dataset = read(write(tmp_path / "b.txt", "u\ta b\nv\tb\n"), layout="sequences")
    assert [history(dataset, user) for user in ("u", "v")] == [["a", "b"], ["b"]]
    dataset = read(write(tmp_path / "c.txt", "u\ta b\t0 1.5\nv\tb\t0\n"), layout="sequences")
    assert dataset.events.timestamp.tolist() == [0, 1_500, 0]
    assert dataset.clock == "relative"


def test_sessions_are_named_by_their_line(tmp_path):
    dataset = read(write(tmp_path / "a.txt", "7 8\n\n9 7 8\t7\n"), layout="sessions")
    assert dataset.users.ids.tolist() == [1, 3]
    assert history(dataset, 3) == [9, 7, 8, 7]


@pytest.mark.parametrize(
    ("layout", "text", "wanted"),
    [
        ("pairs", "1 2\n1\n", "line 2: '1'; wanted two words"),
        ("pairs", "1 2\n\n1 2 3\n", "line 3: '1 2 3'; wanted two words"),
        ("pairs", "\n \n", "no line with anything"),
        ("sequences", "1 2 3\n4\n", "line 2: '4'; wanted"),
        ("sequences", "1 2 3\t0 1\n4 5\n", "line 2: '4 5'; wanted"),
        ("sequences", "1 2 3\t0 1\n4 5 6\t0\n", "line 2"),
        ("sequences", "1 2 3\t0 -1\n2 3\t0\n", "line 1: '1 2 3\\t0 -1'; wanted gaps"),
        ("sequences", "1 2 3\t0 x\n2 3\t0\n", "wanted gaps"),
        ("sequences", "1 2 3\t0 nan\n2 3\t0\n", "wanted gaps"),
        ("sequences", "1 2 3\t0 1\n1 5\t0\n", "line 1"),
        ("sessions", "1 2\t3 4\n5 6\n", "line 1"),
    ],
)
def test_a_bad_line_is_shown_with_its_number(tmp_path, layout, text, wanted):
    path = write(tmp_path / "log.txt", text)
    with pytest.raises(DataError) as caught:
        read(path, layout=layout)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_latin_1_and_a_cut_gzip_get_one_line(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes("1 caf\xe9\n2 b\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read(path, layout="pairs")
    whole = gzip.compress(b"".join(b"%d %d\n" % (n % 97, n) for n in range(20_000)))
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    for layout in ("pairs", "auto"):
        with pytest.raises(DataError) as caught:
            read(tmp_path / "cut.txt.gz", layout=layout)
        assert "gz" in str(caught.value)


def movielens_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-tiny/ratings.dat", "1::10::5::978300760\n1::11::3::978300761\n2::10::4::978300762\n")
        archive.writestr("ml-tiny/movies.dat", "10::Café (1999)::Drama|War\n11::No year::\n".encode("latin-1"))
        archive.writestr("ml-tiny/users.dat", "1::F::25::3::1\n2::M::1::0::2\n")
    return path


def test_a_zip_is_read_as_it_was_downloaded(tmp_path):
    cache = tmp_path / "cache"
    dataset = read(movielens_zip(tmp_path / "ml-tiny.zip"), cache_dir=str(cache))
    assert dataset.name == "ml-tiny"
    assert dataset.events.timestamp.tolist() == [978_300_760_000, 978_300_761_000, 978_300_762_000]
    assert dataset.items.columns["title"].tolist() == ["Café (1999)", "No year"]
    assert dataset.items.columns["genres"].tolist() == [["Drama", "War"], None]
    assert dataset.users.columns["occupation"].tolist() == ["clerical/admin", "other"]
    assert not list(cache.glob("unpacked-*"))  # nothing is left of the unpacking


def test_a_damaged_zip_gets_one_line(tmp_path):
    path = movielens_zip(tmp_path / "ml-tiny.zip")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a readable zip"):
        read(path, cache_dir=str(tmp_path))
    with pytest.raises(DataError, match="not a readable zip"):
        read(path, cache_dir=str(tmp_path), layout="movielens")


def test_movielens_refuses_other_tables(tmp_path):
    write(tmp_path / "ratings.csv", "user,movie\n1,2\n")
    write(tmp_path / "movies.csv", "movieId,title,genres\n2,X (1990),Drama\n")
    with pytest.raises(DataError, match=r"userId,movieId,rating,timestamp.*data.layout=table"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"ratings\.dat"):
        read(write(tmp_path / "empty" / "x", "").parent, layout="movielens")


def test_a_rating_that_is_none_is_named_by_its_line(tmp_path):
    write(tmp_path / "ratings.dat", "1::10::5::978300760\n1::11::many::978300761\n2::10::4::978300762\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value).endswith(
        "/ratings.dat: line 2: score is 'many'; wanted a number: correct the line or drop it"
    )


def test_otto_knows_its_actions(tmp_path):
    line = '{"session": 5, "events": [{"aid": 1, "ts": 20, "type": "clicks"}, {"aid": 2, "ts": 10, "type": "orders"}]}'
    dataset = read(write(tmp_path / "a.jsonl", line + "\n" + line.replace("5", "6", 1) + "\n"))
    assert history(dataset, 5) == [2, 1]  # by time, not by place
    assert dataset.labels["action"] == ("clicks", "orders")
    assert dataset.events.timestamp.tolist() == [10, 20, 10, 20]


ONLINE = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def test_online_retail_of_both_date_forms(tmp_path):
    text = ONLINE + (
        '1,85123A,"A, B",6,12/1/2010 8:26,2.55,17850,United Kingdom\n'
        "1,85123A,again,2,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n"
        "C2,85123A,back,-1,12/2/10 8:26,2.55,17850,United Kingdom\n"
        "3,POST,POSTAGE,1,12/3/2010 8:26,18,17851,France\n"
        "4,22086,LOST,-5,12/4/2010 8:26,0,17851,France\n"
        "5,22087,ANON,5,12/4/2010 8:26,1,,France\n"
    )
    path = write(tmp_path / "retail.csv", text)
    dataset = read(path)
    assert dataset.labels["action"] == ("buy", "charge")
    assert len(dataset.events) == 2
    assert dataset.events.timestamp.tolist() == [1_291_191_960_000, 1_291_364_760_000]
    assert dataset.items.columns["title"].tolist() == ["A, B", "POSTAGE"]
    assert dataset.users.columns["country"].tolist() == ["United Kingdom", "France"]
    both = read(path, actions=("buy", "cancel"))
    assert both.labels["action"] == ("buy", "cancel", "charge")
    path = write(tmp_path / "bad.csv", text + "6,22086,x,1,yesterday,1,17850,France\n")
    with pytest.raises(DataError, match="line 8: 'yesterday'"):
        read(path)
    path = write(tmp_path / "other.csv", "InvoiceNo,StockCode\n1,2\n")
    with pytest.raises(DataError, match="no column Description"):
        read(path)


# -------------------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize(
    ("name", "text", "layout"),
    [
        ("a.txt", "1 2\n1 3\n", "pairs"),
        ("a.txt", "1\t2\n1\t3\n", "pairs"),
        ("a.txt", "1 2 3\t0 5\n2 5\t0\n", "sequences"),
        ("a.txt", "1\t2 3\n2\t5\n", "sequences"),
        ("a.txt", "1 2 3\t4\n1 2\t3\n1\t2\n", "sessions"),
        ("a.txt", "user item\n1 2\n", "table"),
        ("a.txt", "user\titem\n1\t2\n", "table"),
        ("a.csv", "user,item\n1,2\n", "table"),
        ("a.csv", "userId,movieId,rating\n1,2,3\n", "table"),
        ("a.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n", "movielens"),
        ("a.csv", ONLINE, "online_retail"),
        ("a.jsonl", '{"user": 1, "item": 2}\n', "table"),
        ("a.jsonl", '{"session": 1, "events": []}\n', "otto"),
        ("a.dat", "1::2::3::4\n", "movielens"),
        ("a.parquet", "PAR1", "table"),
        ("a.pkl", "", "pickled_dict"),
        ("a.txt", "", "table"),
    ],
)
def test_recognised_where_it_is_unmistakable(tmp_path, name, text, layout):
    assert layouts.recognise(str(write(tmp_path / name, text))) == layout


def test_a_doubtful_file_asks_instead_of_guessing(tmp_path):
    path = write(tmp_path / "a.txt", "1 2 3\n4 5\n")
    with pytest.raises(DataError, match=r"data\.layout=sequences .* data\.layout=sessions"):
        layouts.recognise(str(path))


def test_a_nearly_known_name_is_answered_with_the_name():
    with pytest.raises(DataError, match="did you mean 'ml-1m'"):
        read("ml-1n")


def test_a_folder_is_known_by_its_one_table_of_a_known_form(tmp_path):
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    line = "536365,85123A,LANTERN,6,12/1/10 8:26,2.55,17850,United Kingdom\n"
    (tmp_path / "lines.csv").write_text(header + line)
    (tmp_path / "made_from_it.csv").write_text("user,item,timestamp\n1,2,3\n")
    dataset = load(DataConfig(path=str(tmp_path)))
    assert dataset.items.ids.tolist() == ["85123A"] and dataset.items.columns["title"].tolist() == ["LANTERN"]
    (tmp_path / "again.csv").write_text(header + line)
    with pytest.raises(DataError, match="2 tables with invoice lines; name the one to read"):
        load(DataConfig(path=str(tmp_path)))
