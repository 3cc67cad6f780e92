"""How the time of a training step grows with length, items and batch, and that of a prediction with users.

    OMP_NUM_THREADS=2 python -m benchmarks.scaling [MODEL,...] [BACKEND,...] [K=V,...]

One of them is changed at a time; the others stay at histories of 100 events, 4,000 items, 64 histories a batch, all at
64 dimensions and two blocks (GRU4Rec: one layer), full cross-entropy but where K=V say otherwise. All histories are
full, so a batch has batch x length events. `exponent` is the slope of the logarithm of the time by least squares,
`expected` that of the matrix products, which PyTorch counts: below it where a fixed cost weighs on small sizes, above
it where memory rather than arithmetic is the limit. `users` is the exact search of the ten best items of all, vectors
included.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record

BASE = {"length": 100, "items": 4_000, "batch": 64}
AXES = {"length": (50, 100, 200, 400), "items": (1_000, 4_000, 16_000, 64_000), "batch": (16, 64, 256)}
USERS = (500, 2_000, 8_000)
STEPS = 8  # the first two compile


def child(name: str, knobs: str, count: bool) -> dict[str, Any]:
    """Milliseconds, or operations, of this process's backend: {axis: {value: number}}."""
    from zoo import memory

    memory.keep_freed(os.environ["KERAS_BACKEND"])  # as main.py does, before the backend's threads begin
    found: dict[str, Any] = {}
    for axis, values in AXES.items():
        found[axis] = {value: step(name, knobs, count, BASE | {axis: value}) for value in values}
    if not count:
        found["users"] = dict(zip(USERS, predictions(name, knobs), strict=True))
    return found


def prepared_log(users: int, length: int, items: int) -> Any:
    """Histories of `length` + 1 events, of `users` or of as many more as it takes for every item to occur."""
    from zoo.data import splits
    from zoo.data.catalogue import prepare
    from zoo.data.dataset import Dataset, Entities, Events

    users = max(users, -(-items // (length + 1)))
    rng = np.random.default_rng(0)
    item = np.concatenate([rng.permutation(items), rng.integers(0, items, users * (length + 1) - items)])
    user = np.repeat(np.arange(users, dtype=np.int32), length + 1)
    minute = 60_000 * np.arange(len(user), dtype=np.int64)
    events = Events(user, item.astype(np.int32), minute)
    return prepare(splits.everything(Dataset(events, Entities(np.arange(users)), Entities(np.arange(items)))))


def built(name: str, knobs: str, prepared: Any, **more: int) -> tuple[Any, Any]:
    """(configuration, model)."""
    from benchmarks.step_rate import KNOBS
    from config import RunConfig, TrainConfig, override
    from zoo import artifacts, backends, registry

    config = RunConfig(model=registry.get(name).preset("base").model, train=TrainConfig())
    shape = ",".join(f"{key}={value}" for key, value in ({"embedding_dim": 64} | more).items())
    config = override(config, [option for option in (KNOBS[name], shape, knobs) if option])
    backends.configure(config.train)
    backends.seed(0)
    return config, artifacts.build(name, config, prepared.catalogue)


def step(name: str, knobs: str, count: bool, size: dict[str, int]) -> float:
    """Median milliseconds of a training step, or its operations."""
    import keras

    from zoo import registry

    prepared = prepared_log(size["batch"] * STEPS, size["length"], size["items"])
    config, model = built(name, knobs, prepared, max_length=size["length"], batch_size=size["batch"])
    loader = registry.get(name).stages[-1].loader(prepared.train, prepared.catalogue, config)
    loader.set_epoch(0)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    batches = [keras.tree.map_structure(keras.ops.convert_to_tensor, loader[i]) for i in range(2 if count else STEPS)]
    if count:
        from torch.utils.flop_counter import FlopCounterMode

        model.train_on_batch(*batches[0])
        with FlopCounterMode(display=False) as counter:
            model.train_on_batch(*batches[1])
        return counter.get_total_flops()
    seconds = []
    for batch in batches:
        begin = time.perf_counter()
        model.train_on_batch(*batch)
        seconds.append(time.perf_counter() - begin)
    return round(1e3 * statistics.median(seconds[2:]), 2)


def predictions(name: str, knobs: str) -> list[float]:
    """Milliseconds of the ten best items of so many `USERS`."""
    from zoo.topk import InnerProductIndex

    prepared = prepared_log(max(USERS), BASE["length"], BASE["items"])
    _, model = built(name, knobs, prepared, max_length=BASE["length"])
    index, result = InnerProductIndex(model.item_matrix(), None), []
    for users in (users for users in USERS for _ in range(3)):  # the first time of a size compiles
        begin = time.perf_counter()
        index.search(model.vectors(prepared.train.take(np.arange(users))), 10, None)
        result.append(round(1e3 * (time.perf_counter() - begin), 1))
    return [min(result[i : i + 3]) for i in range(0, len(result), 3)]


def exponent(points: dict[str, float]) -> float:
    """Slope of the logarithm of what was measured, by the logarithm of what was changed."""
    x, y = np.log([float(key) for key in points]), np.log(list(points.values()))
    return round(float(np.polyfit(x, y, 1)[0]), 2)


def main() -> None:
    given = [option for option in sys.argv[1:] if "=" not in option]
    knobs = ",".join(option for option in sys.argv[1:] if "=" in option)
    if len(given) > 2:
        raise SystemExit(__doc__)
    models, backends = (*given, *("sasrec,gru4rec,hstu,bert4rec", "tensorflow,jax,torch")[len(given) :])
    results: dict[str, Any] = {}
    print(f"{'model':<10}{'backend':<12}{'by':<8}{'exponent':>9}{'expected':>9}  milliseconds")
    for model in models.split(","):
        operations = measured("scaling", "--child", model, knobs, "count", backend="torch")
        expected = {axis: exponent(points) for axis, points in operations.items()} | {"users": 1.0}
        for backend in backends.split(","):
            for axis, points in measured("scaling", "--child", model, knobs, backend=backend).items():
                slope = exponent(points)
                row = {"milliseconds": points, "exponent": slope, "expected": expected[axis]}
                results.setdefault(model, {}).setdefault(backend, {})[axis] = row
                shown = "  ".join(f"{int(size):,}: {value:,.1f}" for size, value in points.items())
                print(f"{model:<10}{backend:<12}{axis:<8}{slope:>9.2f}{expected[axis]:>9.2f}  {shown}", flush=True)
    title = "scaling" + "".join(f"_{option}" for option in knobs.split(",") if option)
    print(write_record(title, results, ("numpy", "keras", "jax", "tensorflow", "torch")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], sys.argv[3], count=sys.argv[4:5] == ["count"])))
    else:
        main()
