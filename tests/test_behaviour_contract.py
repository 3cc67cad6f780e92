"""What every model of behaviour must do. A new file in zoo/models is tested without touching this one."""

from dataclasses import replace

import numpy as np
import pytest

from config import BehaviourConfig, SampleConfig, override
from zoo import artifacts, backends, registry, training
from zoo.data.behaviour.prepared import prepare
from zoo.data.behaviour.sources import sample
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.recommender import Recommender

SAMPLE = SampleConfig(num_users=160, num_items=60, num_days=60, events_per_user=16, noise=0.1)
BEHAVIOUR = BehaviourConfig(window_days=7, min_visits=3)
NAMES = [name for name in registry.list_models() if registry.get(name).log == "behaviour"]


@pytest.fixture(scope="module")
def log():
    return sample.read(SAMPLE)


def train(name, prepared, directory):
    config = override(registry.get(name).preset("tiny"), ["train.monitor=loss"])
    config = config.model_copy(update={"behaviour": BEHAVIOUR})
    backends.seed(config.seed)
    model = artifacts.build(name, config, prepared.catalogue)
    if registry.get(name).stages:
        training.fit(model, registry.get(name), prepared, config, directory)
    else:
        model.adapt(prepared.train)
    return config, model


@pytest.fixture(scope="module", params=NAMES)
def trained(request, log, tmp_path_factory):
    prepared = prepare(log, BEHAVIOUR)
    config, model = train(request.param, prepared, tmp_path_factory.mktemp(request.param))
    return request.param, config, prepared, model


def nobody(prepared, count=2):
    """Clients whose first event is still to come."""
    return prepared.tokens.at(0, np.arange(count))


def test_vectors_are_finite_and_tell_clients_apart(trained):
    _, _, prepared, model = trained
    everyone = prepared.everyone()
    vectors = model.vectors(everyone)
    assert vectors.shape[0] == len(everyone) and vectors.dtype == np.float32
    assert np.isfinite(vectors).all() and (vectors.std(axis=0) > 0).mean() > 0.5
    assert np.isfinite(model.vectors(nobody(prepared))).all()
    if isinstance(model, Recommender):
        assert model.item_matrix().shape == (prepared.catalogue.items.size, vectors.shape[1])
        assert np.isfinite(model.item_matrix()[NUM_SPECIALS:]).all()


def test_neighbours_in_the_batch_and_padding_change_nothing(trained):
    _, _, prepared, model = trained
    everyone = prepared.everyone()
    by_length = np.argsort(everyone.lengths, kind="stable")
    together = everyone.take(np.concatenate([by_length[:3], by_length[-3:]]))
    alone = np.concatenate([model.vectors(together.take(slice(i, i + 1))) for i in range(6)])
    np.testing.assert_allclose(model.vectors(together), alone, rtol=1e-3, atol=1e-4)


def test_nothing_behind_the_cut_is_known(trained, tmp_path):
    """Other targets, same input: the very same model and vectors."""
    name, _, prepared, model = trained
    log, rng = prepared.log, np.random.default_rng(5)
    later = log.time >= prepared.cut
    ref = log.ref.copy()
    for kind in np.unique(log.kind):
        mine = np.flatnonzero(later & (log.kind == kind))
        ref[mine] = rng.permutation(ref[mine])
    changed = prepare(replace(log, ref=ref), BEHAVIOUR)
    _, twin = train(name, changed, tmp_path)
    np.testing.assert_array_equal(twin.vectors(changed.everyone()), model.vectors(prepared.everyone()))


def test_saved_and_loaded_it_gives_the_same_vectors(trained, tmp_path):
    name, config, prepared, model = trained
    facts = {"split_sha256": prepared.sha256, "cut": prepared.cut}
    artifacts.save(tmp_path, name, config, model, trained_on="train", facts=facts)
    loaded = artifacts.load(tmp_path)
    assert loaded.config == config and loaded.catalogue.items.sha256 == prepared.catalogue.items.sha256
    everyone = prepared.everyone().take(np.arange(20))
    np.testing.assert_array_equal(loaded.model.vectors(everyone), model.vectors(everyone))


def test_what_clients_do_shows_in_their_vectors(trained):
    """How much a client did can be read from his vector, by ridge regression on other clients."""
    _, _, prepared, model = trained
    everyone = prepared.everyone()
    vectors, wanted = model.vectors(everyone), np.log1p(everyone.lengths)
    x = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-6)
    learn, test = np.arange(len(x)) % 2 == 0, np.arange(len(x)) % 2 == 1
    ridge = x[learn].T @ x[learn] + x.shape[1] * np.eye(x.shape[1])
    found = x[test] @ np.linalg.solve(ridge, x[learn].T @ (wanted[learn] - wanted[learn].mean()))
    assert np.corrcoef(found, wanted[test])[0, 1] > 0.5
