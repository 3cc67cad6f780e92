"""BERT4Rec: what is masked and never seen, what serving sees, and the model against NumPy."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf, log_softmax

from config import RunConfig, TrainConfig
from tests import autodiff
from tests.test_attention import attention_reference
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.masked_items import MaskedItemLoader
from zoo.data.vocabulary import MASK, NUM_SPECIALS, PAD, UNKNOWN, Vocabulary
from zoo.models.bert4rec import BERT4Rec, BERT4RecConfig

ITEMS, LENGTH = 20, 6
RNG = np.random.default_rng(8)


def catalogue():
    items = Vocabulary(np.arange(ITEMS), ITEMS)
    counts = np.r_[np.zeros(NUM_SPECIALS, np.int64), np.arange(1, ITEMS + 1)]
    return Catalogue(Vocabulary(np.arange(9), 9), items, counts)


def histories(lengths, seed=0, unknown=True, **columns):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = rng.integers(UNKNOWN if unknown else NUM_SPECIALS, NUM_SPECIALS + ITEMS, offsets[-1]).astype(np.int32)
    return Histories(np.arange(len(lengths), dtype=np.int32), offsets, item, None, columns)


def loader(log, batch_size=4, seed=3, **model):
    config = RunConfig(
        model=BERT4RecConfig(**{"max_length": LENGTH, **model}), train=TrainConfig(batch_size=batch_size), seed=seed
    )
    return MaskedItemLoader(log, catalogue(), config)


def epoch(batches, number=0):
    """All (x, y, weight) of an epoch."""
    batches.set_epoch(number)
    return [batches[i] for i in range(len(batches))]


def sequences(batch):
    """(shown items, {place: (masked item, weight)}) of each sequence of a batch, one slot at a time."""
    x, y, weight = batch
    asked = {}
    for slot, item, w in zip(x["slot"].tolist(), y.tolist(), weight.tolist(), strict=True):
        if w:
            assert slot not in asked, "a slot is asked for once"
            asked[slot] = (item, w)
    found = []
    for row in range(len(x["item"])):
        for segment in range(1, x["segment"][row].max(initial=0) + 1):
            columns = np.flatnonzero(x["segment"][row] == segment)
            assert x["position"][row, columns].tolist() == list(range(len(columns)))
            slots = row * x["item"].shape[1] + columns
            masked = {place: asked.pop(slot) for place, slot in enumerate(slots.tolist()) if slot in asked}
            found.append((x["item"][row, columns].tolist(), masked))
    assert not asked, "every slot that is asked for is one of a sequence"
    return found


def unmasked(shown, masked):
    return tuple(masked[place][0] if place in masked else item for place, item in enumerate(shown))


# ---------------------------------------------------------------------------------------------- what is masked

lengths_of_some = st.lists(st.integers(0, 15), min_size=1, max_size=12).filter(any)


@pytest.mark.once
@settings(max_examples=60)
@given(lengths_of_some, st.floats(0.01, 1), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 2**30), st.booleans())
def test_an_epoch_masks_its_share_of_every_sequence(lengths, share, last, seed, everything):
    log = histories(lengths, seed)
    batches = loader(log, seed=seed, mask_share=share, last_share=last, all_events=everything)
    met = [sequence for batch in epoch(batches) for sequence in sequences(batch)]
    expected = []
    for start, stop in zip(log.offsets[:-1], log.offsets[1:], strict=True):
        items = log.item[start:stop].tolist()
        ends = range(len(items), 0, -LENGTH) if everything else [len(items)] if items else []
        expected += [tuple(items[max(end - LENGTH, 0) : end]) for end in ends]
    assert sorted(unmasked(*sequence) for sequence in met) == sorted(expected)
    for shown, masked in met:
        whole = unmasked(shown, masked)
        assert all((item == MASK) == (place in masked) for place, item in enumerate(shown))
        known = [place for place, item in enumerate(whole) if item >= NUM_SPECIALS]
        assert set(masked) <= set(known)
        count = min(max(round(share * len(known)), 1), len(known))  # round() and rint() both go to even
        only_last = set(masked) == set(known[-1:])
        assert only_last if last == 1 else len(masked) == count if last == 0 else only_last or len(masked) == count


@pytest.mark.once
def test_masked_items_do_not_show():
    """With any other item in their place, the input is the same; only what is asked for differs."""
    log = histories([9, 3, 6, 1, 2, 14], unknown=False)
    for x, _, weight in epoch(loader(log, batch_size=99)):
        names, _, _ = _events_of(log, x)
        hidden = names[x["slot"][weight > 0]]
        item = log.item.copy()
        item[hidden] = np.where(item[hidden] == NUM_SPECIALS, NUM_SPECIALS + 1, NUM_SPECIALS)
        ((twin, y, _),) = epoch(loader(dataclasses.replace(log, item=item), batch_size=99))
        for key, value in x.items():
            np.testing.assert_array_equal(twin[key], value, err_msg=key)
        np.testing.assert_array_equal(y[weight > 0], item[hidden])


def _events_of(log, x):
    """The event in each flat slot, found without the packing: events are made distinct items."""
    distinct = dataclasses.replace(log, item=np.arange(len(log.item), dtype=np.int32) + NUM_SPECIALS)
    wide = Catalogue(
        Vocabulary(np.arange(9), 9),
        Vocabulary(np.arange(len(log.item)), len(log.item)),
        np.ones(len(log.item) + NUM_SPECIALS, np.int64),
    )
    config = RunConfig(model=BERT4RecConfig(max_length=LENGTH), train=TrainConfig(batch_size=99), seed=3)
    ((twin, y, weight),) = epoch(MaskedItemLoader(distinct, wide, config))
    np.testing.assert_array_equal(twin["segment"], x["segment"])
    whole = twin["item"].reshape(-1).copy()
    whole[twin["slot"][weight > 0]] = y[weight > 0]
    return whole - NUM_SPECIALS, y, weight


@pytest.mark.once
def test_shapes_are_static_and_hardly_wider_than_needed():
    log = histories(np.random.default_rng(2).integers(0, 15, 300), unknown=False)
    batches = loader(log, batch_size=32, mask_share=0.3, last_share=0.0, max_length=12)
    shapes = set()
    fill = []
    for number in range(3):
        for x, y, weight in epoch(batches, number):
            shapes.add((x["item"].shape, x["slot"].shape, y.shape, weight.shape))
            fill.append((weight > 0).mean())
            assert (np.diff(x["slot"][weight > 0]) > 0).all()
            assert (x["slot"][weight == 0] == 0).all() and (y[weight == 0] == PAD).all()
    assert len(shapes) == 1
    assert np.median(fill) > 0.85


@pytest.mark.once
def test_batches_are_a_pure_function_of_seed_epoch_and_index():
    log = histories(np.random.default_rng(1).integers(1, 12, 60))
    options = {"loss": "sampled_softmax", "num_negatives": 5}
    one, other = loader(log, **options), loader(log, **options)
    first = epoch(one, 2)
    epoch(other, 0)
    other.set_epoch(2)
    for i in reversed(range(len(other))):
        (x, y, weight), again = first[i], other[i]
        for key, value in {**x, "y": y, "weight": weight}.items():
            np.testing.assert_array_equal(value, {**again[0], "y": again[1], "weight": again[2]}[key])
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(first, epoch(one, 3), strict=True))
    assert any(
        not np.array_equal(a[1], b[1]) for a, b in zip(first, epoch(loader(log, seed=4, **options)), strict=True)
    )


@pytest.mark.once
def test_masks_fall_anywhere_and_the_last_event_alone_as_often_as_asked():
    log = histories([LENGTH] * 50, unknown=False)
    batches = loader(log, batch_size=16, mask_share=1 / 3, last_share=0.25)
    met = [masked for number in range(40) for batch in epoch(batches, number) for _, masked in sequences(batch)]
    alone = [list(masked) == [LENGTH - 1] for masked in met]
    assert np.mean(alone) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))
    places = np.bincount([place for masked in met if len(masked) == 2 for place in masked], minlength=LENGTH)
    np.testing.assert_allclose(places / places.sum(), 1 / LENGTH, atol=4 * math.sqrt(1 / LENGTH / places.sum()))


@pytest.mark.once
def test_events_of_weight_zero_are_seen_and_never_asked_for():
    lengths = [5, 1, 9, 6]
    weight = np.random.default_rng(4).choice([0.0, 0.5, 2.0], sum(lengths)).astype(np.float32)
    log = histories(lengths, unknown=False, weight=weight)
    allowed = {}
    for item, w in zip(log.item.tolist(), weight.tolist(), strict=True):
        allowed.setdefault(item, set()).add(w)
    met = []
    for number in range(5):
        for batch in epoch(loader(log, mask_share=0.9), number):
            for _, masked in sequences(batch):
                met += masked.values()
    assert met and all(w > 0 and w in allowed[item] for item, w in met)


@pytest.mark.once
def test_a_log_without_known_items_asks_for_nothing():
    log = dataclasses.replace(histories([3, 2]), item=np.full(5, UNKNOWN, np.int32))
    for x, _, weight in epoch(loader(log)):
        assert not weight.any() and not (x["item"] == MASK).any()


@pytest.mark.once
@pytest.mark.parametrize("share", [True, False])
def test_negatives_come_with_their_probability(share):
    options = {"loss": "sampled_softmax", "num_negatives": 50, "share_negatives": share, "popularity_power": 1.0}
    x, y, weight = epoch(loader(histories([5, 6, 9]), **options))[0]
    assert x["negatives"].shape == x["negatives_log_q"].shape == ((50,) if share else (*y.shape, 50))
    p = np.arange(1, ITEMS + 1) / np.arange(1, ITEMS + 1).sum()
    np.testing.assert_allclose(np.exp(x["negatives_log_q"]), p[x["negatives"] - NUM_SPECIALS], rtol=1e-5)
    np.testing.assert_allclose(np.exp(x["log_q"][weight > 0]), p[y[weight > 0] - NUM_SPECIALS], rtol=1e-5)


# ------------------------------------------------------------------------------------------ what serving sees


@pytest.mark.once
@settings(max_examples=40)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=12), st.integers(1, 8))
def test_inputs_show_the_last_events_and_ask_after_them(lengths, max_length):
    log = histories(lengths)
    x = MaskedItemLoader.inputs(log, catalogue(), BERT4RecConfig(max_length=max_length))
    assert x["slot"].shape == (len(lengths),)
    for i, slot in enumerate(x["slot"].tolist()):
        row, column = divmod(slot, max_length)
        items = log.item[log.offsets[i] : log.offsets[i + 1]].tolist()
        own = np.flatnonzero(x["segment"][row] == x["segment"][row, column])
        assert x["item"][row, own].tolist() == (items[-(max_length - 1) :] if max_length > 1 else []) + [MASK]
        assert x["position"][row, own].tolist() == list(range(len(own))) and own[-1] == column
        assert x["segment"][row, column] > 0


@pytest.mark.once
def test_training_on_the_last_event_alone_is_what_serving_does():
    log = histories([4, 9, 1], unknown=False)
    before = Histories(
        log.user,
        log.offsets - np.arange(len(log) + 1),
        np.delete(log.item, log.offsets[1:] - 1),
    )
    served = MaskedItemLoader.inputs(before, catalogue(), BERT4RecConfig(max_length=LENGTH))
    shown = set()
    for slot in served["slot"]:
        row, column = divmod(int(slot), LENGTH)
        shown.add(tuple(served["item"][row][served["segment"][row] == served["segment"][row, column]].tolist()))
    trained = [sequence for batch in epoch(loader(log, last_share=1.0)) for sequence in sequences(batch)]
    assert {tuple(items) for items, _ in trained} == shown
    assert {next(iter(masked.values()))[0] for _, masked in trained} == set(log.item[log.offsets[1:] - 1].tolist())


# -------------------------------------------------------------------------------------------------- the model


def model_of(**options):
    config = BERT4RecConfig(**{"max_length": LENGTH, "embedding_dim": 8, "num_heads": 2, "dropout": 0.5, **options})
    model = BERT4Rec(config, catalogue())
    rng = np.random.default_rng(11)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    weights = {w.path.removeprefix(f"{model.name}/"): keras.ops.convert_to_numpy(w) for w in model.weights}
    return model, weights


def norm(weights, name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def dense(weights, name, x):
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def states_reference(weights, x, config):
    item = x["item"]
    vectors = np.where((item >= NUM_SPECIALS)[..., None], weights["item_id/embeddings"][item], 0)
    vectors = vectors + np.where((item == MASK)[..., None], weights["mask"], 0)
    h = norm(weights, "encoder/input_norm", vectors + weights["encoder/position/embeddings"][x["position"]])
    for i in range(config.num_blocks):
        name = f"encoder/block_{i}/"

        def attend(h, name=name):
            return attention_reference(weights, h, h, x["segment"], config.num_heads, False, name + "attention/")

        def network(h, name=name):
            return dense(weights, name + "outer", gelu(dense(weights, name + "inner", h)))

        if config.block == "post_norm":
            h = norm(weights, name + "attention_norm", h + attend(h))
            h = norm(weights, name + "network_norm", h + network(h))
        else:
            h = h + attend(norm(weights, name + "attention_norm", h))
            h = h + network(norm(weights, name + "network_norm", h))
    if config.transform:
        h = gelu(dense(weights, "transform", h))
    return norm(weights, "norm", h) if config.transform or config.block == "pre_norm" else h


@pytest.mark.parametrize(
    "options", [{}, {"block": "pre_norm"}, {"transform": False}, {"block": "pre_norm", "transform": False}], ids=str
)
def test_the_model_is_what_numpy_says(options):
    model, weights = model_of(**options)
    log = histories([0, 1, 4, 9, 6, 3])
    x = MaskedItemLoader.inputs(log, model.catalogue, model.config)
    states = states_reference(weights, x, model.config).reshape(-1, 8)[x["slot"]]
    table = np.where(np.arange(ITEMS + NUM_SPECIALS)[:, None] >= NUM_SPECIALS, weights["item_id/embeddings"], 0)
    expected = states @ table.T + weights["bias_id/embeddings"][:, 0]
    scores = model.score(log)[:, NUM_SPECIALS:]
    np.testing.assert_allclose(scores, expected[:, NUM_SPECIALS:], rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_cross_entropy_of_what_is_masked():
    model, weights = model_of()
    for x, y, weight in epoch(loader(histories([5, 9, 2, 4]), batch_size=2)):
        states = states_reference(weights, x, model.config).reshape(-1, 8)[x["slot"]]
        logits = states @ weights["item_id/embeddings"].T + weights["bias_id/embeddings"][:, 0]
        likely = log_softmax(logits[:, NUM_SPECIALS:], axis=1)
        real = weight > 0
        expected = -likely[np.flatnonzero(real), y[real] - NUM_SPECIALS].mean()
        loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=False), sample_weight=weight)
        assert float(keras.ops.convert_to_numpy(loss)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce", "bpr"])
def test_it_trains_with_sampled_losses(loss):
    model, _ = model_of(dropout=0.0)
    batch = epoch(loader(histories([5, 9, 2, 4]), batch_size=9, loss=loss, num_negatives=7))[0]
    x, y, weight = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    model.config = model.config.model_copy(update={"loss": loss, "num_negatives": 7})

    def value():
        return model.compute_loss(x=x, y=y, y_pred=model(x), sample_weight=weight)

    gradients = dict(
        zip(
            [w.path for w in model.trainable_variables],
            autodiff.gradients(value, model.trainable_variables),
            strict=True,
        )
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert next(np.abs(g).max() for path, g in gradients.items() if path.endswith("mask")) > 0


def test_a_masked_event_is_seen_by_both_sides_and_by_no_other_sequence():
    model, _ = model_of(dropout=0.0, max_length=8)
    item = np.array([[5, 6, 7, 8, 9, MASK, 4, PAD]], np.int32)
    x = {
        "item": item,
        "position": np.array([[0, 1, 2, 3, 0, 1, 2, 0]], np.int32),
        "segment": np.array([[1, 1, 1, 1, 2, 2, 2, 0]], np.int32),
    }

    def states(changed):
        shown = item.copy()
        shown[0, changed] = 15
        return keras.ops.convert_to_numpy(model.states({**x, "item": shown}))[0]

    before = states([])
    for slot, own in ((0, range(4)), (3, range(4)), (4, range(4, 7)), (6, range(4, 7))):
        moved = np.abs(states([slot]) - before).max(axis=-1) > 1e-5
        assert np.flatnonzero(moved).tolist() == list(own)


def test_what_lies_in_the_place_of_a_masked_item_gets_no_gradient_from_it():
    """The item that is asked for is no input: without the output layer its row would be untouched."""
    model, _ = model_of(dropout=0.0)
    log = dataclasses.replace(histories([LENGTH]), item=np.arange(5, 5 + LENGTH, dtype=np.int32))
    x, y, weight = epoch(loader(log, mask_share=0.5, last_share=0.0))[0]
    values = autodiff.gradients(lambda: keras.ops.sum(model.states(x) ** 3), model.trainable_variables)
    table = next(
        g for v, g in zip(model.trainable_variables, values, strict=True) if v.path.endswith("item_id/embeddings")
    )
    hidden = y[weight > 0]
    touched = np.flatnonzero(np.abs(table).max(axis=1) > 0)
    assert set(touched.tolist()) == set(range(5, 5 + LENGTH)) - set(hidden.tolist())
