"""What every model of interactions must do. A new file in zoo/models is tested without touching this one."""

from dataclasses import replace

import numpy as np
import pytest

from config import RunConfig, SampleConfig, override
from zoo import artifacts, backends, evaluation, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import prepare
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN
from zoo.recommender import Baseline, Recommender

SAMPLE = SampleConfig(num_users=240, num_items=90, num_days=60, events_per_user=24, noise=0.1)


NAMES = [name for name in registry.list_models() if registry.get(name).log == "interactions"]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


def tiny(name, noise=SAMPLE.noise) -> RunConfig:
    config = registry.get(name).preset("tiny")
    return config.model_copy(update={"sample": SAMPLE.model_copy(update={"noise": noise})})


def prepared_sample(config, seed=0):
    return prepare(splits.split(sources.load(config.data, config.sample, seed), config.split, seed))


def train(name, config, prepared, directory):
    backends.seed(config.seed)
    model = artifacts.build(name, config, prepared.catalogue)
    if isinstance(model, Baseline):
        model.fit(prepared.train)
    else:
        config = override(config, ["train.monitor=loss"])
        training.fit(model, registry.get(name), prepared, config, directory)
    return model


@pytest.fixture(scope="module")
def trained(name, tmp_path_factory):
    config = tiny(name)
    prepared = prepared_sample(config)
    return name, config, prepared, train(name, config, prepared, tmp_path_factory.mktemp(name))


def hit_rate(model, prepared, rules):
    histories, targets = prepared.cases("test")
    result = evaluation.evaluate(model, histories, targets, prepared.catalogue, rules, 0)
    return result.metrics["hit_rate@10"], len(histories)


@pytest.mark.once
def test_every_preset_makes_a_model_that_scores(name):
    prepared = prepared_sample(tiny(name))
    people = prepared.train.take(slice(0, 2))
    for title, preset in registry.get(name).presets.items():
        model = artifacts.build(name, preset, prepared.catalogue)
        if isinstance(model, Recommender):
            assert np.isfinite(model.score(people)[:, NUM_SPECIALS:]).all(), title


def test_shapes_and_finiteness(trained):
    _, _, prepared, model = trained
    histories = prepared.cases("test")[0].take(np.arange(7))
    scores = model.score(histories)
    assert scores.shape == (7, prepared.catalogue.items.size) and scores.dtype == np.float32
    assert np.isfinite(scores[:, NUM_SPECIALS:]).all()
    if isinstance(model, Recommender):
        vectors, matrix = model.vectors(histories), model.item_matrix()
        assert vectors.shape == (7, matrix.shape[1]) and matrix.shape[0] == prepared.catalogue.items.size
        np.testing.assert_allclose(vectors @ matrix.T, scores, rtol=1e-4, atol=1e-4)


def test_empty_and_unknown_histories_are_scored(trained):
    _, _, _prepared, model = trained
    strange = Histories(
        np.full(3, UNKNOWN, np.int32), np.array([0, 0, 1, 3]), np.array([UNKNOWN, UNKNOWN, NUM_SPECIALS], np.int32)
    )
    assert np.isfinite(model.score(strange)[:, NUM_SPECIALS:]).all()


def test_neighbours_in_the_batch_and_padding_change_nothing(trained):
    _, _, prepared, model = trained
    histories = prepared.cases("test")[0]
    by_length = np.argsort(histories.lengths, kind="stable")
    together = histories.take(np.concatenate([by_length[:3], by_length[-3:]]))
    alone = np.concatenate([model.score(together.take(slice(i, i + 1))) for i in range(6)])
    np.testing.assert_allclose(model.score(together)[:, NUM_SPECIALS:], alone[:, NUM_SPECIALS:], rtol=1e-4, atol=1e-5)


@pytest.mark.once  # what the loaders, which are NumPy's, decide
def test_training_does_not_see_validation_or_test(trained, tmp_path):
    """Other targets, same training part: the very same model."""
    name, config, prepared, model = trained
    split = prepared.split
    events = split.dataset.events
    other = events.item.copy()
    later = split.part != splits.TRAIN
    seen = np.unique(events.item[~later])  # the catalogue stays the same
    other[later] = np.random.default_rng(5).choice(seen, later.sum())
    changed = replace(split, dataset=replace(split.dataset, events=replace(events, item=other)))
    twin = train(name, config, prepare(changed), tmp_path)
    histories = prepared.train.take(np.arange(9))
    np.testing.assert_array_equal(twin.score(histories), model.score(histories))


def test_specials_and_seen_items_are_never_recommended(trained):
    from zoo import recommending

    _, _, prepared, model = trained
    histories = prepared.cases("test")[0]
    for part, (tokens, scores) in zip(
        histories.batches(1024), recommending.recommend(model, histories, 10), strict=True
    ):
        for row in range(len(part)):
            real = tokens[row][np.isfinite(scores[row])]
            assert len(real) and real.min() >= NUM_SPECIALS
            assert not set(real.tolist()) & set(part.take(slice(row, row + 1)).item.tolist())


def test_saved_and_loaded_it_scores_the_same(trained, tmp_path):
    name, config, prepared, model = trained
    artifacts.save(tmp_path, name, config, model, trained_on="train", facts={"split_sha256": prepared.split.sha256})
    loaded = artifacts.load(tmp_path)
    assert loaded.config == config and loaded.catalogue.items.sha256 == prepared.catalogue.items.sha256
    histories = prepared.cases("test")[0].take(np.arange(20))
    np.testing.assert_array_equal(loaded.model.score(histories), model.score(histories))


def test_it_learns_what_is_planted(trained, tmp_path):
    name, config, prepared, model = trained
    popular = train("most_popular", tiny("most_popular"), prepared, tmp_path)
    reached, chance = (hit_rate(one, prepared, config.evaluate)[0] for one in (model, popular))
    if name == "most_popular":
        assert reached > 10 / prepared.catalogue.items.num_trained
    else:
        assert reached > 1.3 * chance, f"{name} {reached:.3f} against popularity {chance:.3f}"


@pytest.mark.once  # what the loaders, which are NumPy's, decide
def test_it_finds_nothing_in_noise(name, tmp_path):
    config = tiny(name, noise=1.0)
    prepared = prepared_sample(config)
    popular = train("most_popular", tiny("most_popular", noise=1.0), prepared, tmp_path / "popular")
    reached, users = hit_rate(train(name, config, prepared, tmp_path), prepared, config.evaluate)
    chance = hit_rate(popular, prepared, config.evaluate)[0]
    deviation = np.sqrt(2 * chance * (1 - chance) / users)
    assert reached < chance + 4 * deviation, f"{name} {reached:.3f} against popularity {chance:.3f} on pure noise"
