import importlib.util
import math
import sys
from types import ModuleType, SimpleNamespace

import keras
import numpy as np
import pytest
import tiny_recommender as tiny

from config import ConfigError, TrainConfig
from zoo import checkpoints, training
from zoo.callbacks import LossGuard
from zoo.data.dataset import DataError
from zoo.registry import ModelSpec, Stage
from zoo.schedules import SCHEDULES, OneCycle


def rates(config, steps):
    rate = training.learning_rate(config, steps)
    return np.array([float(rate(step)) for step in range(config.epochs * steps)])


# ------------------------------------------------------------------------------------------------- learning rates


def reference(schedule, step, warmup, total, peak):
    if step < warmup:
        share = (step + 1) / warmup
        return peak * (1 / 25 + 24 / 25 * (1 - math.cos(math.pi * share)) / 2 if schedule == "one_cycle" else share)
    done = (step - warmup) / (total - warmup)
    return (
        peak
        * {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
            "one_cycle": 1 / 250_000 + (1 - 1 / 250_000) * (1 + math.cos(math.pi * done)) / 2,
        }[schedule]
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_schedules_follow_their_formulas(schedule, accumulate):
    config = TrainConfig(epochs=4, schedule=schedule, warmup_steps=5, learning_rate=0.1, accumulate=accumulate)
    expected = [reference(schedule, step, 5 * accumulate, 40, 0.1) for step in range(40)]
    np.testing.assert_allclose(rates(config, 10), expected, rtol=1e-5, atol=1e-8)


def test_one_cycle_rises_over_three_tenths_by_itself():
    found = rates(TrainConfig(epochs=10, schedule="one_cycle", learning_rate=1.0), 10)
    assert found.argmax() == 30 or found.argmax() == 29
    assert found[0] < 0.1 and found[-1] < 0.01


def test_a_constant_rate_is_a_number_that_can_be_halved():
    assert training.learning_rate(TrainConfig(learning_rate=0.5), 10) == 0.5


def test_schedules_can_be_saved_and_read():
    schedule = OneCycle(0.1, 3, 10)
    twin = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert float(twin(4)) == float(schedule(4))


# ------------------------------------------------------------------------------------------------------ optimizer


def variables():
    shapes = {"item_embedding/embeddings": (3, 2), "out/kernel": (2, 2), "out/bias": (2,), "norm/gamma": (2,)}
    made = []
    for path, shape in shapes.items():
        with keras.name_scope(path.partition("/")[0]):
            made.append(keras.Variable(np.ones(shape, "float32"), name=path.rpartition("/")[2]))
    return made


@pytest.mark.parametrize("name", training.OPTIMIZERS)
def test_weight_decay_spares_embeddings_biases_and_scales(name):
    config = TrainConfig(optimizer=name, learning_rate=0.1, weight_decay=0.5)
    trained = variables()
    optimizer = training.make_optimizer(config, 0.1, trained)
    optimizer.apply([keras.ops.zeros(v.shape) for v in trained], trained)
    embedding, kernel, bias, gamma = (keras.ops.convert_to_numpy(v) for v in trained)
    np.testing.assert_allclose(kernel, 1 - 0.1 * 0.5, rtol=1e-6)
    for spared in (embedding, bias, gamma):
        np.testing.assert_array_equal(spared, 1)


def test_gradients_are_clipped_by_their_global_norm():
    trained = variables()
    optimizer = training.make_optimizer(TrainConfig(optimizer="sgd", clip_norm=2.0), 1.0, trained)
    optimizer.apply([keras.ops.ones(v.shape) * 100 for v in trained], trained)
    moved = np.concatenate([1 - keras.ops.convert_to_numpy(v).ravel() for v in trained])
    np.testing.assert_allclose(np.linalg.norm(moved), 2.0, rtol=1e-5)


def test_accumulated_gradients_are_averaged_before_a_step():
    trained = variables()
    optimizer = training.make_optimizer(TrainConfig(optimizer="sgd", accumulate=2), 1.0, trained)
    for factor, expected in ((1.0, 1.0), (3.0, -1.0)):
        optimizer.build(trained)
        optimizer.apply([keras.ops.ones(v.shape) * factor for v in trained], trained)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(trained[1]), expected)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_average_forgets_by_the_optimizer_step(accumulate):
    trained = variables()
    optimizer = training.make_optimizer(TrainConfig(optimizer="sgd", ema=0.5, accumulate=accumulate), 1.0, trained)
    value = average = 1.0
    for batch in range(4 * accumulate):
        optimizer.apply([keras.ops.ones(v.shape) for v in trained], trained)
        value -= (batch + 1) % accumulate == 0
        momentum = 0.5 ** (1 / accumulate) if batch >= accumulate else 0.0  # the first step starts it
        average = momentum * average + (1 - momentum) * value
    optimizer.finalize_variable_values(trained)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(trained[1]), average, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ fit


def test_loaders_see_every_batch_of_every_epoch(tmp_path, monkeypatch):
    loaders = []
    monkeypatch.setattr(tiny.TinyLoader, "set_epoch", lambda self, e: (setattr(self, "epoch", e), loaders.append(self)))
    tiny.train(tmp_path, "epochs=3")
    assert {(epoch, index) for epoch in range(3) for index in range(tiny.TinyLoader.steps)} <= set(loaders[0].asked)


def test_the_best_epoch_is_kept_and_patience_ends_the_rest(tmp_path):
    score = tiny.TinyScore(values=[0.1, 0.5, 0.5, 0.2, 0.9])
    run = tiny.train(tmp_path, "epochs=5,patience=2", score=score)
    assert (run.result.best_epoch, run.result.best_value) == (2, 0.5)  # a tie is no progress
    assert len(run.result.history) == 4
    np.testing.assert_array_equal(run.model.item_matrix(), score.seen[1])


def test_a_loss_is_best_when_small(tmp_path):
    score = tiny.TinyScore("val_loss", [3.0, 2.0, 4.0])
    assert tiny.train(tmp_path, "monitor=val_loss", score=score).result.best_epoch == 2


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    run = tiny.train(tmp_path, score=tiny.TinyScore(values=[math.nan, 0.1, math.nan]))
    assert (run.result.best_epoch, run.result.best_value) == (2, 0.1)


def test_without_a_monitor_the_last_epoch_is_kept(tmp_path):
    run = tiny.train(tmp_path, "patience=null", callbacks=())
    assert (run.result.best_epoch, run.result.best_value) == (3, None)


def test_a_plateau_halves_the_learning_rate(tmp_path):
    score = tiny.TinyScore(values=[0.5, 0.4, 0.4, 0.4, 0.4, 0.6])
    run = tiny.train(tmp_path, "epochs=6,patience=null,reduce_on_plateau=2,learning_rate=0.08", score=score)
    found = [row["learning_rate"] for row in run.result.history]
    np.testing.assert_allclose(found, [0.08, 0.08, 0.04, 0.04, 0.02, 0.02], rtol=1e-6)


def test_averaged_weights_are_validated_and_kept(tmp_path):
    score = tiny.TinyScore(values=[0.1, 0.2, 0.3])
    averaged = tiny.train(tmp_path / "a", "ema=0.9", score=score)
    raw = tiny.train(tmp_path / "b", score=tiny.TinyScore(values=[0.1, 0.2, 0.3]))
    np.testing.assert_array_equal(averaged.model.item_matrix(), score.seen[2])
    # The losses are those of the raw weights: averaging watches, it does not steer.
    assert [r["loss"] for r in averaged.result.history] == [r["loss"] for r in raw.result.history]
    assert not np.array_equal(averaged.model.item_matrix(), raw.model.item_matrix())


def test_stages_freeze_what_they_name(tmp_path):
    score = tiny.TinyScore(values=[0.1, 0.2, 0.1, 0.2])
    run = tiny.train(tmp_path, "epochs=2,patience=null", spec=tiny.TWO_STAGES, score=SimpleScores(score))
    assert [row["stage"] for row in run.result.history] == ["pretrain", "pretrain", "finetune", "finetune"]
    assert not np.array_equal(score.seen[0], score.seen[1])
    np.testing.assert_array_equal(score.seen[1], score.seen[2])
    np.testing.assert_array_equal(score.seen[1], score.seen[3])
    assert run.model.item_embedding.trainable


class SimpleScores(keras.callbacks.Callback):
    """Scores by the count of epochs so far, over all stages."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.epochs = inner, 0

    def set_model(self, model):
        super().set_model(model)
        self.inner.set_model(model)

    def on_epoch_end(self, epoch, logs=None):
        self.inner.on_epoch_end(self.epochs, logs)
        self.epochs += 1


def test_a_stage_that_freezes_an_unknown_layer_is_refused(tmp_path):
    spec = ModelSpec(
        model=tiny.TinyRecommender,
        stages=(Stage(name="s", loader=tiny.TinyLoader, frozen=lambda _: ("x",)),),
        presets={},
    )
    with pytest.raises(ValueError, match=r"no layer \['x'\].*item_embedding"):
        tiny.train(tmp_path, spec=spec)


def test_history_is_a_table_of_all_epochs(tmp_path):
    run = tiny.train(tmp_path)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "stage,epoch,loss,val_ndcg@10,learning_rate,seconds"
    assert [line.split(",")[1] for line in lines[1:]] == ["1", "2", "3"]
    assert [float(line.split(",")[2]) for line in lines[1:]] == [row["loss"] for row in run.result.history]


def test_each_epoch_prints_a_line(tmp_path, capsys):
    tiny.train(tmp_path, score=tiny.TinyScore(values=[0.5, 0.75, 0.25]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("main epoch 1/3  loss ") and "val_ndcg@10 0.5000 *" in lines[0] and "left" in lines[0]
    assert "0.7500 *" in lines[1] and "0.2500 *" not in lines[2] and "left" not in lines[2]


def test_a_terminal_gets_a_bar_over_batches(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tiny.train(tmp_path, "epochs=1")
    assert f"/{tiny.TinyLoader.steps} " in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_float32_weights(tmp_path, precision):
    try:
        run = tiny.train(tmp_path, f"precision={precision},ema=0.9,clip_norm=1,weight_decay=0.01")
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(w.dtype == np.float32 and np.isfinite(w).all() for w in run.weights)
    assert run.result.history[-1]["loss"] < run.result.history[0]["loss"] + 0.5


# ----------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(("epoch", "batch"), [(0, 0), (0, 3), (1, 2)])
def test_a_loss_that_is_no_number_stops_with_one_line(tmp_path, epoch, batch):
    with pytest.raises(ConfigError) as error:
        tiny.train(tmp_path, f"model.poison_epoch={epoch},model.poison_batch={batch}")
    message = str(error.value)
    assert f"the loss is nan at epoch {epoch + 1}, batch {batch + 1}, learning rate 0.01" in message
    advice = "before any weight was changed" if epoch == batch == 0 else "train.learning_rate=0.001"
    assert advice in message and "\n" not in message


def test_the_first_batch_without_a_number_is_named_in_whatever_order_threads_report():
    guard = LossGuard(TrainConfig(), steps=9, rate=lambda step: 0.01)
    guard.on_epoch_begin(0)
    for batch in range(5):
        guard.on_train_batch_begin(batch)
    for batch, loss in [(1, 0.5), (4, math.nan), (0, 0.5), (3, math.nan)]:  # the third is still on its way
        guard.on_train_batch_end(batch, {"loss": loss})
    for batch, loss in [(2, math.nan), (2, math.nan)]:
        with pytest.raises(ConfigError, match="nan at epoch 1, batch 3,"):
            guard.on_train_batch_end(batch, {"loss": loss})


def test_a_monitor_that_is_not_measured_is_named_after_one_epoch(tmp_path):
    score = tiny.TinyScore()
    message = r"train\.monitor='val_ndgc@10'.*loss, val_ndcg@10; did you mean 'val_ndcg@10'"
    with pytest.raises(ConfigError, match=message):
        tiny.train(tmp_path, "monitor=val_ndgc@10", score=score)
    assert len(score.seen) == 1


def test_a_loader_without_examples_is_a_mistake_in_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny.TinyLoader, "steps", 0)
    with pytest.raises(DataError, match="no example to learn from; add data"):
        tiny.train(tmp_path)


def test_a_plateau_and_a_schedule_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.reduce_on_plateau=2 halves a constant learning rate"):
        tiny.train(tmp_path, "reduce_on_plateau=2,schedule=cosine")


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch, package):
    for name in ("tensorboard", "tensorboard.summary", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"train.{package}=true: {package} is not installed"):
        tiny.train(tmp_path, f"{package}=true")


# --------------------------------------------------------------------------------------------------------- trackers


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_gets_every_number(tmp_path):
    tiny.train(tmp_path, "tensorboard=true")
    (file,) = (tmp_path / "tensorboard").iterdir()
    content = file.read_bytes()
    assert content.count(b"main/loss") == 3 and content.count(b"main/val_ndcg@10") == 3


def test_mlflow_gets_knobs_and_numbers_and_a_resumed_run_stays_one(tmp_path, monkeypatch):
    calls = []
    mlflow = ModuleType("mlflow")

    def start_run(run_id):
        calls.append(("start", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "run-7"))

    mlflow.start_run = start_run
    mlflow.log_params = lambda params: calls.append(("params", params["train.epochs"]))
    mlflow.log_metrics = lambda metrics, step: calls.append((step, sorted(metrics)))
    mlflow.end_run = lambda: calls.append(("end",))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    with pytest.raises(ConfigError):
        tiny.train(tmp_path, "mlflow=true,epochs=2,model.poison_epoch=1")
    saved = checkpoints.read(tmp_path / checkpoints.FILE)
    assert saved.progress.mlflow_run == "run-7"
    with pytest.raises(ConfigError):
        tiny.train(tmp_path, "mlflow=true,epochs=2,model.poison_epoch=1", resume=True)
    names = [f"main/{name}" for name in ("learning_rate", "loss", "seconds", "val_ndcg_at_10")]
    assert calls == [("start", None), ("params", 2), (1, names), ("start", "run-7")]
