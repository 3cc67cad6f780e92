"""UBT: what it sees, and what it does not."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from keras import ops

from config import BehaviourConfig, SampleConfig, override
from tests.behaviour_logs import prepared as prepare_random
from tests.test_parity import set_numpy_weights
from zoo import artifacts, backends, registry
from zoo.data.behaviour.log import DAY, SEARCH, VISIT, WITH_PRODUCT
from zoo.data.behaviour.prepared import prepare, prepare_as
from zoo.data.behaviour.sources import sample
from zoo.data.loaders.behaviour_sequences import BehaviourSequenceLoader
from zoo.data.vocabulary import NUM_SPECIALS

SPEC = registry.get("ubt")
SAMPLE = SampleConfig(num_users=240, num_items=90, num_days=60, events_per_user=24)


@cache
def prepared():
    return prepare_random()


@cache
def shop():
    return prepare(sample.read(SAMPLE), BehaviourConfig())


def build(*knobs, data=None, weights=True, preset="tiny"):
    """(run's config, model) with weights that no training made, large enough for everything to show."""
    config = override(SPEC.preset(preset), list(knobs))
    backends.seed(0)
    model = artifacts.build("ubt", config, (prepared() if data is None else data).catalogue)
    if weights:
        set_numpy_weights(model)
    return config, model


def vectors(model, data=None, rows=None, shift=0):
    data = prepared() if data is None else data
    return model.vectors(data.tokens.at(data.cut + shift, rows))


STACKS = pytest.mark.parametrize("stack", ["hstu", "transformer"])


# ------------------------------------------------------------------------------------------ what it sees


@pytest.mark.once
@STACKS
def test_products_with_other_words_give_other_vectors(stack):
    """Which the original could not: two products alike in all but their names."""
    data = prepared()
    _, model = build(f"stack={stack}")
    token = NUM_SPECIALS
    rows = model.products.tables["names"]
    tables = {name: ops.convert_to_numpy(table).copy() for name, table in model.products.tables.items()}
    events = one_event(data, kind=0, ref=token)
    before = model.vectors(events)
    other = tables["names"].copy()
    other[token, :3] = [1, 1 + data.catalogue.num_codes + 2, -1]
    assert not np.array_equal(other[token], tables["names"][token])
    rows.assign(other)
    assert np.abs(model.vectors(events) - before).max() > 1e-3
    rows.assign(tables["names"])
    np.testing.assert_array_equal(model.vectors(events), before)


def one_event(data, kind, ref):
    """A client who did one thing, a day before the cut-off."""
    log = replace(
        data.tokens,
        clients=np.zeros(1, np.int64),
        offsets=np.array([0, 1]),
        kind=np.array([kind], np.int8),
        time=np.array([data.cut - DAY]),
        ref=np.array([ref], np.int32),
    )
    return log.at(data.cut)


@STACKS
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.once)])
def test_all_seven_families_are_alive(stack, few):
    data = prepared()
    _, model = build(f"stack={stack}", f"num_candidates={8192 if few else 4}")
    log = data.tokens
    client = int(np.argmax(data.train.lengths))
    snapshot = log.at(data.cut, data.train.client[[client]])
    before = model.vectors(snapshot)
    index, _ = snapshot.recent(model.config.max_length).events()
    for kind in (VISIT, SEARCH):
        event = index[log.kind[index] == kind][-1]
        ref = log.ref.copy()
        ref[event] = next(other for other in ref[log.kind == kind] if other != ref[event])
        changed = replace(log, ref=ref).at(data.cut, snapshot.client)
        assert np.abs(model.vectors(changed) - before).max() > 1e-4, kind
    event = index[log.kind[index] <= max(WITH_PRODUCT)][-1]
    token = log.ref[event]
    kinds = log.kind.copy()
    kinds[event] = (kinds[event] + 1) % 3
    assert np.abs(model.vectors(replace(log, kind=kinds).at(data.cut, snapshot.client)) - before).max() > 1e-4
    for table in (*model.products.tables.values(), model.products.item.index):
        old = ops.convert_to_numpy(table).copy()
        new = old.copy()
        new[token] = next(row for row in old[NUM_SPECIALS:] if not np.array_equal(row, old[token]))
        table.assign(new)
        assert np.abs(model.vectors(snapshot) - before).max() > 1e-4, table.path
        table.assign(old)


def test_a_query_and_an_unknown_page_are_seen_by_their_codes():
    data = prepared()
    _, model = build()
    one, two = (model.vectors(one_event(data, SEARCH, ref)) for ref in (0, 1))
    assert not np.array_equal(data.tokens.queries[0], data.tokens.queries[1])
    assert np.abs(one - two).max() > 1e-3
    pages = [model.vectors(one_event(data, VISIT, ref)) for ref in (NUM_SPECIALS, -1, -2)]
    assert np.abs(pages[0] - pages[1]).max() > 1e-3 and np.abs(pages[1] - pages[2]).max() > 1e-3


@STACKS
def test_a_shift_of_the_clock_changes_nothing(stack):
    data = prepared()
    _, model = build(f"stack={stack}")
    for shift in (1_000, 37 * DAY + 123):
        later = replace(data.tokens, time=data.tokens.time + shift)
        np.testing.assert_array_equal(model.vectors(later.at(data.cut + shift)), vectors(model))


def test_time_to_the_cut_off_and_between_events_is_seen():
    data = prepared()
    _, model = build()
    rows = np.flatnonzero(data.tokens.at(data.cut).lengths >= 3)
    before = vectors(model, rows=rows)
    moved = replace(data.tokens, time=data.tokens.time - 20 * DAY).at(data.cut, rows)
    assert (moved.lengths >= data.tokens.at(data.cut, rows).lengths).all()
    moved = replace(moved, last=data.tokens.at(data.cut, rows).last)  # the same events, longer ago
    assert (np.abs(model.vectors(moved) - before).max(axis=1) > 1e-4).all()


@STACKS
def test_nothing_at_or_after_the_cut_off_is_seen(stack):
    data = prepared()
    _, model = build(f"stack={stack}")
    later = data.log.time >= data.cut
    ref = np.where(later, 0, data.log.ref)
    kind = np.where(later, 0, data.log.kind).astype(np.int8)
    other = prepare_as(replace(data.log, ref=ref, kind=kind), data.catalogue, data.cut, data.windows)
    np.testing.assert_array_equal(vectors(model, other), vectors(model))
    # And what is known is seen to the last millisecond before.
    at = data.tokens.time[data.tokens.at(data.cut).last[1] - 1]
    rows = np.array([1])
    with_it, without = data.tokens.at(int(at) + 1, rows), data.tokens.at(int(at), rows)
    assert with_it.lengths[0] > without.lengths[0]
    assert np.abs(model.vectors(with_it) - model.vectors(without)).max() > 1e-4


@STACKS
@pytest.mark.parametrize("few", [True, False])
def test_neighbours_and_padding_change_nothing(stack, few):
    data = prepared()
    _, model = build(f"stack={stack}", f"num_candidates={8192 if few else 4}")
    everyone = data.tokens.at(data.cut)
    together = vectors(model)
    for row in (0, 1, 5, 17):
        alone = model.vectors(everyone.take(slice(row, row + 1)))
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)


def test_training_and_serving_see_the_same():
    data = prepared()
    config, model = build()
    loader = BehaviourSequenceLoader(data.train, data.catalogue, config)
    loader.set_epoch(0)
    rows = loader._order[: loader.rows_per_batch]
    x, _, _ = loader[0]
    trained = model.encode_users(x)
    trained = ops.convert_to_numpy(trained)
    served = model.vectors(loader.examples)
    packing, at = loader.packing, 0
    for row in rows[rows >= 0]:
        for example in packing.order[packing.offsets[row] : packing.offsets[row + 1]]:
            np.testing.assert_allclose(trained[at], served[example], rtol=1e-4, atol=1e-5)
            at += 1
    assert at > 20


@STACKS
def test_few_and_many_products_give_the_same_vectors(stack):
    """Whether all products are prepared once, or those of the events."""
    few, many = (build(f"stack={stack}", f"num_candidates={count}")[1] for count in (8192, 4))
    np.testing.assert_allclose(vectors(few), vectors(many), rtol=1e-4, atol=1e-5)


def test_clients_without_events_are_finite_and_alike():
    data = prepared()
    _, model = build()
    nobody = data.tokens.at(0, np.arange(3))
    found = model.vectors(nobody)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, np.tile(found[:1], (3, 1)), rtol=1e-5, atol=1e-6)
    for kind, ref in ((VISIT, NUM_SPECIALS), (0, NUM_SPECIALS)):
        assert np.abs(model.vectors(one_event(data, kind, ref)) - found[0]).max() > 1e-3
    empty = replace(data.tokens, time=np.zeros_like(data.tokens.time))  # all in one second
    assert np.isfinite(model.vectors(empty.at(data.cut))).all()


def test_scores_are_inner_products():
    data = prepared()
    _, model = build()
    found = vectors(model)
    width = model.config.user_dim
    assert found.shape == (len(data.tokens.clients), width)
    items, categories = model.item_matrix(), ops.convert_to_numpy(model.category_embeddings())
    assert items.shape == (data.catalogue.items.size, width)
    assert categories.shape == (data.catalogue.categories.size, width)
    np.testing.assert_allclose(model.score(data.tokens.at(data.cut)), found @ items.T, rtol=1e-4, atol=1e-4)
