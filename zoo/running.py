"""What every training run of main.py shares: its greeting, its working folder, the run that it leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from config import RunConfig, override
from zoo import artifacts, backends, registry
from zoo.data.behaviour.prepared import BehaviourPrepared
from zoo.data.catalogue import Prepared
from zoo.request import Request


def announce(request: Request) -> None:
    """Configures the backend, and says what runs on it."""
    backends.configure(request.config.train)
    backends.seed(request.config.seed)
    print(f"{request.title}, preset {request.preset}, on {backends.name()} ({backends.device()})", flush=True)


def for_production(request: Request) -> RunConfig:
    """The configuration of a training on everything: as many epochs as validation found best, and none to choose."""
    config, best = request.config, None
    if artifacts.exists(request.run_dir):
        best = artifacts.read_info(request.run_dir).get("best_epoch")
    if best:
        print(f"epochs: {best}, the best of the validation run in {request.run_dir}")
        config = override(config, [f"train.epochs={best}"])
    elif registry.get(request.name).stages:
        print(f"epochs: {config.train.epochs}, as configured; no validation run in {request.run_dir} says how many")
    return override(config, ["train.patience=null", "train.reduce_on_plateau=null", "train.monitor=null"])


def working(directory: Path) -> Path:
    """Where a training keeps its checkpoint until the run is complete."""
    return directory / "unfinished"


def clear(directory: Path) -> None:
    """Removes what only an unfinished run needs; what TensorBoard reads, and weights kept, move to the run."""
    for name in ("tensorboard", "epochs"):
        shutil.rmtree(directory / name, ignore_errors=True)
        if (working(directory) / name).exists():
            (working(directory) / name).rename(directory / name)
    shutil.rmtree(working(directory), ignore_errors=True)


def save(
    directory: Path,
    request: Request,
    config: RunConfig,
    prepared: Prepared | BehaviourPrepared,
    model: Any,
    result: Any,
    trained_on: str,
    **more: Any,
) -> None:
    """Makes what was trained a run in `directory`.

    Args:
        result: of the fit; None of a model that is counted.
        trained_on, more: as in `artifacts.save`.
    """
    facts = {
        "preset": request.preset,
        "backend": backends.name(),
        "versions": backends.versions(),
        "device": backends.device(),
        "data_sha256": prepared.data_sha256,
        "split_sha256": prepared.sha256,
        "best_epoch": None if result is None else result.best_epoch,
        "seconds": None if result is None else round(result.seconds, 1),
    }
    if isinstance(prepared, BehaviourPrepared):
        facts["cut"] = prepared.cut
    history = working(directory) / "history.csv"
    artifacts.save(directory, request.name, config, model, trained_on=trained_on, facts=facts, history=history, **more)


def holds(directory: Path, name: str, config: RunConfig, sha256: str) -> bool:
    """Whether this very run is finished there: same model, knobs, and data split."""
    if not artifacts.exists(directory):
        return False
    saved, saved_config = artifacts.read_config(directory)
    return (saved, saved_config, artifacts.read_info(directory)["split_sha256"]) == (name, config, sha256)
