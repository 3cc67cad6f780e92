"""Any log of behaviour to a BehaviourLog; one small file per known layout."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from config import DataConfig, SampleConfig
from zoo.data.behaviour.log import BehaviourLog
from zoo.data.behaviour.sources import form
from zoo.data.dataset import DataError
from zoo.data.sources import cache, files, known, layouts

LAYOUTS = ("synerise", "online_retail", "otto")  # modules with `read(path, data_config) -> BehaviourLog`
READ = {"path", "layout", "cache_dir"}  # knobs of `data`
_SLOW = 3.0  # seconds after which a load says how long it took


def load(data: DataConfig, sample: SampleConfig, seed: int = 0) -> BehaviourLog:
    """The behaviour log that `data` describes; `sample` and `seed` shape the built-in one.

    Raises:
        DataError: nothing is there, it is no log of behaviour, or it cannot be read; in one line.
    """
    start, plain = time.perf_counter(), DataConfig()
    for knob in sorted(DataConfig.model_fields.keys() - READ):
        if getattr(data, knob) != getattr(plain, knob):
            raise DataError(f"{data.path}: data.{knob} is for interactions, not for logs of behaviour; unset it")
    if data.path == "sample":
        log = importlib.import_module("zoo.data.behaviour.sources.sample").read(sample, seed)
    else:
        layout = _layout(data)  # before anything is downloaded
        place = _place(known.fetch(data).path)
        module = importlib.import_module(f"zoo.data.behaviour.sources.{layout}")
        settings = {"behaviour": layout, "name": Path(place).name}
        inputs = module.inputs(place) if hasattr(module, "inputs") else files.find(place, any_suffix=True)
        folder = cache.directory(data.cache_dir)
        log = cache.through(inputs, settings, folder, lambda: module.read(place, data), form.FORM)
    seconds = time.perf_counter() - start
    if seconds > _SLOW:
        print(f"{log.name}: {len(log):,} events in {seconds:.1f} s", file=sys.stderr)
    return log


def _place(path: str) -> str:
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"{path}: no such file or folder")
    return str(place)


def _layout(data: DataConfig) -> str:
    """The layout of `data`, recognised where it is not stated."""
    layout = data.layout
    if layout == "auto":
        named = known.find(data)
        layout = named.layout if named else layouts.recognise(_place(data.path))
    if layout not in LAYOUTS:
        raise DataError(
            f"{data.path}: no log of behaviour (purchases, carts, visits and searches of clients); wanted a folder "
            f"with product_buy.parquet and its sisters, or data.layout={' or '.join(LAYOUTS[1:])}"
        )
    return layout
