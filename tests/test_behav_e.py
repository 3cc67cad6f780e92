"""BEHAV-E and its layers: against NumPy, and what a training of it must do."""

import keras
import numpy as np
import pytest
from scipy.special import expit, log_softmax, logsumexp

from config import BehaviourConfig, SampleConfig, override
from tests import autodiff
from zoo import artifacts, backends, losses, registry, training
from zoo.data.behaviour.prepared import prepare
from zoo.data.behaviour.sources import sample
from zoo.data.loaders.two_views import TextLoader, TwoViewLoader
from zoo.layers.bags import BagEmbedding, WeightedPooling
from zoo.layers.batch_norm import BatchNorm
from zoo.layers.client import HIGHEST, LOWEST, ClientEncoder, Head
from zoo.layers.lstm import BidirectionalLSTM
from zoo.layers.text import TextDecoder, TextEncoder

RNG = np.random.default_rng(7)
SPEC = registry.get("behav_e")
OFF = "event_dropout=0,time_crop=0,modality_dropout=0,unknown_share=0,model.dropout=0"


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def tensor(array):
    return keras.ops.convert_to_tensor(array)


def array(value):
    return keras.ops.convert_to_numpy(value)


def value(scalar):
    return float(array(scalar))


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(array(actual), expected, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------ layers


def loop_lstm(x, kernel, recurrent, bias):
    """States of one sequence (K, D), step by step."""
    units = recurrent.shape[0]
    state, memory, states = np.zeros(units), np.zeros(units), []
    for step in x:
        gates = step @ kernel + state @ recurrent + bias
        i, f, o = (expit(gates[n * units : (n + 1) * units]) for n in range(3))
        memory = f * memory + i * np.tanh(gates[3 * units :])
        state = o * np.tanh(memory)
        states.append(state)
    return np.array(states)


def test_lstm_reads_both_ways_and_ignores_padding():
    layer = BidirectionalLSTM(3)
    x, lengths = normal(4, 6, 5), np.array([6, 3, 1, 0])
    real = np.arange(6) < lengths[:, None]
    states, ends = (array(part) for part in layer(tensor(x), tensor(real)))
    layer.bias.assign(normal(2, 12))
    states, ends = (array(part) for part in layer(tensor(x), tensor(real)))
    weights = [array(weight) for weight in (layer.kernel, layer.recurrent_kernel, layer.bias)]
    for row, length in enumerate(lengths):
        forward = loop_lstm(x[row, :length], *(weight[0] for weight in weights))
        backward = loop_lstm(x[row, :length][::-1], *(weight[1] for weight in weights))[::-1]
        if length:
            close(states[row, :length], np.concatenate([forward, backward], axis=1))
            close(ends[row], np.concatenate([forward[-1], backward[0]]))
        else:
            assert not ends[row].any()


def test_both_ends_of_a_text_are_read():
    encoder = TextEncoder(20, 8, 6)
    text = np.array([[5, 6, 7, 8, 0, 0]], np.int32)
    vector = array(encoder(tensor(text)))
    assert vector.shape == (1, 8)
    for place in range(4):
        other = text.copy()
        other[0, place] = 12
        assert np.abs(array(encoder(tensor(other))) - vector).max() > 1e-4, f"code {place} is not read"
    close(encoder(tensor(text[:, :4])), vector)
    close(encoder(tensor(np.pad(text, ((0, 0), (0, 3))))), vector)
    close(encoder(tensor(np.tile(text, (2, 3, 1)))), np.tile(vector, (2, 3, 1)))


def test_a_text_is_told_from_its_vector_alone():
    decoder = TextDecoder(20, 6)
    vectors, real = normal(3, 8), np.arange(5) < np.array([5, 2, 4])[:, None]
    logits = array(decoder(tensor(vectors), tensor(real)))
    assert logits.shape == (3, 5, 20)
    alone = array(decoder(tensor(vectors[1:2]), tensor(real[1:2, :2])))
    close(logits[1, :2], alone[0])


def test_bags_are_weighted_means_with_a_map_per_type():
    layer = BagEmbedding(9, 4, 6)
    ids = RNG.integers(0, 9, (2, 3, 5)).astype(np.int32)
    weights = RNG.random((2, 3, 5)).astype(np.float32)
    weights[0, 1] = 0
    layer(tensor(ids), tensor(weights))
    layer.maps.bias.assign(normal(3, 6))
    found = array(layer(tensor(ids), tensor(weights)))
    table, kernel, bias = array(layer.table), array(layer.maps.kernel), array(layer.maps.bias)
    for b in range(2):
        sums = [(weights[b, t][:, None] * table[ids[b, t]]).sum(axis=0) for t in range(3)]
        close(found[b], np.concatenate([sums[t] @ kernel[t] + bias[t] for t in range(3)]))


@pytest.mark.parametrize("attention", [False, True])
def test_pooled_queries_are_their_weighted_mean(attention):
    layer = WeightedPooling(attention)
    vectors, weights = normal(3, 4, 5), np.array([[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 0]], np.float32)
    first = array(layer(tensor(vectors), tensor(weights)))
    close(first, (weights[..., None] * vectors).sum(axis=1))  # attention, too, begins with the mean
    assert (np.abs(first[0] - vectors[0, :2].min(axis=0)) > 1e-3).any(), "the mode of two vectors is their minimum"
    assert not first[2].any()
    if attention:
        layer.query.assign(3 * normal(5, 1))
        share = weights * np.exp(vectors @ array(layer.query)[:, 0] / 5**0.5)
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-9)
        close(layer(tensor(vectors), tensor(weights)), (share[..., None] * vectors).sum(axis=1))


def test_batch_norm_averages_its_statistics_as_weights_are_averaged():
    layer = BatchNorm(0.9)
    batches = [3 + 2 * normal(32, 4) for _ in range(5)]
    out = array(layer(tensor(batches[0]), training=True))
    close(out, (batches[0] - batches[0].mean(axis=0)) / np.sqrt(batches[0].var(axis=0) + 1e-5), 1e-4)
    mean, variance = batches[0].mean(axis=0), batches[0].var(axis=0)
    for batch in batches[1:]:
        layer(tensor(batch), training=True)
        mean, variance = 0.9 * mean + 0.1 * batch.mean(axis=0), 0.9 * variance + 0.1 * batch.var(axis=0)
    x = normal(2, 4)
    close(layer(tensor(x)), (x - mean) / np.sqrt(variance + 1e-5), 1e-4)


def test_dropout_leaves_the_norm_alone():
    head = Head(3, "batch", 0.0, dropout=0.5)
    x = normal(64, 8)
    head(tensor(x), training=True)
    close(head.norm.mean, x.mean(axis=0))
    close(head.norm.variance, x.var(axis=0), 1e-4)


# ------------------------------------------------------------------------------------------------------ losses


def loop_info_nce(first, second, rows, weights):
    total = 0.0
    for one, other in ((first, second), (second, first)):
        scores = one @ other.T
        values = []
        for b in range(len(rows)):
            candidates = [c for c in range(len(rows)) if c == b or (rows[c] != rows[b] and weights[c])]
            values.append(logsumexp(scores[b, candidates]) - scores[b, b])
        total += np.average(values, weights=weights) / 2
    return total


def test_info_nce_passes_over_duplicates_and_fillers():
    first, second = normal(8, 5), normal(8, 5)
    rows, weights = np.array([0, 1, 2, 2, 4, 0, 6, 1]), np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
    found = losses.info_nce(*map(tensor, (first, second, rows, weights)))
    close(found, loop_info_nce(first, second, rows, weights))
    second[6:] += 100  # of weight 0
    close(losses.info_nce(*map(tensor, (first, second, rows, weights))), loop_info_nce(first, second, rows, weights))
    assert float(losses.info_nce(*map(tensor, (first, second, rows * 0, weights)))) == pytest.approx(0, abs=1e-6)


def test_divergence_from_the_standard_normal():
    mean, log_variance, weights = normal(6, 3), normal(6, 3), np.array([1, 1, 0, 2, 1, 0], np.float32)
    each = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    close(losses.gaussian_kl(*map(tensor, (mean, log_variance, weights))), np.average(each, axis=0, weights=weights))
    zero = np.zeros((2, 3), np.float32)
    close(losses.gaussian_kl(tensor(zero), tensor(zero), tensor(np.ones(2, np.float32))), np.zeros(3))
    # of N(1, e^0.5) by sampling
    drawn = 1 + np.exp(0.25) * np.random.default_rng(0).standard_normal(400_000)
    sampled = np.mean(-0.5 * ((drawn - 1) ** 2 / np.exp(0.5) + 0.5) + 0.5 * drawn**2)
    one = np.ones((1, 1), np.float32)
    close(losses.gaussian_kl(tensor(one), tensor(one / 2), tensor(one[0])), [sampled], 1e-2)


# ------------------------------------------------------------------------------------------------------- model


@pytest.fixture(scope="module")
def prepared():
    log = sample.read(SampleConfig(num_users=120, num_items=60, num_days=60, events_per_user=16, noise=0.1))
    return prepare(log, BehaviourConfig(window_days=7, min_visits=3))


def fresh(prepared, *options):
    config = override(SPEC.preset("tiny"), ["train.monitor=loss", *options])
    backends.seed(config.seed)
    return config, artifacts.build("behav_e", config, prepared.catalogue)


def train(prepared, directory, *options, **arguments):
    config, model = fresh(prepared, *options)
    return model, training.fit(model, SPEC, prepared, config, directory, **arguments)


def a_batch(prepared, config, loader=TwoViewLoader):
    return keras.tree.map_structure(tensor, loader(prepared.train, prepared.catalogue, config)[0])


@pytest.mark.once
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("free_bits", [0.0, 0.5])
def test_the_loss_is_contrast_and_divergence(prepared, similarity, free_bits):
    config, model = fresh(prepared, f"similarity={similarity},free_bits={free_bits},kl_weight=0.3,temperature=0.2")
    x, y, weight = a_batch(prepared, config)
    views = model(x)
    found = value(model.compute_loss(x=x, y=y, y_pred=views, sample_weight=weight, training=False))
    vectors, each = [], []
    for mean, log_variance, vector in views:
        np.testing.assert_array_equal(array(mean), array(vector))  # nothing is drawn in evaluation
        mean, log_variance = array(mean), array(log_variance)
        length = np.linalg.norm(mean, axis=1, keepdims=True) * 0.2**0.5 if similarity == "cosine" else 1.0
        vectors.append(mean / length)
        each.append(np.average((mean**2 + np.exp(log_variance) - 1 - log_variance) / 2, axis=0, weights=array(weight)))
    contrast = loop_info_nce(*vectors, array(y), array(weight))
    beyond = np.mean([np.maximum(one, free_bits).sum() for one in each])
    assert found == pytest.approx(contrast + 0.3 * beyond, rel=1e-4)
    measured = {name: float(tracker.result()) for name, tracker in model.trackers.items()}
    assert measured["info_nce"] == pytest.approx(contrast, rel=1e-4)
    assert measured["kl"] == pytest.approx(np.mean([one.sum() for one in each]), rel=1e-4)


def test_noise_is_the_batchs_own_and_of_the_models_variance(prepared):
    config, model = fresh(prepared, OFF)
    x, _, _ = a_batch(prepared, config)
    for number, (mean, log_variance, vector) in enumerate(model(x, training=True)):
        drawn = (array(vector) - array(mean)) / np.exp(array(log_variance) / 2)
        close(drawn, array(x["noise"])[:, number], 1e-3)


def test_free_bits_stop_the_gradient(prepared):
    def gradient(free_bits):
        config, model = fresh(prepared, OFF, f"free_bits={free_bits},kl_weight=1e6,kl_warmup_steps=0")
        x, y, weight = a_batch(prepared, config)
        start = model.towers[0].variance.output_layer.bias
        loss = lambda: model.compute_loss(x, y, model(x), weight, training=False)  # noqa: E731
        return np.abs(autodiff.gradients(loss, [start])[0]).max()

    assert gradient(0.0) > 1e3
    assert gradient(1e4) == 0  # means are used, of which this bias is no part


def test_the_weight_of_the_divergence_rises(prepared):
    config, model = fresh(prepared, OFF, "kl_weight=1,kl_warmup_steps=4,free_bits=0")
    x, y, weight = a_batch(prepared, config)
    views = model(x)
    seen = [value(model.compute_loss(x=x, y=y, y_pred=views, sample_weight=weight, training=True)) for _ in range(6)]
    kl, contrast = (float(model.trackers[name].result()) for name in ("kl", "info_nce"))
    np.testing.assert_allclose(seen, contrast + kl * np.array([0, 0.25, 0.5, 0.75, 1, 1]), rtol=1e-4)
    assert float(model.steps) == 6
    evaluated = value(model.compute_loss(x=x, y=y, y_pred=views, sample_weight=weight, training=False))
    assert evaluated == pytest.approx(contrast + kl, rel=1e-4) and float(model.steps) == 6


def test_the_log_variance_has_bounds():
    head = {"norm": "layer", "momentum": 0.9}
    encoder = ClientEncoder(("actions",), {}, 4, 8, False, head)
    x = {"actions": tensor(normal(5, 5))}
    encoder(x, None)
    for value, bound in ((1e4, HIGHEST), (-1e4, LOWEST)):
        encoder.variance.output_layer.bias.assign(np.full(4, value))
        close(encoder(x, None)[1], np.full((5, 4), bound), 1e-3)


@pytest.mark.parametrize("towers", [1, 2])
def test_identical_views_of_one_tower_give_identical_vectors(prepared, towers):
    config, model = fresh(prepared, OFF, f"towers={towers}")
    x, _, _ = a_batch(prepared, config)
    first, second = (array(mean) for mean, _, _ in model(x))
    assert (np.abs(first - second).max() == 0) == (towers == 1)
    vectors = model.vectors(prepared.train.take(slice(0, 10)))
    assert vectors.shape == (10, towers * config.model.embedding_dim)


@pytest.mark.once
def test_a_vector_does_not_depend_on_its_neighbours(prepared):
    for norm in ("layer", "batch"):
        _, model = fresh(prepared, f"norm={norm}")
        people = prepared.everyone()
        together = model.vectors(people)
        close(model.vectors(people.take([5, 3, 80])), together[[5, 3, 80]], 1e-4)
        close(model.vectors(people, batch_size=50), together, 1e-4)
        nobody = model.vectors(prepared.tokens.at(0, np.array([3, 5])))
        assert np.isfinite(nobody).all() and (nobody[0] == nobody[1]).all()


def test_each_stage_trains_its_own_part_and_lowers_its_loss(prepared, tmp_path):
    model, result = train(prepared, tmp_path, "epochs=10,text_epochs=3,learning_rate=1e-2")
    stages = {name: [row for row in result.history if row["stage"] == name] for name in ("text", "train")}
    for rows in stages.values():
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert "text_accuracy" in stages["text"][0] and "kl" not in stages["text"][0]
    assert "text_accuracy" not in stages["train"][0]
    for row in stages["train"]:
        assert np.isfinite([row[name] for name in ("info_nce", "kl", "variance", "accuracy")]).all()
    assert stages["train"][-1]["accuracy"] > stages["train"][0]["accuracy"]
    assert stages["train"][-1]["kl"] > model.config.free_bits * model.config.embedding_dim
    twin, _ = train(prepared, tmp_path / "texts", "epochs=1,text_epochs=3,learning_rate=1e-2")
    for name, changes in (("text_encoder", False), ("text_decoder", False), ("tower_0", True), ("tower_1", True)):
        weights = [[array(w) for w in one.get_layer(name).trainable_variables] for one in (model, twin)]
        assert any((one != other).any() for one, other in zip(*weights, strict=True)) == changes, name


def test_without_its_stage_the_text_encoder_is_trained_with_the_towers(prepared, tmp_path):
    model, result = train(prepared, tmp_path, "text_epochs=0,epochs=2")
    assert {row["stage"] for row in result.history} == {"train"}
    assert SPEC.stages[1].frozen(override(SPEC.preset("tiny"), ["text_epochs=0"]).model) == ("text_decoder",)
    _, twin = fresh(prepared, "text_epochs=0")
    codes = [array(one.text_encoder.embedding.table) for one in (model, twin)]
    assert (codes[0] != codes[1]).any()


@pytest.mark.once
def test_the_autoencoder_learns_texts(prepared, tmp_path):
    config, model = fresh(prepared, "text_epochs=30,epochs=1,text_units=32,text_dim=32,learning_rate=1e-2")
    result = training.fit(model, SPEC, prepared, config, tmp_path)
    accuracy = [row["text_accuracy"] for row in result.history if row["stage"] == "text"]
    loader = TextLoader(prepared.train, prepared.catalogue, config)
    codes = loader.texts[loader.texts > 0]
    most_frequent = np.bincount(codes).max() / len(codes)
    assert accuracy[-1] > max(2 * accuracy[0], 5 * most_frequent)


def test_text_loss_against_numpy(prepared):
    config, model = fresh(prepared)
    x, y, weight = a_batch(prepared, config, TextLoader)
    logits = model(x)
    found = value(model.compute_loss(x=x, y=y, y_pred=logits, sample_weight=weight, training=False))
    own = np.take_along_axis(log_softmax(array(logits), axis=-1), array(y)[..., None].astype(int), axis=-1)[..., 0]
    assert found == pytest.approx(-np.average(own, weights=array(weight)), rel=1e-4)


class Stop(keras.callbacks.Callback):
    """Interrupts a training after some epochs, as Ctrl-C would."""

    def __init__(self, epochs):
        super().__init__()
        self.left = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.once
@pytest.mark.parametrize("options", ["norm=batch,train.ema=0.9", "schedule=one_cycle,towers=1"])
def test_resumed_it_ends_with_the_same_bits(prepared, tmp_path, options):
    options = (options, "epochs=4,text_epochs=1,kl_warmup_steps=7,model.dropout=0.3")
    whole, _ = train(prepared, tmp_path / "whole", *options)
    with pytest.raises(KeyboardInterrupt):
        train(prepared, tmp_path / "parts", *options, callbacks=(Stop(2),))
    parts, _ = train(prepared, tmp_path / "parts", *options, resume=True)
    for one, other in zip(whole.variables, parts.variables, strict=True):
        np.testing.assert_array_equal(array(one), array(other), err_msg=one.path)


@pytest.mark.once
@pytest.mark.parametrize("preset", [name for name in SPEC.presets if name != "tiny"])
def test_no_preset_diverges(prepared, tmp_path, preset):
    small = "text_epochs=1,epochs=12,batch_size=40,embedding_dim=32,block_dim=16,text_units=8,num_queries=1,bag_size=8"
    config = override(SPEC.preset(preset), [small, "train.monitor=loss"])
    backends.seed(0)
    model = artifacts.build("behav_e", config, prepared.catalogue)
    result = training.fit(model, SPEC, prepared, config, tmp_path)
    rows = [row for row in result.history if row["stage"] == "train"]
    assert all(np.isfinite(list(row.values())[2:]).all() for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["variance"] > 1e-3
    assert np.isfinite(model.vectors(prepared.everyone()).astype(np.float16)).all()
