"""Any log of interactions to a Dataset; one small file per known layout."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from config import Columns, DataConfig, SampleConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import attributes, cache, entities, files, generic, known, layouts, several
from zoo.data.sources.connection import connect, explained

# Layouts that are no plain table: name to module, imported when it is asked for. Each has
# `read(path, data_config) -> Dataset`; one that opens few of a folder's files has `inputs(path, data_config)`.
LAYOUTS = {
    "pairs": "pairs",
    "sequences": "sequences",
    "sessions": "sessions",
    "movielens": "movielens",
    "otto": "otto",
    "online_retail": "online_retail",
    "complete_journey": "complete_journey",
    "t_ecd": "t_ecd",
    "trigrec": "trigrec",
    "tricdr": "tricdr",
    "pickled_dict": "pickled_dict",
    "synerise": "synerise",
}
_SLOW = 3.0  # seconds after which a load says how long it took


def load(data: DataConfig, sample: SampleConfig | None = None, seed: int = 0) -> Dataset:
    """The data set that `data` describes; `sample` and `seed` shape the built-in one.

    Raises:
        DataError: nothing is there, or it cannot be read; in one line.
    """
    start = time.perf_counter()
    if data.path == "sample" and not data.query:
        dataset = importlib.import_module("zoo.data.sources.synthetic").read(sample or SampleConfig(), seed)
    else:
        try:
            if logs := several.named(data.path):
                return _several(data, logs)
            data = _resolved(data)
            dataset = _read(data) if (inputs := _inputs(data)) is None else _cached(data, inputs)
        except PermissionError as error:
            place = error.filename or data.path
            raise DataError(f"{place}: no permission to read it; ask its owner or use chmod") from None
        except OSError as error:
            raise DataError(f"{error.filename or data.path}: cannot be read ({error.strerror or error})") from None
    seconds = time.perf_counter() - start
    if seconds > _SLOW:
        print(f"{dataset.name}: {len(dataset.events):,} events in {seconds:.1f} s", file=sys.stderr)
    return dataset


def _several(data: DataConfig, logs: dict[str, str]) -> Dataset:
    """Several logs as one; feature tables are of all."""
    alone = {"users": None, "items": None}
    parts = {name: load(data.model_copy(update={"path": path, **alone})) for name, path in logs.items()}
    return _with_features(data, several.merge(parts, data.cache_dir))


def _resolved(data: DataConfig) -> DataConfig:
    """`data` with a known name replaced by its file, and the layout recognised where none of it is stated.

    Raises:
        DataError: a download that fails; a name that is nearly a known one.
    """
    data = known.fetch(data)
    if data.layout == "auto" and not data.query and data.columns == Columns() and generic.is_in_files(data.path):
        data = data.model_copy(update={"layout": layouts.recognise(data.path)})
    return data


def _inputs(data: DataConfig) -> list[Path] | None:
    """The files that are read; None where there are none, or where SQL may read others.

    Raises:
        DataError: a file is missing, empty or may not be read.
    """
    if data.query:
        return None
    found: list[Path] = []
    for path in (data.path, data.users, data.items):
        if path and not generic.is_in_files(path):
            return None
        if not path:
            continue
        layout = _layout(data) if path is data.path else None
        if select := getattr(layout, "inputs", None):
            found += select(str(Path(path).expanduser()), data)
        else:
            found += files.find(path, any_suffix=data.layout in LAYOUTS)
    return found


def _layout(data: DataConfig) -> Any:
    """The module of a layout; None for a plain table."""
    name = LAYOUTS.get(data.layout)
    return importlib.import_module(f"zoo.data.sources.{name}") if name else None


def _cached(data: DataConfig, inputs: list[Path]) -> Dataset:
    settings = {
        **data.model_dump(include={"layout", "columns"}),
        "actions": data.actions if data.layout == "online_retail" else None,  # which reads cancellations if asked
        "domains": data.domains if data.layout == "t_ecd" else None,  # which reads those alone
        "name": Path(data.path).name,
        "features": [bool(data.users), bool(data.items)],
    }
    return cache.through(inputs, settings, cache.directory(data.cache_dir), lambda: _read(data))


def _read(data: DataConfig) -> Dataset:
    """Reads the log, then the feature tables."""
    if layout := _layout(data):
        dataset = layout.read(str(Path(data.path).expanduser()), data)
    else:
        dataset = generic.read(data.path, data)
    return _with_features(data, dataset)


def _with_features(data: DataConfig, dataset: Dataset) -> Dataset:
    for side, path in (("user", data.users), ("item", data.items)):
        if path:
            connection = connect(data.cache_dir)
            table: entities.Table | None = attributes.read(path, side)
            if table is None:
                table = generic.features(connection, path, side, data.columns)
            with explained(path):
                read = entities.read(connection, table, side, getattr(dataset, f"{side}s"), dataset.name)
            changed: dict[str, Any] = {f"{side}s": read}
            dataset = replace(dataset, **changed)
    return dataset
