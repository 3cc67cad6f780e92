"""The layout of T-ECD on a small copy: every event once, at its time, with its action, domain and item features."""

import numpy as np
import pandas as pd
import pytest

from config import DataConfig, SampleConfig
from tests.small_t_ecd import BOT, DAYS, NS_PER_DAY, SHOPS, write
from zoo.data import sources
from zoo.data.cleaning import weigh_actions
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import layouts
from zoo.data.sources.t_ecd import ACTIONS, WEIGHTS

pytestmark = pytest.mark.once
BOT_EVENTS = 47_000  # of the busiest user of the ten days


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t_ecd")
    return folder, write(folder, users=80, bot_events=BOT_EVENTS)


def load(folder, **options) -> Dataset:
    return sources.load(DataConfig(path=str(folder), **options), SampleConfig(), 0)


def as_frame(dataset: Dataset) -> pd.DataFrame:
    events, columns = dataset.events, dataset.events.columns
    frame = pd.DataFrame({"user": dataset.users.ids[events.user], "item": dataset.items.ids[events.item]})
    frame["milliseconds"] = events.timestamp
    for column in ("action", "domain"):
        frame[column] = np.array(dataset.labels[column], object)[columns[column]]
    return frame


def expected(events: pd.DataFrame) -> pd.DataFrame:
    frame = events.rename(columns={"user_id": "user", "item_id": "item", "action_type": "action"})
    frame["milliseconds"] = frame["nanoseconds"] // 1_000_000
    return frame[["user", "item", "milliseconds", "action", "domain"]]


def same_rows(left: pd.DataFrame, right: pd.DataFrame) -> None:
    order = list(right.columns)
    rows = [frame[order].sort_values(order).to_numpy().tolist() for frame in (left, right)]
    assert rows[0] == rows[1]


def test_the_folder_is_recognised(copy):
    assert layouts.recognise(str(copy[0])) == "t_ecd"


def test_every_shop_event_is_there_once(copy):
    folder, events = copy
    dataset = load(folder)
    same_rows(as_frame(dataset), expected(events))
    assert (np.diff(dataset.events.timestamp)[np.diff(dataset.events.user) == 0] >= 0).all()
    assert np.bincount(dataset.events.user)[np.flatnonzero(dataset.users.ids == BOT)[0]] == BOT_EVENTS


@pytest.mark.parametrize("unit", ["us", "ms", "s"])
def test_times_are_read_in_the_unit_of_the_file(tmp_path, unit):
    events = write(tmp_path, users=20, bot_events=30, unit=unit)
    step = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}[unit]
    events["nanoseconds"] = events["nanoseconds"] // step * step
    same_rows(as_frame(load(tmp_path)), expected(events))


def test_days_and_domains_are_chosen(copy):
    folder, events = copy
    dataset = load(folder, since="day 1082", until="day 1085", domains=("marketplace",))
    day = events["nanoseconds"] // NS_PER_DAY
    same_rows(as_frame(dataset), expected(events[day.between(1082, 1084) & (events["domain"] == "marketplace")]))


def test_other_days_are_not_even_opened(tmp_path):
    write(tmp_path, users=20, bot_events=30)
    (tmp_path / "retail" / "events" / f"{DAYS[-1]:05d}.pq").write_bytes(b"broken")
    assert len(load(tmp_path, until="day 1085").events)
    with pytest.raises(DataError, match="no readable Parquet"):
        load(tmp_path)


def test_items_have_the_features_of_their_first_row(copy):
    dataset = load(copy[0])
    items = pd.DataFrame({name: list(column) for name, column in dataset.items.columns.items()})
    items.index = dataset.items.ids
    assert set(dataset.items.columns) == {"brand", "category", "subcategory", "price"}
    for shop, (prefix, _) in SHOPS.items():
        assert items.loc[f"{prefix}_2", "price"] == 12.0  # its second row says a million
        assert items.loc[f"{prefix}_1", ["brand", "category"]].tolist() == ["1", f"{shop} 1"]
        assert pd.isna(items.loc[f"{prefix}_4", "brand"]) and pd.isna(items.loc[f"{prefix}_10", "category"])
        assert np.isnan(items.loc[f"{prefix}_9", "price"])
        assert items.loc[f"{prefix}_7"].isna().all()  # sold, but listed nowhere


def test_actions_are_numbered_by_commitment(copy):
    labels = load(copy[0]).labels["action"]
    assert labels == ACTIONS


def test_weights_of_the_study_fit_one_shop_alone(copy):
    dataset = weigh_actions(load(copy[0], domains=("retail",)), WEIGHTS)
    names = np.array(dataset.labels["action"])[dataset.events.columns["action"]]
    assert {(name, weight) for name, weight in zip(names, dataset.events.columns["weight"], strict=True)} == {
        ("view", 1.0), ("click", 2.0), ("added-to-cart", 4.0),
    }  # fmt: skip
    assert WEIGHTS["buy"] == max(WEIGHTS.values()) and set(WEIGHTS) == set(ACTIONS)


def test_receipts_are_baskets(copy):
    dataset = load(copy[0], domains=("payments",))
    assert {dataset.labels["action"][code] for code in dataset.events.columns["action"]} == {"buy"}
    assert any("without item dropped" in note for note in dataset.notes)
    prices = dataset.events.columns["price"]
    assert set(prices[np.isfinite(prices)].tolist()) == {99.0} and np.isnan(prices).any()
    same = (np.diff(dataset.events.user) == 0) & (np.diff(dataset.events.timestamp) == 0)
    assert same.mean() > 0.5


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"since": "day 2000"}, "it has the days 1080 to 1093"),
        ({"domains": ("offers",)}, "no events of offers"),
    ],
)
def test_what_is_not_there_is_said(copy, options, hint):
    with pytest.raises(DataError, match=hint):
        load(copy[0], **options)


def test_other_times_are_refused(tmp_path):
    write(tmp_path, users=10, bot_events=10)
    file = tmp_path / "retail" / "events" / "01083.pq"
    pd.read_parquet(file).assign(timestamp=1.0).to_parquet(file, index=False)
    with pytest.raises(DataError, match=r"01083\.pq: timestamp is of the type double; wanted a timedelta"):
        load(tmp_path)
