"""Prepared arrays on disk, memory-mapped, keyed by the content of the input and of the settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zoo.data.dataset import Dataset, Entities, Events

MIN_BYTES = 2**26  # of input; a smaller one is read about as fast as it is looked up
MAX_AGE = 30 * 24 * 3600  # seconds after its last use that an entry is kept


def directory(cache_dir: str | None = None) -> Path:
    """`data.cache_dir`, or the user's own cache."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recommender-zoo"


def through(files: list[Path], settings: dict[str, Any], folder: Path, read: Callable[[], Dataset]) -> Dataset:
    """`read()`, or the same from the cache; the events are memory-mapped either way.

    A cache that cannot be written is told on stderr and done without. What nobody has used for MAX_AGE is deleted when
    something new is written.

    Args:
        files: all that `read` reads.
        settings: all else that it depends on, as JSON.
        folder: where the cache lies.
    """
    if sum(file.stat().st_size for file in files) < MIN_BYTES:
        return read()
    place = folder / "datasets" / _key(files, settings)
    if not (place / "dataset.json").exists():
        dataset = read()
        try:
            _store(dataset, place)
            _delete_old(place.parent)
        except OSError as error:
            print(f"{dataset.name}: not cached in {folder} ({error.strerror or error})", file=sys.stderr)
            return dataset
    return _open(place)


def _key(files: list[Path], settings: dict[str, Any]) -> str:
    """sha256 of the input, the settings, and the code that reads it."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(duckdb.__version__.encode())
    for file in (*sorted(Path(__file__).parent.glob("*.py")), *files):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _store(dataset: Dataset, place: Path) -> None:
    """Writes beside, then renames: another process sees all or nothing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=place.parent, prefix="new-"))
    try:
        events = {"user": dataset.events.user, "item": dataset.events.item, **dataset.events.columns}
        if dataset.events.timestamp is not None:
            events["timestamp"] = dataset.events.timestamp
        for name, array in events.items():
            np.save(new / f"events.{name}.npy", array)
        columns = {}
        for side in ("users", "items"):
            table: Entities = getattr(dataset, side)
            columns[side] = list(table.columns)
            for position, array in enumerate((table.ids, *table.columns.values())):
                if array.dtype == object:
                    pq.write_table(pa.table({"value": pa.array(array.tolist())}), new / f"{side}.{position}.parquet")
                else:
                    np.save(new / f"{side}.{position}.npy", array)
        about = {
            "events": list(events),
            "columns": columns,
            "clock": dataset.clock,
            "labels": dataset.labels,
            "name": dataset.name,
            "notes": dataset.notes,
        }
        (new / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
        new.rename(place)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not (place / "dataset.json").exists():  # else another process was faster
            raise


def _delete_old(folder: Path) -> None:
    """Deletes what has not been opened for long, and what a process that was killed has left half written."""
    for entry in folder.iterdir():
        used = entry / "dataset.json"
        if time.time() - (used if used.exists() else entry).stat().st_mtime > MAX_AGE:
            shutil.rmtree(entry, ignore_errors=True)


def _open(place: Path) -> Dataset:
    with contextlib.suppress(OSError):  # a cache that others own
        os.utime(place / "dataset.json")
    about = json.loads((place / "dataset.json").read_text(encoding="utf-8"))
    events = {name: np.load(place / f"events.{name}.npy", mmap_mode="r") for name in about["events"]}
    entities = {}
    for side, names in about["columns"].items():
        ids, *columns = (_load(place / f"{side}.{position}") for position in range(len(names) + 1))
        entities[side] = Entities(ids, dict(zip(names, columns, strict=True)))
    return Dataset(
        Events(events.pop("user"), events.pop("item"), events.pop("timestamp", None), events),
        entities["users"],
        entities["items"],
        about["clock"],
        {name: tuple(labels) for name, labels in about["labels"].items()},
        about["name"],
        tuple(about["notes"]),
    )


def _load(stem: Path) -> np.ndarray:
    if (numbers := stem.with_name(stem.name + ".npy")).exists():
        return np.load(numbers)
    values = pq.read_table(stem.with_name(stem.name + ".parquet"))["value"].to_pylist()
    array = np.empty(len(values), object)
    array[:] = values
    return array
