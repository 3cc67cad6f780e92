"""How fast batches are made, and what share of a two-tower step that is.

    python -m benchmarks.loaders [EVENTS]

A generated log of EVENTS (default a million) events, 160 a user, popularity by Zipf's law over 3,400 items. A row is a
pair of the batch, negatives included.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import keras
import numpy as np

from benchmarks.record import write_record
from config import RunConfig, TrainConfig
from zoo import backends
from zoo.data import splits
from zoo.data.catalogue import Prepared, prepare
from zoo.data.dataset import Dataset, Entities, Events
from zoo.data.loaders.pairs import PairLoader
from zoo.models.two_tower import TwoTower, TwoTowerConfig

ITEMS, EVENTS_PER_USER, BATCH = 3400, 160, 1024
SETTINGS: dict[str, dict[str, Any]] = {
    "softmax": {"max_length": 0},
    "softmax, history of 50": {"max_length": 50},
    "in-batch, known masked": {"loss": "in_batch", "max_length": 50},
    "bpr, uniform negatives": {"loss": "bpr", "max_length": 0},
    "bce, popular negatives": {"loss": "bce", "max_length": 0, "popularity_power": 0.75},
    "bpr, hard of 8": {"loss": "bpr", "max_length": 0, "hard_pool": 8},
}


def generated(events: int) -> Prepared:
    rng = np.random.default_rng(0)
    users = max(events // EVENTS_PER_USER, 1)
    user = np.sort(rng.integers(0, users, events, dtype=np.int32))
    popularity = 1 / np.arange(1, ITEMS + 1)
    item = rng.choice(ITEMS, events, p=popularity / popularity.sum()).astype(np.int32)
    log = Dataset(Events(user, item), Entities(np.arange(users)), Entities(np.arange(ITEMS)), clock="order")
    return prepare(splits.everything(log))


def measure(prepared: Prepared, knobs: dict[str, Any]) -> dict[str, float]:
    config = RunConfig(model=TwoTowerConfig(**knobs), train=TrainConfig(batch_size=BATCH))
    started = time.perf_counter()
    loader = PairLoader(prepared.train, prepared.catalogue, config)
    loader.set_epoch(0)
    made = time.perf_counter() - started
    batches, fetching = [], []
    for index in range(40):
        started = time.perf_counter()
        batches.append(loader[index])
        fetching.append(time.perf_counter() - started)
    model = TwoTower(config.model, prepared.catalogue)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    stepping = []
    for batch in batches:
        started = time.perf_counter()
        model.train_on_batch(*keras.tree.map_structure(keras.ops.convert_to_tensor, batch))  # as `fit` does
        stepping.append(time.perf_counter() - started)
    fetch, step = float(np.median(fetching)), float(np.median(stepping))
    return {
        "ready_seconds": round(made, 3),
        "batch_ms": round(fetch * 1e3, 3),
        "rows_per_second": round(BATCH / fetch),
        "step_ms": round(step * 1e3, 2),
        "share_of_step": round(fetch / (fetch + step), 4),
    }


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    backends.configure(TrainConfig())
    prepared = generated(events)
    results = {}
    for name, knobs in SETTINGS.items():
        results[name] = row = measure(prepared, knobs)
        print(f"{name:<26}" + "  ".join(f"{key} {value:,}" for key, value in row.items()), flush=True)
    print(
        write_record(
            f"loaders_{backends.name()}", {"events": events, "rows": results}, ("numpy", "keras", backends.name())
        )
    )


if __name__ == "__main__":
    main()
