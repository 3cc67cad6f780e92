"""What a training needs to go on after it was killed: one file, replaced whole at the end of every epoch.

    checkpoint.h5   variables of model and optimizer, the best weights so far, and `Progress` as JSON

A variable of the model is a weight or the state of a random generator (dropout); a variable of the optimizer is a
moment, an average, an accumulated gradient or the count of steps. Batches are pure functions of (seed, epoch, index),
so nothing else is random and a resumed training ends with the bits of one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from config import ConfigError
from zoo.artifacts import replacing, reserve

FILE, PREVIOUS = "checkpoint.h5", "checkpoint.previous.h5"


@dataclass
class Progress:
    """How far a training is: all that is neither a variable nor configured.

    Attributes:
        stage: number of the stage in work, from 0.
        epoch: epochs of this stage that are complete.
        finished: whether all stages are; the model then has its final weights.
        history: a row per complete epoch of all stages.
        best_value, best_epoch: of the monitor in this stage; epochs count from 1.
        waited: epochs since then.
        plateau_waited: epochs since then, or since the learning rate was halved.
        seconds: spent in complete epochs.
        mlflow_run: id of the tracked run.
        best_weights: the model's variables at `best_epoch`; None before there is one.
    """

    stage: int = 0
    epoch: int = 0
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    waited: int = 0
    plateau_waited: int = 0
    seconds: float = 0.0
    mlflow_run: str | None = None
    best_weights: list[np.ndarray] | None = None

    def next_stage(self, finished: bool) -> None:
        """Turns to the following stage, or ends; `best_value` and `best_epoch` of the last stage stay."""
        self.finished = finished
        self.best_weights = None
        if not finished:
            self.stage += 1
            self.epoch = self.best_epoch = self.waited = self.plateau_waited = 0
            self.best_value = None


@dataclass(frozen=True)
class Checkpoint:
    """What `read` found: variables in the order of the model and of its optimizer."""

    identity: dict[str, Any]
    progress: Progress
    model: list[np.ndarray]
    optimizer: list[np.ndarray]


def values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copies of the variables."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    """Sets the variables to what `values` gave."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def write(
    directory: Path,
    identity: dict[str, Any],
    progress: Progress,
    model: Sequence[keras.Variable],
    optimizer: Sequence[keras.Variable] = (),
) -> None:
    """Writes checkpoint.h5 beside and renames it into place: whoever reads it finds the old one or the new one.

    Args:
        identity: what must be the same for a training to go on from here, as `differences` compares it.
    """
    plain = {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress) if f.name != "best_weights"}
    groups = {"model": values(model), "optimizer": values(optimizer), "best": progress.best_weights}
    with replacing(directory / FILE) as temporary:
        reserve(temporary, [array for arrays in groups.values() for array in arrays or ()])
        with h5py.File(temporary, "w") as file:
            file.attrs["identity"] = json.dumps(identity)
            file.attrs["progress"] = json.dumps(plain)
            for name, arrays in groups.items():
                if arrays is not None:
                    group = file.create_group(name)
                    for index, array in enumerate(arrays):
                        group.create_dataset(str(index), data=array)


def read(path: Path) -> Checkpoint:
    """What `write` wrote.

    Raises:
        ConfigError: the file is damaged or is no checkpoint of this version.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays = {
                name: [np.asarray(group[str(index)]) for index in range(len(group))] for name, group in file.items()
            }
            progress = Progress(**json.loads(file.attrs["progress"]), best_weights=arrays.get("best"))
            return Checkpoint(json.loads(file.attrs["identity"]), progress, arrays["model"], arrays["optimizer"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a checkpoint of this version ({error}); delete it, or start anew without --resume"
        ) from None


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The entries that differ, in words; empty where none does."""
    keys = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key)]
    return ", ".join(f"{key}={wanted.get(key)!r} (it began with {saved.get(key)!r})" for key in keys[:3])


def exists(directory: Path) -> bool:
    """Whether a training can go on in this directory."""
    return (directory / FILE).is_file()


def set_aside(directory: Path) -> Path:
    """Keeps the checkpoint of an unfinished training under another name, where a new one starts. Returns the path."""
    os.replace(directory / FILE, directory / PREVIOUS)
    return directory / PREVIOUS


def sweep(directory: Path) -> None:
    """Removes temporary files that a killed process left behind."""
    for path in directory.glob(f".{FILE}.*"):
        path.unlink(missing_ok=True)
