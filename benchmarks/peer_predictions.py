"""Seconds to the ten best new items of every user: the zoo's SASRec against RePlay's and RecTools', and its evaluation.

    OMP_NUM_THREADS=2 python -m benchmarks.peer_predictions FILE [--rectools PYTHON] [--replay PYTHON]
        [--backends tensorflow,jax,torch] [--rounds 2] [--layout pairs] [--limit N]

PYTHON is that of an environment of the peer's own; benchmarks/peers.py says how to make one, and with what settings all
train, here for one epoch: time hardly depends on the weights.

From the model and the interactions in memory to the lists in memory: whoever was trained on gets a list of the items
that are not in his history, of all that the model knows. Each does it its own way: the zoo by `recommending.recommend`,
RecTools by `recommend`, RePlay by `Trainer.predict` with a callback that keeps the lists and a filter of what was seen
(its current form reads the histories from a Parquet file, which is there before). 256 users a batch, which is what
RecTools takes by itself, the zoo its own 1,024. The zoo's search takes all cores: give the others as many threads.

`evaluation` is the zoo's `evaluation.evaluate` of all users: ranks in the whole catalogue, lists, all metrics and their
intervals. Peers evaluate lists, which takes them the time of these and more.

Each run is a process of its own, in turns; of what it does several times the first time, which compiles, is dropped.
`/ BACKEND` is how many times the seconds of the zoo on that backend. With --limit, which takes N users alone to try it
out, nothing is written.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.record import write_record

LISTS = {"lists": 10, "repeats": 4}  # items of a list, and how often all are made


def zoo(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of lists and of evaluations by the zoo."""
    model, prepared, *_ = peers.trained(job)
    from config import EvaluateConfig
    from zoo import backends, evaluation, recommending
    from zoo.data.histories import Histories

    known = prepared.train
    # Any target takes as long: the last item that is known.
    targets = Histories(known.user, np.arange(len(known) + 1), known.item[known.offsets[1:] - 1])

    def seconds(run: Callable[[], Any]) -> list[float]:
        result = []
        for _ in range(job["repeats"]):
            begin = time.perf_counter()
            run()
            result.append(time.perf_counter() - begin)
        return result

    return {
        "lists": seconds(lambda: list(recommending.recommend(model, known, job["lists"]))),
        "evaluation": seconds(lambda: evaluation.evaluate(model, known, targets, prepared.catalogue, EvaluateConfig())),
        "versions": backends.versions(),
    }


def summary(rounds: list[dict[str, Any]], users: int) -> dict[str, Any]:
    """One contestant; the first time of each round compiles."""
    medians = {
        what: round(statistics.median(one for found in rounds for one in found[what][1:]), 3)
        for what in ("lists", "evaluation")
        if what in rounds[0]
    }
    every = {what: [[round(one, 3) for one in found[what]] for found in rounds] for what in medians}
    row = {"seconds": medians["lists"], "users_per_second": round(users / medians["lists"]), "all": every}
    return row | {name: medians[name] for name in medians if name != "lists"} | {"versions": rounds[0]["versions"]}


def table(rows: dict[str, dict[str, Any]]) -> str:
    columns = [name for name in rows if name.startswith("zoo ")]
    heads = "".join(f"{'/ ' + name.removeprefix('zoo '):>13}" for name in columns)
    lines = [f"{'':<18}{'s, lists':>10}{'users / s':>11}{'s, evaluation':>15}{heads}"]
    for name, row in rows.items():
        evaluation = f"{row['evaluation']:.2f}" if "evaluation" in row else ""
        times = "".join(f"{row['times'][column]:>13.2f}" for column in columns)
        lines.append(f"{name:<18}{row['seconds']:>10.2f}{row['users_per_second']:>11,}{evaluation:>15}{times}")
    return "\n".join(lines)


def main() -> None:
    options = peers.arguments(__doc__).parse_args()
    threads, load = peers.conditions()
    with tempfile.TemporaryDirectory() as folder:
        train = str(Path(folder, "train.npz"))
        data = peers.read(options, train)
        job = {"model": "sasrec", **peers.SETTINGS, "times": data["times"], "epochs": 1, "threads": threads} | LISTS
        commands = peers.contestants("sasrec", options, "peer_predictions")
        found = peers.in_turns(commands, job | {"train": train}, options.rounds, "lists")
    rows = {name: summary(rounds, data["users"]) for name, rounds in found.items()}
    peers.compare(rows)
    times = LISTS["repeats"] - 1
    print(f"\ntop {LISTS['lists']} of {data['users']:,} users, median of {options.rounds} x {times}, {threads} threads")
    print(table(rows))
    if not options.limit:
        results = {"load_before": load, "job": job, "data": data, "rows": rows}
        print(write_record("peer_predictions", results, ("numpy",)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--zoo"]:
        print(json.dumps(zoo(json.loads(sys.argv[2]))))
    else:
        main()
