"""What happens around the epochs of a fit, one callback a duty. `zoo.training` puts them in their order."""

from __future__ import annotations

import collections
import csv
import difflib
import importlib
import math
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from config import ConfigError, TrainConfig
from zoo import backends, checkpoints
from zoo.artifacts import replacing, save_weights
from zoo.checkpoints import Progress
from zoo.schedules import Schedule


class EpochStart(keras.callbacks.Callback):
    """Tells the loader which epoch it is, before its first batch is asked for, and seeds the backend for it.

    With a seed of its own, an epoch does not depend on how much was drawn in this process before it.
    """

    def __init__(self, loader: Any, seed: tuple[int, int]):
        super().__init__()
        self.loader = loader
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.loader.set_epoch(epoch)
        backends.seed(int(np.random.SeedSequence([*self.seed, epoch]).generate_state(1)[0]))


class LossGuard(keras.callbacks.Callback):
    """Stops a training whose loss is no longer a number, and says what to try.

    Keras may report the batches from threads, so that the device never waits for Python, and then in any order:
    they are looked at in the order in which they began, so that the batch named is the first without a number.
    """

    async_safe = True

    def __init__(self, config: TrainConfig, steps: int, rate: float | Schedule):
        super().__init__()
        self.config = config
        self.steps = steps
        self.rate = rate
        self.epoch = 0
        self.begun: collections.deque[int] = collections.deque()
        self.losses: dict[int, float] = {}
        self.lock = threading.Lock()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = epoch
        self.begun.clear()
        self.losses.clear()
        if not callable(self.rate):  # a plateau may have halved it
            self.rate = float(self.model.optimizer.learning_rate)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.begun.append(batch)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        with self.lock:
            self.losses[batch] = (logs or {}).get("loss", 0.0)
            while self.begun and self.begun[0] in self.losses:
                # The failed batch stays first: Keras may overlook one report, and every later one repeats it.
                if not math.isfinite(self.losses[self.begun[0]]):
                    raise self.diverged(self.begun[0])
                del self.losses[self.begun.popleft()]

    def diverged(self, batch: int) -> ConfigError:
        rate = float(self.rate(self.epoch * self.steps + batch)) if callable(self.rate) else self.rate
        if self.epoch == batch == 0:
            advice = "it is so before any weight was changed: look for huge or missing scores and features"
        else:
            advice = f"try train.learning_rate={rate / 10:.2g} or train.clip_norm=1"
            if self.config.precision == "mixed_float16":
                advice += " or train.precision=mixed_bfloat16"
        return ConfigError(
            f"training diverged: the loss is {self.losses[batch]} at epoch {self.epoch + 1}, batch {batch + 1}, "
            f"learning rate {rate:.3g}; {advice}"
        )


class BatchBar(keras.callbacks.Callback):
    """A bar over the batches of an epoch; for terminals."""

    async_safe = True

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.bar: Any = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.bar = tqdm(total=self.steps, desc=f"epoch {epoch + 1}", unit="batch", leave=False)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.bar.close()


class AveragedWeights(keras.callbacks.Callback):
    """At the end of an epoch, gives the model its averaged weights: what is validated is what will be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.raw: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.raw = checkpoints.values(self.model.trainable_variables)
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)


class RawWeights(keras.callbacks.Callback):
    """After validation, gives the model back the weights that the optimizer works on."""

    def __init__(self, averaged: AveragedWeights):
        super().__init__()
        self.averaged = averaged

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        checkpoints.assign(self.model.trainable_variables, self.averaged.raw)
        self.averaged.raw = []


class Monitor(keras.callbacks.Callback):
    """Remembers the weights of the best epoch, halves the learning rate on a plateau, stops when patience ends.

    A monitor with `loss` in its name is best when small, any other when large.
    """

    def __init__(self, config: TrainConfig, progress: Progress):
        super().__init__()
        self.config = config
        self.progress = progress

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs, progress, config = logs or {}, self.progress, self.config
        if config.monitor is None:
            return
        if config.monitor not in logs:
            if config.patience is not None or config.reduce_on_plateau is not None:
                raise ConfigError(_unknown_monitor(config.monitor, logs))
            return
        value, best = float(logs[config.monitor]), progress.best_value
        if not math.isnan(value) and (best is None or (value < best if "loss" in config.monitor else value > best)):
            progress.best_value, progress.best_epoch = value, epoch + 1
            progress.waited = progress.plateau_waited = 0
            progress.best_weights = checkpoints.values(self.model.variables)
            return
        progress.waited += 1
        progress.plateau_waited += 1
        if config.reduce_on_plateau is not None and progress.plateau_waited >= config.reduce_on_plateau:
            progress.plateau_waited = 0
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2
        if config.patience is not None and progress.waited >= config.patience:
            self.model.stop_training = True


def _unknown_monitor(monitor: str, logs: dict[str, Any]) -> str:
    known = sorted(logs)
    close = difflib.get_close_matches(monitor, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"train.monitor={monitor!r} is not among what is measured after an epoch: {', '.join(known)}{hint}"


class Record(keras.callbacks.Callback):
    """Adds a row to the history, writes history.csv, and prints a line per epoch."""

    def __init__(self, config: TrainConfig, progress: Progress, stage: str, directory: Path):
        super().__init__()
        self.config = config
        self.progress = progress
        self.stage = stage
        self.directory = directory
        self.started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = time.perf_counter() - self.started
        row = {"stage": self.stage, "epoch": epoch + 1, **(logs or {})}
        row |= {"learning_rate": float(self.model.optimizer.learning_rate), "seconds": round(seconds, 3)}
        self.progress.history.append(row)
        self.progress.epoch = epoch + 1
        self.progress.seconds += seconds
        write_history(self.directory, self.progress.history)
        print(self.line(row), flush=True)

    def line(self, row: dict[str, Any]) -> str:
        """The epoch for a person: its loss, its monitor, its time and the time that all others may take."""
        monitor = self.config.monitor
        parts = [f"{self.stage} epoch {row['epoch']:>{len(str(self.config.epochs))}}/{self.config.epochs}"]
        parts.append(f"loss {row['loss']:.4f}")
        if monitor in row and monitor != "loss":
            parts.append(f"{monitor} {row[monitor]:.4f}")
        if monitor in row:
            parts[-1] += " *" if self.progress.best_epoch == row["epoch"] else "  "
        parts.append(f"{row['seconds']:.1f} s")
        mine = [other["seconds"] for other in self.progress.history if other["stage"] == self.stage]
        left = self.config.epochs - row["epoch"]
        if left and not self.model.stop_training:
            # The first epoch compiles: it says little about the next ones.
            typical = sorted(mine[1:] or mine)[len(mine[1:] or mine) // 2]
            parts.append(f"at most {_duration(left * typical)} left")
        return "  ".join(parts)


def write_history(directory: Path, rows: list[dict[str, Any]]) -> None:
    """Writes history.csv, a row per epoch, atomically."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(directory / "history.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class Keep(keras.callbacks.Callback):
    """Keeps the weights of every so many epochs, as epochs/STAGE_EPOCH.weights.h5."""

    def __init__(self, every: int, stage: str, directory: Path):
        super().__init__()
        self.every = every
        self.stage = stage
        self.directory = directory / "epochs"

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            save_weights(self.model, self.directory / f"{self.stage}_{epoch + 1}.weights.h5")


class TensorBoard(keras.callbacks.Callback):
    """Writes the row of every epoch for TensorBoard; needs its package, and no TensorFlow."""

    def __init__(self, progress: Progress, directory: Path):
        super().__init__()
        self.progress = progress
        self.writer = _installed("tensorboard.summary", "train.tensorboard").Writer(str(directory / "tensorboard"))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        row = self.progress.history[-1]
        for name, value in _numbers(row).items():
            self.writer.add_scalar(f"{row['stage']}/{name}", value, epoch + 1)
        self.writer.flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.writer.close()


class MLflow(keras.callbacks.Callback):
    """Logs the knobs, and the row of every epoch, to the MLflow server of the environment; a resumed run stays one."""

    def __init__(self, progress: Progress, knobs: dict[str, Any]):
        super().__init__()
        self.progress = progress
        self.knobs = knobs
        self.mlflow = _installed("mlflow", "train.mlflow")

    def on_train_begin(self, logs: dict | None = None) -> None:
        new = self.progress.mlflow_run is None
        self.progress.mlflow_run = self.mlflow.start_run(run_id=self.progress.mlflow_run).info.run_id
        if new:
            self.mlflow.log_params(self.knobs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        row = self.progress.history[-1]
        named = {f"{row['stage']}/{name.replace('@', '_at_')}": value for name, value in _numbers(row).items()}
        self.mlflow.log_metrics(named, step=epoch + 1)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.mlflow.end_run()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("stage", "epoch")}


def _installed(module: str, knob: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigError(f"{knob}=true: {package} is not installed; pip install {package}, or leave it out") from None


class Save(keras.callbacks.Callback):
    """Writes the checkpoint of a complete epoch. The last callback: it saves what all others did."""

    def __init__(self, directory: Path, identity: dict[str, Any], progress: Progress):
        super().__init__()
        self.directory = directory
        self.identity = identity
        self.progress = progress

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        checkpoints.write(
            self.directory, self.identity, self.progress, self.model.variables, self.model.optimizer.variables
        )
