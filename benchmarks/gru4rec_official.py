"""GRU4Rec trained by its authors' code and by the zoo: same sessions, same parameters, same targets.

    KERAS_BACKEND=jax python -m benchmarks.gru4rec_official CHECKOUT PYTHON FILE [--layout sessions] [--epochs 10]
        [--seeds 1]
    OMP_NUM_THREADS=2 python -m benchmarks.gru4rec_official CHECKOUT PYTHON FILE --speed [--rounds 2]
        [--backends jax,tensorflow,torch] [--sessions 12000]

CHECKOUT is a clone of the official code, PYTHON the one that runs it, on the CPU: of an environment of its own.

    git clone https://github.com/hidasib/GRU4Rec_PyTorch_Official
    python -m venv gru4rec && gru4rec/bin/pip install torch 'numpy<2' 'pandas<3' joblib  # PYTHON gru4rec/bin/python

Without --speed: recall and MRR. A tenth of the sessions is tested, another tenth left out; each event of a tested
session but its first is to be predicted from those before it. Held-out events of items that were never trained on are
removed, for the official code does not know them. The parameters are the official ones for Diginetica, the preset
`diginetica`. SEEDS are those of the zoo.

With --speed: events per second of the second epoch over the first SESSIONS sessions, in turns, each run in a process
of its own; with the parameters for Diginetica (width 512, BPR-max) and with those the official code has by default
(width 100, cross-entropy). The catalogue is the whole one for the zoo, that of these sessions for the official code.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.process import measured
from benchmarks.record import write_record
from config import DataConfig, RunConfig, override
from zoo import artifacts, backends, evaluation, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import Prepared, prepare
from zoo.data.splits import Split

CUT = 20
OFFICIAL = {
    "diginetica": (
        "loss=bpr-max,constrained_embedding=True,embedding=0,elu_param=1,layers=512,batch_size=128,dropout_p_embed=0.5,"
        "dropout_p_hidden=0.3,learning_rate=0.05,momentum=0.15,n_sample=2048,sample_alpha=0.3,bpreg=0.9,logq=0.0"
    ),
    "default": (
        "loss=cross-entropy,constrained_embedding=True,embedding=0,layers=100,batch_size=64,dropout_p_embed=0.0,"
        "dropout_p_hidden=0.0,learning_rate=0.05,momentum=0.0,n_sample=2048,sample_alpha=0.5,logq=0.0"
    ),
}
ZOO = {
    "diginetica": "",
    "default": "loss=sampled_softmax,embedding_dim=100,batch_size=64,embedding_dropout=0,dropout=0,momentum=0,"
    "popularity_power=0.5,logq=0",
}


def warm(split: Split) -> Split:
    """The split without held-out events of items that were never trained on."""
    events, part = split.dataset.events, split.part
    trained = np.zeros(len(split.dataset.items), bool)
    trained[events.item[part == splits.TRAIN]] = True
    kept = np.flatnonzero((part == splits.TRAIN) | trained[events.item])
    user, part = events.user[kept], part[kept]
    first = np.append(True, user[1:] != user[:-1])  # nothing precedes it any more: no target
    for target, context in ((splits.TEST, splits.TEST_CONTEXT), (splits.VALIDATION, splits.VALIDATION_CONTEXT)):
        part[first & (part == target)] = context
    return Split(split.dataset.take(kept), part, split.strategy, rolling=split.rolling)


def frame(split: Split, *parts: int) -> pd.DataFrame:
    """Events as the official code wants them; the order of the log is the time."""
    rows = np.flatnonzero(np.isin(split.part, parts))
    events = split.dataset.events
    return pd.DataFrame({"SessionId": events.user[rows], "ItemId": events.item[rows], "Time": rows})


def run_official(checkout: Path, python: Path, train: Path, parameters: str, *more: Any) -> str:
    """What the official code prints."""
    command = [python.absolute(), "run.py", train, "-ps", parameters, "-d", "cpu", *more]
    done = subprocess.run([str(word) for word in command], cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def official(checkout: Path, python: Path, split: Split, epochs: int) -> dict[str, Any]:
    """Scores and seconds of the official code."""
    with tempfile.TemporaryDirectory() as folder:
        train, test = Path(folder, "train.tsv"), Path(folder, "test.tsv")
        frame(split, splits.TRAIN).to_csv(train, sep="\t", index=False)
        frame(split, splits.TEST, splits.TEST_CONTEXT).to_csv(test, sep="\t", index=False)
        parameters = f"{OFFICIAL['diginetica']},n_epochs={epochs}"
        said = run_official(checkout, python, train, parameters, "-t", test, "-m", CUT, "-e", "conservative")
    print(said)
    recall, mrr = map(float, re.findall(rf"(?:Recall|MRR)@{CUT}: ([\d.]+)", said))
    (seconds,) = re.findall(r"Total training time: ([\d.]+)s", said)
    losses = [float(loss) for loss in re.findall(r"loss: ([\d.]+)", said)]
    return {f"recall@{CUT}": recall, f"mrr@{CUT}": mrr, "seconds": float(seconds), "losses": losses}


def zoo(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """Scores and seconds of the zoo."""
    backends.seed(config.seed)
    model = artifacts.build("gru4rec", config, prepared.catalogue)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = training.fit(model, registry.get("gru4rec"), prepared, config, Path(folder), [])
    seconds = time.perf_counter() - begin
    tested = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, config.evaluate, config.seed)
    scores = tested.slices["events"]
    row = {f"recall@{CUT}": scores[f"hit_rate@{CUT}"], f"mrr@{CUT}": scores[f"mrr@{CUT}"], "targets": scores["targets"]}
    return {"seed": config.seed, **row, "seconds": seconds, "losses": [epoch["loss"] for epoch in result.history]}


def prepared_split(config: RunConfig, file: str, layout: str) -> Split:
    """The sessions, split."""
    dataset = sources.load(DataConfig(path=file, layout=layout), config.sample, 0)
    return warm(splits.split(dataset, config.split, 0))


def diginetica(*overrides: str) -> RunConfig:
    """The preset, without validation."""
    preset = registry.get("gru4rec").preset("diginetica")
    return override(preset, ["monitor=null,bootstrap=0", f"evaluate.top_k={CUT}", *overrides])


# ------------------------------------------------------------------------------------------------------------ quality


def quality(options: argparse.Namespace) -> None:
    """Scores of both."""
    config = diginetica(f"epochs={options.epochs}", f"data.path={options.file}")
    backends.configure(config.train)
    split = prepared_split(config, options.file, options.layout)
    print(split.summary(), flush=True)
    theirs = official(options.checkout, options.python, split, options.epochs)
    prepared = prepare(split)
    ours = [zoo(override(config, [f"seed={seed}"]), prepared) for seed in range(options.seeds)]
    results = {"official": theirs, "zoo": ours, "split_sha256": split.sha256}
    for name, row in (("official", theirs), *(("zoo", row) for row in ours)):
        scores = "  ".join(f"{metric}@{CUT} {row[f'{metric}@{CUT}']:.4f}" for metric in ("recall", "mrr"))
        print(f"{name:<10}{scores}  {row['seconds']:.0f} s")
    print(write_record("gru4rec_official", results, ("numpy", "keras", "torch", backends.name())))


# -------------------------------------------------------------------------------------------------------------- speed


def zoo_speed(setting: str, file: str, layout: str, sessions: int) -> float:
    """Events per second of a second epoch."""
    config = diginetica("epochs=2", *filter(None, [ZOO[setting]]))
    backends.configure(config.train)
    backends.seed(0)
    prepared = prepare(prepared_split(config, file, layout))
    prepared = replace(prepared, train=prepared.train.take(np.arange(min(sessions, len(prepared.train)))))
    model = artifacts.build("gru4rec", config, prepared.catalogue)
    with tempfile.TemporaryDirectory() as folder:
        result = training.fit(model, registry.get("gru4rec"), prepared, config, Path(folder))
    return float((prepared.train.lengths - 1).clip(min=0).sum() / result.history[-1]["seconds"])


def speed(options: argparse.Namespace) -> None:
    """Events per second of both, in turns."""
    split = prepared_split(diginetica(), options.file, options.layout)
    log = frame(split, splits.TRAIN)
    log = log[log["SessionId"].isin(log["SessionId"].unique()[: options.sessions])]
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        train = Path(folder, "train.tsv")
        log.to_csv(train, sep="\t", index=False)
        for _ in range(options.rounds):
            for setting, parameters in OFFICIAL.items():
                rows = found.setdefault(setting, {})
                said = run_official(options.checkout, options.python, train, f"{parameters},n_epochs=2")
                rows.setdefault("official", []).append(float(re.findall(r"([\d.]+) e/s", said)[-1]))
                for backend in options.backends.split(","):
                    job = json.dumps([setting, options.file, options.layout, options.sessions])
                    rows.setdefault(backend, []).append(measured("gru4rec_official", "--zoo", job, backend=backend))
    table = {
        setting: {name: round(statistics.median(values)) for name, values in rows.items()}
        for setting, rows in found.items()
    }
    for setting, rows in table.items():
        ratios = (f"{name} {value:,} ({value / rows['official']:.2f})" for name, value in rows.items())
        print(f"{setting:<12}{'  '.join(ratios)}  events per second")
    results = {"sessions": options.sessions, "events_per_second": table, "all": found}
    print(write_record("gru4rec_official_speed", results, ("numpy", "keras", "jax", "tensorflow", "torch")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("python", type=Path)
    parser.add_argument("file")
    parser.add_argument("--layout", default="sessions")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--backends", default="jax,tensorflow,torch")
    parser.add_argument("--sessions", type=int, default=12_000)
    options = parser.parse_args()
    (speed if options.speed else quality)(options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--zoo"]:
        print(zoo_speed(*json.loads(sys.argv[2])))
    else:
        main()
