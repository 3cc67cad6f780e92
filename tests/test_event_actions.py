"""Actions of events in sequential models: who sees which, what is asked for, and what it is good for."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from config import DataConfig, RunConfig, TrainConfig, override
from tests import autodiff
from tests.test_parity import set_numpy_weights
from zoo import registry
from zoo.data import cleaning, splits
from zoo.data.catalogue import Catalogue, prepare
from zoo.data.dataset import DataError, Dataset, Entities, Events
from zoo.data.histories import Histories
from zoo.data.loaders.masked_items import MaskedItemLoader
from zoo.data.loaders.sequences import NextItemLoader
from zoo.data.loaders.session_parallel import SessionParallelLoader
from zoo.data.vocabulary import MASK, NUM_SPECIALS, PAD, UNKNOWN, Vocabulary
from zoo.layers.embedding import ActionEmbedding
from zoo.sequential import SequentialConfig, SequentialRecommender

ITEMS, LENGTH = 60, 5
ACTIONS = ("view", "cart", "buy", "remove")
FLAGS = ("use_actions=true", "query_action=true")


def sequential():
    return [n for n in registry.list_models() if issubclass(registry.get(n).model, SequentialRecommender)]


CAUSAL = [name for name in sequential() if registry.get(name).causal]


def catalogue(actions=ACTIONS, items=ITEMS):
    counts = np.r_[np.zeros(NUM_SPECIALS, np.int64), np.arange(1, items + 1)]
    vocabularies = Vocabulary(np.arange(9), 9), Vocabulary(np.arange(items), items)
    return Catalogue(*vocabularies, counts, labels={"action": actions} if actions else {})


def histories(lengths, seed=0, distinct=False, asked=True):
    """Events with actions; `distinct` items tell which event is which."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count = int(offsets[-1])
    item = np.arange(count) if distinct else rng.integers(0, ITEMS, count)
    columns = {"action": rng.integers(NUM_SPECIALS, NUM_SPECIALS + len(ACTIONS), count).astype(np.int16)}
    query = rng.integers(NUM_SPECIALS, NUM_SPECIALS + len(ACTIONS), len(lengths)).astype(np.int16) if asked else None
    users = np.full(len(lengths), UNKNOWN, np.int32)
    return Histories(users, offsets, (item + NUM_SPECIALS).astype(np.int32), None, columns, None, query)


def small(spec):
    """Overrides that make a model quick where nothing is compiled."""
    blocks = ["num_blocks=1"] if "num_blocks" in type(spec.preset("tiny").model).model_fields else []
    return [f"max_length={LENGTH}", "dropout=0", "embedding_dim=8", *blocks]


def model_of(name, *options, actions=ACTIONS):
    spec = registry.get(name)
    config = override(spec.preset("tiny"), [*small(spec), *options])
    model = spec.model(config.model, catalogue(actions))
    set_numpy_weights(model)
    return model


def batches(loader, epoch=0):
    loader.set_epoch(epoch)
    return [loader[i] for i in range(len(loader))]


# ------------------------------------------------------------------------------------------- what the loaders show


@pytest.mark.once
@settings(max_examples=40)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=10).filter(lambda n: max(n) > 1), st.booleans())
def test_every_slot_has_its_own_action_and_that_of_the_next_event(lengths, all_events):
    log = histories(lengths, distinct=True)
    config = SequentialConfig(max_length=LENGTH, use_actions=True, query_action=True, all_events=all_events)
    loader = NextItemLoader(log, catalogue(items=200), RunConfig(model=config, train=TrainConfig(batch_size=4)))
    met = 0
    for x, y, _ in batches(loader):
        event = x["item"] - NUM_SPECIALS
        real = x["segment"] > 0
        np.testing.assert_array_equal(x["action"][real], log.columns["action"][event[real]])
        np.testing.assert_array_equal(x["next_action"][real], log.columns["action"][y[real] - NUM_SPECIALS])
        assert (x["action"][~real] == PAD).all() and (x["next_action"][~real] == PAD).all()
        assert x["action"].dtype == x["next_action"].dtype == np.int32
        met += real.sum()
    assert met == sum(max(n - 1, 0) if all_events else min(max(n - 1, 0), LENGTH) for n in lengths)


@pytest.mark.once
@settings(max_examples=40)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=10), st.booleans())
def test_serving_shows_the_actions_and_asks_at_the_end(lengths, asked):
    log = histories(lengths, distinct=True, asked=asked)
    x = NextItemLoader.inputs(
        log, catalogue(), SequentialConfig(max_length=LENGTH, use_actions=True, query_action=True)
    )
    for row, slot in enumerate(x["slot"].tolist()):
        r, c = divmod(slot, LENGTH)
        events = np.arange(log.offsets[row], log.offsets[row + 1])[-LENGTH:]
        own = slice(c + 1 - max(len(events), 1), c + 1)
        expected = log.columns["action"][events].tolist()
        last = log.query_action[row] if asked else UNKNOWN
        assert x["action"][r, own].tolist() == (expected or [PAD])
        assert x["next_action"][r, own].tolist() == [*expected[1:], last]


@pytest.mark.once
def test_histories_without_actions_are_of_unknown_ones():
    log = dataclasses.replace(histories([3, 0], asked=False), columns={})
    x = NextItemLoader.inputs(log, catalogue(), SequentialConfig(max_length=4, use_actions=True, query_action=True))
    assert set(x["action"][x["segment"] > 0].tolist()) == {UNKNOWN, PAD}
    assert (x["next_action"][x["segment"] > 0] == UNKNOWN).all()


@pytest.mark.once
def test_without_the_flags_no_action_is_shown():
    log = histories([5, 9])
    for loader in (NextItemLoader, MaskedItemLoader, SessionParallelLoader):
        name = "bert4rec" if loader is MaskedItemLoader else "gru4rec"
        config = registry.get(name).preset("tiny")
        assert not batches(loader(log, catalogue(), config))[0][0].keys() & {"action", "next_action"}
        assert not loader.inputs(log, catalogue(), config.model).keys() & {"action", "next_action"}


@pytest.mark.once
def test_sessions_side_by_side_bear_their_actions():
    log = histories([3, 6, 2, 0, 9, 4], distinct=True)
    config = override(registry.get("gru4rec").preset("tiny"), ["training=session_parallel", "batch_size=3", *FLAGS])
    seen = []
    for x, y, _ in batches(SessionParallelLoader(log, catalogue(items=200), config)):
        real = x["item"] > PAD
        event = x["item"][real] - NUM_SPECIALS
        np.testing.assert_array_equal(x["action"][real], log.columns["action"][event])
        np.testing.assert_array_equal(x["next_action"][real], log.columns["action"][y[real] - NUM_SPECIALS])
        assert not x["action"][~real].any() and not x["next_action"][~real].any()
        assert x["action"].shape == x["next_action"].shape == (3, 1)
        seen += event.tolist()
    assert len(seen) == sum(max(n - 1, 0) for n in (3, 6, 2, 0, 9, 4))


def masked_config(*options):
    return override(
        registry.get("bert4rec").preset("tiny"), [f"max_length={LENGTH}", "batch_size=99", "mask_share=0.3", *options]
    )


@pytest.mark.once
@pytest.mark.parametrize("asked", [False, True])
def test_the_action_of_a_masked_item_is_hidden(asked):
    """With any other action in its place the input is the same; but for what is asked for, where that is told."""
    log = histories([9, 3, 6, 1, 2, 14], distinct=True)
    config = masked_config("use_actions=true", f"query_action={asked}")
    ((x, y, weight),) = batches(MaskedItemLoader(log, catalogue(items=200), config))
    masked, hidden = x["slot"][weight > 0], y[weight > 0] - NUM_SPECIALS
    assert (x["action"].reshape(-1)[masked] == MASK).all()
    shown = (x["item"] != MASK) & (x["segment"] > 0)
    np.testing.assert_array_equal(x["action"][shown], log.columns["action"][x["item"][shown] - NUM_SPECIALS])
    other = log.columns["action"].copy()
    other[hidden] = NUM_SPECIALS + (other[hidden] - NUM_SPECIALS + 1) % len(ACTIONS)
    twin_log = dataclasses.replace(log, columns={"action": other})
    ((twin, _, _),) = batches(MaskedItemLoader(twin_log, catalogue(items=200), config))
    for key in x.keys() - {"next_action"}:
        np.testing.assert_array_equal(twin[key], x[key], err_msg=key)
    assert ("next_action" in x) == asked
    if asked:
        np.testing.assert_array_equal(x["next_action"].reshape(-1)[masked], log.columns["action"][hidden])
        elsewhere = np.setdiff1d(np.arange(x["item"].size), masked)
        assert not x["next_action"].reshape(-1)[elsewhere].any()


@pytest.mark.once
def test_serving_asks_at_the_mask_alone():
    log = histories([0, 2, 9], distinct=True)
    x = MaskedItemLoader.inputs(log, catalogue(), masked_config(*FLAGS).model)
    for row, slot in enumerate(x["slot"].tolist()):
        r, c = divmod(slot, LENGTH)
        events = np.arange(log.offsets[row], log.offsets[row + 1])[-(LENGTH - 1) :]
        own = slice(c - len(events), c + 1)
        assert x["action"][r, own].tolist() == [*log.columns["action"][events].tolist(), MASK]
        assert x["next_action"][r, own].tolist() == [*[PAD] * len(events), log.query_action[row]]


# -------------------------------------------------------------------------------------------------- what models see


@pytest.mark.parametrize("name", sequential())
def test_actions_and_the_question_are_seen(name):
    log = histories([3, 5, 2, 9])
    model = model_of(name, *FLAGS)
    vectors = model.vectors(log)
    action = log.columns["action"].copy()
    changed = log.offsets[1:3] - 1  # the last of the first two
    action[changed] = NUM_SPECIALS + (action[changed] - NUM_SPECIALS + 1) % len(ACTIONS)
    moved = np.abs(model.vectors(dataclasses.replace(log, columns={"action": action})) - vectors).max(axis=1) > 1e-4
    assert moved.tolist() == [True, True, False, False]
    query = log.query_action.copy()
    query[3] = NUM_SPECIALS + (query[3] - NUM_SPECIALS + 1) % len(ACTIONS)
    moved = np.abs(model.vectors(dataclasses.replace(log, query_action=query)) - vectors).max(axis=1) > 1e-4
    assert moved.tolist() == [False, False, False, True]
    plain = model_of(name, "use_actions=true")
    other = dataclasses.replace(log, query_action=query)
    np.testing.assert_array_equal(plain.vectors(other), plain.vectors(log))


@pytest.mark.parametrize("name", sequential())
def test_an_unknown_action_adds_nothing(name):
    log = histories([3, 5, 2, 9])
    model, blind = model_of(name, *FLAGS), model_of(name)
    unknown = {"action": np.full(len(log.item), UNKNOWN, np.int16)}
    nothing = dataclasses.replace(log, columns=unknown, query_action=None)
    np.testing.assert_allclose(model.vectors(nothing), blind.vectors(log), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_later_actions_do_not_show(name):
    """Neither what later events are nor what is asked for after them changes the state after an event."""
    model, rng = model_of(name, *FLAGS), np.random.default_rng(3)
    row = {
        "item": rng.integers(NUM_SPECIALS, NUM_SPECIALS + ITEMS, (1, LENGTH)).astype(np.int32),
        "position": np.arange(LENGTH, dtype=np.int32)[None],
        "segment": np.ones((1, LENGTH), np.int32),
        "time": np.zeros((1, LENGTH), np.int32),
        "action": np.full((1, LENGTH), NUM_SPECIALS, np.int32),
        "next_action": np.full((1, LENGTH), NUM_SPECIALS, np.int32),
    }
    states = ops.convert_to_numpy(model.states(row))
    for key in ("action", "next_action"):
        other = {**row, key: row[key] + (np.arange(LENGTH) >= 4).astype(np.int32)}
        changed = ops.convert_to_numpy(model.states(other))
        np.testing.assert_allclose(changed[:, :4], states[:, :4], rtol=1e-6, atol=1e-6)
        assert np.abs(changed[:, 4:] - states[:, 4:]).max() > 1e-4


@pytest.mark.once
@pytest.mark.parametrize("name", CAUSAL)
def test_without_the_question_the_action_of_the_target_does_not_show(name):
    """Training and evaluation see the same whatever the last event was, as long as it is the target."""
    log = histories([4, 6, 2, 5])
    action = log.columns["action"].copy()
    last = log.offsets[1:] - 1
    action[last] = NUM_SPECIALS + (action[last] - NUM_SPECIALS + 1) % len(ACTIONS)
    other = dataclasses.replace(log, columns={"action": action})
    config = override(registry.get(name).preset("tiny"), ["use_actions=true"])
    make = registry.get(name).stages[0].loader
    for (x, y, weight), (twin, twin_y, twin_weight) in zip(
        *(batches(make(one, catalogue(), config)) for one in (log, other)), strict=True
    ):
        for key in x:
            np.testing.assert_array_equal(twin[key], x[key], err_msg=key)
        np.testing.assert_array_equal(twin_y, y)
        np.testing.assert_array_equal(twin_weight, weight)


@pytest.mark.parametrize("name", CAUSAL)
def test_training_and_serving_see_the_same(name):
    """The state of every slot of a packed training row is that of its own beginning, served alone."""
    model, log = model_of(name, *FLAGS), histories([1, 2, 3, 5, 9, 14])
    config = RunConfig(model=model.config, train=TrainConfig(batch_size=len(log)))
    x, _, _ = NextItemLoader(log, model.catalogue, config)[0]
    states = ops.convert_to_numpy(model(x)).reshape(*x["item"].shape, -1)
    compared = 0
    for row in range(len(x["item"])):
        for segment in range(1, x["segment"][row].max() + 1):
            slots = np.flatnonzero(x["segment"][row] == segment)
            for n in range(1, len(slots) + 1):
                seen = slots[:n]
                start = Histories(
                    np.zeros(1, np.int32),
                    np.array([0, n]),
                    x["item"][row, seen],
                    None,
                    {"action": x["action"][row, seen]},
                    None,
                    x["next_action"][row, seen[-1:]],
                )
                np.testing.assert_allclose(states[row, seen[-1]], model.vectors(start)[0], rtol=1e-5, atol=1e-5)
                compared += 1
    assert compared == sum(min(n - 1, LENGTH) for n in (1, 2, 3, 5, 9, 14))


@pytest.mark.parametrize("name", sequential())
def test_neighbours_in_the_row_change_nothing(name):
    model, log = model_of(name, *FLAGS), histories([0, 1, 2, 3, 9, 5])
    alone = np.concatenate([model.vectors(log.take(slice(i, i + 1))) for i in range(len(log))])
    np.testing.assert_allclose(model.vectors(log), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CAUSAL if hasattr(registry.get(name).model, "extend")])
@pytest.mark.parametrize("asked", [False, True])
def test_events_appended_with_their_actions(name, asked):
    """One event at a time through the cache is the whole history at once; when an action is asked for, the event before
    is given again, for now it is known what followed it."""
    model = model_of(name, "use_actions=true", f"query_action={asked}")
    log = histories([LENGTH] * 4)
    items, actions = log.item.reshape(4, -1), log.columns["action"].reshape(4, -1).astype(np.int32)
    cache = model.empty_cache(4)
    for n in range(LENGTH):
        first = max(n - 1, 0) if asked else n
        events = slice(first, n + 1)
        inputs = {
            "item": items[:, events],
            "position": np.tile(np.arange(first, n + 1, dtype=np.int32), (4, 1)),
            "action": actions[:, events],
        }
        if asked:
            inputs["next_action"] = np.column_stack([actions[:, first + 1 : n + 1], log.query_action]).astype(np.int32)
        beginning = Histories(
            log.user,
            np.arange(5) * (n + 1),
            items[:, : n + 1].ravel(),
            None,
            {"action": actions[:, : n + 1].ravel()},
            None,
            log.query_action,
        )
        inputs, cache = ({k: ops.convert_to_tensor(v) for k, v in given.items()} for given in (inputs, cache))
        states, cache = model.extend(inputs, cache)
        mine = ops.convert_to_numpy(model.compared(states[:, -1]))
        np.testing.assert_allclose(mine, model.vectors(beginning), rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------- embeddings of actions


def test_actions_in_an_order_add_up():
    layer = ActionEmbedding(ACTIONS, ("view", "nothing like it", "cart", "buy"), 5)
    vectors = ops.convert_to_numpy(layer(np.arange(NUM_SPECIALS + len(ACTIONS), dtype=np.int32)))
    table = ops.convert_to_numpy(layer.table)
    view, cart, buy, remove = table
    expected = [np.zeros(5)] * NUM_SPECIALS + [view, view + cart, view + cart + buy, remove]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-7)


def test_the_order_of_commitment_may_differ_from_that_of_the_names():
    layer = ActionEmbedding(("buy", "cart", "view"), ("view", "cart", "buy"), 3)
    vectors = ops.convert_to_numpy(layer(np.array([[3, 4], [5, 2]], np.int32)))
    buy, cart, view = ops.convert_to_numpy(layer.table)
    np.testing.assert_allclose(vectors, [[view + cart + buy, view + cart], [view, 0 * view]], rtol=1e-6, atol=1e-7)


def test_without_an_order_each_stands_alone():
    layer = ActionEmbedding(ACTIONS, (), 4)
    vectors = ops.convert_to_numpy(layer(np.arange(NUM_SPECIALS, NUM_SPECIALS + len(ACTIONS), dtype=np.int32)))
    np.testing.assert_allclose(vectors, ops.convert_to_numpy(layer.table))


@pytest.mark.parametrize("name", sequential())
def test_all_their_weights_are_trained(name):
    model, log = model_of(name, *FLAGS, "action_order=view,cart,buy"), histories([9, 12, 5, 7, 9, 3], seed=2)
    loader = registry.get(name).stages[0].loader(log, model.catalogue, RunConfig(model=model.config))
    x, y, weight = batches(loader)[0]
    tables = [v for v in model.trainable_variables if "/action_id/" in v.path or "/query_id/" in v.path]
    assert len(tables) == 2

    def loss():
        return model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=weight, training=True)

    for gradient in autodiff.gradients(loss, tables):
        assert (np.abs(ops.convert_to_numpy(gradient)).max(axis=1) > 0).all()


@pytest.mark.once
@pytest.mark.parametrize("flag", FLAGS)
def test_a_log_without_actions_is_refused(flag):
    with pytest.raises(DataError, match=f"no actions, which model.{flag} needs"):
        model_of("sasrec", flag, actions=())
    with pytest.raises(DataError, match=r"model.action_order=look,take: .* they have view, cart, buy, remove"):
        model_of("sasrec", flag, "action_order=look,take")


# ------------------------------------------------------------------------------------- the vocabulary, and what is told


def shop(actions, names=ACTIONS, items=None):
    """One event after another of users 0, 1, ...: a list of codes each."""
    user = np.repeat(np.arange(len(actions)), [len(row) for row in actions]).astype(np.int32)
    code = np.concatenate(actions).astype(np.int16)
    item = np.zeros(len(user), np.int32) if items is None else np.concatenate(items).astype(np.int32)
    events = Events(user, item, np.arange(len(user), dtype=np.int64), {"action": code})
    return Dataset(
        events, Entities(np.arange(len(actions))), Entities(np.arange(item.max() + 1)), labels={"action": names}
    )


# -------------------------------------------------------------------------------------------------- weights of the loss

WEIGHTS = {"view": 0.5, "cart": 2.0, "buy": 5.0, "remove": 0.0}


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, []) for name in sequential()]
    + [("sasrec", ["loss=gbce"]), ("gru4rec", ["loss=bpr_max", "training=session_parallel"])],
)
def test_events_weigh_in_the_loss_by_their_action(name, options):
    """The loss is the mean of the losses of single events, weighted by data.action_weights of what is predicted."""
    rng = np.random.default_rng(5)
    lengths = [5, 8, 3, 6, 7]
    log = shop([rng.integers(0, 4, n) for n in lengths], items=[rng.integers(0, 30, n) for n in lengths])
    prepared = prepare(splits.everything(cleaning.clean(log, DataConfig(action_weights=WEIGHTS))))
    spec = registry.get(name)
    config = override(spec.preset("tiny"), [*small(spec), "num_negatives=6", "batch_size=5", *options])
    model = spec.model(config.model, prepared.catalogue)
    set_numpy_weights(model)
    x, y, weight = batches(spec.stages[0].loader(prepared.train, prepared.catalogue, config))[0]
    y_pred = model(x, training=False)

    def loss(weights):
        return float(ops.convert_to_numpy(model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights)))

    shares = {w: (weight == w).astype(np.float32) for w in np.unique(weight).tolist() if w}
    assert set(shares) <= set(WEIGHTS.values()) and len(shares) >= 2
    parallel = config.model.model_dump().get("training") == "session_parallel"  # the official code divides by all slots
    sums = {w: loss(share) * (share.size if parallel else share.sum()) for w, share in shares.items()}
    expected = sum(w * total for w, total in sums.items()) / (weight.size if parallel else weight.sum())
    assert loss(weight) == pytest.approx(expected, rel=1e-4)
