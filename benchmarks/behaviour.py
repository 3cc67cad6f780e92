"""What vectors of clients are worth: BEHAV-E, UBT, statistics and their merges, judged by the six tasks.

    python -m benchmarks.behaviour sample [CLIENTS] [--seeds 3] [--probe linear]  the built-in generator, 100 looks each
    python -m benchmarks.behaviour FILE [--days 28] [--seeds 3] [--probe linear]  a log of behaviour, e.g. Online Retail

Each entry is trained on what lies before two windows of targets; a probe learns from the first window and is measured
on the second. All rows but `random` are as short as those of merges, for the probe learns otherwise from long ones than
from short ones (`zoo.merging`). The table holds means over seeds (of the data, too, with `sample`). Of a file `rfm` is
there, too: recency, frequency and money (price buckets) with their squares, by `--probe linear` read by logistic
regression.
Results are kept after each seed, vectors in runs/quality; a call goes on where one stopped, and another probe judges
the vectors that are there: after a change of a model's code, delete them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, mean_and_deviation, write_record
from config import BehaviourConfig, DataConfig, JudgeConfig, SampleConfig, override
from zoo import artifacts, backends, judging, merging, registry, training
from zoo.behaviour import Validation, held_out
from zoo.data.behaviour import labels, sources
from zoo.data.behaviour.log import BUY, DAY, BehaviourLog
from zoo.data.behaviour.prepared import BehaviourPrepared, prepare
from zoo.request import Request

ENTRIES = {  # name: (model, preset)
    "behav_e": ("behav_e", "base"),
    "behav_e one cycle": ("behav_e", "base-one-cycle"),
    "ubt": ("ubt", "base"),
    "stats": ("client_stats", "base"),
}
MERGES = {
    "behav_e merged": ("behav_e", "behav_e one cycle"),
    "behav_e + ubt + stats": ("behav_e", "behav_e one cycle", "ubt", "stats"),
}


def generated(clients: int, seed: int) -> BehaviourLog:
    """A log of the built-in generator, 100 looks a client."""
    # Little noise, so that new products come until the end of the log, and with them a task of new products.
    sample = SampleConfig(
        num_users=clients, num_items=clients // 5 + 200, num_days=140, events_per_user=100, noise=0.05
    )
    return sources.load(DataConfig(), sample, seed)


def vectors(name: str, preset: str, prepared: BehaviourPrepared, seed: int, folder: Path) -> tuple[np.ndarray, float]:
    """(vectors of the clients asked for, seconds of training); those of an earlier call, if its recipe was this one."""
    spec = registry.get(name)
    config = override(spec.preset(preset), [f"seed={seed}"])
    assert prepared.windows is not None
    data = prepared.log.summary() + prepared.windows.summary()
    recipe = hashlib.sha256((config.model_dump_json() + data).encode()).hexdigest()[:12]
    kept = folder / f"vectors_{recipe}.npz"
    if kept.exists():
        with np.load(kept) as found:
            return found["vectors"], float(found["seconds"])
    backends.configure(config.train)
    backends.seed(seed)
    model: Any = artifacts.build(name, config, prepared.catalogue)
    seconds = 0.0
    if spec.stages:
        learned, others = held_out(prepared, seed)
        watch = Validation(others, Request(name, name, preset, config, folder, False))
        seconds = training.fit(model, spec, learned, config, folder, [watch]).seconds
    else:
        model.adapt(prepared.train)
    result = model.vectors(prepared.everyone())
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(kept, vectors=result, seconds=seconds)
    return result, seconds


def rfm(prepared: BehaviourPrepared) -> np.ndarray:
    """(n, 6) recency, frequency and money of what clients bought, as logarithms, and their squares."""
    assert prepared.windows is not None
    log, clients = prepared.log, prepared.log.relevant()
    known = log.at(prepared.windows.start, clients)
    index, owner = known.events()
    bought = log.kind[index] == BUY
    index, owner = index[bought], owner[bought]
    count = np.bincount(owner, minlength=len(clients))
    last = np.full(len(clients), log.time.min())
    np.maximum.at(last, owner, log.time[index])
    money = np.bincount(owner, np.maximum(log.products.price[log.ref[index]], 0), len(clients))
    recency = np.log1p((prepared.windows.start - last) / DAY)
    columns = np.stack([recency, np.log1p(count), np.log1p(money)], axis=1)
    columns = (columns - columns.mean(axis=0)) / (columns.std(axis=0) + 1e-9)
    return np.concatenate([columns, columns**2], axis=1).astype(np.float32)


def measure(options: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """One seed: the table of all entries."""
    behaviour = BehaviourConfig(window_days=options.days)
    if options.data == "sample":
        log = generated(options.clients, seed)
    else:
        log = sources.load(DataConfig(path=options.data), SampleConfig())
    prepared = prepare(log, behaviour)
    assert prepared.windows is not None
    print(log.summary(), prepared.windows.summary(), sep="\n", flush=True)
    rows = log.relevant()
    ids, found, seconds = log.clients[rows], {}, {}
    for title, (name, preset) in ENTRIES.items():
        found[title], seconds[title] = vectors(name, preset, prepared, seed, folder / title.replace(" ", "_"))
        print(f"{title}: {found[title].shape[1]} numbers, trained in {seconds[title]:.0f} s", flush=True)
    if options.data != "sample":
        found["rfm"] = rfm(prepared)
    alone = {title: (title,) for title in found if title != "stats"}  # which are there anyway
    entries = {
        title: (ids, merging.merge([(ids, found[part]) for part in parts], ids))
        for title, parts in (alone | MERGES).items()
    }
    config = JudgeConfig(probe=options.probe)
    table = judging.judge(log, prepared.windows, rows, entries, config, behaviour.num_labels, seed)
    return {"rows": table.rows, "paired": table.paired, "notes": table.notes, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("clients", type=int, nargs="?", default=2000)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--probe", default="thin", choices=("thin", "full", "linear"))
    options = parser.parse_args()
    name = f"sample_{options.clients}" if options.data == "sample" else Path(options.data).name.partition(".")[0]
    title = f"behaviour_{name}_{options.probe}"
    path = RESULTS / f"{title}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"]["seeds"] if path.exists() else {}
    for seed in range(options.seeds):
        if str(seed) not in results:
            results[str(seed)] = measure(options, seed, Path("runs") / "quality" / f"behaviour_{name}_{seed}")
            write_record(title, {"seeds": results}, ("numpy", "keras", backends.name()))
    measured = [results[str(seed)]["rows"] for seed in range(options.seeds)]
    tasks = [task for task in labels.TASKS if all(task in rows["stats"]["tasks"] for rows in measured)]
    print(f"{'':<26}" + "".join(f"{task.removeprefix('propensity_'):>12}" for task in tasks) + f"{'mean':>9}{'±':>7}")
    for entry in measured[0]:
        numbers = np.array([[rows[entry]["tasks"][task]["score"] for task in tasks] for rows in measured])
        means = "".join(f"{value:>12.4f}" for value in numbers.mean(axis=0))
        mean, deviation = mean_and_deviation(numbers.mean(axis=1))
        print(f"{entry:<26}{means}{mean:>9.4f}{deviation:>7.4f}")


if __name__ == "__main__":
    main()
