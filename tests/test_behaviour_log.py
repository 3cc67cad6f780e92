"""A log of behaviour: reading, order, what was known when, windows and labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from config import BehaviourConfig, DataConfig, SampleConfig
from zoo.data.behaviour import catalogue, labels, sources, windows
from zoo.data.behaviour.catalogue import BehaviourCatalogue, count, url_hash
from zoo.data.behaviour.log import ADD, BUY, DAY, NO_CODE, REMOVE, SEARCH, VISIT, lower_bound
from zoo.data.behaviour.prepared import prepare
from zoo.data.dataset import DataError
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN

pytestmark = pytest.mark.once

SHARED = Path(__file__).parents[2] / "shared" / "data"
SAMPLE = SampleConfig(num_users=60, num_items=40, num_days=60, events_per_user=10)
START = np.datetime64("2022-06-01T00:00:00")


def day(number, seconds=0):
    return START + np.timedelta64(number, "D") + np.timedelta64(seconds, "s")


def text(times):
    return [str(time).replace("T", " ") for time in times]


EVENTS = {  # client, day, seconds, about
    "product_buy": [(7, 1, 0, 10), (7, 50, 0, 11), (9, 35, 0, 10), (9, 60, 5, 99), (7, 40, 0, 10)],
    "add_to_cart": [(7, 1, 0, 10), (12, 3, 0, 12)],
    "remove_from_cart": [(12, 4, 0, 12)],
    "page_visit": [(9, 2, 0, 500), (9, 2, 0, 400), (7, 0, 0, 400), (12, 3, 0, 400)],
    "search_query": [(12, 3, 0, "[ 38  61 112]"), (7, 1, 0, "[1 2]"), (7, 5, 0, "[ 38  61 112]")],
}
COLUMN = dict(zip(EVENTS, ("sku", "sku", "sku", "url", "query"), strict=True))


def write(folder, events=EVENTS, as_text=True, properties=True):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, rows in events.items():
        times = [day(number, seconds) for _, number, seconds, _ in rows]
        stamps = text(times) if as_text else pa.array(np.array(times, "datetime64[ns]"))
        columns = {
            "client_id": pa.array([row[0] for row in rows], pa.int64()),
            "timestamp": stamps,
            COLUMN[kind]: [row[3] for row in rows],
        }
        pq.write_table(pa.table(columns), folder / f"{kind}.parquet")
    if properties:
        columns = {
            "sku": [12, 10, 11, 13],
            "category": [5, 3, 3, 7],
            "price": [99, 0, 4, 50],
            "name": ["[0 1 2]", "[5  6  7 8]", "[]", "[ 9 ]"],
        }
        pq.write_table(pa.table(columns), folder / "product_properties.parquet")
    (folder / "input").mkdir(exist_ok=True)
    np.save(folder / "input" / "relevant_clients.npy", np.array([12, 7, 9, 3]))
    return folder


def read(folder, **knobs):
    return sources.load(DataConfig(path=str(folder), **knobs), SAMPLE)


@pytest.mark.parametrize("as_text", [True, False])
def test_files_of_the_challenge(tmp_path, as_text):
    log = read(write(tmp_path, as_text=as_text))
    assert log.clients.tolist() == [3, 7, 9, 12]  # 3 has no event and is a client nevertheless
    assert np.diff(log.offsets).tolist() == [0, 7, 4, 4]
    assert log.products.ids.tolist() == [10, 11, 12, 13, 99]
    assert log.products.category.tolist() == [0, 0, 1, 2, NO_CODE] and log.categories.tolist() == [3, 5, 7]
    assert log.products.price.tolist() == [0, 4, 99, 50, NO_CODE]
    assert log.products.name.tolist() == [[5, 6, 7, 8], [-1] * 4, [0, 1, 2, -1], [9, -1, -1, -1], [-1] * 4]
    assert log.urls.tolist() == [400, 500]
    assert sorted(map(tuple, log.queries.tolist())) == [(1, 2, -1), (38, 61, 112)]
    seven = slice(log.offsets[1], log.offsets[2])
    assert log.kind[seven].tolist() == [VISIT, BUY, ADD, SEARCH, SEARCH, BUY, BUY]  # by time, then by kind
    assert np.array_equal(log.time[seven][:2], np.array([day(0), day(1)], "datetime64[ms]").astype(np.int64))
    assert [log.queries[r][0] for r in log.ref[seven][log.kind[seven] == SEARCH]] == [1, 38]
    nine = slice(log.offsets[2], log.offsets[3])
    assert log.urls[log.ref[nine][:2]].tolist() == [500, 400]  # ties keep the order of the file
    assert log.relevant().tolist() == [3, 1, 2, 0]
    assert any("1 of 5 products have no properties" in note for note in log.notes)


def test_the_split_release_is_read_with_its_targets(tmp_path):
    write(tmp_path / "input", properties=False)
    (tmp_path / "input" / "input" / "relevant_clients.npy").rename(tmp_path / "input" / "relevant_clients.npy")
    write(tmp_path / "whole")
    (tmp_path / "whole" / "product_properties.parquet").rename(tmp_path / "product_properties.parquet")
    (tmp_path / "target").mkdir()
    target = {"client_id": [3], "timestamp": text([day(80)]), "sku": [13], "category": [7], "price": [50], "name": [""]}
    pq.write_table(pa.table(target), tmp_path / "target" / "train_target.parquet")
    log = read(tmp_path)
    assert np.diff(log.offsets).tolist() == [1, 7, 4, 4] and log.products.ids[log.ref[0]] == 13


def test_codes_are_as_many_and_called_as_they_are(tmp_path):
    """The shop's own release has 20 codes, in a column `embedding`."""
    write(tmp_path)
    for file, usual in (("search_query", "query"), ("product_properties", "name")):
        columns = pq.read_table(tmp_path / f"{file}.parquet").to_pydict()
        columns["embedding"] = [str(np.arange(20)) for _ in columns.pop(usual)]
        pq.write_table(pa.table(columns), tmp_path / f"{file}.parquet")
    log = read(tmp_path)
    assert log.queries.tolist() == [list(range(20))]
    assert log.products.name[0].tolist() == list(range(20))


def test_order_of_rows_decides_nothing_but_ties(tmp_path):
    backwards = {kind: rows[::-1] for kind, rows in EVENTS.items() if kind != "page_visit"}
    one = read(write(tmp_path / "a"))
    other = read(write(tmp_path / "b", backwards | {"page_visit": EVENTS["page_visit"]}))
    assert one.sha256() == other.sha256()


def test_whom_the_owner_asks_for_is_of_the_fingerprint(tmp_path):
    """Else a run that was judged on others would pass for finished."""
    log = read(write(tmp_path))
    other = replace(log, asked={**log.asked, "relevant_clients": log.clients[:1]})
    urls = replace(log, urls=log.urls + 1)
    assert len({log.sha256(), other.sha256(), urls.sha256()}) == 3


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("search_query", (7, 1, 0, "[1 x 3]"), "no list of codes"),
        ("search_query", (7, 1, 0, "[1 -3]"), "no list of codes"),
    ],
)
def test_bad_codes_are_told(tmp_path, kind, row, words):
    with pytest.raises(DataError, match=words):
        read(write(tmp_path, EVENTS | {kind: [row]}))


def test_bad_files_are_told(tmp_path):
    write(tmp_path)
    pq.write_table(pa.table({"client_id": [1], "when": [2]}), tmp_path / "page_visit.parquet")
    with pytest.raises(DataError, match="no column 'timestamp' among client_id, when"):
        read(tmp_path)
    write(tmp_path)
    twice = {"sku": [1, 1], "category": [1, 1], "price": [1, 2], "name": ["", ""]}
    pq.write_table(pa.table(twice), tmp_path / "product_properties.parquet")
    with pytest.raises(DataError, match="product 1 has 2 rows of properties"):
        read(tmp_path)
    pq.write_table(pa.table(twice | {"sku": [1, 2], "price": [1, -2]}), tmp_path / "product_properties.parquet")
    with pytest.raises(DataError, match="product 2 has the price -2"):
        read(tmp_path)
    (tmp_path / "table.csv").write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match="no log of behaviour"):
        read(tmp_path / "table.csv")
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="did you mean 'online-retail'"):
        read("online_retail")
    with pytest.raises(DataError, match="ml-1m: no log of behaviour"):  # before it is downloaded
        read("ml-1m")


def test_what_was_known_when(tmp_path):
    log = read(write(tmp_path))
    cut = int(np.datetime64(day(35), "ms").astype(np.int64))
    known = log.at(cut, log.relevant())
    assert known.lengths.tolist() == [4, 5, 2, 0]
    index, owner = known.events()
    assert (log.time[index] < cut).all() and np.array_equal(np.bincount(owner, minlength=4), known.lengths)
    assert known.recent(2).lengths.tolist() == [2, 2, 2, 0]
    assert (known.recent(2).last == known.last).all()
    own = log.at(np.array([0, cut, 2**60, cut]), log.relevant())
    assert own.lengths.tolist() == [0, 5, 4, 0]
    owner, product = log.bought(log.relevant(), cut, 2**60)
    assert owner.tolist() == [1, 1, 2, 2] and log.products.ids[product].tolist() == [10, 11, 10, 99]


def test_lower_bound_is_searchsorted_within_ranges():
    rng = np.random.default_rng(0)
    parts = [np.sort(rng.integers(0, 20, rng.integers(0, 9))) for _ in range(200)]
    ends = np.cumsum([len(part) for part in parts])
    wanted = rng.integers(-1, 22, 200)
    found = lower_bound(np.concatenate(parts), wanted, ends - [len(part) for part in parts], ends)
    for part, end, value, place in zip(parts, ends, wanted, found, strict=True):
        assert place == end - len(part) + np.searchsorted(part, value)


def test_windows_are_the_official_ones(tmp_path):
    log = read(write(tmp_path))  # the last purchase is on day 60, 00:00:05
    found = windows.official(log, 14)
    assert [int((time - int(np.datetime64(START, "ms").astype(np.int64))) // DAY) for time in found.train] == [33, 47]
    assert found.start % DAY == 0
    assert found.end == int(log.time[log.kind == BUY].max()) + 1
    with pytest.raises(DataError, match=r"leave no input.*behaviour\.window_days"):
        windows.official(log, 31)
    with pytest.raises(DataError, match=r"no purchase between 2022-07-24.* and 2022-07-28.*window_days higher"):
        windows.official(log, 4)  # days 53 to 57; the purchases are of days 50 and 60


def test_cut_offs_never_reach_into_the_targets(tmp_path):
    log = read(write(tmp_path))
    end = windows.official(log, 14).start
    cuts = windows.cut_offs(log, end, 7, most=10, step=7)
    assert (cuts + 7 * DAY <= end).all() and (np.diff(cuts) == -7 * DAY).all()
    assert (cuts - log.time.min() >= 7 * DAY).all() and len(cuts) == 3


def test_labels_of_the_six_tasks(tmp_path):
    folder = write(tmp_path)
    (folder / "target").mkdir()
    np.save(folder / "target" / "propensity_sku.npy", np.array([99, 10, 1234], object))  # as it is officially read
    np.save(folder / "target" / "popularity_propensity_sku.npy", np.array([1.0, 4.0, 2.0]))
    log = read(folder)
    targets = windows.official(log, 14)
    found = labels.tasks(log, log.relevant(), targets, size=2)  # clients 12, 7, 9, 3
    assert found["churn"].clients.tolist() == [False, True, False, False]  # a purchase before day 33
    assert found["conversion"].train[:, 0].tolist() == [1, 0, 0, 1]
    assert found["conversion"].validation[:, 0].tolist() == [1, 0, 0, 1]
    assert found["propensity_sku"].train.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert found["propensity_sku"].validation.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert found["propensity_sku"].popularity.tolist() == [1, 4, 2]
    assert found["propensity_category"].train[:, 0].tolist() == [0, 1, 1, 0]  # only category 3 was bought before
    assert found["propensity_price"].train[:, 0].tolist() == [0, 1, 1, 0]
    assert "propensity_new_sku" not in found  # product 10 was bought before


def test_a_catalogue_reads_back_and_adapts(tmp_path):
    log = read(write(tmp_path))
    known = count(log.at(log.end), min_visits=2)
    again = BehaviourCatalogue.from_arrays(known.arrays())
    for name, array in known.arrays().items():
        assert np.array_equal(array, again.arrays()[name]), name
    assert known.urls.ids.tolist() == [400] and known.items.num_trained == 4 and known.items.ids[0] == 10
    tokens = again.adapt(log)
    visits = tokens.ref[tokens.kind == VISIT]
    assert sorted(visits.tolist()) == sorted([NUM_SPECIALS] * 3 + [-1 - int(url_hash(np.array([500]))[0])])
    removed = tokens.ref[tokens.kind == REMOVE]
    assert known.items.decode(removed).tolist() == [12] and tokens.products.category[removed] == NUM_SPECIALS + 1
    unknown = known.adapt(read(write(tmp_path / "other", {"product_buy": [(1, 1, 0, 77)]}, properties=False)))
    assert unknown.ref.tolist() == [UNKNOWN]


def test_clients_are_counted_some_at_a_time(monkeypatch):
    log = sources.load(DataConfig(), SAMPLE, seed=1)
    whole = count(log.at(log.end), min_visits=2).arrays()
    monkeypatch.setattr(catalogue, "_CLIENTS_AT_ONCE", 7)
    for name, array in count(log.at(log.end), min_visits=2).arrays().items():
        assert np.array_equal(array, whole[name]), name


def test_nothing_after_the_cut_is_counted():
    log = sources.load(DataConfig(), SAMPLE, seed=1)
    config = BehaviourConfig(window_days=7)
    prepared = prepare(log, config)
    index, _ = prepared.train.events()
    assert (log.time[index] < prepared.cut).all()
    assert prepared.catalogue.item_counts.sum() == np.count_nonzero(log.kind[index] <= REMOVE)
    assert len(prepared.everyone()) == 60 and (prepared.train.lengths > 0).all()
    everything = prepare(log, config, everything=True)
    assert everything.num_train_events == len(log) and everything.sha256 != prepared.sha256


def test_the_sample_is_the_same_as_files(tmp_path):
    from zoo.data.behaviour.sources.sample import write as write_sample

    write_sample(SAMPLE, tmp_path, seed=3)
    written, made = read(tmp_path), sources.load(DataConfig(), SAMPLE, seed=3)
    for name in ("clients", "offsets", "kind", "urls"):
        assert np.array_equal(getattr(written, name), getattr(made, name)), name
    assert np.array_equal(written.time // 1000, made.time // 1000)
    assert sorted(written.relevant().tolist()) == made.relevant().tolist()
    assert np.array_equal(written.products.category, made.products.category)


def test_invoice_lines_are_purchases_and_removals(tmp_path):
    lines = (
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
        "1,10001,RED MUG,6,2010-12-01 08:26:00,2.55,17850,United Kingdom",
        "1,10002,BLUE TEA MUG,1,2010-12-01 08:26:00,2.55,17850,United Kingdom",
        "1,10003,4 LETTERS,1,2010-12-05 08:26:00,9.00,17851,United Kingdom",
        "C2,10001,RED MUG,-1,2010-12-02 08:26:00,2.55,17850,United Kingdom",
        "3,POST,POSTAGE,1,2010-12-03 08:26:00,18,17851,France",
        "C4,POST,POSTAGE,-1,2010-12-04 08:26:00,18,17851,France",
        "5,10001,RED MUG,1,2010-12-04 08:26:00,1,,France",
    )
    path = tmp_path / "downloads" / "online-retail" / "data.csv"  # where a download puts it
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")
    log = read(path)
    assert read("online-retail", cache_dir=str(tmp_path)).sha256() == log.sha256()
    assert log.clients.tolist() == [17850, 17851] and np.diff(log.offsets).tolist() == [3, 1]
    assert log.products.ids.tolist() == ["10001", "10002", "10003"], "a charge is no product"
    assert log.kind.tolist() == [BUY, BUY, REMOVE, BUY] and log.ref.tolist() == [0, 1, 0, 2]
    assert log.categories.tolist() == ["LETTERS", "MUG"] and log.products.category.tolist() == [1, 1, 0]
    one, two, three = log.products.price.tolist()
    assert one == two < three, "equal prices share a bucket"
    words = [[code for code in name if code != NO_CODE] for name in log.products.name.tolist()]
    assert [len(name) for name in words] == [2, 3, 1] and words[0][1] == words[1][2], (
        "MUG is one code wherever it stands"
    )


def test_the_real_invoice_lines_can_be_cut_and_judged():
    path = SHARED / "online-retail-cc0" / "online_retail_full.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    log = read(path)
    counts = np.bincount(log.kind, minlength=5)
    assert len(log.clients) == 4_363 and len(log.products) == 3_659
    assert counts[BUY] > 380_000 and counts[REMOVE] > 7_000 and counts[[ADD, VISIT, SEARCH]].sum() == 0
    prepared = prepare(log, BehaviourConfig(window_days=28))
    tasks = labels.tasks(log, log.relevant(), prepared.windows, 100)
    churn = tasks["churn"]
    assert 0.3 < churn.train.mean() < 0.8
    assert tasks["propensity_category"].train.sum() > 1_000


@pytest.mark.parametrize("days", [10, 13])
def test_the_real_sessions_can_be_cut_and_asked_about(days):
    """All windows that its ten purchases allow lie between."""
    path = SHARED / "otto-fixture-ccby" / "train.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    log = read(path)
    assert len(log.clients) == 20 and np.bincount(log.kind, minlength=5).tolist() == [10, 52, 0, 800, 0]
    prepared = prepare(log, BehaviourConfig(window_days=days))
    assert len(prepared.everyone()) == 20 and prepared.train.lengths.sum() == np.count_nonzero(log.time < prepared.cut)
    asked = labels.tasks(log, log.relevant(), prepared.windows, 100)
    buyers = [int((1 - labels_of).sum()) for labels_of in (asked["conversion"].train, asked["conversion"].validation)]
    assert buyers == [1 if days == 10 else 2, 1]
    for other in (9, 14):
        with pytest.raises(DataError, match=r"behaviour\.window_days"):
            windows.official(log, other)


def test_sessions_are_clients_of_a_log_without_properties(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        '{"session": 5, "events": [{"aid": 9, "ts": 1, "type": "clicks"}, {"aid": 9, "ts": 2, "type": "carts"}]}\n'
        '{"session": 6, "events": [{"aid": 4, "ts": 3, "type": "orders"}]}\n'
    )
    log = read(path)
    assert log.clients.tolist() == [5, 6] and log.kind.tolist() == [VISIT, ADD, BUY]
    assert log.products.ids[log.ref[1:]].tolist() == [9, 4] and log.urls.tolist() == [9]
    assert (log.products.category == NO_CODE).all() and (log.products.price == NO_CODE).all()
