"""Training: one keras fit per Stage, which survives being killed.

fit: for each stage   prepare → loader → build → begin → freeze → optimizer → fit(callbacks) → averaged, best weights
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from config import ConfigError, RunConfig, TrainConfig
from zoo import backends, checkpoints, initial_items
from zoo import callbacks as duties
from zoo.checkpoints import Progress
from zoo.data.behaviour.prepared import BehaviourPrepared
from zoo.data.catalogue import Prepared
from zoo.data.dataset import DataError
from zoo.layers.embedding import RowEmbedding
from zoo.optimizers import BY_ROWS, Adagrad
from zoo.recommender import UserEncoder
from zoo.registry import ModelSpec, Stage
from zoo.schedules import SCHEDULES, Schedule

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "adagrad": Adagrad,
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}
WITH_MOMENTUM = ("adagrad", "sgd")


@dataclass(frozen=True)
class FitResult:
    """How a training went.

    Attributes:
        history: a row per epoch: stage, epoch, loss, val_..., learning_rate, seconds.
        best_epoch: the epoch, counted from 1, of the last stage whose weights the model has now.
        best_value: of the monitor at that epoch; None where it was not measured.
        seconds: spent in epochs, those before an interruption included.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    best_value: float | None
    seconds: float


def fit(
    model: UserEncoder,
    spec: ModelSpec,
    prepared: Prepared | BehaviourPrepared,
    config: RunConfig,
    directory: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    resume: bool = False,
) -> FitResult:
    """Trains `model`, stage after stage; it ends with the weights of the best epoch (without a monitor, the last).

    After every epoch, checkpoint.h5 and history.csv in `directory` are replaced. With `resume`, a training that was
    interrupted there goes on, and ends with the same bits as if it had not been; without, its checkpoint is set aside.

    Args:
        model: fresh, made after `backends.configure` and `backends.seed`.
        callbacks: e.g. `RankingEvaluation`, which adds the metrics that `config.train.monitor` may name to the logs.

    Raises:
        ConfigError: the loss is no longer finite, the monitor is not measured, options exclude each other, the
            checkpoint was begun with other options, or `train.initial_items` does not fit.
        DataError: there is nothing to train on.
    """
    _check(config)
    directory.mkdir(parents=True, exist_ok=True)
    identity = _identity(spec, prepared, config)
    saved = _begin(directory, identity, config, resume)
    if config.train.initial_items and saved is None:
        if isinstance(prepared, BehaviourPrepared):
            raise ConfigError(
                f"train.initial_items={config.train.initial_items} is for models of interactions; set it to null"
            )
        initial_items.start_from(Path(config.train.initial_items), model, prepared)
    progress = saved.progress if saved else Progress()
    for number, stage in enumerate(spec.stages):
        if number < progress.stage:
            continue
        if stage.epochs is not None and not stage.epochs(config):
            progress.next_stage(finished=False)
            continue
        if saved and stage.prepare is not None:
            _restore(model.variables, saved.model, directory)
        train = prepared.train if stage.prepare is None else stage.prepare(model, prepared.train)
        loader = stage.loader(train, prepared.catalogue, config)
        del train  # the loader has what it needs
        if not len(loader):
            raise DataError(
                f"{prepared.name}: its {prepared.num_train_events:,} training events give no example "
                f"to learn from; {loader.remedy}"
            )
        loader.set_epoch(0)
        model(loader[0][0])  # creates the weights; inside a compiled step it would be too late
        if saved:
            _restore(model.variables, saved.model, directory)
        elif stage.begin is not None:
            stage.begin(model, loader)
        if progress.finished:
            break
        with frozen(model, stage):
            _fit_stage(model, stage, loader, config, directory, identity, progress, saved, callbacks)
        progress.next_stage(finished=number == len(spec.stages) - 1)
        checkpoints.write(directory, identity, progress, model.variables)
        saved = None
    best_epoch = progress.best_epoch or progress.epoch
    return FitResult(progress.history, best_epoch, progress.best_value, progress.seconds)


def _fit_stage(
    model: UserEncoder,
    stage: Stage,
    loader: Any,
    config: RunConfig,
    directory: Path,
    identity: dict[str, Any],
    progress: Progress,
    saved: checkpoints.Checkpoint | None,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """One keras fit, from `progress` on."""
    train = config.train
    if stage.epochs is not None:
        alone = {"epochs": stage.epochs(config), "monitor": None, "patience": None, "reduce_on_plateau": None}
        train, callbacks = train.model_copy(update=alone), ()
    rate = learning_rate(train, len(loader))
    touched = [layer for layer in model.layers if isinstance(layer, RowEmbedding) and layer.batch.built]
    optimizer = make_optimizer(train, rate, model.trainable_variables, touched)
    optimizer.build(model.trainable_variables)
    if saved and saved.optimizer:
        _restore(optimizer.variables, saved.optimizer, directory)
    model.compile(optimizer=optimizer, jit_compile="auto" if train.jit is None else train.jit)
    averaged = [duties.AveragedWeights()] if train.ema else []
    # A stage whose last epoch was saved, but not its end, needs no epoch more.
    patient = train.patience is None or progress.waited < train.patience
    model.fit(
        backends.feed(loader),
        epochs=train.epochs if patient else progress.epoch,
        initial_epoch=progress.epoch,
        shuffle=False,  # it would shuffle the order of batches only; the loader shuffles examples
        verbose=0,
        callbacks=[
            duties.EpochStart(loader, seed=(config.seed, progress.stage)),
            duties.LossGuard(train, len(loader), rate),
            *([duties.BatchBar(len(loader))] if sys.stderr.isatty() else []),
            *averaged,
            *callbacks,
            duties.Monitor(train, progress),
            *([duties.Keep(train.keep_every, stage.name, directory)] if train.keep_every else []),
            *[duties.RawWeights(callback) for callback in averaged],
            duties.Record(train, progress, stage.name, directory),
            *([duties.TensorBoard(progress, directory)] if train.tensorboard else []),
            *([duties.MLflow(progress, identity)] if train.mlflow else []),
            duties.Save(directory, identity, progress),
        ],
    )
    if progress.best_weights is not None:
        checkpoints.assign(model.variables, progress.best_weights)


def learning_rate(config: TrainConfig, steps: int) -> float | Schedule:
    """The learning rate of a stage of `steps` batches an epoch: a constant that may be halved, or a schedule."""
    if config.schedule == "constant" and not config.warmup_steps:
        return config.learning_rate
    # Keras asks a schedule once a batch, also where several batches make one step.
    total, warmup = config.epochs * steps, config.warmup_steps * config.accumulate
    if config.schedule == "one_cycle" and not warmup:
        warmup = round(0.3 * total)
    return SCHEDULES[config.schedule](config.learning_rate, warmup, total)


def make_optimizer(
    config: TrainConfig,
    rate: float | Schedule,
    variables: Sequence[keras.Variable],
    touched: Sequence[RowEmbedding] = (),
) -> keras.optimizers.Optimizer:
    """The optimizer of a stage.

    Weight decay (decoupled, times the learning rate) spares embeddings, biases and scales: an item that is rare in
    training would be pulled to zero by every batch that does not contain it.

    Args:
        rate: of `learning_rate`.
        variables: that will be trained.
        touched: layers of which a step moves the rows of its batch alone.
    """
    make = partial(BY_ROWS[config.optimizer], layers=touched) if touched else OPTIMIZERS[config.optimizer]
    optimizer = make(
        rate,
        **({"momentum": config.momentum} if config.momentum else {}),
        weight_decay=config.weight_decay or (0.0 if config.optimizer == "adamw" else None),
        global_clipnorm=config.clip_norm,
        use_ema=config.ema is not None,
        # Keras updates the average once a batch as well.
        ema_momentum=config.ema ** (1 / config.accumulate) if config.ema else 0.0,
        gradient_accumulation_steps=config.accumulate if config.accumulate > 1 else None,
    )
    optimizer.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2 or "embedding" in v.path])
    if config.precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _check(whole: RunConfig) -> None:
    config = whole.train
    if getattr(whole.model, "touched_items", False):
        _check_touched_items(config)
    if config.monitor is None:
        for knob in ("patience", "reduce_on_plateau"):
            if (epochs := getattr(config, knob)) is not None:
                raise ConfigError(f"train.{knob}={epochs} waits for a monitor; name it, or set train.{knob}=null")
    if config.momentum and config.optimizer not in WITH_MOMENTUM:
        raise ConfigError(
            f"train.momentum={config.momentum}: {config.optimizer} has none of its own to set; "
            f"use train.optimizer={' or '.join(WITH_MOMENTUM)}, or leave it 0"
        )
    if config.reduce_on_plateau is not None and (config.schedule != "constant" or config.warmup_steps):
        raise ConfigError(
            f"train.reduce_on_plateau={config.reduce_on_plateau} halves a constant learning rate; with "
            f"train.schedule={config.schedule} and train.warmup_steps={config.warmup_steps} use one or the other"
        )


def _check_touched_items(config: TrainConfig) -> None:
    if config.optimizer not in BY_ROWS:
        raise ConfigError(
            f"train.optimizer={config.optimizer} moves all items; use train.optimizer={' or '.join(BY_ROWS)}, or "
            "model.touched_items=false"
        )
    for knob, value in {"ema": None, "accumulate": 1}.items():
        if getattr(config, knob) != value:
            raise ConfigError(
                f"train.{knob}={getattr(config, knob)}: model.touched_items=true takes a step a batch, and no average; "
                f"set train.{knob}={'null' if value is None else value} or touched_items=false"
            )
    if config.precision == "mixed_float16":
        raise ConfigError(
            "train.precision=mixed_float16 scales losses, which model.touched_items=true cannot; use mixed_bfloat16"
        )


def _identity(spec: ModelSpec, prepared: Prepared | BehaviourPrepared, config: RunConfig) -> dict[str, Any]:
    """What decides the weights that a training ends with, by name."""
    identity = {"model": spec.model.__name__, "KERAS_BACKEND": backends.name(), "split.sha256": prepared.sha256}
    return identity | _knobs(config)


def _knobs(config: RunConfig) -> dict[str, Any]:
    """Those that decide weights, by name."""
    knobs: dict[str, Any] = {}
    sections = config.model_dump(mode="json", include={"model", "train", "evaluate", "behaviour", "seed"})
    for section, values in sections.items():
        if isinstance(values, dict):
            knobs |= {f"{section}.{name}": value for name, value in values.items()}
        else:
            knobs[section] = values
    for name in ("workers", "keep_every", "tensorboard", "mlflow"):
        del knobs[f"train.{name}"]
    return knobs | {"data.session_gap": config.data.session_gap}  # all else of the data is in its fingerprint


def _begin(directory: Path, identity: dict[str, Any], config: RunConfig, resume: bool) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from, or None for a new start; says which."""
    checkpoints.sweep(directory)
    if not (resume and checkpoints.exists(directory)):
        shutil.rmtree(directory / "epochs", ignore_errors=True)  # weights that another training kept
    if not checkpoints.exists(directory):
        if resume:
            print(f"nothing to resume in {directory}: training from the start", flush=True)
        return None
    if not resume:
        path = checkpoints.set_aside(directory)
        print(f"starting anew; the training that was interrupted here is kept as {path}", flush=True)
        return None
    path = directory / checkpoints.FILE
    saved = checkpoints.read(path)
    # A knob that the checkpoint's version did not have was as its default is.
    plain = _knobs(RunConfig(model=type(config.model)()))
    if different := checkpoints.differences(plain | saved.identity, identity):
        raise ConfigError(
            f"{path}: this training has {different}; give the options it began with, or start anew without --resume"
        )
    if saved.progress.finished:
        print(f"the training in {directory} is finished; nothing is left to resume", flush=True)
    else:
        print(f"resuming after epoch {saved.progress.epoch} of {config.train.epochs}", flush=True)
    return saved


def _restore(variables: Sequence[keras.Variable], arrays: list[Any], directory: Path) -> None:
    if [tuple(v.shape) for v in variables] != [array.shape for array in arrays]:
        raise ConfigError(
            f"{directory / checkpoints.FILE}: its weights do not fit this version of the model; "
            "start anew without --resume"
        )
    checkpoints.assign(variables, arrays)


@contextmanager
def frozen(model: UserEncoder, stage: Stage) -> Iterator[None]:
    """The layers that this stage does not train, untrainable for its duration."""
    layers = {layer.name: layer for layer in model.layers}
    names = stage.frozen(model.config)
    unknown = set(names) - set(layers)
    if unknown:
        raise ValueError(f"stage {stage.name}: no layer {sorted(unknown)} in {model.name}; it has {sorted(layers)}")
    still = [layers[name] for name in names if layers[name].trainable]
    for layer in still:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in still:
            layer.trainable = True
