"""The model across domains: what is reversed, pooled, aligned and gated, against NumPy."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import expit

from config import RunConfig
from tests import autodiff
from tests.test_parity import set_numpy_weights
from zoo import domain_losses, losses
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.domains import DomainLoader, RepresentationLoader, recommending
from zoo.data.vocabulary import MASK, NUM_SPECIALS, UNKNOWN, Vocabulary
from zoo.layers.gradient_reversal import reverse_gradient
from zoo.models.cross_domain import CrossDomain, CrossDomainConfig

ITEMS, LENGTH = 20, 9
TARGET = 2  # kitchen, the second domain: items of odd number


def catalogue(**changes):
    token = np.arange(NUM_SPECIALS + ITEMS)
    domain = np.where(token < NUM_SPECIALS, 0, 1 + token % 2).astype(np.int16)
    known = Catalogue(
        Vocabulary(np.arange(9), 9),
        Vocabulary(np.arange(ITEMS), ITEMS),
        (token >= NUM_SPECIALS).astype(np.int64),
        labels={"domain": ("food", "kitchen"), "target_domains": ("kitchen",)},
        candidates=domain == TARGET,
        item_domain=domain,
    )
    return dataclasses.replace(known, **changes)


def histories(lengths, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = rng.integers(NUM_SPECIALS, NUM_SPECIALS + ITEMS, offsets[-1]).astype(np.int32)
    return Histories(np.full(len(lengths), UNKNOWN, np.int32), offsets, item)


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


# ------------------------------------------------------------------------------------------------- what it sees


@pytest.mark.once
def test_places_count_within_a_domain():
    log = Histories(np.zeros(1, np.int32), np.array([0, 6]), np.array([3, 5, 4, 6, 7, UNKNOWN], np.int32))
    x = DomainLoader.inputs(log, catalogue(), CrossDomainConfig(max_length=LENGTH))
    row, start = divmod(int(x["slot"][0]) - 5, LENGTH)
    assert x["item"][row, start : start + 6].tolist() == [3, 5, 4, 6, 7, UNKNOWN]
    assert x["aim"][row, start : start + 6].tolist() == [0, 1, 2, 2, 2, 3]
    x = DomainLoader.inputs(log, catalogue(), CrossDomainConfig(max_length=LENGTH, causal=False))
    row, start = divmod(int(x["slot"][0]) - 6, LENGTH)
    assert x["item"][row, start : start + 7].tolist() == [3, 5, 4, 6, 7, UNKNOWN, MASK]
    assert x["domain"][row, start : start + 7].tolist() == [2, 2, 1, 1, 2, 0, TARGET]
    assert x["place"][row, start : start + 7].tolist() == [0, 1, 0, 1, 2, 0, 3]
    assert x["aim"][row, start + 6] == 3


@pytest.mark.once
def test_each_event_of_the_target_is_predicted_at_the_event_before():
    log, known = histories([8, 9, 12, 1, 7, 3, 9, 0]), catalogue()
    config = RunConfig(model=CrossDomainConfig(max_length=LENGTH, all_events=True))
    loader = recommending(log, known, config)
    found = []
    for index in range(len(loader)):
        x, y, weight = loader[index]
        slots = x["slot"][weight > 0]
        before = x["item"].reshape(-1)[slots]
        found += list(zip(before.tolist(), y[weight > 0].tolist(), strict=True))
        assert (np.diff(slots) > 0).all() and len(x["slot"]) == loader.num_slots
    rows = log.row_of_event
    pairs = [
        (int(log.item[i]), int(log.item[i + 1]))
        for i in range(len(log.item) - 1)
        if rows[i] == rows[i + 1] and known.item_domain[log.item[i + 1]] == TARGET
    ]
    assert sorted(found) == sorted(pairs)
    masked = RunConfig(model=CrossDomainConfig(causal=False))
    assert type(recommending(log, known, masked)) is DomainLoader


@pytest.mark.once
def test_each_stage_masks_its_own():
    log, known = histories([8, 9, 12, 5, 7, 3, 9]), catalogue()
    config = RunConfig(model=CrossDomainConfig(max_length=LENGTH, mask_share=0.5, last_share=0.0))
    first, second = (loader(log, known, config) for loader in (RepresentationLoader, DomainLoader))
    for loader in (first, second):
        loader.set_epoch(0)
        x, y, weight = loader[0]
        assert (x["item"].reshape(-1)[x["slot"]][weight > 0] == MASK).all()
        assert (known.item_domain[y[weight > 0]] == x["domain"].reshape(-1)[x["slot"]][weight > 0]).all()
    assert set(known.item_domain[y[weight > 0]].tolist()) == {TARGET}
    _, y, weight = first[0]
    assert set(known.item_domain[y[weight > 0]].tolist()) == {1, 2}
    strengths = []
    for epoch in (0, 5, 50):
        first.set_epoch(epoch)
        strengths.append(float(first[0][0]["reversal"][0]))
    assert 0.2 < strengths[0] < 0.3 and 0.9 < strengths[1] < strengths[2] <= 1.0


@pytest.mark.once
def test_it_asks_for_one_target_domain():
    for labels in ({}, {"domain": ("food",)}):
        with pytest.raises(DataError, match="no column of two domains"):
            CrossDomain(CrossDomainConfig(), catalogue(labels=labels))
    with pytest.raises(DataError, match=r"split.target_domains is one of food, kitchen"):
        CrossDomain(CrossDomainConfig(), catalogue(labels={"domain": ("food", "kitchen")}))


# ------------------------------------------------------------------------------------------------ representations


def stage_one(model, lengths=(4, 6, 3, 5), seed=1):
    config = RunConfig(model=model.config)
    loader = RepresentationLoader(histories(lengths, seed), model.catalogue, config)
    loader.set_epoch(3)
    x, y, weight = loader[0]
    return x, y, weight


@pytest.mark.once
@pytest.mark.parametrize("causal", [True, False])
def test_vectors_are_means_of_what_is_visible(causal):
    model = model_of(causal=causal)
    x, _, _ = stage_one(model)
    found = model(tensors(x))
    states = array(model._encoded("specific", tensors(x), False))
    for person, slot in enumerate(x["person"]):
        row, end = divmod(int(slot), LENGTH)
        mine = (x["segment"][row] == x["segment"][row, end]) & (x["item"][row] != MASK)
        for domain in (1, 2):
            shown = mine & (x["domain"][row] == domain)
            expected = states[row, shown].mean(axis=0) if shown.any() else np.zeros(8)
            np.testing.assert_allclose(array(found["specific"])[person, domain - 1], expected, rtol=1e-4, atol=1e-5)
            assert array(found["there"])[person, domain - 1] == shown.any()


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
def test_the_contrast_finds_a_user_in_his_other_domains():
    common = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float32)
    there = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 1, 1]], np.float32)
    found = float(array(domain_losses.contrast(*tensors((common, there)), temperature=0.1)))
    each = []
    for g in range(3):
        elsewhere = there * (np.arange(3) != g)
        users = np.flatnonzero(there[:, g] * elsewhere.any(axis=1))
        mean = (common * elsewhere[..., None]).sum(1)[users]
        one = common[users, g] / np.linalg.norm(common[users, g], axis=1, keepdims=True)
        logits = one @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T / 0.1
        each.append(np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits)))
    assert found == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.once
def test_the_contrast_is_a_part_of_the_loss():
    model, plain = model_of(contrastive=0.5, contrastive_temperature=0.3), model_of()
    x, y, weight = (tensors(part) for part in stage_one(model))
    found = model(x)
    there = found["there"] * x["people"][:, None]
    wanted = 0.5 * float(array(domain_losses.contrast(found["common"], there, 0.3)))
    one, other = (float(array(m.compute_loss(x=x, y=y, y_pred=found, sample_weight=weight))) for m in (model, plain))
    assert wanted > 1e-3 and one - other == pytest.approx(wanted, rel=1e-3)


@pytest.mark.once
def test_vectors_of_two_users_are_compared_if_asked():
    """As the published code does, whose loaders shuffle each domain on its own."""
    model = model_of(same_user=False, alignment=1.0, classification=0.0, adversarial=0.0, separation=0.0)
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
        expected = states[kitchen].mean(axis=0) if len(kitchen) else np.zeros(8)
        np.testing.assert_allclose(found["specific_kitchen"][person], expected, rtol=1e-4, atol=1e-5)
    one = Histories(np.full(1, UNKNOWN, np.int32), np.array([0, 3]), np.array([4, 6, 8], np.int32))  # food alone
    _, nothing = next(model.vector_batches(one, view="common_kitchen"))
    assert not nothing.any()


# ---------------------------------------------------------------------------------------------------- recommender


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("gating", ["state", "original"])
def test_the_gate_is_that_of_numpy(gating, causal):
    model = model_of(gating=gating, causal=causal)
    log = histories([4, 6, 3], seed=2)
    x = DomainLoader.inputs(log, model.catalogue, model.config)
    plain = array(model_of(gating="none", causal=causal)._recommend(tensors(x), False))
    weights = {"gate/" + v.name: array(v) for v in model.gate.variables}
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
    for person, slot in enumerate(x["slot"]):
        row, place = divmod(int(slot), x["item"].shape[1])
        mine = x["segment"][row] == x["segment"][row, place]
        shown = mine & (x["item"][row] != MASK)
        vectors = []
        for kind, chosen in (("specific", shown & (x["domain"][row] == TARGET)), ("cross", shown)):
            encoded = array(model._encoded(kind, tensors(x), False))
            vectors.append(encoded[row, chosen].mean(axis=0) if chosen.any() else np.zeros(8))

        def gate(a, b, c):
            return expit(np.concatenate([a, b, c]) @ weights["gate/kernel"] + weights["gate/bias"])

        if gating == "state":
            np.testing.assert_allclose(states[row, place], plain[person], rtol=1e-4, atol=1e-5)
            g = gate(*vectors, states[row, place])
            expected = states[row, place] + (g * vectors[0] + (1 - g) * vectors[1]) @ array(model.told.kernel)
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
@pytest.mark.parametrize("loader", [DomainLoader, RepresentationLoader, recommending])
def test_items_of_two_domains_are_refused(loader):
    log = Histories(np.zeros(1, np.int32), np.array([0, 6]), np.array([3, 5, 4, 3, 6, 7], np.int32))
    config = RunConfig(model=CrossDomainConfig())
    for domain, refused in (([1, 1, 0, 1, 0, 1], False), ([1, 1, 0, 0, 0, 1], True)):
        marked = dataclasses.replace(log, columns={"domain": np.array(domain, np.int16)})
        if refused:
            with pytest.raises(DataError, match="1 items occur in more than one domain, such as 0;"):
                loader(marked, catalogue(), config)
        else:
            assert len(loader(marked, catalogue(), config)) == 1


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
