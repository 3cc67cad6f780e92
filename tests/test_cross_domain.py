"""The model across domains: what is reversed, pooled, aligned and gated, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import expit

from config import RunConfig
from tests import autodiff
from tests.small_domains import ITEMS, LENGTH, TARGET, catalogue, histories
from tests.test_parity import set_numpy_weights
from zoo import domain_losses, losses
from zoo.data.histories import Histories
from zoo.data.loaders.domains import DomainLoader, recommending, representing
from zoo.data.vocabulary import MASK, NUM_SPECIALS, UNKNOWN
from zoo.layers.gradient_reversal import reverse_gradient
from zoo.layers.pooling import pooled
from zoo.models.cross_domain import CrossDomain, CrossDomainConfig


def model_of(**knobs):
    small = {"embedding_dim": 8, "max_length": LENGTH, "num_blocks": 1, "dropout": 0.0, "expansion": 1}
    model = CrossDomain(CrossDomainConfig(**small | knobs), catalogue())
    set_numpy_weights(model)
    return model


def tensors(x):
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def array(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_gradient_is_reversed_and_scaled(strength):
    layer = keras.layers.Dense(2, use_bias=False)
    x = ops.convert_to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    layer(x)
    (plain,) = autodiff.gradients(lambda: ops.sum(layer(x) ** 2), layer.trainable_variables)
    (reversed_,) = autodiff.gradients(
        lambda: ops.sum(reverse_gradient(layer(x), strength) ** 2), layer.trainable_variables
    )
    np.testing.assert_allclose(array(reversed_), -strength * array(plain), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(array(reverse_gradient(layer(x), strength)), array(layer(x)), rtol=1e-6)


# ------------------------------------------------------------------------------------------ what the stages are shown


@pytest.mark.once
@pytest.mark.parametrize("max_length", [20, LENGTH, 4])
def test_what_is_known_before_an_event_is_what_serving_would_see(max_length):
    model, log = model_of(max_length=max_length), histories([8, 9, 12, 1, 7, 3, 0, 20], seed=3)
    told, rows = model.introduce(log), log.row_of_event
    for event, item in enumerate(log.item.tolist()):
        vectors = [told.columns[kind][event] for kind in ("specific", "cross")]
        start = log.offsets[rows[event]]
        if event == start or model.catalogue.item_domain[item] != TARGET:
            assert not np.any(vectors)
            continue
        seen = event - start  # of a longer history, as many as the windows show
        if seen > max_length:
            step = max_length // 2
            seen -= -(-(seen - max_length) // step) * step
            assert seen >= max_length - step
        one = Histories(np.full(1, UNKNOWN, np.int32), np.array([0, seen]), log.item[event - seen : event])
        expected = model._users(tensors(DomainLoader.inputs(one, model.catalogue, model.config)))
        np.testing.assert_allclose(vectors, [array(v)[0] for v in expected], rtol=1e-4, atol=1e-5)
    for knobs in ({"gating": "none"}, {"fine_tune_users": True}, {"causal": False}):
        assert model_of(**knobs).introduce(log) is log


@pytest.mark.parametrize("gating", ["state", "original"])
def test_the_recommender_learns_the_same_from_either_loader(gating):
    """Rows of the target domain with vectors that were made before, or of all domains: one loss."""
    config = {"max_length": LENGTH, "num_heads": 2, "gating": gating, "user_dropout": 0.0}
    log = histories([8, 9, 7, 1, 6, 3, 9, 0])
    known, live = model_of(**config), model_of(**config, fine_tune_users=True)
    total = []
    for model in (known, live):
        loader = recommending(model.introduce(log), model.catalogue, RunConfig(model=model.config))
        x, y, weight = loader[0]
        assert len(loader) == 1
        states, mean = model(tensors(x)), np.asarray(weight).sum()
        loss = model.compute_loss(x=tensors(x), y=tensors(y), y_pred=states, sample_weight=tensors(weight))
        total.append((float(array(loss)), mean))
    np.testing.assert_allclose(*total, rtol=1e-4)


@pytest.mark.once
def test_serving_sees_of_the_target_domain_what_training_sees():
    """However many events of other domains lie between, as many of the target domain are looked at."""
    food, model = [4, 6, 8, 10, 12, 14, 16, 18, 20], model_of(gating="none")
    rows = [[3, *food, 5, *food, 7, *food], [3, 5, *food[:4], 7, *food], [9, 11, 13, *food, *food], food]
    log = Histories(
        np.full(4, UNKNOWN, np.int32),
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
        np.concatenate(rows).astype(np.int32),
    )
    loader = recommending(model.introduce(log), model.catalogue, RunConfig(model=model.config))
    x, y, weight = loader[0]
    states = array(model(tensors(x))).reshape(*y.shape, -1)
    for row, before in ((0, log.offsets[0] + 20), (1, log.offsets[1] + 6), (2, log.offsets[2] + 2)):
        event = log.item[before]
        last = Histories(log.user[:1], np.array([0, before - log.offsets[row]]), log.item[log.offsets[row] : before])
        known = [3, 5] if row < 2 else [9, 11]
        place = [
            (r, c)
            for r, c in np.argwhere((y == event) & (weight > 0))
            if x["item"][r, c] == known[1] and x["item"][r, c - 1] == known[0]
        ]
        shown = [states[r, c] for r, c in place]
        served = model.vectors(last)[0]
        assert min(np.abs(one - served).max() for one in shown) < 1e-4
    vectors = model.vectors(log)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3 and np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-4, atol=1e-5)


def test_negatives_stand_for_all_items():
    """With every item drawn equally often, the sampled loss is that of all items, but for how often each counts."""
    model = model_of(representation_negatives=5, causal=True)
    x, _, _ = stage_one(model)
    assert x["negatives"].shape == (5,) and x["negatives"].min() >= NUM_SPECIALS
    parts = np.eye(3, 8, dtype=np.float32), np.array([4, 9, 7]), np.array([1, 2, 0.5], np.float32)
    states, labels, weights = (tensors(part) for part in parts)
    everything = tensors(np.arange(NUM_SPECIALS, NUM_SPECIALS + ITEMS))
    exact = array(states) @ array(model.user_items.rows())[NUM_SPECIALS:].T
    own = exact[np.arange(3), array(labels) - NUM_SPECIALS]
    each = np.log(np.exp(exact).sum(1)) - own
    found = float(array(model._items(states, labels, weights, everything)))
    assert found == pytest.approx(np.average(each, weights=[1.0, 2.0, 0.5]), rel=1e-4)


# ------------------------------------------------------------------------------------------------ representations


def stage_one(model, lengths=(4, 6, 3, 5), seed=1):
    config = RunConfig(model=model.config)
    loader = representing(histories(lengths, seed), model.catalogue, config)
    loader.set_epoch(3)
    x, y, weight = loader[0]
    return x, y, weight


@pytest.mark.once
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vectors_are_of_what_is_visible(causal, pooling):
    model = model_of(causal=causal, pooling=pooling)
    x, _, _ = stage_one(model)
    found = model(tensors(x))
    states = array(model._encoded("specific", tensors(x), False))
    for person, slot in enumerate(x["person"]):
        row, end = divmod(int(slot), LENGTH)
        mine = (x["segment"][row] == x["segment"][row, end]) & (x["item"][row] != MASK)
        for domain in (1, 2):
            shown = mine & (x["domain"][row] == domain)
            visible = states[row, shown] if pooling == "mean" else states[row, shown][-1:]
            expected = visible.mean(axis=0) if shown.any() else np.zeros(8)
            np.testing.assert_allclose(array(found["specific"])[person, domain - 1], expected, rtol=1e-4, atol=1e-5)
            assert array(found["there"])[person, domain - 1] == shown.any()


def test_a_vector_is_of_the_last_state_if_asked():
    states = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    known = np.array([[[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]], [[0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]], bool)
    mean, last = (array(pooled(*tensors((states, known)), last=last)) for last in (False, True))
    for b, m in np.ndindex(2, 3):
        here = np.flatnonzero(known[b, m])
        np.testing.assert_allclose(mean[b, m], states[b, here].mean(0) if len(here) else 0.0, rtol=1e-5)
        np.testing.assert_allclose(last[b, m], states[b, here[-1]] if len(here) else 0.0, rtol=1e-5)


def test_neighbours_and_padding_do_not_change_a_vector():
    model, log = model_of(), histories([4, 6, 3, 5], seed=1)
    together = model.vectors(log)
    alone = np.concatenate([model.vectors(log.take(np.array([i]))) for i in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    longer = model_of(max_length=LENGTH + 4, relative_bias=False)
    shorter = model_of(relative_bias=False)
    for own, other in zip(longer.trainable_variables, shorter.trainable_variables, strict=True):
        own.assign(
            np.resize(array(other), own.shape)
            if own.shape == other.shape
            else np.pad(array(other), [(0, a - b) for a, b in zip(own.shape, other.shape, strict=True)])
        )
    np.testing.assert_allclose(longer.vectors(log), shorter.vectors(log), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "margin"), [("alignment", "mean_square"), ("separation", "mean_square"), ("separation", "euclidean")]
)
def test_alignment_and_separation_are_of_one_user(part, margin):
    """The cross vectors of two users, swapped, give another loss; in the published code they are of any two."""
    off = dict.fromkeys(("classification", "adversarial", "alignment", "separation"), 0.0)
    model, plain = model_of(**off | {part: 1.0, "margin": margin}), model_of(**off)
    x, y, weight = (tensors(part) for part in stage_one(model))
    found = model(x)
    found |= {kind: 0.2 * found[kind] for kind in ("specific", "common", "cross")}  # else all are further than 1 apart
    swapped = found | {"cross": ops.flip(found["cross"], axis=0)}

    def loss(one, vectors):
        return float(array(one.compute_loss(x=x, y=y, y_pred=vectors, sample_weight=weight)))

    cross, there = array(found["cross"]), array(found["there"]) * array(x["people"])[:, None]
    other = array(found["common" if part == "alignment" else "specific"])
    mean = (other * there[..., None]).sum(axis=1) / np.maximum(there.sum(axis=1), 1)[:, None]
    apart = cross - mean
    squares = (apart**2).sum(axis=1) if margin == "euclidean" else (apart**2).mean(axis=1)
    each = squares if part == "alignment" else np.maximum(0, 1 - np.sqrt(squares))
    both = array(x["people"]) * array(found["cross_there"])
    expected = (each * both).sum() / both.sum()
    assert loss(model, found) - loss(plain, found) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert abs(loss(model, swapped) - loss(model, found)) > 1e-4


def test_common_vectors_are_taught_to_hide_what_the_discriminator_learns_to_find():
    parts = ("classification", "alignment", "separation")
    model = model_of(**dict.fromkeys(parts, 0.0), adversarial=1.0, common_masked=False)
    x, y, weight = (tensors(part) for part in stage_one(model))
    there = tensors(array(model(x)["there"]) * array(x["people"])[:, None])

    def whole():
        return model.compute_loss(x=x, y=y, y_pred=model(x), sample_weight=weight)

    def alone():
        return domain_losses.told_apart(model._domain_logits(model(x)["common"]), there)

    strength = float(array(x["reversal"])[0])
    common, found = model.common.trainable_variables, model.discriminator.trainable_variables
    for variables, sign in ((common, -strength), (found, 1.0)):
        got, wanted = autodiff.gradients(whole, variables), autodiff.gradients(alone, variables)
        assert max(np.abs(gradient).max() for gradient in wanted) > 1e-3
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, sign * other, rtol=1e-3, atol=1e-5)


@pytest.mark.once
def test_the_domain_of_each_vector_is_told():
    """Domains count alike, however many users have events there."""
    logits = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    there = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1]], np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    each = [-np.log(shares[there[:, g] > 0, g, g]).mean() for g in range(3)]
    assert float(array(domain_losses.told_apart(*tensors((logits, there))))) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.once
def test_the_contrast_finds_a_user_in_his_other_domains():
    """Among all but further windows of his own history: the first and the fourth are of one."""
    common, history = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float32), np.array([7, 1, 2, 7, 4])
    there = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 1, 1]], np.float32)
    found = float(array(domain_losses.contrast(*tensors((common, there, history)), temperature=0.1)))
    each = []
    for g in range(3):
        elsewhere = there * (np.arange(3) != g)
        users = np.flatnonzero(there[:, g] * elsewhere.any(axis=1))
        mean = (common * elsewhere[..., None]).sum(1)[users]
        one = common[users, g] / np.linalg.norm(common[users, g], axis=1, keepdims=True)
        logits = one @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T / 0.1
        among = (history[users, None] != history[users]) | np.eye(len(users), dtype=bool)
        each.append(np.mean(np.log((among * np.exp(logits)).sum(1)) - np.diag(logits)))
    assert found == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.once
def test_the_contrast_is_a_part_of_the_loss():
    model, plain = model_of(contrastive=0.5, contrastive_temperature=0.3), model_of()
    x, y, weight = (tensors(part) for part in stage_one(model))
    found = model(x)
    there = found["there"] * x["people"][:, None]
    wanted = 0.5 * float(array(domain_losses.contrast(found["common"], there, x["history"], 0.3)))
    one, other = (float(array(m.compute_loss(x=x, y=y, y_pred=found, sample_weight=weight))) for m in (model, plain))
    assert wanted > 1e-3 and one - other == pytest.approx(wanted, rel=1e-3)


@pytest.mark.once
def test_vectors_of_two_users_are_compared_if_asked():
    """As the published code does, whose loaders shuffle each domain on its own."""
    model = model_of(causal=False, same_user=False, alignment=1.0, classification=0.0, adversarial=0.0, separation=0.0)
    x, y, weight = stage_one(model)
    found = model._represent(tensors(x), False)
    table = model.user_items.rows()
    masked = sum(
        array(losses.softmax_cross_entropy(found[f"{kind}_states"], table, tensors(y), tensors(weight)))
        for kind in ("specific", "common", "cross")
    )
    common, there, cross = (array(found[name]) for name in ("common", "there", "cross"))
    mean = (common * there[..., None]).sum(axis=1) / np.maximum(there.sum(axis=1), 1)[:, None]
    assert x["people"].all()
    expected = np.square(cross - np.roll(mean, 1, axis=0)).mean(axis=-1).mean()
    loss = array(model._representation_loss(tensors(x), tensors(y), tensors(weight), found))
    np.testing.assert_allclose(loss - masked, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("causal", [True, False])
def test_what_is_exported_is_what_the_gate_sees(causal):
    model = model_of(causal=causal)
    log = histories([4, 6, 3], seed=2)
    names = ["specific_food", "specific_kitchen", "common_food", "common_kitchen", "cross"]
    assert list(model.views()) == ["embeddings", *names]
    found = {name: np.concatenate([block for _, block in model.vector_batches(log, view=name)]) for name in names}
    x = tensors(DomainLoader.inputs(log, model.catalogue, model.config))
    states = array(model._encoded("specific", x, False)).reshape(-1, 8)
    for person, slot in enumerate(array(x["slot"])):
        begin, slot = (slot - log.lengths[person] + 1, slot + 1) if causal else (slot - log.lengths[person], slot)
        kitchen = begin + np.flatnonzero(array(x["domain"]).reshape(-1)[begin:slot] == TARGET)
        expected = states[kitchen[-1]] if len(kitchen) else np.zeros(8)
        np.testing.assert_allclose(found["specific_kitchen"][person], expected, rtol=1e-4, atol=1e-5)
    one = Histories(np.full(1, UNKNOWN, np.int32), np.array([0, 3]), np.array([4, 6, 8], np.int32))  # food alone
    _, nothing = next(model.vector_batches(one, view="common_kitchen"))
    assert not nothing.any()


# ---------------------------------------------------------------------------------------------------- recommender


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("gating", ["state", "original"])
def test_the_gate_is_that_of_numpy(gating, causal):
    model = model_of(gating=gating, causal=causal, fine_tune_users=causal)
    log = histories([4, 6, 3], seed=2)
    x = DomainLoader.inputs(log, model.catalogue, model.config)
    plain = array(model_of(gating="none", causal=causal)._recommend(tensors(x), False))
    weights = {"gate/" + v.name: array(v) for v in model.gate.gate.variables}
    own, places = x["domain"] == TARGET, np.arange(x["item"].shape[1])
    asking = array(model.mask(np.full(1, NUM_SPECIALS + 1, np.int32)))
    events = array(model.embed_items(x["item"])) + np.where((x["item"] == MASK)[..., None], asking, 0.0)
    events = np.where(own[..., None], events, asking).astype(np.float32)
    seen = (x["segment"][:, :, None] == x["segment"][:, None]) & (own[:, None] | (places[:, None] == places))
    if causal:
        seen &= places[:, None] >= places
    bias = np.where(seen, 0.0, -1e9)[:, None].astype(np.float32)
    states = array(model.recommender(*tensors((events, x["aim"], bias)), gaps=True))
    found = model.vectors(log)
    for person, latest in enumerate(x["latest"]):
        row, place = divmod(int(latest), x["item"].shape[1])
        mine = x["segment"][row] == x["segment"][row, place]
        shown = mine & (x["item"][row] != MASK)
        vectors = []
        for kind, chosen in (("specific", shown & (x["domain"][row] == TARGET)), ("cross", shown)):
            encoded = array(model._encoded(kind, tensors(x), False))
            vectors.append(encoded[row, chosen][-1] if chosen.any() else np.zeros(8))

        def gate(a, b, c):
            return expit(np.concatenate([a, b, c]) @ weights["gate/kernel"] + weights["gate/bias"])

        if gating == "state":
            np.testing.assert_allclose(states[row, place], plain[person], rtol=1e-4, atol=1e-5)
            g = gate(*vectors, states[row, place])
            expected = states[row, place] + g * vectors[0] + (1 - g) * vectors[1]
        else:
            read = np.flatnonzero(seen[row, place])
            shares = [np.exp(states[row, read] @ v) / np.exp(states[row, read] @ v).sum() for v in vectors]
            mixed = []
            for a, b in zip(*shares, strict=True):
                one, two = a * vectors[0], b * vectors[1]
                g = gate(one, two, np.zeros(8))
                mixed.append(g * one + (1 - g) * two)
            expected = np.mean(mixed, axis=0)
        np.testing.assert_allclose(found[person], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.once
def test_without_gate_and_first_stage_no_other_domain_is_known():
    """Food between the same events of the kitchen changes nothing: neither what is seen nor how far away it is."""
    model = model_of(gating="none", representation_epochs=0, num_heads=2)
    kitchen, food = [3, 5, 7, 9], [4, 6, 8, 10]
    mixed = [[*kitchen], [3, 4, 6, 8, 5, 7, 9], [4, 3, 6, 5, 8, 7, 10, 4, 9]]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in mixed])])
    log = Histories(np.full(3, UNKNOWN, np.int32), offsets, np.concatenate(mixed).astype(np.int32))
    vectors = model.vectors(log)
    assert set(log.item.tolist()) == set(kitchen + food)
    np.testing.assert_allclose(vectors[1:], vectors[[0, 0]], rtol=1e-4, atol=1e-5)


def test_users_are_told_in_training_as_in_serving_or_not_at_all():
    model, plain = model_of(user_dropout=0.5), model_of(gating="none")
    x = tensors(DomainLoader.inputs(histories([6] * 40), model.catalogue, model.config))
    state, served, trained = (array(m._recommend(x, t)) for m, t in ((plain, False), (model, False), (model, True)))
    told = np.abs(trained - served).max(axis=1) < 1e-5
    np.testing.assert_allclose(trained[~told], state[~told], rtol=1e-4, atol=1e-5)
    assert 5 < told.sum() < 35 and np.abs(served - state).max() > 1e-3


@pytest.mark.once
@pytest.mark.parametrize("knobs", [{"gating": "none", "fine_tune_users": True}, {"representation_epochs": 0}])
def test_options_without_effect_are_refused(knobs):
    with pytest.raises(ValueError, match="gating="):
        CrossDomainConfig(**knobs)


@pytest.mark.once
def test_a_user_of_one_domain_alone_gets_recommendations():
    model = model_of()
    items = np.array([4, 6, 8, 3, 5], np.int32)  # food alone, kitchen alone
    log = Histories(np.full(2, UNKNOWN, np.int32), np.array([0, 3, 5]), items)
    assert np.isfinite(model.score(log)[:, NUM_SPECIALS:]).all()
    assert np.abs(np.diff(model.vectors(log), axis=0)).max() > 1e-4
