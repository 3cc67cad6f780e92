"""Run directories: a model that describes itself.

    config.json        model, preset, every knob, fingerprints of data, split and files
    vocabulary.npz     ids of users and items, training popularity, features
    model.weights.h5   weights, the same on every backend
    history.csv        one row per epoch
    metrics.json       {"validation": {...}, "test": {...}, "audit": {...}}
    epochs/            weights of earlier epochs, where `train.keep_every` asked for them
    ranks.npz          rank of every test target, for paired tests

Files are written beside and renamed into place, config.json last; nothing that is read back is ever a pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import ConfigError, RunConfig, rebuild
from zoo import registry
from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.catalogue import Catalogue
from zoo.recommender import Baseline, Recommender, Scorer

FORMAT = 1
CONFIG, VOCABULARY, WEIGHTS = "config.json", "vocabulary.npz", "model.weights.h5"
CATALOGUES: dict[str, Any] = {"interactions": Catalogue, "behaviour": BehaviourCatalogue}
HISTORY, METRICS, RANKS = "history.csv", "metrics.json", "ranks.npz"


@dataclass(frozen=True)
class Run:
    """What a run directory holds.

    Attributes:
        info: the whole of config.json.
        name: the model.
        model: ready to score.
    """

    directory: Path
    info: dict[str, Any]
    name: str
    config: RunConfig
    catalogue: Catalogue
    model: Scorer

    @property
    def trained_on_everything(self) -> bool:
        """Whether the test part was in the training data."""
        return self.info["trained_on"] == "everything"

    def item_vectors(self) -> np.ndarray:
        """(V, D) float32 vectors of the items, by token: `Recommender.item_vectors`.

        Raises:
            ConfigError: the model has none.
        """
        if not isinstance(self.model, Recommender):
            raise ConfigError(
                f"{self.directory}: {self.name} has no item vectors; give a run of a model that learns them"
            )
        return self.model.item_vectors()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def reserve(path: Path, arrays: Iterable[Any]) -> None:
    """Makes sure that `path` has room for `arrays` as HDF5, which crashes the process when a disk is full.

    Raises:
        OSError: there is no room, or the user may not have it.
    """
    size = sum(math.prod(array.shape) * 4 + 4096 for array in arrays)
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path.parent)) from None
            file.truncate(0)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as a compressed npz, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def build(name: str, config: RunConfig, catalogue: Catalogue) -> Scorer:
    """A model with fresh weights."""
    return registry.get(name).model(config.model, catalogue)


def save(
    directory: Path,
    name: str,
    config: RunConfig,
    model: Scorer,
    *,
    trained_on: str,
    facts: dict[str, Any],
    metrics: dict[str, Any] | None = None,
    history: Path | None = None,
    ranks: dict[str, np.ndarray] | None = None,
) -> None:
    """Writes a run directory. Each file replaces its predecessor whole; config.json, which names them, comes last.

    Args:
        trained_on: `train` or `everything`.
        facts: further entries of config.json: fingerprints, versions, best epoch.
        metrics: of metrics.json; None: there is none, or not yet.
        history: a history.csv to take over.
    """
    write_arrays(directory / VOCABULARY, model.catalogue.arrays())
    save_weights(model, directory / WEIGHTS)
    if metrics is not None:
        write_json(directory / METRICS, metrics)
    else:  # those of an earlier run are of other weights
        (directory / METRICS).unlink(missing_ok=True)
    if ranks is not None:
        write_arrays(directory / RANKS, ranks)
    with replacing(directory / HISTORY) as temporary:
        temporary.write_bytes(history.read_bytes() if history and history.exists() else b"epoch\n")
    info = {
        "format": FORMAT,
        "model": name,
        "trained_on": trained_on,
        **facts,
        "config": config.model_dump(mode="json"),
        "files": {file: _sha256(directory / file) for file in (VOCABULARY, WEIGHTS)},
    }
    write_json(directory / CONFIG, info)


def save_weights(model: Any, path: Path) -> None:
    """Writes the weights of a model, atomically."""
    with replacing(path) as temporary:
        reserve(temporary, model.arrays().values() if isinstance(model, Baseline) else model.variables)
        # Keras insists on the ending .weights.h5, so the file gets it before it gets its name.
        written = temporary.with_name(temporary.name + ".weights.h5")
        try:
            model.save_weights(written)
            os.replace(written, temporary)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(written)


def exists(directory: Path) -> bool:
    """Whether a finished run lies there."""
    return (directory / CONFIG).is_file()


def read_info(directory: Path) -> dict[str, Any]:
    """config.json of a run.

    Raises:
        ConfigError: there is no run, or it is not one of this zoo.
    """
    path = directory / CONFIG
    if not path.is_file() and (directory / "unfinished").exists():
        raise ConfigError(f"{directory}: its training was interrupted; the same command with --resume finishes it")
    if not path.is_file():
        raise ConfigError(f"{directory}: no run here ({CONFIG} is missing); train one first, or give its --run-dir")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        ours = {"format", "model", "trained_on", "config", "files"} <= set(info)
    except (ValueError, TypeError, OSError):
        raise ConfigError(f"{path}: not readable as JSON; the run directory is damaged, train it again") from None
    if not ours or info["format"] != FORMAT:
        raise ConfigError(f"{path}: not a run of this zoo (format {FORMAT}); give the --run-dir of one")
    return info


def read_config(directory: Path) -> tuple[str, RunConfig]:
    """Name of the model and its configuration, as saved in a run."""
    info = read_info(directory)
    spec = registry.get(info["model"])
    try:
        return info["model"], rebuild(spec.preset("tiny"), info["config"])
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(f"{directory / CONFIG}: written by another version of the zoo ({error})") from None


def load(directory: Path, epoch: str | None = None) -> Run:
    """Reads a run directory back, on any backend.

    Args:
        epoch: of weights that were kept, STAGE_EPOCH; None: the best.

    Raises:
        ConfigError: no run, a foreign or damaged one, files that do not belong together, or weights that were not kept.
    """
    info = read_info(directory)
    name, config = read_config(directory)
    for file, expected in info["files"].items():
        path = directory / file
        if not path.is_file():
            raise ConfigError(f"{path}: missing; the run directory is incomplete, train it again")
        if _sha256(path) != expected:
            raise ConfigError(f"{path}: not the file that {CONFIG} was written with (another model or vocabulary?)")
    try:
        with np.load(directory / VOCABULARY, allow_pickle=False) as arrays:
            catalogue = CATALOGUES[registry.get(name).log].from_arrays(dict(arrays))
    except (KeyError, ValueError, zipfile.BadZipFile, OSError) as error:
        raise ConfigError(f"{directory / VOCABULARY}: damaged ({error}); train the run again") from None
    weights = directory / WEIGHTS if epoch is None else kept_weights(directory, epoch)
    model = build(name, config, catalogue)
    if not isinstance(model, Baseline):
        model.build_weights()
    try:
        model.load_weights(weights)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"{weights}: these weights do not fit {name} ({reason})") from None
    return Run(directory, info, name, config, catalogue, model)


def kept_weights(directory: Path, epoch: str) -> Path:
    """The file of weights that `train.keep_every` kept.

    Raises:
        ConfigError: there is none of this epoch.
    """
    known = [path.name.removesuffix(".weights.h5") for path in sorted((directory / "epochs").glob("[!.]*.weights.h5"))]
    if epoch not in known:
        have = f"kept are {', '.join(known)}" if known else "none were kept; train with train.keep_every=1"
        raise ConfigError(f"predict.kept_epoch={epoch}: {directory} has no weights of it; {have}")
    return directory / "epochs" / f"{epoch}.weights.h5"


def read_metrics(directory: Path) -> dict[str, Any]:
    """metrics.json of a run."""
    try:
        return json.loads((directory / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{directory / METRICS}: missing or damaged; train the run again") from None


def read_ranks(directory: Path) -> dict[str, np.ndarray]:
    """Per-target ranks of a run, for a paired test."""
    with np.load(directory / RANKS, allow_pickle=False) as arrays:
        return dict(arrays)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
