"""Profiles and views of clients against plain loops, and the batches made of them."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from config import BehaviourConfig, SampleConfig, override
from zoo import registry
from zoo.data.behaviour import catalogue as catalogues
from zoo.data.behaviour.log import ADD, BUY, DAY, REMOVE, SEARCH, VISIT, BehaviourLog, Products
from zoo.data.behaviour.prepared import prepare
from zoo.data.behaviour.profiles import PARTS, Profiles, bag, kde, profile, table_sizes, text_tokens
from zoo.data.behaviour.sources import sample
from zoo.data.behaviour.views import two_views
from zoo.data.loaders.two_views import TextLoader, TwoViewLoader, fingerprints
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN

pytestmark = pytest.mark.once

SAMPLE = SampleConfig(num_users=80, num_items=60, num_days=60, events_per_user=16, noise=0.1)
BOUNDARIES = ("none", "reflect", "renormalise")
OFF = "event_dropout=0,time_crop=0,modality_dropout=0,unknown_share=0"
START = 1_700_000_000_000


def knobs(*options):
    return override(registry.get("behav_e").preset("tiny"), options)


def loop_kde(times, points, bandwidth, boundary):
    """One kernel at a time."""
    result = []
    for x in np.linspace(0, 1, points):
        total = 0.0
        for t in times:
            centres = {"none": [t], "reflect": [t, -t, 2 - t], "renormalise": [t]}[boundary]
            value = sum(math.exp(-0.5 * ((x - c) / bandwidth) ** 2) / math.sqrt(2 * math.pi) for c in centres)
            if boundary == "renormalise":
                value /= ndtr((1 - t) / bandwidth) - ndtr(-t / bandwidth)
            total += value
        result.append(total / (len(times) * bandwidth))
    return np.array(result)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_kde_is_the_mean_of_kernels(boundary):
    rng = np.random.default_rng(0)
    times, group = rng.random(60), np.sort(rng.integers(0, 6, 60))
    group[group == 3] = 2  # one without events
    found = kde(times, group, 6, 11, 0.1, boundary)
    assert found.dtype == np.float32 and not found[3].any()
    for g in (0, 1, 2, 4, 5):
        np.testing.assert_allclose(found[g], loop_kde(times[group == g], 11, 0.1, boundary), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at", [0.0, 0.02, 0.5, 1.0])
def test_corrected_densities_integrate_to_one(at):
    group = np.zeros(1, int)
    mass = {b: np.trapezoid(kde(np.array([at]), group, 1, 2001, 0.05, b)[0], dx=1 / 2000) for b in BOUNDARIES}
    assert mass["reflect"] == pytest.approx(1, abs=1e-3)
    assert mass["renormalise"] == pytest.approx(1, abs=1e-3)
    assert mass["none"] == pytest.approx(ndtr((1 - at) / 0.05) - ndtr(-at / 0.05), abs=1e-3)  # half of it at an edge


def test_one_event_in_the_middle_peaks_as_published():
    assert kde(np.array([0.5]), np.zeros(1, int), 1, 11, 0.1, "none").max() == pytest.approx(3.99, abs=0.01)


def test_kde_is_twenty_times_faster_than_a_loop_over_events():
    rng = np.random.default_rng(0)
    times, group = rng.random(200_000), np.sort(rng.integers(0, 30_000, 200_000))

    def timed(function):
        best = math.inf
        for _ in range(3):
            started = time.perf_counter()
            function()
            best = min(best, time.perf_counter() - started)
        return best

    points = np.linspace(0, 1, 11).tolist()

    def loop(count):
        for t in times[:count].tolist():
            for x in points:
                math.exp(-0.5 * ((x - t) / 0.1) ** 2) / math.sqrt(2 * math.pi)

    vectorised = timed(lambda: kde(times, group, 30_000, 11, 0.1, "none")) / 200_000
    assert timed(lambda: loop(3000)) / 3000 > 20 * vectorised


def test_bags_hold_the_latest_distinct_values_and_their_shares():
    rng = np.random.default_rng(1)
    owner = np.sort(rng.integers(0, 9, 200))
    owner[owner == 4] = 5  # one without events
    value = rng.integers(0, 12, 200) + 3
    event = np.sort(rng.permutation(400)[:200])
    kept = rng.random(400) < 0.6
    found = bag(event, owner, value, 9, 6)
    shares = found.weights(kept)
    for client in range(9):
        mine = value[owner == client]
        latest = list(dict.fromkeys(mine[::-1].tolist()))[:6]
        np.testing.assert_array_equal(found.ids[client], latest + [PAD] * (6 - len(latest)))
        shown = mine[kept[event[owner == client]]]
        counts = np.array([np.count_nonzero(shown == v) for v in latest] + [0] * (6 - len(latest)))
        np.testing.assert_allclose(shares[client], counts / max(counts.sum(), 1), rtol=1e-6)


# ------------------------------------------------------------------------------------------------ a log by hand

PRODUCTS = Products(
    np.array([100, 200, 300]),
    np.array([1, 0, -1], np.int32),
    np.array([5, -1, 7], np.int16),
    np.array([[1, 2, -1], [3, -1, -1], [-1, -1, -1]], np.int16),
)
QUERIES = np.array([[9, 8, 7, 6], [4, -1, -1, -1], [2, 2, -1, -1]], np.int16)


def by_hand(clients):
    """A log of lists of (kind, day, row of product, url or query), each in order of time."""
    events = [event for client in clients for event in client]
    kind, day, ref = (np.array(column) for column in zip(*events, strict=True))
    return BehaviourLog(
        np.arange(len(clients)),
        np.concatenate([[0], np.cumsum([len(client) for client in clients])]),
        kind.astype(np.int8),
        (START + day * DAY).astype(np.int64),
        ref.astype(np.int32),
        PRODUCTS,
        np.array([10, 20]),
        np.array([7000, 7001, 7002]),
        QUERIES,
    )


CLIENTS = [
    [(VISIT, 0, 0), (ADD, 1, 0), (ADD, 2, 1), (BUY, 3, 0), (VISIT, 8, 0), (VISIT, 8, 1)],
    [],
    [(SEARCH, 5, 0), (SEARCH, 6, 1), (SEARCH, 6.5, 0), (BUY, 7, 2)],
    [(BUY, 10, 0)],  # behind the cut-off
]


def tokens_of(log, day=9, min_visits=2):
    known = catalogues.count(log.at(START + day * DAY), min_visits)
    return known.adapt(log).at(START + day * DAY), known


def test_a_profile_by_hand():
    snapshot, known = tokens_of(by_hand(CLIENTS))
    config = knobs("grid=5,bag_size=3,num_queries=2,text_length=3,url_hash_size=4").model
    found = profile(snapshot, known, config)
    counts = np.array([[1, 2, 0, 3, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 3], [0, 0, 0, 0, 0]])
    np.testing.assert_allclose(found["actions"], counts / np.maximum(counts.sum(1, keepdims=True), 1), rtol=1e-6)
    np.testing.assert_allclose(found["activity"][:, :5], np.log1p(counts), rtol=1e-6)
    np.testing.assert_array_equal(found["activity"][:, 10], [1, 0, 1, 0])
    ago = np.array([[6, 7, np.inf, 1, np.inf], [np.inf] * 5, [2, *[np.inf] * 3, 2.5], [np.inf] * 5])
    fresh = 1 - np.log1p(np.minimum(ago, 9)) / np.log1p(9)  # the period has nine days
    np.testing.assert_allclose(found["activity"][:, 5:10], fresh, atol=1e-6)
    density = loop_kde([0, 8 / 9, 8 / 9], 5, config.bandwidth, config.boundary)
    np.testing.assert_allclose(found["times"][0, VISIT], density, rtol=1e-4, atol=1e-4)
    a, b = known.items.encode(np.array([100, 200]))
    np.testing.assert_array_equal(found["sku"][0], [[a, 0, 0], [b, a, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found["sku_weight"][0], [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]])
    g, h = known.categories.encode(np.array([10, 20]))
    np.testing.assert_array_equal(found["category"][0], [[h, 0, 0], [g, h, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found["category"][2, BUY], [UNKNOWN, 0, 0])  # a product without category
    np.testing.assert_array_equal(found["price"][0], [[5 + NUM_SPECIALS, 0, 0], [5 + NUM_SPECIALS, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found["price_weight"][0, ADD], [1, 0, 0])  # the other has no price
    rare, frequent = found["url"][0, 0, :2]
    assert frequent == known.urls.encode(np.array([7000]))[0]
    assert known.urls.size <= rare < table_sizes(known, config)["url"]
    np.testing.assert_allclose(found["url_weight"][0, 0], [1 / 3, 2 / 3, 0], rtol=1e-6)
    np.testing.assert_array_equal(found["query"][2], np.array([[9, 8, 7], [4, -3, -3]]) + NUM_SPECIALS)
    np.testing.assert_allclose(found["query_weight"][2], [2 / 3, 1 / 3], rtol=1e-6)
    for name, array in found.items():
        assert not array[[1, 3]].any(), f"{name}: a client without events is zeros"
        assert array.dtype in (np.int32, np.float32) and np.isfinite(array).all(), name


def test_few_rows_of_tables_make_the_others_unknown():
    snapshot, known = tokens_of(by_hand(CLIENTS))
    found = profile(snapshot, known, knobs("max_items=1,url_hash_size=0").model)
    np.testing.assert_array_equal(found["sku"][0, ADD, :2], [UNKNOWN, NUM_SPECIALS])
    assert found["url"][0, 0, 0] == UNKNOWN
    sizes = table_sizes(known, knobs("max_items=1,url_hash_size=0").model)
    assert sizes == {"sku": 4, "category": 5, "price": 11, "url": known.urls.size}


def test_products_and_codes_of_a_later_log_are_unknown():
    log = by_hand(CLIENTS)
    _, known = tokens_of(log)
    renamed = replace(log, products=replace(PRODUCTS, ids=np.array([100, 201, 300])), queries=QUERIES + 100)
    found = profile(known.adapt(renamed).at(START + 9 * DAY), known, knobs().model)
    np.testing.assert_array_equal(found["sku"][0, ADD, :2], [UNKNOWN, NUM_SPECIALS])
    assert set(found["query"][2].ravel().tolist()) <= {UNKNOWN, PAD} | set(range(99, 200))
    np.testing.assert_array_equal(text_tokens(np.array([[1, 500, -1]]), 4, 10), [[4, UNKNOWN, PAD, PAD]])


def test_events_older_than_the_period_count_as_just_as_old():
    log = by_hand([[(BUY, 0, 0)], [(BUY, 0, 1), (BUY, 20, 0)]])
    _, known = tokens_of(log, day=9)
    config = knobs("grid=11").model
    found = profile(known.adapt(log).at(START + 25 * DAY), known, config)
    expected = loop_kde([0.0], 11, config.bandwidth, config.boundary)
    np.testing.assert_allclose(found["times"][0, BUY], expected, rtol=1e-4, atol=1e-5)
    assert found["activity"][0, 5] == 0 < found["activity"][1, 5]


def test_all_events_in_one_second_and_no_events_at_all():
    log = by_hand([[(kind, 0, 0) for kind in (BUY, ADD, REMOVE, VISIT, SEARCH)]] * 2)
    known = catalogues.count(log.at(START + 1000), 1)
    for snapshot in (known.adapt(log).at(START + 1000), known.adapt(log).at(0), TwoViewLoader.anybody()):
        found = profile(snapshot, known, knobs().model)
        assert all(np.isfinite(array).all() and len(array) == len(snapshot) for array in found.values())


# ------------------------------------------------------------------------------------------------- the sample


@pytest.fixture(scope="module")
def prepared():
    return prepare(sample.read(SAMPLE), BehaviourConfig(window_days=7, min_visits=3))


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], dict):
            same(one[name], other[name])
        else:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_row_is_the_same_among_any_others(prepared):
    config = knobs().model
    whole = profile(prepared.train, prepared.catalogue, config)
    rows = np.random.default_rng(0).permutation(len(prepared.train))[:20]
    part = profile(prepared.train.take(rows), prepared.catalogue, config)
    same(part, {name: array[rows] for name, array in whole.items()})


def test_what_comes_later_does_not_show(prepared):
    log = prepared.tokens
    rng, ref = np.random.default_rng(0), log.ref.copy()
    for kind in range(5):
        mine = np.flatnonzero((log.kind == kind) & (log.time >= prepared.cut))
        ref[mine] = rng.permutation(ref[mine])
    changed = replace(log, ref=ref).at(prepared.cut)
    config = knobs().model
    same(profile(changed, prepared.catalogue, config), profile(log.at(prepared.cut), prepared.catalogue, config))


def test_views_with_all_knobs_off_show_everything(prepared):
    config = knobs(OFF)
    loader = TwoViewLoader(prepared.train, prepared.catalogue, config)
    x, _, _ = loader[0]
    same(x["first"], x["second"])
    rows = np.resize(loader._order[: loader.rows_per_batch], loader.rows_per_batch)
    plain = loader.inputs(prepared.train.take(rows), prepared.catalogue, config.model)
    same(plain, {name: x[name] if name in x else x["first"][name] for name in plain})


def test_views_drop_events_but_never_all(prepared):
    profiles = Profiles(prepared.train, prepared.catalogue, knobs().model)
    config = knobs(OFF, "event_dropout=0.9").model
    first, second = two_views(profiles, config, np.random.default_rng(3))
    for view in (first, second):
        left = np.bincount(profiles.owner[view.kept], minlength=profiles.n)
        assert (left >= 1).all() and view.kept.mean() == pytest.approx(0.1, abs=0.08)
        np.testing.assert_array_equal(view.cut, profiles.cut)
    assert (first.kept != second.kept).any()


def test_a_cropped_client_is_seen_before_and_after_a_moment(prepared):
    profiles = Profiles(prepared.train, prepared.catalogue, knobs().model)
    first, second = two_views(profiles, knobs(OFF, "time_crop=1").model, np.random.default_rng(3))
    older_first = first.cut < profiles.cut
    assert 0.2 < older_first[profiles.lengths > 3].mean() < 0.8  # either may be the older one
    for client in range(profiles.n):
        mine = profiles.owner == client
        views = (first, second) if older_first[client] else (second, first)
        older, newer = (profiles.time[mine & view.kept] for view in views)
        if profiles.time[mine].min() == profiles.time[mine].max():
            assert len(older) == len(newer) == mine.sum()
            continue
        cut = views[0].cut[client]
        assert len(older) and len(newer) and len(older) + len(newer) == mine.sum()
        assert older.max() < cut == newer.min() and views[1].cut[client] == profiles.cut[client]
    shown = profiles.seen(first.kept, first.cut)
    np.testing.assert_allclose(shown["actions"].sum(axis=1), 1, rtol=1e-6)
    assert (shown["activity"][:, 5:10] <= 1).all()


def test_hidden_parts_are_zeros_and_one_is_always_shown(prepared):
    profiles = Profiles(prepared.train, prepared.catalogue, knobs().model)
    first, _ = two_views(profiles, knobs(OFF, "modality_dropout=0.7").model, np.random.default_rng(3))
    assert not first.blank.all(axis=1).any() and first.blank.mean() > 0.5
    few, _ = two_views(profiles, knobs(OFF, "modality_dropout=0.7,parts=actions,times").model, np.random.default_rng(3))
    looked_at = [list(PARTS).index(part) for part in ("actions", "times")]
    assert not few.blank[:, looked_at].all(axis=1).any()
    shown, whole = profiles.seen(first.kept, first.cut, first.blank), profiles.seen()
    for part, name in enumerate(PARTS.values()):
        assert not shown[name][first.blank[:, part]].any(), name
        np.testing.assert_array_equal(shown[name][~first.blank[:, part]], whole[name][~first.blank[:, part]])


def test_a_batch_is_a_function_of_seed_epoch_and_index(prepared):
    loaders = [TwoViewLoader(prepared.train, prepared.catalogue, knobs("train.batch_size=16")) for _ in range(2)]
    for loader in loaders:
        loader.set_epoch(2)
    loaders[0][1], loaders[0][0]  # asked for in another order
    for one, other in zip(loaders[0][1], loaders[1][1], strict=True):
        same({"": one}, {"": other})
    twin = TwoViewLoader(prepared.train, prepared.catalogue, knobs("train.batch_size=16,seed=1"))
    twin.set_epoch(2)
    assert (twin[1][0]["noise"] != loaders[0][1][0]["noise"]).any()
    loaders[0].set_epoch(3)
    assert (loaders[0][1][0]["noise"] != loaders[1][1][0]["noise"]).any()


def test_batches_have_one_shape_and_rows_that_fill_weigh_nothing(prepared):
    loader = TwoViewLoader(prepared.train, prepared.catalogue, knobs("train.batch_size=48"))
    loader.set_epoch(0)
    weights = [loader[i][2] for i in range(len(loader))]
    assert sum(weight.sum() for weight in weights) == len(prepared.train)
    shapes = [{name: np.shape(value) for name, value in loader[i][0].items()} for i in range(len(loader))]
    assert all(shape == shapes[0] for shape in shapes)


def test_clients_with_the_same_history_are_known_as_such():
    one, other = [(VISIT, 1, 0), (BUY, 2, 1)], [(VISIT, 1, 0), (BUY, 2, 0)]
    snapshot, known = tokens_of(by_hand([one, other, one, [(BUY, 2, 1)]]))
    profiles = Profiles(snapshot, known, knobs().model)
    a, b, c, d = fingerprints(profiles).tolist()
    assert a == c and len({a, b, d}) == 3
    loader = TwoViewLoader(snapshot, known, knobs("train.batch_size=3"))
    for (x, y, weight), real in zip((loader[0], loader[1]), (3, 1), strict=True):
        clients = np.resize(loader._order[-real:] if real == 1 else loader._order[:3], 3)
        twins = np.isin(clients, [0, 2])
        np.testing.assert_array_equal(y[:, None] == y, twins[:, None] & twins | (clients[:, None] == clients))
        assert weight.sum() == real and x["noise"].shape == (3, 2, 16)


def test_a_log_smaller_than_a_batch_fills_none():
    snapshot, known = tokens_of(by_hand([[(BUY, 2, 1)], [(VISIT, 1, 0)]]))
    loader = TwoViewLoader(snapshot, known, knobs("train.batch_size=4000"))
    assert loader[0][2].tolist() == [1, 1]


def test_texts_are_those_known_at_the_cut_off():
    clients = [*CLIENTS, [(SEARCH, 10, 2)]]
    snapshot, known = tokens_of(by_hand(clients))
    loader = TextLoader(snapshot, known, knobs("train.batch_size=8,text_length=4"))
    expected = {(1, 2), (3,), (9, 8, 7, 6), (4,)}  # names of products; queries, but not the one of day ten
    assert {tuple(code - NUM_SPECIALS for code in row if code) for row in loader.texts.tolist()} == expected
    x, y, weight = loader[0]
    np.testing.assert_array_equal(x["text"], y)
    assert weight.sum() == sum(map(len, expected)) and not weight[y == PAD].any()


def test_ids_are_read_as_unknown_at_random(prepared):
    loader = TwoViewLoader(prepared.train, prepared.catalogue, knobs(OFF, "unknown_share=0.5"))
    plain = TwoViewLoader(prepared.train, prepared.catalogue, knobs(OFF))
    x, y = loader[0][0], plain[0][0]
    for name in ("sku", "category", "url"):
        real = y[name] >= NUM_SPECIALS
        assert (x[name] == UNKNOWN)[real].mean() == pytest.approx(0.5, abs=0.1)
        np.testing.assert_array_equal(x[name][~real], y[name][~real])
