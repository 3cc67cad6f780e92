"""Quality beside RecTools and RePlay, with one judge: when training reaches a score, and the score in the end.

    OMP_NUM_THREADS=2 python -m benchmarks.peer_quality sasrec FILE [--rectools PYTHON] [--replay PYTHON]
    OMP_NUM_THREADS=2 python -m benchmarks.peer_quality hstu FILE --layout movielens [--rectools PYTHON]
        [--contestants zoo,rectools] [--set K=V,...] [--target T] [--epochs E] [--patience P] [--seeds 1]
        [--backend tensorflow] [--layout pairs] [--name NAME] [--limit N]

PYTHON is that of an environment of the peer's own; benchmarks/peers.py says how to make one.

    sasrec  seconds of training until NDCG@10 on the validation targets is T (.17), full cross-entropy. Contestants:
            zoo, replay, replay-deprecated and rectools at the settings of benchmarks/peers.py; zoo-bfloat16, with
            `train.precision=mixed_bfloat16`; zoo-ml-1m, the recipe
    hstu    HR@10 and NDCG@10 on the test targets, at the epoch that is best on the validation targets, cosines over
            .05 as in RecTools' tutorial. Contestants: zoo-time and rectools-time, which are told when the next item is
            asked for (where the log has times); zoo and rectools, which know the order alone. Full cross-entropy, or
            with `--set negatives=128` so many uniform negatives for each event

All but the recipe train on the same events: of the training part of the zoo's leave-one-out split, the last `length`
of each user. The history for the test includes the validation event. After each epoch a contestant writes the vectors
of users and items, and waits: the zoo's evaluator ranks the whole catalogue of training, without the user's known
items, ties losing. It goes on until T is reached, P epochs were no better on validation, or E are over. Seconds are
those from the beginning to the end of an epoch's training, compilation included; writing and judging are not.

Not the same: an item that is not among anybody's last events is unknown to RecTools and ranks last there; RecTools may
draw the target as a negative; Adam's second moments forget faster in the peers (.98, the zoo's .999).

`--set` changes the settings of all but the recipe. Each result is written to benchmarks/results/peer_quality_NAME.json
(sasrec or hstu where no name is given) as soon as there is one; a call that finds some there, of the same data,
settings and limits, goes on with the others. With --limit, which takes N users alone to try it out, nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import peers
from benchmarks.record import RESULTS, write_record
from config import DataConfig, EvaluateConfig, RunConfig, override
from zoo import artifacts, backends, evaluation, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import Catalogue, Prepared, prepare
from zoo.data.dataset import Entities
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.recommender import Scorer

SETTINGS: dict[str, dict[str, Any]] = {
    "sasrec": peers.SETTINGS,
    "hstu": peers.SETTINGS | {"dim": 50, "dropout": 0.2, "shared": False, "temperature": 0.05},
}
CONTESTANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sasrec": {
        "zoo": {},
        "zoo-bfloat16": {"precision": "bfloat16"},
        "zoo-ml-1m": {"preset": "ml-1m"},
        "replay": {"deprecated": False},
        "replay-deprecated": {"deprecated": True},
        "rectools": {},
    },
    "hstu": {"zoo-time": {"times": True}, "rectools-time": {"times": True}, "zoo": {}, "rectools": {}},
}
PARTS = {"sasrec": ["validation"], "hstu": ["validation", "test"]}
TARGET = {"sasrec": 0.17, "hstu": 1.0}
METRIC = "ndcg@10"


# -------------------------------------------------------------------------------------------- what all are given


def read(file: str, layout: str, limit: int) -> Prepared:
    """The file, split as the zoo splits it; without features, so that items that nobody was trained on are none."""
    config = RunConfig()
    dataset = sources.load(DataConfig(path=file, layout=layout), config.sample, 0)
    dataset = replace(dataset, users=Entities(dataset.users.ids), items=Entities(dataset.items.ids))
    if limit:
        dataset = dataset.take(dataset.events.user < limit, f"the first {limit} users alone")
    return prepare(splits.split(dataset, config.split, 0))


def hand_over(prepared: Prepared, folder: Path) -> dict[str, str]:
    """Writes what a peer may know; users and items are numbered from 0 in the order of the zoo's tokens.

    train: `user`, `item` and, where there are times, `time` of the training events, in order.
    known: of each user to be judged `user`, `item` and `time` of the validation event, and `query`, the time of the
        test event; an item that nobody was trained on is negative.
    """
    train, (_, first), (_, second) = prepared.train, prepared.cases("validation"), prepared.cases("test")
    files = {
        "train": {"user": train.user[train.row_of_event], "item": train.item, "time": train.timestamp},
        "known": {"user": first.user, "item": first.item, "time": first.timestamp, "query": second.timestamp},
    }
    for name, columns in files.items():
        for column in ("user", "item"):
            columns[column] = columns[column].astype(np.int64) - NUM_SPECIALS
        np.savez(folder / name, **{column: array for column, array in columns.items() if array is not None})
    return {name: str(folder / f"{name}.npz") for name in files} | {"vectors": str(folder)}


# --------------------------------------------------------------------------------------------- the zoo as contestant


class Handing(keras.callbacks.Callback):
    """After each epoch writes the vectors of users and items, and waits for the verdict."""

    def __init__(self, job: dict[str, Any], histories: dict[str, Histories]):
        super().__init__()
        self.job, self.histories, self.began = job, histories, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = time.perf_counter() - self.began
        folder = Path(self.job["vectors"])
        np.save(folder / "items", self.model.item_matrix()[NUM_SPECIALS:])
        for part, histories in self.histories.items():
            np.save(folder / part, self.model.vectors(histories))
        print(json.dumps({"epoch": epoch + 1, "seconds": seconds}), flush=True)
        self.model.stop_training = sys.stdin.readline().strip() != "on"


def zoo(job: dict[str, Any]) -> dict[str, Any]:
    """One training by the zoo."""
    spec = registry.get(job["model"])
    if job["preset"]:
        knobs = {name: job[name] for name in ("epochs", "threads", "seed")}
        given = ",".join(f"{name}={value}" for name, value in knobs.items())
        config = override(spec.preset(job["preset"]), [f"{given},patience=null"])
    else:
        config = peers.zoo_config(job)
    backends.configure(config.train)
    backends.seed(config.seed)
    prepared = read(job["file"], job["layout"], job["limit"])
    histories = {part: prepared.cases(part)[0] for part in job["parts"]}
    model = artifacts.build(job["model"], config, prepared.catalogue)
    with tempfile.TemporaryDirectory() as folder:
        training.fit(model, spec, prepared, config, Path(folder), [Handing(job, histories)])
    loader = spec.stages[0].loader(prepared.train, prepared.catalogue, config)
    return {
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "tokens": int(loader.packing.lengths.sum()),
        "versions": backends.versions(),
        "config": json.loads(config.model_dump_json(include={"model", "train"})),
    }


# -------------------------------------------------------------------------------------------------------- the judge


class Vectors(Scorer):
    """Scores by the inner products of vectors that somebody else has learned.

    Args:
        user: (n,) tokens of the users whose vectors these are.
        users, items: (n, D) and (V - NUM_SPECIALS, D).
    """

    def __init__(self, catalogue: Catalogue, user: np.ndarray, users: np.ndarray, items: np.ndarray):
        if users.shape != (len(user), items.shape[1]) or len(items) + NUM_SPECIALS != catalogue.items.size:
            raise ValueError(f"{users.shape} users and {items.shape} items are not {len(user)} and the catalogue")
        self.catalogue, self.users = catalogue, users
        self.items = np.concatenate([np.zeros((NUM_SPECIALS, items.shape[1]), np.float32), items])
        self.row = np.zeros(catalogue.users.size, np.int64)
        self.row[user] = np.arange(len(user))

    def score(self, histories: Histories) -> np.ndarray:
        return self.users[self.row[histories.user]] @ self.items.T


def judge(prepared: Prepared, part: splits.Part, folder: Path, bootstrap: int = 0) -> evaluation.Evaluation:
    """What the vectors in `folder` reach on the targets of a part."""
    histories, targets = prepared.cases(part)
    model = Vectors(prepared.catalogue, histories.user, np.load(folder / f"{part}.npy"), np.load(folder / "items.npy"))
    config = EvaluateConfig(top_k=(10,), bootstrap=bootstrap)
    return evaluation.evaluate(model, histories, targets, prepared.catalogue, config)


def compete(
    command: list[str], job: dict[str, Any], prepared: Prepared, patience: int, target: float, environment: dict
) -> dict[str, Any]:
    """One training, judged after each of its epochs."""
    curve: list[list[float]] = []
    row: dict[str, Any] = {"best_epoch": 0, "val_ndcg@10": -1.0, "reached": None}
    seconds, said = 0.0, ""
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [*command, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=os.environ | environment,
        ) as process,
    ):
        assert process.stdin and process.stdout
        try:
            for said in process.stdout:
                if not said.startswith('{"epoch"'):
                    continue
                epoch = json.loads(said)
                seconds += epoch["seconds"]
                found = judge(prepared, "validation", Path(job["vectors"])).metrics
                curve.append([round(seconds, 2), round(found["hit_rate@10"], 4), round(found[METRIC], 4)])
                better = found[METRIC] > row["val_ndcg@10"]
                if better:
                    row |= {"best_epoch": epoch["epoch"], "val_ndcg@10": found[METRIC]}
                    if "test" in job["parts"]:
                        tested = judge(prepared, "test", Path(job["vectors"]), bootstrap=1000)
                        row |= {name: round(tested.metrics[name], 4) for name in ("hit_rate@10", METRIC)}
                        row["interval ndcg@10"] = [round(end, 4) for end in tested.intervals[METRIC]]
                if found[METRIC] >= target:
                    row["reached"] = {"epoch": epoch["epoch"], "seconds": round(seconds, 1)}
                print(
                    f"{job['name']:<18} seed {job['seed']}  epoch {epoch['epoch']:>3}  {epoch['seconds']:7.2f} s, "
                    f"{seconds:8.1f} s in all  validation HR@10 {found['hit_rate@10']:.4f}  "
                    f"NDCG@10 {found[METRIC]:.4f}{' *' if better else ''}",
                    flush=True,
                )
                over = row["reached"] or epoch["epoch"] - row["best_epoch"] >= patience
                print("stop" if over else "on", file=process.stdin, flush=True)
        except BaseException:
            process.kill()
            raise
        if process.wait():
            complaints.seek(0)
            raise SystemExit(f"{job['name']} failed:\n{said}\n{complaints.read()[-4000:]}")
    told = json.loads(said)
    own = {key: told[key] for key in ("tokens", "versions", "config") if key in told}
    row |= {"val_ndcg@10": round(row["val_ndcg@10"], 4), "epochs": len(curve), "seconds": round(seconds, 1)}
    return row | {"peak_gib": round(told["peak_gib"], 3), **own, "curve": curve}


# ------------------------------------------------------------------------------------------------------- the parent


def contestants(options: argparse.Namespace, timed: bool) -> dict[str, list[str]]:
    """The command of each that can run, but for the job."""
    commands = {}
    for name, own in CONTESTANTS[options.model].items():
        package = name.partition("-")[0]
        wanted = options.contestants is None or name in options.contestants
        if not wanted or (own.get("times") and not timed):
            continue
        if package == "zoo":
            commands[name] = [sys.executable, "-m", "benchmarks.peer_quality", "--zoo"]
        elif python := getattr(options, package):
            commands[name] = peers.peer_command(package, python)
    return commands


def changed(settings: dict[str, Any], text: str) -> dict[str, Any]:
    """`settings` with `dim=64,rate=0.002` applied.

    Raises:
        SystemExit: no such setting, or no number.
    """
    result, known = dict(settings), [name for name in settings if name not in ("seed", "shared")]
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if name not in known:
            raise SystemExit(f"--set {pair}: unknown; known: {', '.join(known)}")
        try:
            result[name] = type(settings[name])(value)
        except ValueError:
            raise SystemExit(f"--set {pair}: no {type(settings[name]).__name__}") from None
    return result


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'':<18}{'seed':>5}{'s / epoch':>11}{'epochs':>8}{'best':>6}{'val NDCG@10':>13}{'at target':>18}"
        f"{'test HR@10':>12}{'test NDCG@10':>14}"
    ]
    for row in rows:
        reached = row["reached"] and f"{row['reached']['seconds']:,.0f} s, epoch {row['reached']['epoch']}"
        scores = "".join(
            f"{row[name]:>{width}.4f}" if name in row else f"{'':>{width}}"
            for name, width in (("hit_rate@10", 12), (METRIC, 14))
        )
        lines.append(
            f"{row['name']:<18}{row['seed']:>5}{row['seconds'] / row['epochs']:>11.2f}{row['epochs']:>8}"
            f"{row['best_epoch']:>6}{row['val_ndcg@10']:>13.4f}{reached or '-':>18}{scores}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=tuple(CONTESTANTS))
    parser.add_argument("file")
    parser.add_argument("--rectools", metavar="PYTHON")
    parser.add_argument("--replay", metavar="PYTHON")
    parser.add_argument("--contestants", type=lambda text: text.split(","), help="of those that can run; else all")
    parser.add_argument("--set", default="", metavar="K=V,...", help=f"of {', '.join(SETTINGS['hstu'])}")
    parser.add_argument("--target", type=float, help="NDCG@10 on validation at which training stops")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--backend", choices=("tensorflow", "jax", "torch"), default="tensorflow", help="of the zoo")
    parser.add_argument("--layout", default="pairs")
    parser.add_argument("--name", help="of the result")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="take N users alone and write no results")
    options = parser.parse_args()
    model, threads = options.model, int(os.environ.get("OMP_NUM_THREADS", "2"))
    if unknown := set(options.contestants or ()) - set(CONTESTANTS[model]):
        parser.error(f"--contestants {', '.join(sorted(unknown))}: known: {', '.join(CONTESTANTS[model])}")
    settings = changed(SETTINGS[model], options.set)
    if os.getloadavg()[0] > 0.5:
        print("The machine is busy: PyTorch's threads wait for each other, its times mean nothing.")
    target = TARGET[model] if options.target is None else options.target
    prepared = read(options.file, options.layout, options.limit)
    print(prepared.split.summary(), flush=True)
    commands = contestants(options, prepared.train.timestamp is not None)
    if settings["negatives"] and settings["shared"] and "rectools" in commands:
        parser.error("--set negatives: RecTools draws for each event, the others for a batch; leave rectools out")
    data = {
        "users": len(prepared.train),
        "items": prepared.catalogue.items.num_trained,
        "events": len(prepared.train.item),
        "split_sha256": prepared.split.sha256,
    }
    limits = {"epochs": options.epochs, "patience": options.patience, "target": target, "backend": options.backend}
    same = {"data": data, "settings": {"model": model, **settings}, "limits": limits}
    title = f"peer_quality_{options.name or model}"
    path = RESULTS / f"{title}.json"
    before = json.loads(path.read_text())["results"] if path.exists() and not options.limit else {}
    rows: list[dict[str, Any]] = before["rows"] if all(before.get(key) == same[key] for key in same) else []
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "KERAS_BACKEND": options.backend}
    with tempfile.TemporaryDirectory() as folder:
        files = hand_over(prepared, Path(folder))
        for seed in range(options.seeds):
            for name, command in commands.items():
                if any((row["name"], row["seed"]) == (name, seed) for row in rows):
                    continue
                job = settings | {"name": name, "model": model, "seed": seed, "epochs": options.epochs}
                job |= {"threads": threads, "parts": PARTS[model], "preset": None, "times": False, "deprecated": False}
                job |= CONTESTANTS[model][name] | files
                job |= {"file": options.file, "layout": options.layout, "limit": options.limit}
                load = round(os.getloadavg()[0], 2)
                row = compete(command, job, prepared, options.patience, target, environment)
                rows.append({"name": name, "seed": seed, "load_before": load, **row})
                if not options.limit:
                    write_record(title, same | {"rows": rows}, ("numpy", "keras"))
    print(f"\n{table(rows)}")
    if len({row["tokens"] for row in rows if "preset" not in CONTESTANTS[model][row["name"]]}) > 1:
        print("NOT THE SAME EVENTS: " + ", ".join(f"{row['name']} {row['tokens']:,}" for row in rows))
    if not options.limit:
        print(path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--zoo"]:
        print(json.dumps(zoo(json.loads(sys.argv[2]))))
    else:
        main()
