"""Any log of interactions to a Dataset; one small file per known layout."""

from __future__ import annotations

import importlib

from config import DataConfig, SampleConfig
from zoo.data.dataset import Dataset

# Layouts that are no plain table: name to module. Each has `read(path, data_config) -> Dataset`.
LAYOUTS = {
    "pairs": "pairs",
    "sequences": "sequences",
    "sessions": "sessions",
    "movielens": "movielens",
    "otto": "otto",
    "online_retail": "online_retail",
    "complete_journey": "complete_journey",
    "pickled_dict": "pickled_dict",
}


def load(data: DataConfig, sample: SampleConfig | None = None, seed: int = 0) -> Dataset:
    """The data set that `data` describes; `sample` and `seed` shape the built-in one."""
    if data.path == "sample" and not data.query:
        synthetic = importlib.import_module("zoo.data.sources.synthetic")
        return synthetic.read(sample or SampleConfig(), seed)
    module = LAYOUTS.get(data.layout, "generic")
    return importlib.import_module(f"zoo.data.sources.{module}").read(data.path, data)
