"""UBT: that it learns each of its tasks, and how they are asked for."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

import main
from config import ConfigError, override
from tests.behaviour_logs import faithful_log, random_log
from tests.behaviour_logs import prepared as prepare_random
from tests.test_ubt import SPEC, build, prepared, shop, vectors
from zoo import task_losses, training
from zoo.data.loaders.behaviour_sequences import BehaviourSequenceLoader
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.judge_metrics import auroc
from zoo.models.ubt import TASKS, read_task_weights

SMALL = "max_length=16,family_dim=4,embedding_dim=8,user_dim=8,num_blocks=1,batch_size=256"


def losses_of(config, model, data, training=False):
    """{task: loss} of the first batch, and their weighted sum."""
    loader = BehaviourSequenceLoader(data.train, data.catalogue, config)
    x, y, weight = keras.tree.map_structure(ops.convert_to_tensor, loader[0])
    for tracker in model.trackers.values():
        tracker.reset_state()
    total = model.compute_loss(x=x, y=y, y_pred=model(x), sample_weight=weight, training=training)
    found = {task: float(ops.convert_to_numpy(tracker.result())) for task, tracker in model.trackers.items()}
    return found, float(ops.convert_to_numpy(total))


@pytest.mark.once
def test_fewer_categories_than_negatives_do_not_hang():
    data = prepare_random(random_log(products=2, categories=1))
    for knobs in ("num_candidates=8192", "num_candidates=2", "name_negatives=500"):
        config, model = build(knobs, data=data)
        found, total = losses_of(config, model, data)
        assert set(found) == set(TASKS) and np.isfinite(total) and np.isfinite(list(found.values())).all()


@pytest.mark.once
def test_a_shop_without_categories_prices_words_or_searches():
    log = random_log()
    products = replace(
        log.products,
        category=np.full_like(log.products.category, -1),
        price=np.full_like(log.products.price, -1),
        name=np.full_like(log.products.name[:, :1], -1),
    )
    bare = replace(
        log,
        products=products,
        categories=np.zeros(0, np.int64),
        queries=np.full((9, 1), -1, np.int16),
    )
    data = prepare_random(bare)
    config, model = build(data=data)
    found, total = losses_of(config, model, data)
    assert np.isfinite(total) and found["sku"] > 0 and found["category"] == found["price"] == found["name"] == 0
    assert np.isfinite(vectors(model, data)).all()


@pytest.mark.once
def test_the_loss_is_the_weighted_sum_of_the_tasks():
    knobs = "task_weights=churn:1.5,category:0.5,sku:0.25,price:2,name:0.75,next:3"
    config, model = build(knobs)
    found, total = losses_of(config, model, prepared())
    weights = {"churn": 1.5, "category": 0.5, "sku": 0.25, "price": 2.0, "name": 0.75, "next": 3.0}
    assert total == pytest.approx(sum(weights[task] * found[task] for task in TASKS), rel=1e-5)
    config, model = build(knobs, "task_balance=learned", weights=False)
    model.log_variances.assign(np.arange(6) / 6)
    found, total = losses_of(config, model, prepared())
    s = np.arange(6) / 6
    expected = [weights[task] * (np.exp(-s[i]) * found[task] + s[i] / 2) for i, task in enumerate(TASKS)]
    assert total == pytest.approx(sum(expected), rel=1e-5)


@pytest.mark.once
def test_category_loss_is_that_of_the_scores():
    """The model's dense computation against the scores that it recommends by."""
    data = prepared()
    config, model = build("novelty=0")
    found, _ = losses_of(config, model, data)
    loader = BehaviourSequenceLoader(data.train, data.catalogue, config)
    x, y, weight = loader[0]
    user = ops.convert_to_numpy(model.encode_users(x))
    for task, table in (("category", model.category_embeddings()), ("sku", model.item_embeddings())):
        scores = user @ ops.convert_to_numpy(table).T
        scores = scores[:, y[f"{task}_candidates"]]
        total = 0.0
        for n in range(len(user)):
            log_share = scores[n] - np.log(np.exp(scores[n]).sum())
            share = y[f"{task}_share"][n]
            if share.any():
                total -= weight[task][n] * (share * log_share[y[task][n]]).sum() / share.sum()
        assert found[task] == pytest.approx(total / weight[task].sum(), rel=1e-4)


def test_sampled_candidates_are_corrected_for_how_they_were_drawn():
    data = prepared()
    config, model = build("novelty=0,num_candidates=8")
    loader = BehaviourSequenceLoader(data.train, data.catalogue, config)
    x, y, weight = loader[0]
    assert not loader.labels.candidates["sku"].few and len(y["sku_candidates"]) == 8
    assert y["sku_log_q"].min() < -1
    user, items = ops.convert_to_numpy(model.encode_users(x)), model.item_matrix()
    real = y["sku_log_q"] < 1e8
    scores = (user @ items[y["sku_candidates"]].T - y["sku_log_q"])[:, real]
    column = np.cumsum(real) - 1
    total = 0.0
    for n in np.flatnonzero(weight["sku"]):
        share = y["sku_share"][n]
        log_share = scores[n] - np.log(np.exp(scores[n] - scores[n].max()).sum()) - scores[n].max()
        total -= weight["sku"][n] * (share * log_share[column[y["sku"][n]]]).sum() / share.sum()
    assert losses_of(config, model, data)[0]["sku"] == pytest.approx(total / weight["sku"].sum(), rel=1e-4)


def train(tmp_path, *knobs, preset="tiny", data=None):
    data = shop() if data is None else data
    config, model = build("train.monitor=loss", *knobs, data=data, weights=False, preset=preset)
    result = training.fit(model, SPEC, data, config, tmp_path)
    return config, model, result


@pytest.fixture(scope="module", params=["hstu", "transformer"])
def trained(request, tmp_path_factory):
    return train(tmp_path_factory.mktemp("ubt"), f"stack={request.param}", "epochs=10")


@pytest.mark.once
def test_training_lowers_the_loss_of_each_task(trained):
    _, _, result = trained
    first, last = result.history[0], result.history[-1]
    for task in TASKS:
        assert last[f"{task}_loss"] < first[f"{task}_loss"], task
    assert last["loss"] < 0.9 * first["loss"]


@pytest.fixture(scope="module", params=["hstu", "transformer"])
def faithful(request, tmp_path_factory):
    """(config, model, data), learned from clients whose habits are clear."""
    data = prepare_random(faithful_log())
    folder = tmp_path_factory.mktemp("faithful")
    return *train(folder, f"stack={request.param}", "epochs=20", data=data)[:2], data


def test_names_are_learned(faithful):
    """The loss falls well below that of guessing, ln(K + 1), at which the original's stood still."""
    config, model, data = faithful
    loader = BehaviourSequenceLoader(data.train, data.catalogue, config)
    found, chance = [], []
    for i in range(len(loader)):
        x, y, weight = loader[i]
        loss = model._name_loss(keras.tree.map_structure(ops.convert_to_tensor, y), model(x), weight)
        found.append(float(ops.convert_to_numpy(loss)) * weight["name"].sum())
        chance.append((np.log((~y["name_excluded"]).sum(axis=1)) * weight["name"]).sum())
    assert sum(found) < 0.75 * sum(chance)


def test_it_learns_what_is_planted(faithful):
    """Of clients in the window behind the cut: who buys, from which categories, and which products."""
    _, model, data = faithful
    everyone = data.everyone()
    user = model.vectors(everyone)
    owner, product = data.tokens.bought(everyone.client, data.windows.start, data.windows.end)
    idle = np.ones((len(everyone), 1))
    idle[owner] = 0
    scores = ops.convert_to_numpy(model.churn_scores(ops.convert_to_tensor(user)))
    assert 10 < idle.sum() < len(idle) - 10 and auroc(idle, scores[:, None])[0] > 0.95
    best = np.argmax(user @ ops.convert_to_numpy(model.category_embeddings()).T[:, NUM_SPECIALS:], axis=1)
    assert (best[owner] + NUM_SPECIALS == data.catalogue.category[product]).mean() > 0.8
    best = np.argmax(user @ model.item_matrix().T[:, NUM_SPECIALS:], axis=1)
    assert (best[owner] + NUM_SPECIALS == product).mean() > 0.3  # an eighth by the category alone


@pytest.mark.once
@pytest.mark.parametrize("preset", ["churn", "category", "churn-category", "price"])
def test_example_runs_train_their_task_alone(preset, tmp_path):
    config, model, result = train(tmp_path, f"{SMALL},epochs=1", preset=preset)
    measured = {name for name in result.history[0] if name.endswith("_loss")}
    assert measured == {f"{task}_loss" for task in preset.split("-")}
    assert config.train.reduce_on_plateau and config.train.clip_norm == 1.0
    assert SPEC.preset(preset).train.monitor == f"val_{preset.split('-')[0]}_loss"  # the main task comes first
    assert all(layer.trainable for layer in model.layers)


class StalledChurn(keras.callbacks.Callback):
    """Measures what a validation might: churn is learned no further, all else is."""

    def on_epoch_end(self, epoch, logs=None):
        logs |= {"val_churn_loss": 0.5, "val_category_loss": 1 / (1 + epoch), "val_loss": 1 / (1 + epoch)}


@pytest.mark.once
def test_the_rate_is_halved_where_the_main_task_stalls(tmp_path):
    config, model = build(f"{SMALL},epochs=5", data=shop(), weights=False, preset="churn-category")
    result = training.fit(model, SPEC, shop(), config, tmp_path, (StalledChurn(),))
    rates = [row["learning_rate"] / config.train.learning_rate for row in result.history]
    np.testing.assert_allclose(rates, [1, 1, 1, 0.5, 0.5], rtol=1e-6)
    assert result.best_epoch == 1


@pytest.mark.once
@pytest.mark.parametrize("knobs", ["price_loss=huber", "task_balance=learned", "num_candidates=16", "max_visits=4"])
def test_variants_train(knobs, tmp_path):
    _, model, result = train(tmp_path, knobs, "epochs=2")
    assert result.history[1]["loss"] < result.history[0]["loss"]
    assert np.isfinite(model.vectors(shop().everyone())).all()


@pytest.mark.once
@pytest.mark.parametrize("stack", ["hstu", "transformer"])
def test_a_loss_that_is_no_number_stops_with_the_batch_named(stack, tmp_path):
    config, model = build("train.monitor=loss", f"stack={stack}", data=shop(), weights=False)
    model.user.kernel.assign(np.full(model.user.kernel.shape, np.nan, np.float32))
    with pytest.raises(ConfigError, match=r"the loss is nan at epoch 1, batch 1, learning rate"):
        training.fit(model, SPEC, shop(), config, tmp_path)


def test_validation_measures_each_task():
    data = shop()
    config, model = build(data=data, weights=False)
    model.compile(optimizer="sgd")
    loader = BehaviourSequenceLoader(data.train.take(np.arange(20)), data.catalogue, config)
    measured = model.evaluate(loader, verbose=0, return_dict=True)
    assert set(measured) == {"loss", *(f"{task}_loss" for task in TASKS)}
    assert all(np.isfinite(value) and value > 0 for value in measured.values())


# ------------------------------------------------------------------------------------------------- knobs


def test_task_weights_are_read_as_the_originals_command_line_has_them():
    preset = SPEC.preset("tiny")
    found = override(preset, ["task_weights=churn:1.0,category_propensity:0.5"]).model.task_weights
    assert found == {"churn": 1.0, "category": 0.5}
    found = override(preset, ["task_weights=churn:1,category_propensity:0.5,product_propensity:2,price:1e-1,name:0"])
    assert found.model.task_weights == {"churn": 1, "category": 0.5, "sku": 2, "price": 0.1, "name": 0}
    assert override(preset, ["task_weights=price:2"]).model.task_weights == {"price": 2.0}
    assert override(preset, ['task_weights={"sku": 2, "churn": 1}']).model.task_weights == {"sku": 2, "churn": 1}
    assert read_task_weights("churn:1, sku:2") == {"churn": "1", "sku": "2"}
    _, model = build("task_weights=churn:1,name:0")
    assert model.tasks == ("churn",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("churm:1", "no task 'churm'; did you mean 'churn'"),
        ("churn:1,churn:2", "given twice"),
        ("sku:1,product_propensity:2", "given twice"),
        ("churn", "wanted task:weight"),
        ("churn:much", "valid number"),
        ("churn:-1", "greater than or equal to 0"),
        ("churn:0", "no task has a weight"),
    ],
)
def test_task_weights_that_cannot_be_read(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        override(SPEC.preset("tiny"), [f"task_weights={text}"])


def test_knobs_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="no multiple of num_heads"):
        override(SPEC.preset("tiny"), ["embedding_dim=10,num_heads=3"])


def test_presets_are_what_the_original_promised():
    for name in ("base", "churn", "category", "churn-category", "price"):
        train = SPEC.preset(name).train
        assert train.reduce_on_plateau == 3 and train.clip_norm == 1.0 and train.monitor.startswith("val_")
    assert SPEC.log == "behaviour" and task_losses.focal is not None


@pytest.mark.once
def test_the_command_line_recommends_what_was_learned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shop = "sample.num_users=80,sample.num_items=40,sample.num_days=60,sample.events_per_user=12,train.epochs=1"
    arguments = ["--model", "ubt", "--preset", "tiny", "--run-dir", "run", "--override"]
    weights = ["--task-weights", "churn:1.0,category_propensity:0.5"]
    assert main.main(["train_validation_model", *arguments, shop, *weights]) == 0
    assert main.main(["compute_predictions", "--run-dir", "run"]) == 0
    told = capsys.readouterr().out
    assert "no recommendations.json: the run did not learn the task sku" in told and "shorter than" not in told
    lists = json.loads((tmp_path / "run" / "recommended_categories.json").read_text())
    assert len(lists) == 80 and not (tmp_path / "run" / "recommendations.json").exists()
    for ranked in lists.values():
        scores = [score for _, score in ranked]
        assert len({category for category, _ in ranked}) == len(ranked) > 5 and scores == sorted(scores, reverse=True)
    assert main.main(["train_validation_model", *arguments, f"{shop},task_weights=churn:1"]) == 0
    assert main.main(["compute_predictions", "--run-dir", "run"]) == 2
    assert "learned neither products nor categories" in capsys.readouterr().err
    assert main.main(["plot_item_atlas", "--run-dir", "run"]) == 2
    assert "learned nothing of single products; give it the task sku" in capsys.readouterr().err
    assert main.main(["train_validation_model", *arguments, f"{shop},task_weights=sku:1"]) == 0
    assert main.main(["compute_predictions", "--run-dir", "run", "--override", "num_recommendations=3"]) == 0
    lists = json.loads((tmp_path / "run" / "recommendations.json").read_text())
    assert {len(ranked) for ranked in lists.values()} == {3}
    assert main.main(["plot_item_atlas", "--run-dir", "run"]) == 0
    assert "coloured by category" in (tmp_path / "run" / "item_atlas.html").read_text()
