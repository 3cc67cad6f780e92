import numpy as np
import pytest

from config import SampleConfig
from tests.small_behaviour import START, drawn
from zoo import artifacts, registry
from zoo.data.behaviour.log import DAY
from zoo.data.behaviour.prepared import prepare
from zoo.data.behaviour.sources import sample
from zoo.data.behaviour.statistics import Reference, statistics
from zoo.data.dataset import DataError

SAMPLE = SampleConfig(num_users=60, num_items=60, num_days=60, events_per_user=12)


@pytest.fixture(scope="module")
def config():
    return registry.get("client_stats").preset("tiny")


@pytest.fixture(scope="module")
def prepared(config):
    return prepare(sample.read(SAMPLE), config.behaviour)


def adapted(config, prepared):
    model = artifacts.build("client_stats", config, prepared.catalogue)
    model.adapt(prepared.train)
    return model


def test_vectors_are_standardised_statistics(config, prepared):
    vectors = adapted(config, prepared).vectors(prepared.everyone(), batch_size=16)
    knobs = config.model
    reference = Reference.known(prepared.catalogue, knobs.num_categories, knobs.num_products, knobs.num_urls)
    trained = statistics(prepared.train, reference)[0].astype(np.float64)
    deviation = np.where(trained.std(axis=0) > 1e-5, trained.std(axis=0), 1)
    expected = (statistics(prepared.everyone(), reference)[0] - trained.mean(axis=0)) / deviation
    np.testing.assert_allclose(vectors, np.clip(expected, -5, 5), atol=2e-3)
    assert vectors.shape == (60, expected.shape[1]) and vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 5 and vectors.std() > 0.5


def test_saved_and_loaded_it_says_the_same(config, prepared, tmp_path):
    model = adapted(config, prepared)
    artifacts.save(tmp_path, "client_stats", config, model, trained_on="train", facts={})
    loaded = artifacts.load(tmp_path)
    assert loaded.config == config
    tokens = loaded.catalogue.adapt(prepared.log).at(prepared.cut, prepared.log.relevant())
    np.testing.assert_array_equal(loaded.model.vectors(tokens), model.vectors(prepared.everyone()))


def test_strangers_and_clients_without_events_have_vectors(config, prepared):
    """Of a log with other products, urls and longer texts."""
    model = adapted(config, prepared)
    strange = prepared.catalogue.adapt(drawn())
    vectors = model.vectors(strange.at(START + 50 * DAY))
    assert np.isfinite(vectors).all() and vectors.shape[1] == model.vectors(prepared.everyone()).shape[1]
    silent = model.vectors(model.loader.anybody())
    assert silent.shape == (1, vectors.shape[1])
    np.testing.assert_allclose(vectors[-1], silent[0], atol=1e-6)


def test_training_does_not_see_what_comes_after_the_cut_off(config, prepared):
    """Another future, the same statistics."""
    from dataclasses import replace

    log = prepared.log
    later = log.time >= prepared.cut
    known = np.unique(log.ref[(log.kind < 3) & ~later])
    ref = log.ref.copy()
    mine = later & (log.kind < 3)
    ref[mine] = np.random.default_rng(0).choice(known, mine.sum())
    other = prepare(replace(log, ref=ref), config.behaviour)
    assert other.cut == prepared.cut
    twin = adapted(config, other)
    np.testing.assert_array_equal(
        twin.vectors(other.everyone()), adapted(config, prepared).vectors(prepared.everyone())
    )


def test_without_a_client_to_learn_from_it_says_so(config, prepared):
    empty = prepared.train.take(np.zeros(0, np.int64))
    model = artifacts.build("client_stats", config, prepared.catalogue)
    with pytest.raises(DataError, match="no client with events before the cut-off"):
        model.adapt(empty)


def test_it_is_counted_and_never_trained(config, prepared):
    model = adapted(config, prepared)
    assert not model.trainable_variables and not registry.get("client_stats").stages
    with pytest.raises(NotImplementedError, match="adapt"):
        model.compute_loss()
