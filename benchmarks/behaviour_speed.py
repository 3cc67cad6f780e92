"""Seconds of the models of behaviour: rows of clients, a training step, vectors of many clients.

    python -m benchmarks.behaviour_speed rows [CLIENTS]                     what BEHAV-E sees of each client
    python -m benchmarks.behaviour_speed step [BACKEND,...] [K=V,...]       UBT: a step of 16 clients of 300 events each
    python -m benchmarks.behaviour_speed embed MODEL [CLIENTS] [K=V,...]    vectors, on KERAS_BACKEND

Clients have 14 events (median), 31 (mean), at most 300, and kinds of events as in the challenge. The original UBT's
step took 7.8 s on two cores. `step` runs on each backend, in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record
from config import BehaviourConfig, RunConfig, override

DAYS = 140
STEPS = 12


# ------------------------------------------------------------------------------------------------- a made-up log


def made_up(lengths: np.ndarray, products: int = 200_000, urls: int = 200_000) -> Any:
    """A log of clients with so many events each, at random, in the challenge's proportions."""
    from zoo.data.behaviour.log import DAY, BehaviourLog, Products

    rng = np.random.default_rng(0)
    total = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    time_ = rng.integers(0, DAYS * DAY, total)
    kind = rng.choice(5, total, p=[0.03, 0.06, 0.03, 0.78, 0.1]).astype(np.int8)
    time_ = time_[np.lexsort((time_, owner))]
    size = np.select([kind == 3, kind == 4], [urls, 100_000], products)
    ref = (rng.random(total) ** 3 * size).astype(np.int32)
    table = Products(
        np.arange(products),
        rng.integers(0, 7_000, products).astype(np.int32),
        rng.integers(0, 100, products).astype(np.int16),
        rng.integers(0, 256, (products, 16)).astype(np.int16),
    )
    queries = rng.integers(0, 256, (100_000, 16)).astype(np.int16)
    clients, categories = np.arange(len(lengths)), np.arange(7_000)
    return BehaviourLog(clients, offsets, kind, time_, ref, table, categories, np.arange(urls), queries, name="made up")


def lengths(clients: int) -> np.ndarray:
    """(n,) numbers of events, distributed as in the challenge."""
    return np.clip(np.random.default_rng(1).lognormal(np.log(15), 1.26, clients).astype(int), 1, 300)


def base(name: str, knobs: list[str]) -> RunConfig:
    """A base preset; UBT's for clients of up to 300 events."""
    from zoo import registry

    return override(registry.get(name).preset("base"), [*(["max_length=300"] if name == "ubt" else []), *knobs])


def cut(log: Any, min_visits: int) -> Any:
    """The log, cut after its last event."""
    from zoo.data.behaviour.catalogue import count
    from zoo.data.behaviour.prepared import prepare_as

    end = int(log.time.max()) + 1
    return prepare_as(log, count(log.at(end), min_visits), end)


def rows(clients: int) -> dict[str, Any]:
    """Seconds to the profiles of so many clients."""
    from zoo.data.behaviour.profiles import profile

    prepared, config = cut(made_up(lengths(clients)), 10), base("behav_e", []).model
    started = time.perf_counter()
    found = sum(
        len(next(iter(profile(part, prepared.catalogue, config).values())))
        for part in prepared.everyone().batches(4_096)
    )
    return {"clients": clients, "arrays_of": found, "seconds": round(time.perf_counter() - started, 1)}


def step(knobs: list[str]) -> dict[str, Any]:
    """Seconds of a training step of 16 clients with 300 events each, the best and the median."""
    import keras

    from zoo import artifacts, backends, training
    from zoo.data.loaders.behaviour_sequences import BehaviourSequenceLoader

    config = override(base("ubt", knobs), ["batch_size=16"])
    backends.configure(config.train)
    prepared = cut(made_up(np.full(64, 700)), 2)
    config = config.model_copy(update={"behaviour": BehaviourConfig(min_visits=2)})
    model: Any = artifacts.build("ubt", config, prepared.catalogue)
    loader = BehaviourSequenceLoader(prepared.train, prepared.catalogue, config)
    batches = [keras.tree.map_structure(keras.ops.convert_to_tensor, loader[i % len(loader)]) for i in range(STEPS)]
    shape, size = batches[0][0]["kind"].shape, loader.size
    assert shape == (16, 300) and keras.ops.convert_to_numpy(batches[0][0]["segment"]).all(), shape
    optimizer = training.make_optimizer(config.train, config.train.learning_rate, model.trainable_variables)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, jit_compile="auto")
    taken = []
    for batch in batches:
        started = time.perf_counter()
        model.train_on_batch(*batch)
        taken.append(time.perf_counter() - started)
    started = time.perf_counter()
    for i in range(4):
        loader[i % len(loader)]
    made = (time.perf_counter() - started) / 4
    return {
        "backend": backends.name(),
        "first": round(taken[0], 2),
        "median": round(statistics.median(taken[2:]), 4),
        "best": round(min(taken[2:]), 4),
        "making_a_batch": round(made, 4),
        "weights": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        "clients": size,
        "knobs": ",".join(knobs),
    }


def embed(name: str, clients: int, knobs: list[str]) -> dict[str, Any]:
    """Seconds to the vectors of so many clients."""
    from zoo import artifacts, backends

    config = base(name, knobs)
    backends.configure(config.train)
    count = lengths(clients)
    prepared = cut(made_up(count), 10)
    model: Any = artifacts.build(name, config, prepared.catalogue)
    started = time.perf_counter()
    found = 0
    for part, vectors in model.vector_batches(prepared.everyone()):
        assert np.isfinite(vectors).all()
        found += len(part)
    return {
        "model": name,
        "backend": backends.name(),
        "clients": found,
        "events": int(count.sum()),
        "median_length": float(np.median(count)),
        "mean_length": round(float(count.mean()), 1),
        "seconds": round(time.perf_counter() - started, 1),
        "knobs": ",".join(knobs),
    }


def main() -> None:
    """Runs one of the three; `--child` is how this file calls itself."""
    if len(sys.argv) < 2 or sys.argv[1] not in ("rows", "step", "embed"):
        raise SystemExit(__doc__)
    what, knobs = sys.argv[1], [option for option in sys.argv[2:] if "=" in option]
    plain = [option for option in sys.argv[2:] if "=" not in option and option != "--child"]
    if "--child" in sys.argv:
        print(json.dumps(step(knobs)))
        return
    if what == "rows":
        results: Any = rows(int(plain[0]) if plain else 100_000)
        title = "behaviour_rows"
    elif what == "embed":
        results = embed(plain[0], int(plain[1]) if len(plain) > 1 else 100_000, knobs)
        title = f"behaviour_embed_{plain[0]}_{results['backend']}"
    else:
        results, title = [], "behaviour_step"
        for name in plain[0].split(",") if plain else ["jax", "tensorflow", "torch"]:
            results.append(measured("behaviour_speed", "step", *knobs, "--child", backend=name))
    print(json.dumps(results, indent=2))
    print(write_record(title, results, ("keras", "numpy")))


if __name__ == "__main__":
    main()
