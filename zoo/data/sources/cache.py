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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zoo.data.dataset import Dataset, Entities, Events

MIN_BYTES = 2**26  # of input; a smaller one is read about as fast as it is looked up
MAX_AGE = 30 * 24 * 3600  # seconds after its last use that an entry is kept
WHOLE = "dataset.json"  # written last: the entry that has it is whole
T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """How one kind of data lies in a folder.

    Attributes:
        write: writes its arrays, and last of all WHOLE.
        read: takes back what `write` wrote, large arrays memory-mapped.
    """

    write: Callable[[T, Path], None]
    read: Callable[[Path], T]


def directory(cache_dir: str | None = None) -> Path:
    """`data.cache_dir`, or the user's own cache."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recommender-zoo"


def through(
    files: list[Path], settings: dict[str, Any], folder: Path, read: Callable[[], T], form: Form[T] | None = None
) -> T:
    """`read()`, or the same from the cache; the events are memory-mapped either way.

    A cache that cannot be written is told on stderr and done without. What nobody has used for MAX_AGE is deleted when
    something new is written.

    Args:
        files: all that `read` reads.
        settings: all else that it depends on, as JSON.
        folder: where the cache lies.
        form: of what is read; None: a Dataset.
    """
    form = form or DATASET
    if sum(file.stat().st_size for file in files) < MIN_BYTES:
        return read()
    place = folder / "datasets" / _key(files, settings)
    if not (place / WHOLE).exists():
        found = read()
        try:
            _store(found, place, form)
            _delete_old(place.parent)
        except OSError as error:
            name = getattr(found, "name", folder)
            print(f"{name}: not cached in {folder} ({error.strerror or error})", file=sys.stderr)
            return found
    with contextlib.suppress(OSError):  # a cache that others own
        os.utime(place / WHOLE)
    return form.read(place)


def _key(files: list[Path], settings: dict[str, Any]) -> str:
    """sha256 of the input, the settings, and the code that reads it."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(duckdb.__version__.encode())
    code = [*Path(__file__).parent.glob("*.py"), *(Path(__file__).parents[1] / "behaviour").rglob("*.py")]
    for file in (*sorted(code), *files):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _store(found: T, place: Path, form: Form[T]) -> None:
    """Writes beside, then renames: another process sees all or nothing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=place.parent, prefix="new-"))
    try:
        form.write(found, new)
        new.rename(place)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not (place / WHOLE).exists():  # else another process was faster
            raise


def _delete_old(folder: Path) -> None:
    """Deletes what has not been opened for long, and what a process that was killed has left half written."""
    for entry in folder.iterdir():
        used = entry / WHOLE
        if time.time() - (used if used.exists() else entry).stat().st_mtime > MAX_AGE:
            shutil.rmtree(entry, ignore_errors=True)


def write_array(array: np.ndarray, stem: Path) -> None:
    """Writes numbers as STEM.npy, objects as STEM.parquet."""
    if array.dtype == object:
        pq.write_table(pa.table({"value": pa.array(array.tolist())}), stem.with_name(stem.name + ".parquet"))
    else:
        np.save(stem.with_name(stem.name + ".npy"), array)


def read_array(stem: Path) -> np.ndarray:
    """Takes back what `write_array` wrote."""
    if (numbers := stem.with_name(stem.name + ".npy")).exists():
        return np.load(numbers)
    values = pq.read_table(stem.with_name(stem.name + ".parquet"))["value"].to_pylist()
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _write(dataset: Dataset, place: Path) -> None:
    events = {"user": dataset.events.user, "item": dataset.events.item, **dataset.events.columns}
    if dataset.events.timestamp is not None:
        events["timestamp"] = dataset.events.timestamp
    for name, array in events.items():
        np.save(place / f"events.{name}.npy", array)
    columns = {}
    for side in ("users", "items"):
        table: Entities = getattr(dataset, side)
        columns[side] = list(table.columns)
        for position, array in enumerate((table.ids, *table.columns.values())):
            write_array(array, place / f"{side}.{position}")
    about = {
        "events": list(events),
        "columns": columns,
        "clock": dataset.clock,
        "labels": dataset.labels,
        "name": dataset.name,
        "notes": dataset.notes,
    }
    (place / WHOLE).write_text(json.dumps(about), encoding="utf-8")


def _read(place: Path) -> Dataset:
    about = json.loads((place / WHOLE).read_text(encoding="utf-8"))
    events = {name: np.load(place / f"events.{name}.npy", mmap_mode="r") for name in about["events"]}
    entities = {}
    for side, names in about["columns"].items():
        ids, *columns = (read_array(place / f"{side}.{position}") for position in range(len(names) + 1))
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


DATASET: Form[Any] = Form(_write, _read)
