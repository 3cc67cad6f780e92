"""Statistics against loops over the events of one client after the other."""

import collections
import datetime
import math
import statistics as textbook
from itertools import pairwise

import numpy as np
import pytest

from config import SampleConfig
from tests.small_behaviour import START, drawn, log_of
from zoo.data.behaviour import catalogue
from zoo.data.behaviour import statistics as module
from zoo.data.behaviour.log import ADD, BUY, DAY, KINDS, REMOVE, SEARCH, VISIT
from zoo.data.behaviour.sources import sample
from zoo.data.behaviour.statistics import HALF_LIVES, NEVER, WINDOWS, Reference, moments, statistics

pytestmark = pytest.mark.once

CUT = START + 80 * DAY + 12_345_678


def counted(snapshot, reference=None):
    """{name: column}."""
    values, names = statistics(snapshot, reference or Reference.of(snapshot))
    assert values.shape == (len(snapshot), len(names)) and values.dtype == np.float32
    assert len(set(names)) == len(names) and np.isfinite(values).all()
    return dict(zip(names, values.T, strict=True))


def entropy(values):
    counts = collections.Counter(values)
    return -sum(n / len(values) * math.log2(n / len(values)) for n in counts.values())


def gaps(ages):
    """Of the days before the cut-off on which something was."""
    days = sorted({int(age) for age in ages}, reverse=True)
    return [a - b for a, b in pairwise(days)]


def naive(log, client, cut, reference):
    """The columns of one client, by loops."""
    events = [
        (int(kind), (cut - int(time)) / DAY, int(ref), int(time))
        for kind, time, ref in zip(log.kind, log.time, log.ref, strict=True)
    ][log.offsets[client] : log.offsets[client + 1]]
    events = [event for event in events if event[3] < cut]
    mine, log1p = {}, math.log1p
    days = lambda x: log1p(min(x, NEVER))  # noqa: E731
    for k, kind in enumerate(KINDS):
        ages = [age for other, age, *_ in events if other == k]
        for window in WINDOWS:
            mine[f"{kind}, {window} days"] = log1p(sum(age <= window for age in ages))
        mine[f"{kind}, all time"] = log1p(len(ages))
        for half in HALF_LIVES:
            mine[f"{kind}, half-life {half} days"] = log1p(sum(2 ** (-age / half) for age in ages))
        mine[f"{kind}, since the last"] = days(min(ages, default=NEVER))
    for name, kinds in (("any", range(5)), (KINDS[BUY], [BUY])):
        ages = [age for kind, age, *_ in events if kind in kinds]
        between = gaps(ages)
        mine[f"{name}, since the last"] = days(min(ages, default=NEVER))
        mine[f"{name}, mean gap"] = days(textbook.mean(between) if between else NEVER)
        mine[f"{name}, median gap"] = days(textbook.median(between) if between else NEVER)
        mine[f"{name}, last gap"] = days(between[-1] if between else NEVER)
        expected = max(textbook.mean(between) if between else NEVER, 0.5)
        mine[f"{name}, since the last by mean gap"] = log1p(min(ages, default=NEVER) / expected)
        for most in (7, 30, None):
            active = {int(age) for age in ages if most is None or int(age) < most}
            mine[f"{name}, days of {most or 'all time'}"] = log1p(len(active))
    ages = [age for _, age, *_ in events]
    mine["any, since the first"] = days(max(ages, default=NEVER))
    times = [time for *_, time in events]
    breaks = sum(b - a > 30 * 60_000 for a, b in pairwise(times))
    mine["sessions"] = log1p(breaks + bool(times))
    mine["events by session"] = log1p(len(times) / (breaks + 1))
    for kind in (BUY, ADD):
        prices = [int(log.products.price[ref]) for other, _, ref, _ in events if other == kind]
        prices = [(price + 0.5) / reference.num_prices for price in prices if price >= 0]
        some = prices or [0.5]
        found = {"mean": textbook.mean(some), "deviation": textbook.pstdev(some), "last": some[-1]}
        found |= {"lowest": min(some), "highest": max(some)}
        mine |= {f"{KINDS[kind]}, {name} price": value for name, value in found.items()}
        for i in range(10):
            mine[f"{KINDS[kind]}, price range {i}"] = log1p(sum(int(price * 10) == i for price in prices))
    goods = [event for event in events if event[0] in (BUY, ADD, REMOVE)]
    bought = [event for event in goods if event[0] == BUY]
    parts = {"14 days": [e for e in goods if e[1] <= 14], "60 days": [e for e in goods if e[1] <= 60]}
    parts |= {"all time": goods, "bought": bought}
    for label, part in parts.items():
        for rank, code in enumerate(reference.categories):
            mine[f"category {rank}, {label}"] = log1p(sum(log.products.category[e[2]] == code for e in part))
        for rank, code in enumerate(reference.products):
            if label != "60 days":
                mine[f"product {rank}, {label}"] = log1p(sum(e[2] == code for e in part))
    visits = [event for event in events if event[0] == VISIT]
    for label, part in (("14 days", [e for e in visits if e[1] <= 14]), ("all time", visits)):
        for rank, code in enumerate(reference.urls):
            mine[f"url {rank}, {label}"] = log1p(sum(e[2] == code for e in part))
    popular = np.log1p(reference.events)
    mine["popularity of products"] = np.mean([popular[e[2]] for e in goods] or popular)
    mine["popularity of purchases"] = np.mean([popular[e[2]] for e in bought] or popular)
    searches = [e[2] for e in events if e[0] == SEARCH]
    variety = {"product": [e[2] for e in goods], "category": [int(log.products.category[e[2]]) for e in goods]}
    variety |= {"url": [e[2] for e in visits], "query": searches}
    for name, values in variety.items():
        mine |= {f"different, {name}": log1p(len(set(values))), f"entropy, {name}": entropy(values)}
    total = collections.Counter(kind for kind, *_ in events)
    for a, b in ((BUY, ADD), (REMOVE, ADD), (ADD, VISIT), (BUY, VISIT), (SEARCH, VISIT)):
        mine[f"{KINDS[a]} against {KINDS[b]}"] = (total[a] + 0.5) / (total[a] + total[b] + 1)
    mine["span"] = days(max(ages, default=0) - min(ages, default=0))
    late = sum(age <= max(ages) / 3 for age in ages)
    mine["share in the last third"] = (late + 1 / 3) / (len(ages) + 1)
    recent, before = (sum(low < age <= low + 30 for age in ages) for low in (0, 30))
    mine["trend of 30 days"] = math.log((recent + 1) / (before + 1))
    mine["mean age"] = days(textbook.mean(ages) if ages else NEVER)
    stamps = [datetime.datetime.fromtimestamp(time / 1000, datetime.UTC) for time in times]
    for i in range(8):
        mine[f"hours {i}"] = (sum(stamp.hour // 3 == i for stamp in stamps) + 1 / 8) / (len(times) + 1)
    for i in range(7):
        mine[f"weekday {i}"] = (sum(stamp.weekday() == i for stamp in stamps) + 1 / 7) / (len(times) + 1)
    names = [log.products.name[e[2]] for e in goods if e[0] != REMOVE]
    for name, texts in (("names", names), ("queries", [log.queries[row] for row in searches])):
        total = np.zeros(module.WORDS)
        for text in texts:
            words = [module._signs()[place, code] for place, code in enumerate(text) if code >= 0]
            total += np.sum(words, axis=0) / math.sqrt(len(words)) if words else 0
        mine |= {f"{name} {i}": value for i, value in enumerate(total / max(len(texts), 1))}
    return mine


@pytest.mark.parametrize("seed", range(3))
def test_every_column_is_what_a_loop_over_the_events_gives(seed):
    log = drawn(seed)
    reference = Reference.of(log.at(CUT), categories=3, products=4, urls=2)
    columns = counted(log.at(CUT), reference)
    assert not log.at(CUT).lengths[-1]  # the last client has no event
    for client in range(len(log.clients)):
        expected = naive(log, client, CUT, reference)
        assert set(expected) == set(columns)
        for name, value in expected.items():
            assert columns[name][client] == pytest.approx(value, abs=1e-4, rel=1e-4), (name, client)


def test_most_frequent_codes_have_columns():
    events = [(0, BUY, 1, 2), (0, ADD, 2, 2), (1, REMOVE, 1, 0), (1, VISIT, 1, 3), (1, VISIT, 90, 4), (0, ADD, 3, 1)]
    log = log_of(events, 2, category=[1, 0, -1], price=[0, 0, 0])
    reference = Reference.of(log.at(CUT), products=2)
    assert reference.products.tolist() == [2, 0] and reference.events.tolist() == [1, 1, 2]
    assert reference.categories.tolist() == [0, 1]  # of as many events, the first
    assert reference.urls.tolist() == [3]  # the other was visited after the cut-off


def test_nothing_after_the_cut_off_is_seen_and_each_client_has_his_own():
    log = drawn(5)
    reference = Reference.of(log.at(CUT))
    rows = np.array([3, 0, 3, 7])
    cuts = np.array([CUT, CUT - 20 * DAY, CUT - 40 * DAY, START])
    values, _ = statistics(log.at(cuts, rows), reference)
    for row, cut, mine in zip(rows, cuts, values, strict=True):
        np.testing.assert_allclose(statistics(log.at(cut), reference)[0][row], mine, atol=1e-6)
    later = log_of([(0, BUY, 70, 0), (0, BUY, 90, 1)], 1, category=[0, 1], price=[1, 1])
    without = log_of([(0, BUY, 70, 0)], 1, category=[0, 1], price=[1, 1])
    both = [statistics(log.at(CUT), Reference.of(log.at(CUT)))[0] for log in (later, without)]
    np.testing.assert_array_equal(*both)


def test_clients_without_events_have_one_row_and_so_have_logs_without():
    log = drawn(2)
    reference = Reference.of(log.at(CUT))
    nobody, _ = statistics(log.at(START - DAY), reference)
    assert np.isfinite(nobody).all() and (nobody == nobody[0]).all()
    np.testing.assert_array_equal(statistics(log.at(CUT), reference)[0][-1], nobody[0])
    empty = log_of([], 2, category=[], price=[])
    assert np.isfinite(statistics(empty.at(CUT), Reference.of(empty.at(CUT)))[0]).all()
    assert len(statistics(log.at(CUT).take(slice(0, 0)), reference)[0]) == 0


def test_all_events_in_one_second():
    log = log_of([(0, kind, 5, 0) for kind in (BUY, ADD, BUY)], 1, category=[0], price=[3], queries=[[1, 2]])
    columns = counted(log.at(START + 6 * DAY))
    assert columns["sessions"] == pytest.approx(math.log(2))
    assert columns["span"] == 0 and columns["any, mean gap"] == pytest.approx(math.log1p(NEVER))


def test_clients_are_counted_in_batches(monkeypatch):
    log = drawn(1)
    whole, _ = statistics(log.at(CUT), Reference.of(log.at(CUT)))
    monkeypatch.setattr(module, "BATCH", 50)
    np.testing.assert_array_equal(statistics(log.at(CUT), Reference.of(log.at(CUT)))[0], whole)


def test_a_log_in_tokens_has_the_same_statistics():
    log = sample.read(SampleConfig(num_users=40, num_items=40, num_days=40, events_per_user=12))
    snapshot = log.at(log.end)
    known = catalogue.count(snapshot, 2)
    tokens = known.adapt(log).at(log.end)
    raw = counted(snapshot)
    coded = counted(tokens, Reference.known(known))
    ranked = [name for name in raw if name.startswith("url ")]  # urls with few visits have no token
    same = [name for name in raw if name in coded and name not in ranked]
    assert len(same) == len(raw) - len(ranked)
    for name in same:
        # The popularity of nothing is the mean over products, of which the catalogue has three more.
        tolerance = 0.5 if name.startswith("popularity") else 1e-6
        np.testing.assert_allclose(raw[name], coded[name], atol=tolerance, err_msg=name)


def test_moments_are_of_all_rows_and_a_constant_deviates_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 3)) * [1, 1e-4, 0] + [1e3, 0, 5]
    rows = rng.permutation(50)[:33]
    mean, deviation = moments(vectors.astype(np.float32), rows, chunk=7)
    np.testing.assert_allclose(mean, vectors[rows].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(deviation, [*vectors[rows, :2].std(axis=0), 1], rtol=1e-3)
    assert not np.isfinite(moments(np.array([[np.inf], [-np.inf]]), np.arange(2))[0]).any()
