"""UBT on generated logs: what it learns, what a step costs, how fast it embeds clients.

    python -m benchmarks.ubt quality CLIENTS [SEEDS] [K=V,...]   the base preset on the sample of so many clients
    python -m benchmarks.ubt step [BACKEND,...] [K=V,...]        a training step of 16 clients of 300 events each
    python -m benchmarks.ubt embed [CLIENTS] [K=V,...]           vectors of clients of realistic lengths

`quality` trains on what lies before the two windows of targets, but for a tenth of the clients, which stop it. Then the
heads are asked of the first window, without more training: area under the curve of buying nothing, among clients who
bought before and among all, and the share of the purchases whose category is among the best 3 and whose product is
among the best 10, beside those of the most bought ones; and the judge asks probes of its six tasks.

`step` runs on each backend, in a process of its own; the original took 7.8 s on two cores. `embed` draws lengths of
median 15 and mean 33, at most 300, and kinds as in the challenge.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write_record
from config import BehaviourConfig, RunConfig, SampleConfig, override

DAYS = 140
STEPS = 12


# ----------------------------------------------------------------------------------------------------- quality


def quality(clients: int, seed: int, knobs: list[str]) -> dict[str, Any]:
    """Seconds, losses, and scores of the heads and of the judge."""
    import tempfile

    from zoo import artifacts, backends, behaviour, judging, registry, training
    from zoo.data.behaviour.prepared import prepare
    from zoo.data.behaviour.sources import sample
    from zoo.request import Request

    shop = SampleConfig(num_users=clients, num_items=max(clients // 5, 240), num_days=DAYS)
    config = override(registry.get("ubt").preset("base"), [f"seed={seed}", *knobs])
    config = config.model_copy(update={"sample": shop})
    backends.configure(config.train)
    backends.seed(seed)
    prepared = prepare(sample.read(shop, seed), config.behaviour)
    learned, others = behaviour.held_out(prepared, seed)
    model: Any = artifacts.build("ubt", config, prepared.catalogue)
    request = Request("ubt", "ubt", "base", config, Path("."), False)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        validation = behaviour.Validation(others, request)
        result = training.fit(model, registry.get("ubt"), learned, config, Path(folder), (validation,))
        taken = time.perf_counter() - started
    found: dict[str, Any] = {"clients": clients, "seed": seed, "seconds": round(taken, 1), "events": len(prepared.log)}
    found |= {"epochs": len(result.history), "best_epoch": result.best_epoch}
    best = result.history[result.best_epoch - 1]
    found["losses"] = {name: round(value, 4) for name, value in best.items() if "loss" in name}
    started = time.perf_counter()
    vectors = model.vectors(prepared.everyone())
    found["seconds_embedding"] = round(time.perf_counter() - started, 2)
    found["heads"] = {
        "held_out": heads(model, prepared, vectors, np.isin(prepared.everyone().client, others.train.client)),
        "all": heads(model, prepared, vectors, np.ones(len(vectors), bool)),
    }
    rows = prepared.log.relevant()
    entry = {"ubt": (prepared.log.clients[rows], vectors)}
    table = judging.judge(prepared.log, prepared.windows, rows, entry, config.judge, config.behaviour.num_labels, seed)
    found["judge"] = {
        name: {"mean": row["mean"], **{task: one["score"] for task, one in row["tasks"].items()}}
        for name, row in table.rows.items()
    }
    print(table.markdown(), flush=True)
    return found


def heads(model: Any, prepared: Any, vectors: np.ndarray, mine: np.ndarray) -> dict[str, float]:
    """What the model's own heads say of the first window, of the clients `mine`."""
    import keras

    from zoo.data.vocabulary import NUM_SPECIALS
    from zoo.judge_metrics import auroc

    everyone, known = prepared.everyone(), prepared.catalogue
    start, end = prepared.windows.train
    owner, product = prepared.tokens.bought(everyone.client, start, end)
    owner, product = owner[mine[owner]], product[mine[owner]]
    idle = np.ones((len(vectors), 1))
    idle[owner] = 0
    active = np.zeros(len(vectors), bool)
    active[prepared.tokens.bought(everyone.client, 0, start)[0]] = True
    scores = keras.ops.convert_to_numpy(model.churn_scores(keras.ops.convert_to_tensor(vectors)))[:, None]
    found = {
        "churn": float(auroc(idle[mine & active], scores[mine & active])[0]),
        "conversion": float(auroc(idle[mine], scores[mine])[0]),
    }
    popular = np.bincount(known.category, known.buy_counts, known.categories.size)
    tables = {
        "category@3": (model.category_embeddings(), popular, known.category[product], 3),
        "sku@10": (model.item_embeddings(), known.buy_counts, product, 10),
    }
    for name, (table, counts, wanted, k) in tables.items():
        given = vectors[owner] @ keras.ops.convert_to_numpy(table).T
        for title, scored in (("", given), (" of popularity", np.broadcast_to(counts, given.shape))):
            top = np.argsort(-scored[:, NUM_SPECIALS:], axis=1, kind="stable")[:, :k] + NUM_SPECIALS
            found[name + title] = float((top == wanted[:, None]).any(axis=1).mean())
    return {name: round(value, 4) for name, value in found.items()}


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


def base(knobs: list[str]) -> RunConfig:
    """The base preset for clients of up to 300 events."""
    from zoo import registry

    return override(registry.get("ubt").preset("base"), ["max_length=300", *knobs])


def step(knobs: list[str]) -> dict[str, Any]:
    """Seconds of a training step of 16 clients with 300 events each, the best and the median."""
    from zoo import artifacts, backends, training
    from zoo.data.behaviour.catalogue import count
    from zoo.data.behaviour.prepared import prepare_as
    from zoo.data.loaders.behaviour_sequences import BehaviourSequenceLoader

    config = override(base(knobs), ["batch_size=16"])
    backends.configure(config.train)
    log = made_up(np.full(64, 450))
    cut = int(log.time.max())
    prepared = prepare_as(log, count(log.at(cut), 2), cut)
    config = config.model_copy(update={"behaviour": BehaviourConfig(min_visits=2)})
    model: Any = artifacts.build("ubt", config, prepared.catalogue)
    loader = BehaviourSequenceLoader(prepared.train, prepared.catalogue, config)
    batches = [loader[i % len(loader)] for i in range(STEPS)]
    shape, size = batches[0][0]["kind"].shape, loader.size
    assert shape == (16, 300) and all((batch[0]["segment"] > 0).all() for batch in batches), shape
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


def embed(clients: int, knobs: list[str]) -> dict[str, Any]:
    """Seconds to the vectors of so many clients."""
    from zoo import artifacts, backends
    from zoo.data.behaviour.catalogue import count
    from zoo.data.behaviour.prepared import prepare_as

    config = base(knobs)
    backends.configure(config.train)
    lengths = np.clip(np.random.default_rng(1).lognormal(np.log(15), 1.26, clients).astype(int), 1, 300)
    log = made_up(lengths)
    cut = int(log.time.max()) + 1
    prepared = prepare_as(log, count(log.at(cut), 10), cut)
    model: Any = artifacts.build("ubt", config, prepared.catalogue)
    started = time.perf_counter()
    found = 0
    for part, vectors in model.vector_batches(prepared.everyone()):
        assert np.isfinite(vectors).all()
        found += len(part)
    return {
        "backend": backends.name(),
        "clients": found,
        "events": int(lengths.sum()),
        "median_length": float(np.median(lengths)),
        "mean_length": round(float(lengths.mean()), 1),
        "seconds": round(time.perf_counter() - started, 1),
        "knobs": ",".join(knobs),
    }


def main() -> None:
    """Runs one of the three; `--child` is how this file calls itself."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--child"]
    what, knobs = arguments[0], [argument for argument in arguments[1:] if "=" in argument]
    plain = [argument for argument in arguments[1:] if "=" not in argument]
    if "--child" in sys.argv:
        run = {"step": lambda: step(knobs), "embed": lambda: embed(int(plain[0]), knobs)}
        print(json.dumps(run[what]()))
        return
    if what == "quality":
        seeds = range(int(plain[1])) if len(plain) > 1 else range(1)
        found = [quality(int(plain[0]), seed, knobs) for seed in seeds]
        print(json.dumps(found, indent=2))
        write_record(f"ubt_quality_{plain[0]}", found, ("keras", "numpy"))
        return
    names = plain[0].split(",") if what == "step" and plain else ["jax", "tensorflow", "torch"]
    size = [plain[0] if plain else "100000"] if what == "embed" else []
    results = []
    for name in names if what == "step" else [os.environ.get("KERAS_BACKEND", "jax")]:
        command = [sys.executable, "-m", "benchmarks.ubt", what, *size, *knobs, "--child"]
        output = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": name}, capture_output=True, text=True)
        if output.returncode:
            print(output.stderr[-3000:])
            raise SystemExit(1)
        results.append(json.loads(output.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
    write_record(f"ubt_{what}", results, ("keras", "numpy"))


if __name__ == "__main__":
    main()
