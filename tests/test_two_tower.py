"""Two-tower: each loss against NumPy, cold users and items from features, ratings that are used."""

import keras
import numpy as np
import pytest
from scipy.special import expit, logsumexp

from config import ConfigError, RunConfig, SplitConfig, TrainConfig, override
from zoo import backends
from zoo.data import splits
from zoo.data.catalogue import prepare
from zoo.data.dataset import Dataset, Entities, Events
from zoo.data.histories import Histories
from zoo.data.loaders.pairs import PairLoader
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN
from zoo.models.two_tower import TwoTower, TwoTowerConfig

TASTES = 4


def shop(num_users=120, num_items=40, events_each=12, features=True, rated=False):
    """People of four tastes, items of four categories; the last two items and users have features but no event.

    Unrated: people take what they like nine times of ten. Rated: they take anything and say what they like.
    """
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(num_users - 2, dtype=np.int32), events_each)
    follows = rng.random(len(user)) < (0 if rated else 0.9)
    category = np.where(follows, user % TASTES, rng.integers(0, TASTES, len(user)))
    item = (rng.integers(0, (num_items - 4) // TASTES, len(user)) * TASTES + category).astype(np.int32)
    columns = {"score": np.where(item % TASTES == user % TASTES, 5, 1).astype(np.float32)} if rated else {}
    tastes = np.array([f"taste {u % TASTES}" for u in range(num_users)], dtype=object)
    categories = np.array([f"category {i % TASTES}" for i in range(num_items)], dtype=object)
    return Dataset(
        Events(user, item, np.tile(np.arange(events_each, dtype=np.int64), num_users - 2), columns),
        Entities(np.arange(num_users), {"taste": tastes, "age": np.arange(num_users) % 7.0} if features else {}),
        Entities(np.arange(num_items), {"category": categories, "price": np.ones(num_items)} if features else {}),
    )


def recipe(batch_size=64, **model):
    small = {"embedding_dim": 8, "max_length": 4, "num_heads": 2, **model}
    return RunConfig(model=TwoTowerConfig(**small), train=TrainConfig(batch_size=batch_size))


def fit(config, prepared, epochs=6, rate=0.02):
    backends.seed(0)
    model = TwoTower(config.model, prepared.catalogue)
    loader = PairLoader(prepared.train, prepared.catalogue, config)
    model.compile(optimizer=keras.optimizers.Adam(rate))
    epoch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda number, logs: loader.set_epoch(number))
    model.fit(loader, epochs=epochs, shuffle=False, verbose=0, callbacks=[epoch])
    return model


@pytest.fixture(scope="module")
def prepared():
    return prepare(splits.split(shop(), SplitConfig()))


def array(value):
    return keras.ops.convert_to_numpy(value)


def mean(values, weights):
    return (values * weights).sum() / weights.sum()


def expected_loss(config, x, y, weight, users, vectors, trained_size):
    """The loss in NumPy; `vectors` are those of all items."""
    positive = (users * vectors[x["item"]]).sum(1)
    liked = y * weight
    if config.loss == "softmax":
        trained = vectors[NUM_SPECIALS:trained_size]
        return mean(logsumexp(users @ trained.T, axis=1) - positive, liked)
    if config.loss in ("in_batch", "sampled_softmax"):
        drawn = config.loss == "sampled_softmax"
        candidates = x["negatives"][:, 0] if drawn else x["item"]
        log_q = x["negatives_log_q"][:, 0] if drawn else x["log_q"]
        logits = users @ vectors[candidates].T - log_q
        logits[x["known"]] = -np.inf  # the positive is known too, so it is put back on its own
        if not drawn:
            logits[:, liked == 0] = -np.inf
        target = positive - x["log_q"]
        return mean(np.logaddexp(logsumexp(logits, axis=1, keepdims=True)[:, 0], target) - target, liked)
    owner = np.arange(len(x["negatives"])) % len(y)
    negative = np.einsum("nd,ncd->nc", users[owner], vectors[x["negatives"]]).max(axis=1)
    if config.loss == "bpr":
        return mean(-np.log(expit(positive[owner] - negative)), (weight * y)[owner])
    scores, targets = np.concatenate([positive, negative]), np.concatenate([y, 0 * negative])
    weights = np.concatenate([weight, weight[owner]])
    if config.loss == "mse":
        return mean((scores - targets) ** 2, weights)
    return mean(-targets * np.log(expit(scores)) - (1 - targets) * np.log(expit(-scores)), weights)


@pytest.mark.parametrize(
    ("loss", "model"),
    [
        ("softmax", {}),
        ("in_batch", {"similarity": "cosine"}),
        ("sampled_softmax", {}),
        ("bpr", {"hard_pool": 3}),
        ("bce", {"negative_share": 0.7}),
        ("mse", {"item_bias": False}),
    ],
)
def test_each_loss_against_numpy(loss, model):
    dataset = shop()
    rng = np.random.default_rng(1)
    dataset.events.columns["score"] = rng.choice([1, 2, 3.5, 5], len(dataset.events)).astype(np.float32)
    dataset.events.columns["weight"] = rng.random(len(dataset.events)).astype(np.float32)
    prepared = prepare(splits.split(dataset, SplitConfig()))
    config = recipe(loss=loss, dropout=0, part_dropout=0, **model)
    backends.seed(0)
    tower = TwoTower(config.model, prepared.catalogue)
    for variable in tower.trainable_variables:
        variable.assign(array(variable) + rng.normal(0, 0.2, variable.shape))
    x, y, weight = PairLoader(prepared.train, prepared.catalogue, config)[0]
    assert ((y > 0) & (y < 1)).any(), "fractional targets"
    tensors = {key: keras.ops.convert_to_tensor(value) for key, value in x.items()}
    users = tower(tensors, training=True)
    actual = tower.compute_loss(
        tensors, keras.ops.convert_to_tensor(y), users, keras.ops.convert_to_tensor(weight), training=True
    )
    expected = expected_loss(
        config.model, x, y, weight, array(users), tower.item_matrix(), prepared.catalogue.items.trained_size
    )
    np.testing.assert_allclose(array(actual), expected, rtol=1e-4)


def test_a_user_who_knows_everything_has_no_negative_loss(prepared):
    config = recipe(loss="bpr")
    model = TwoTower(config.model, prepared.catalogue)
    x, y, weight = PairLoader(prepared.train, prepared.catalogue, config)[0]
    x["negatives"][:] = PAD
    tensors = {key: keras.ops.convert_to_tensor(value) for key, value in x.items()}
    loss = model.compute_loss(
        tensors, keras.ops.convert_to_tensor(y), model(tensors), keras.ops.convert_to_tensor(weight)
    )
    assert array(loss) == 0


def test_ratings_alone_can_be_learned_without_negatives():
    config = override(recipe(loss="mse"), ["negative_share=0"])
    prepared = prepare(splits.split(shop(rated=True), SplitConfig()))
    x, y, _ = PairLoader(prepared.train, prepared.catalogue, config)[0]
    assert "negatives" not in x
    assert set(y) == {0, 1}
    fit(config, prepared, epochs=1)


@pytest.fixture(scope="module")
def trained(prepared):
    return fit(recipe(part_dropout=0.3), prepared)


def test_an_item_never_seen_is_scored_by_its_features(trained, prepared):
    tokens = prepared.catalogue.items.encode(np.array([36, 37, 38, 39]))
    assert (tokens >= prepared.catalogue.items.trained_size).all()
    scores = trained.score(prepared.train)[:, tokens]
    taste = prepared.catalogue.users.decode(prepared.train.user) % TASTES
    assert (scores.argmax(axis=1) == taste).mean() > 0.9


def test_a_user_never_seen_is_served_from_features(trained, prepared):
    users = np.array([118, 119])
    tokens = prepared.catalogue.users.encode(users)
    assert (tokens >= prepared.catalogue.users.trained_size).all()
    nobody = Histories(tokens, np.zeros(3, np.int64), np.zeros(0, np.int32))
    best = trained.score(nobody)[:, NUM_SPECIALS:].argmax(axis=1) + NUM_SPECIALS
    np.testing.assert_array_equal(prepared.catalogue.items.decode(best) % TASTES, users % TASTES)


def test_a_stranger_is_served_from_a_plain_history(trained, prepared):
    histories = Histories.from_lists([[2, 6, 10], [1, 5]], prepared.catalogue.items)
    assert (histories.user == UNKNOWN).all()
    scores = trained.score(histories)[:, NUM_SPECIALS:]
    ids = prepared.catalogue.items.ids
    assert [ids[row.argmax()] % TASTES for row in scores] == [2, 1]


def test_scores_are_one_inner_product_with_the_bias_as_last_coordinate(trained, prepared):
    vectors, matrix = trained.vectors(prepared.train), trained.item_matrix()
    assert vectors.shape[1] == matrix.shape[1] == 9
    np.testing.assert_array_equal(vectors[:, -1], 1)


def test_cosine(prepared):
    model = TwoTower(recipe(similarity="cosine", item_bias=False, temperature=0.25).model, prepared.catalogue)
    np.testing.assert_allclose(np.linalg.norm(model.vectors(prepared.train), axis=1), 4, rtol=1e-3)
    norms = np.linalg.norm(model.item_matrix()[NUM_SPECIALS:], axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-3)
    assert any(v.path.endswith("log_temperature") for v in model.trainable_variables)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_ratings_order_items_when_who_takes_what_says_nothing(loss):
    """Every pair is random and only the score tells the taste: with scores the liked category wins, without not."""
    prepared = prepare(splits.split(shop(rated=True, features=False), SplitConfig()))
    ids = prepared.catalogue.items.ids
    taste = prepared.catalogue.users.decode(prepared.train.user) % TASTES
    reached = {}
    for scaling in ("minmax", "none"):
        model = fit(recipe(256, loss=loss, max_length=0, score_scaling=scaling, dropout=0), prepared, 25, 0.05)
        scores = model.score(prepared.train)[:, NUM_SPECIALS:]
        by_category = np.stack([scores[:, ids % TASTES == c].mean(axis=1) for c in range(TASTES)], axis=1)
        reached[scaling] = (by_category.argmax(axis=1) == taste).mean()
    assert reached["minmax"] > 0.8
    assert reached["none"] < 0.5


def test_features_can_be_left_out(prepared):
    model = TwoTower(recipe(use_features=False).model, prepared.catalogue)
    assert not any("features" in variable.path for variable in model.variables)


def test_knobs_that_exclude_each_other():
    with pytest.raises(ConfigError, match="negative_share"):
        override(RunConfig(model=TwoTowerConfig(loss="bpr")), ["negative_share=0"])
    with pytest.raises(ConfigError, match="hard_pool"):
        override(RunConfig(model=TwoTowerConfig()), ["hard_pool=4"])


def test_a_user_tower_that_sees_nothing_is_refused():
    prepared = prepare(splits.split(shop(features=False), SplitConfig()))
    with pytest.raises(ConfigError, match="user_id"):
        TwoTower(recipe(user_id=False, max_length=0).model, prepared.catalogue)
