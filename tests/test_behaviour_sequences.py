"""What the models of sequences see of behaviour, and what they learn it for: against loops, and blind to the future."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import RunConfig, TrainConfig
from tests.behaviour_logs import CODES, SECTION, prepared, prepared_alike, random_log
from zoo.data.behaviour.catalogue import url_hash
from zoo.data.behaviour.log import ADD, BUY, DAY, NO_CODE, SEARCH, VISIT
from zoo.data.loaders.behaviour_labels import Candidates, fingerprints, padded
from zoo.data.loaders.behaviour_sequences import (
    NO_HISTORY,
    BehaviourSequenceLoader,
    code_rows,
    laid_out,
    seen_events,
    sequence_lengths,
    url_rows,
)
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN
from zoo.models.ubt import UBTConfig

pytestmark = pytest.mark.once

MODEL = UBTConfig(max_length=12, url_tail=5, text_length=4, max_positives=3, name_negatives=7, cut_offs=3)


def run_config(model=MODEL, section=SECTION, **train):
    return RunConfig(model=model, train=TrainConfig(**{"batch_size": 16} | train), behaviour=section)


def loader_of(data=None, model=MODEL, section=SECTION, **train):
    data = prepared() if data is None else data
    return BehaviourSequenceLoader(data.train, data.catalogue, run_config(model, section, **train))


def expected_events(log, client, cut, model):
    """Places in the log of what is seen of a client, by a loop from the end."""
    mine = [e for e in range(log.offsets[client], log.offsets[client + 1]) if log.time[e] < cut]
    seen, visits = [], 0
    for event in reversed(mine):
        visits += log.kind[event] == VISIT
        if log.kind[event] == VISIT and model.max_visits is not None and visits > model.max_visits:
            continue
        if len(seen) < model.max_length:
            seen.append(event)
    return seen[::-1]


def expected_slot(log, raw, event, before, cut, catalogue, model):
    """(kind, item, url, query codes, time, gap) of an event, from the log in tokens and the raw one."""
    kind, ref = log.kind[event], int(raw.ref[event])
    item, url, query = PAD, 0, [0] + [-1] * (model.text_length - 1)
    if kind == VISIT:
        known = catalogue.urls.encode(raw.urls[[ref]])[0]
        tail = url_hash(raw.urls[[ref]])[0] % model.url_tail
        url = len(catalogue.urls.ids) + tail + 1 if known == UNKNOWN else known - NUM_SPECIALS + 1
    elif kind == SEARCH:
        codes = [int(code) for code in raw.queries[ref] if code != NO_CODE][: model.text_length]
        query = [1 + place * catalogue.num_codes + code for place, code in enumerate(codes)]
        query = (query + [-1] * model.text_length)[: model.text_length]
        if not codes:
            query[0] = 0
    else:
        item = catalogue.items.encode(raw.products.ids[[ref]])[0]
    gap = -1 if before is None else (log.time[event] - log.time[before]) // 1000
    return kind + 1, item, url, query, (cut - log.time[event]) // 1000, gap


@pytest.mark.parametrize("knobs", [{}, {"max_visits": 3}, {"max_visits": 0}, {"max_length": 300, "max_visits": 300}])
def test_inputs_are_what_a_loop_would_make(knobs):
    model = MODEL.model_copy(update=knobs)
    data = prepared()
    snapshot = data.tokens.at(data.cut - 5 * DAY)
    x = BehaviourSequenceLoader.inputs(snapshot, data.catalogue, model)
    used = 0
    for row in range(len(snapshot)):
        slots = np.flatnonzero(x["segment"].reshape(-1) == row + 1)
        events = expected_events(data.tokens, row, data.cut - 5 * DAY, model)
        assert x["slot"][row] == slots[-1] and (np.diff(slots) == 1).all()
        assert slots[0] // model.max_length == slots[-1] // model.max_length
        used += len(slots)
        found = [x[name].reshape(-1)[slots].tolist() for name in ("kind", "item", "url", "time", "gap")]
        queries = x["query"].reshape(-1, x["query"].shape[-1])[slots].tolist()
        if not events:
            assert found == [[NO_HISTORY], [PAD], [0], [0], [-1]] and queries == [[0, -1, -1, -1]]
            continue
        assert len(slots) == len(events)
        for place, event in enumerate(events):
            before = events[place - 1] if place else None
            wanted = expected_slot(data.tokens, data.log, event, before, data.cut - 5 * DAY, data.catalogue, model)
            kind, item, url, query, time, gap = wanted
            assert [values[place] for values in found] == [kind, item, url, time, gap]
            assert queries[place] == query
    assert used == (x["segment"] > 0).sum()


def test_a_log_has_urls_that_are_known_and_others():
    """Else the test above would say nothing of them."""
    data = prepared()
    visits = data.tokens.ref[data.tokens.kind == VISIT]
    assert (visits >= NUM_SPECIALS).any() and (visits < 0).any()
    rows = url_rows(visits, data.catalogue, 5)
    assert rows.min() >= 1 and rows.max() <= len(data.catalogue.urls.ids) + 5


def test_lengths_are_those_of_what_is_seen():
    data = prepared()
    for visits in (None, 2, 100):
        model = MODEL.model_copy(update={"max_visits": visits})
        snapshot = data.tokens.at(data.cut)
        counts = np.bincount(seen_events(snapshot, model)[1], minlength=len(snapshot))
        np.testing.assert_array_equal(sequence_lengths(snapshot, model), np.maximum(counts, 1))


def test_nothing_at_or_after_the_cut_off_is_seen():
    data = prepared()
    loader = loader_of(data)
    index, owner = seen_events(loader.examples, MODEL)
    assert len(index) and (data.tokens.time[index] < loader.examples.cut[owner]).all()
    assert (loader.examples.cut + SECTION.window_days * DAY <= data.cut).all()
    assert len(np.unique(loader.examples.cut)) == 3


def scrambled(log, where, seed=1):
    """The log with other kinds and things at some events, their times and numbers the same."""
    rng = np.random.default_rng(seed)
    kind, ref = log.kind.copy(), log.ref.copy()
    kind[where] = rng.choice([BUY, ADD], where.sum())
    ref[where] = rng.integers(0, len(log.products), where.sum())
    return replace(log, kind=kind, ref=ref)


def batches(loader):
    loader.set_epoch(3)
    return [loader[i] for i in range(len(loader))]


def test_targets_are_never_seen():
    """Whatever happens at or after the cut-off of the preparation, the batches are the same."""
    data = prepared()
    other = prepared_alike(scrambled(data.log, data.log.time >= data.cut), data)
    assert (other.tokens.kind != data.tokens.kind).any()
    for mine, theirs in zip(batches(loader_of(data)), batches(loader_of(other)), strict=True):
        for one, two in zip(mine, theirs, strict=True):
            assert one.keys() == two.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_the_window_decides_the_labels_alone():
    """Other purchases behind a cut-off change nothing of its input; before it, nothing of its window."""
    data = prepared()
    loader = loader_of(data)
    cut = int(loader.examples.cut.max())
    mine = np.flatnonzero(loader.examples.cut == cut)
    for where, same_input in ((data.log.time >= cut, True), (data.log.time < cut, False)):
        other = loader_of(prepared_alike(scrambled(data.log, where), data))
        picked = [one.examples.take(mine) for one in (loader, other)]
        arrays = [laid_out(part, np.arange(len(mine)) * 12, len(mine), data.catalogue, MODEL) for part in picked]
        equal = all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])
        taken = [one.labels.futures.of(mine) for one in (loader, other)]
        assert equal == same_input
        assert all(map(np.array_equal, *taken)) != same_input


def example_batch(loader, examples, seed=0):
    return loader.labels.batch(examples, len(examples) + 2, np.random.default_rng(seed))


@pytest.mark.parametrize("cart_weight", [0.0, 0.25])
def test_labels_are_what_a_loop_would_make(cart_weight):
    model = MODEL.model_copy(update={"cart_weight": cart_weight, "max_positives": 40})
    data = prepared()
    loader = loader_of(data, model)
    log, known = data.tokens, data.catalogue
    examples = np.arange(len(loader.examples))
    y, weight = example_batch(loader, examples)
    some = 0
    for n in examples:
        client, cut = loader.examples.client[n], loader.examples.cut[n]
        events = range(log.offsets[client], log.offsets[client + 1])
        window = [e for e in events if cut <= log.time[e] < cut + 14 * DAY]
        bought = [int(log.ref[e]) for e in window if log.kind[e] == BUY]
        carts = [int(log.ref[e]) for e in window if log.kind[e] == ADD] if cart_weight else []
        share = dict.fromkeys(carts, cart_weight) | dict.fromkeys(bought, 1.0)
        active = any(log.kind[e] == BUY and log.time[e] < cut for e in events)
        assert y["churn"][n] == (not bought)
        assert weight["churn"][n] == np.float32(1.0 if active else model.inactive_weight)
        some += len(bought)
        values = {
            "sku": {token: token for token in share},
            "category": {token: int(known.category[token]) for token in share},
            "price": {token: int(known.price[token]) for token in share},
        }
        for task, of in values.items():
            wanted = {}
            for token, value in of.items():
                if value >= (0 if task == "price" else NUM_SPECIALS):
                    wanted[value] = max(wanted.get(value, 0.0), share[token])
            real = y[f"{task}_share"][n] > 0
            labels = y[task][n][real]
            if task != "price":
                labels = y[f"{task}_candidates"][labels]
            found = dict(zip(labels.tolist(), y[f"{task}_share"][n][real].tolist(), strict=True))
            assert found == pytest.approx(wanted)
            assert weight[task][n] == pytest.approx(max(wanted.values(), default=0.0))
        # Purchases of a product more than once count once.
        priced = [int(known.price[token]) for token in set(bought) if known.price[token] >= 0]
        assert weight["mean_price"][n] == bool(priced)
        assert y["mean_price"][n] == pytest.approx(np.mean(priced) / known.num_prices if priced else 0.0)
        named = [token for token in set(bought) if known.name[token, 0] >= 0]
        assert weight["name"][n] == bool(named)
        assert y["name"][n] in (named or [PAD])
    assert some > 20
    for task in ("churn", "category", "sku", "price", "name"):
        assert not weight[task][len(examples) :].any()


def test_names_that_are_the_same_are_no_negatives():
    data = prepared()
    known = data.catalogue
    loader = loader_of(data)
    y, weight = example_batch(loader, np.arange(len(loader.examples)))
    column = np.concatenate([y["name"], y["name_negatives"]])
    for row in range(len(y["name"])):
        for place, token in enumerate(column):
            same = (known.name[token] == known.name[y["name"][row]]).all()
            empty = place < len(y["name"]) and not weight["name"][place]
            assert y["name_excluded"][row, place] == ((same or empty) and place != row)
    assert (known.name[y["name_negatives"], 0] >= 0).all()


def test_no_positive_comes_from_the_input():
    """A client who takes nothing in his window has no positive at all."""
    data = prepared()
    loader = loader_of(data)
    idle = np.flatnonzero(np.diff(loader.labels.futures.offsets) == 0)
    had = loader.examples.lengths[idle] > 0
    assert had.any()
    y, weight = example_batch(loader, idle)
    assert y["churn"].all()
    for task in ("category", "sku", "price", "name"):
        assert not weight[task].any()


def test_an_empty_window_and_a_shop_without_purchases():
    log = random_log()
    cut = prepared().cut
    idle = replace(log, kind=np.where((log.time < cut) & (log.kind == BUY), VISIT, log.kind).astype(np.int8))
    loader = loader_of(prepared(idle))
    assert len(loader)
    for i in range(len(loader)):
        _, y, weight = loader[i]
        assert not weight["name"].any() and y["churn"].all()
        assert all(np.isfinite(array).all() for array in [*y.values(), *weight.values()])


def test_batches_are_pure_and_static():
    data = prepared()
    one, two = loader_of(data), loader_of(data)
    one.set_epoch(1), two.set_epoch(1)
    backwards = [two[i] for i in reversed(range(len(two)))][::-1]
    shapes = set()
    for i in range(len(one)):
        for mine, theirs in zip(one[i], backwards[i], strict=True):
            for name in mine:
                np.testing.assert_array_equal(mine[name], theirs[name])
        shapes.add(str([{name: array.shape for name, array in part.items()} for part in one[i]]))
    assert len(shapes) == 1
    first = one[0][0]["segment"]
    one.set_epoch(2)
    assert not np.array_equal(first, one[0][0]["segment"])


@pytest.mark.parametrize("batch_size", [1, 7, 16, 500])
def test_every_example_comes_once_an_epoch(batch_size):
    data = prepared()
    loader = loader_of(data, batch_size=batch_size)
    assert len(loader.examples) == 3 * len(data.train)
    loader.set_epoch(0)
    seen = []
    for i in range(len(loader)):
        x, _, _ = loader[i]
        count = int(x["segment"].max())
        assert len(x["slot"]) == loader.size and (x["slot"][count:] == 0).all()
        for n in range(count):
            slots = np.flatnonzero(x["segment"].reshape(-1) == n + 1)
            assert x["slot"][n] == slots[-1]
            seen.append(tuple(x[name].reshape(-1)[slots].tobytes() for name in ("kind", "item", "url", "time")))
    everyone = BehaviourSequenceLoader.inputs(loader.examples, data.catalogue, MODEL)
    segment = everyone["segment"].reshape(-1)
    expected = [
        tuple(everyone[name].reshape(-1)[segment == n + 1].tobytes() for name in ("kind", "item", "url", "time"))
        for n in range(len(loader.examples))
    ]
    assert sorted(seen) == sorted(expected)


def test_natural_lengths_fill_nearly_every_slot_and_batches_are_alike():
    """Median 15, mean 33, at most 300 events, as in the challenge."""
    counts = np.clip(np.random.default_rng(0).lognormal(np.log(15), 1.26, 3_000).astype(int), 1, 300)
    data = prepared(random_log(counts=counts, days=400))
    section = SECTION
    loader = loader_of(data, MODEL.model_copy(update={"max_length": 300}), section, batch_size=128)
    lengths = sequence_lengths(loader.examples, loader.config.model)
    slots = loader.packing.num_rows * 300
    assert lengths.sum() / slots > 0.96
    counts = [int(loader[i][0]["segment"].max()) for i in range(len(loader))]
    assert loader.size < 1.7 * np.mean(counts)


def test_nobody_to_learn_from():
    data = prepared()
    loader = BehaviourSequenceLoader(data.train.take(slice(0, 0)), data.catalogue, run_config())
    assert len(loader) == 0 and "train_clients" in loader.remedy
    alone = BehaviourSequenceLoader(data.train.take(slice(0, 1)), data.catalogue, run_config())
    assert len(alone) == 1 and alone[0][0]["segment"].max() == 3


def test_anybody_fits_every_catalogue():
    for seed in range(2):
        data = prepared(random_log(seed))
        x = BehaviourSequenceLoader.inputs(BehaviourSequenceLoader.anybody(), data.catalogue, MODEL)
        assert x["kind"].reshape(-1)[x["slot"][0]] == NO_HISTORY and len(x["slot"]) == 1


# ------------------------------------------------------------------------------------------------- parts


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(0, 30), st.integers(2, 12), st.integers(0, 3))
def test_candidates_hold_the_positives_and_never_loop(wanted, labels, most, seed):
    rng = np.random.default_rng(seed)
    tokens = np.arange(NUM_SPECIALS, NUM_SPECIALS + labels, dtype=np.int32)
    counts = rng.integers(0, 5, labels).astype(float)
    candidates = Candidates(tokens, counts, most, 0.5)
    wanted = np.array(wanted, np.int64)
    column, told = candidates.of(wanted, rng)
    real = told["log_q"] < 1e8
    chosen = told["candidates"][real]
    if labels:
        assert len(np.unique(chosen)) == len(chosen) and set(chosen.tolist()) <= set(tokens.tolist())
    assert len(told["candidates"]) == (most if labels > most else max(labels, 1))
    known = np.isin(wanted, tokens)
    np.testing.assert_array_equal(told["candidates"][column[column >= 0]], wanted[column >= 0])
    assert (column[~known] == -1).all()
    if labels <= most or len(np.unique(wanted[known])) <= most // 2:
        assert (column[known] >= 0).all()
    assert np.isfinite(told["popularity"]).all()


def test_candidates_are_drawn_by_popularity():
    tokens, counts = np.arange(NUM_SPECIALS, 1003, dtype=np.int32), np.zeros(1000)
    counts[:10] = 99  # with power .5 ten times as likely
    candidates = Candidates(tokens, counts, 100, 0.5)
    rng = np.random.default_rng(0)
    drawn = [candidates.of(np.zeros(0, np.int64), rng)[1] for _ in range(400)]
    popular = np.mean([(one["candidates"][one["log_q"] < 1e8] < 13).sum() for one in drawn])
    chance = 1 - (1 - 10 / (990 + 100)) ** 100  # of one of the popular to be among a hundred draws
    assert popular == pytest.approx(10 * chance, rel=0.05)
    log_q = {int(t): q for t, q in zip(drawn[0]["candidates"], drawn[0]["log_q"], strict=True)}
    for token, value in log_q.items():
        if value < 1e8:
            assert value == pytest.approx(np.log((10 if token < 13 else 1) / 1090), abs=1e-4)
    assert candidates.popularity[:10] == pytest.approx(0.1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from([0.3, 1.0])), max_size=40))
def test_padded_is_what_a_loop_would_make(triples):
    owner, value, share = (np.array([t[i] for t in triples]) for i in range(3))
    owner, value = owner.astype(np.int64), value.astype(np.int64)
    values, shares = padded(owner, value, share, (5, 3), np.random.default_rng(0))
    for row in range(5):
        wanted = {}
        for who, what, much in triples:
            if who == row:
                wanted[what] = max(wanted.get(what, 0.0), much)
        real = shares[row] > 0
        found = dict(zip(values[row][real].tolist(), shares[row][real].tolist(), strict=True))
        assert len(found) == real.sum() == min(len(wanted), 3)
        assert all(wanted[what] == pytest.approx(much) for what, much in found.items())
        assert sorted(found.values()) == pytest.approx(sorted(wanted.values())[-3:])


def test_code_rows():
    codes = np.array([[3, 0, NO_CODE], [NO_CODE] * 3, [CODES, 2, 7], [CODES, NO_CODE, NO_CODE]], np.int16)
    assert code_rows(codes, CODES, 2).tolist() == [[1 + 3, 1 + 8], [0, -1], [-1, 1 + 8 + 2], [0, -1]]
    assert code_rows(codes, CODES, 5)[0].tolist() == [4, 9, -1, -1, -1]
    assert code_rows(np.zeros((0, 3), np.int16), CODES, 2).shape == (0, 2)


def test_fingerprints_tell_texts_apart():
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 3, (5_000, 6)).astype(np.int16)
    _, groups = np.unique(codes, axis=0, return_inverse=True)
    _, mine = np.unique(fingerprints(codes), return_inverse=True)
    pairs = np.unique(np.stack([groups.reshape(-1), mine], axis=1), axis=0)
    assert len(pairs) == len(np.unique(groups)) == len(np.unique(mine))
