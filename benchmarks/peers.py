"""Seconds and memory of a training epoch: the zoo's against RecTools, RePlay and RecBole, same events and settings.

    OMP_NUM_THREADS=2 python -m benchmarks.peers FILE [--rectools PYTHON] [--replay PYTHON] [--recbole PYTHON]
        [--models sasrec,sasrec-sampled,sasrec-bfloat16,sasrec-50,bert4rec,hstu] [--backends tensorflow,jax,torch]
        [--epochs 3] [--rounds 2] [--layout pairs] [--name NAME] [--limit N]

PYTHON is that of an environment of the peer's own:

    python -m venv rectools && rectools/bin/pip install 'rectools[torch]==0.19.0'  # --rectools rectools/bin/python
    python -m venv replay && replay/bin/pip install 'replay-rec[torch]==0.22.0'    # --replay replay/bin/python
    python -m venv recbole && recbole/bin/pip install recbole==1.2.1 torch 'numpy<2' 'pandas<3' 'setuptools<81'

All train on the training part of the leave-one-out split: each user's events without the last two. 64 dimensions, two
blocks, histories of 200, batches of 128 users, dropout .1 (of attention weights, too), Adam; one head, BERT4Rec two.

    sasrec          Kang & McAuley's block, full cross-entropy
    sasrec-sampled  the same with 256 uniform negatives, shared by a batch; not RecTools, which draws for each event
    sasrec-bfloat16 sasrec with matrix products in bfloat16: `train.precision=mixed_bfloat16`, Lightning's bf16-mixed
                    (RePlay's current form fails in it: float32)
    sasrec-50       sasrec over all events, in histories of 50: RecBole, which repeats a history for each event of it;
                    the first batches of an epoch are timed there, 2,048 events each
    bert4rec        a fifth masked, full cross-entropy; neither transform nor, but in RePlay, biases of the items;
                    RecTools scores all slots, the others the masks alone
    hstu            full cross-entropy of cosines, attention by distance and, where the log has times, by time

RePlay's SasRec is measured in its current form, encoding in buckets of 32 histories, and in its deprecated one.
Each run is a process of its own, in turns; its first epoch, which compiles, is dropped. Nobody validates, logs or saves
within the time that counts. Peak memory is that of the process, imports and compilation included. Tokens are events
that are input, slots the places they are laid out in, padding included. `/ BACKEND` is how many times the seconds of
the zoo on that backend. benchmarks/results/peers_MODEL.json, with --name peers_MODEL_NAME.json, holds it all; with
--limit, which takes N users alone to try it out, nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write_record

SETTINGS: dict[str, Any] = {
    "dim": 64,
    "blocks": 2,
    "heads": 1,
    "length": 200,
    "batch": 128,
    "dropout": 0.1,
    "rate": 1e-3,
    "negatives": 0,  # none: full cross-entropy
    "all_events": False,  # the last `length` of a user
    "shared": True,  # the negatives, by the events of a batch
    "seed": 0,
}
MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {},
    "sasrec-sampled": {"negatives": 256},
    "sasrec-bfloat16": {"precision": "bfloat16"},
    "sasrec-50": {"length": 50, "all_events": True},
    "bert4rec": {"heads": 2, "mask": 0.2},
    "hstu": {"temperature": 0.05},
}
PEERS = {  # what each can train
    "rectools": ("sasrec", "sasrec-bfloat16", "bert4rec", "hstu"),
    "replay": ("sasrec", "sasrec-sampled", "sasrec-bfloat16", "bert4rec"),
    "replay-deprecated": ("sasrec", "sasrec-sampled", "sasrec-bfloat16"),
    "recbole": ("sasrec-50",),
}


# ---------------------------------------------------------------------------------------------- in processes


def prepare(file: str, layout: str, limit: int, train: str) -> dict[str, Any]:
    """Writes the training events, in order, to the file `train`; says what is in it."""
    from config import DataConfig, RunConfig
    from zoo.data import sources, splits

    config = RunConfig()
    dataset = sources.load(DataConfig(path=file, layout=layout), config.sample, 0)
    split = splits.split(dataset, config.split, 0)
    print(split.summary())
    events = split.events(splits.TRAIN)
    if limit:
        events = events.take(events.user < limit)
    users, user = np.unique(events.user, return_inverse=True)
    items, item = np.unique(events.item, return_inverse=True)
    log = {"user": user, "item": item} | ({} if events.timestamp is None else {"time": events.timestamp})
    np.savez(train, **log)
    known = {"users": len(users), "items": len(items), "events": len(events), "times": "time" in log}
    return known | {"split_sha256": split.sha256}


def zoo_config(job: dict[str, Any]) -> Any:
    """The zoo's configuration for the settings of a job."""
    from config import override
    from zoo import registry

    name = job["model"].partition("-")[0]
    knobs = {
        "sasrec": f"block=original,relative_bias=false,expansion=1,attention_dropout={job['dropout']}",
        "bert4rec": f"mask_share={job.get('mask')},last_share=0,transform=false,item_bias=false,expansion=4,"
        f"relative_bias=false,attention_dropout={job['dropout']}",
        # RecTools looks at the time of the next event wherever it looks at times.
        "hstu": f"similarity=cosine,temperature={job.get('temperature')},"
        f"use_time={job['times']},query_time={job['times']}",
    }[name]
    if job["negatives"]:
        knobs += f",loss=sampled_softmax,share_negatives={job['shared']},num_negatives={job['negatives']}"
    knobs += (
        f",all_events={job['all_events']},embedding_dim={job['dim']},num_blocks={job['blocks']},num_heads={job['heads']},"
        f"max_length={job['length']},dropout={job['dropout']},batch_size={job['batch']},learning_rate={job['rate']},"
        f"epochs={job['epochs']},threads={job['threads']},patience=null,seed={job['seed']}"
    )
    if job.get("precision") == "bfloat16":
        knobs += ",precision=mixed_bfloat16"
    return override(registry.get(name).preset("base"), [knobs])


def trained(job: dict[str, Any]) -> tuple[Any, ...]:
    """One training by the zoo: (model, prepared data, loader, result)."""
    from zoo import memory

    memory.keep_freed(os.environ["KERAS_BACKEND"])  # as main.py does, before the backend's threads begin
    from zoo import artifacts, backends, registry, training
    from zoo.data import catalogue, splits
    from zoo.data.dataset import Dataset, Entities, Events

    name = job["model"].partition("-")[0]
    spec, config = registry.get(name), zoo_config(job)
    backends.configure(config.train)
    backends.seed(config.seed)
    with np.load(job["train"]) as log:
        user, item, time = (log.get(column) for column in ("user", "item", "time"))
    events = Events(user.astype(np.int32), item.astype(np.int32), time)
    ids = (Entities(np.arange(codes.max() + 1)) for codes in (user, item))
    dataset = Dataset(events, *ids, clock="order" if time is None else "global")
    prepared = catalogue.prepare(splits.everything(dataset))
    model = artifacts.build(name, config, prepared.catalogue)
    loader = spec.stages[0].loader(prepared.train, prepared.catalogue, config)
    with tempfile.TemporaryDirectory() as folder:
        result = training.fit(model, spec, prepared, config, Path(folder), [])
    return model, prepared, loader, result


def zoo(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds and memory of one training by the zoo."""
    import resource

    _, _, loader, result = trained(job)
    from zoo import backends

    return {
        "seconds": [epoch["seconds"] for epoch in result.history],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "steps": len(loader),
        "tokens": int(loader.packing.lengths.sum()),
        "slots": len(loader) * loader.rows_per_batch * loader.packing.row_length,
        "loss": float(result.history[-1]["loss"]),
        "versions": backends.versions(),
    }


# ------------------------------------------------------------------------------------------------- the parent


def last_line(what: str, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The JSON that a process prints last."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def contestants(model: str, options: argparse.Namespace, module: str = "peers") -> dict[str, list[str]]:
    """The command of each, but for the job; `python -m benchmarks.MODULE --zoo` is the zoo's."""
    own = [sys.executable, "-m", f"benchmarks.{module}", "--zoo"]
    commands = {f"zoo {backend}": own for backend in options.backends}
    for peer, models in PEERS.items():
        package = peer.removesuffix("-deprecated")
        python = getattr(options, package, None)
        if python and model in models:
            commands[peer] = peer_command(package, python)
    return commands


def peer_command(package: str, python: str) -> list[str]:
    """The command of a peer's side, but for the job."""
    script = Path(__file__).absolute().with_name(f"peer_{package}.py")
    return [str(Path(python).absolute()), "-P", str(script)]


def in_turns(
    commands: dict[str, list[str]], job: dict[str, Any], rounds: int, what: str = "seconds"
) -> dict[str, list[dict[str, Any]]]:
    """What each contestant prints, round by round; `what` of it is shown."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for name, command in commands.items():
            environment = {"OMP_NUM_THREADS": str(job["threads"]), "MKL_NUM_THREADS": str(job["threads"])}
            if name.startswith("zoo "):
                environment["KERAS_BACKEND"] = name.removeprefix("zoo ")
            mine = job | {"deprecated": name.endswith("-deprecated")}
            told = last_line(f"{name}, {job['model']}", [*command, json.dumps(mine)], environment)
            found.setdefault(name, []).append(told)
            seconds = " ".join(f"{one:.2f}" for one in told[what])
            print(f"{job['model']} round {number + 1}  {name:<18} {what} {seconds}", flush=True)
    return found


def compare(rows: dict[str, dict[str, Any]]) -> None:
    """Adds to each row how many times the seconds of each of the zoo's it took."""
    for row in rows.values():
        row["times"] = {
            other: round(row["seconds"] / rows[other]["seconds"], 3) for other in rows if other.startswith("zoo ")
        }


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One contestant; the first epoch of each round compiles."""
    seconds = statistics.median(epoch for found in rounds for epoch in found["seconds"][1:])
    first = rounds[0]
    return {
        "seconds": round(seconds, 3),
        "peak_gib": round(max(found["peak_gib"] for found in rounds), 3),
        "tokens_per_second": round(first["tokens"] / seconds),
        **{key: first[key] for key in ("tokens", "slots", "steps", "loss", "versions")},
        "epochs": [[round(epoch, 3) for epoch in found["seconds"]] for found in rounds],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    columns = [name for name in rows if name.startswith("zoo ")]
    heads = "".join(f"{'/ ' + name.removeprefix('zoo '):>13}" for name in columns)
    lines = [f"{'':<18}{'s / epoch':>11}{'peak GiB':>10}{'tokens / s':>12}{'tokens':>11}{'slots':>11}{heads}"]
    for name, row in rows.items():
        times = "".join(f"{row['times'][column]:>13.2f}" for column in columns)
        lines.append(
            f"{name:<18}{row['seconds']:>11.2f}{row['peak_gib']:>10.2f}{row['tokens_per_second']:>12,}"
            f"{row['tokens']:>11,}{row['slots']:>11,}{times}"
        )
    return "\n".join(lines)


def listed(known: tuple[str, ...]) -> Any:
    """Reads names separated by commas."""

    def read(text: str) -> list[str]:
        if unknown := set(names := text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return names

    return read


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """What a comparison with peers is told."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--rectools", metavar="PYTHON")
    parser.add_argument("--replay", metavar="PYTHON")
    backends = ("tensorflow", "jax", "torch")
    parser.add_argument("--backends", type=listed(backends), default=list(backends))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layout", default="pairs")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="take N users alone and write no results")
    return parser


def conditions() -> tuple[int, float]:
    """(threads, the load of the machine), and a warning where it is busy."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): PyTorch's threads wait for each other, its times mean nothing.")
    return int(os.environ.get("OMP_NUM_THREADS", "2")), round(load, 2)


def read(options: argparse.Namespace, train: str) -> dict[str, Any]:
    """`prepare` in a process of its own."""
    job = json.dumps([options.file, options.layout, options.limit, train])
    data = last_line("reading", [sys.executable, "-m", "benchmarks.peers", "--prepare", job], {})
    print(f"training: {data['events']:,} events of {data['users']:,} users and {data['items']:,} items")
    return data


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--recbole", metavar="PYTHON")
    parser.add_argument("--models", type=listed(tuple(MODELS)), default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=3, help="of each process; the first is not counted")
    parser.add_argument("--name", default="", help="of the record, where it is not to replace the one before")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: at least 2, for the first is not counted")
    threads, load = conditions()
    with tempfile.TemporaryDirectory() as folder:
        train = str(Path(folder, "train.npz"))
        data = read(options, train)
        for model in options.models:
            settings = SETTINGS | MODELS[model]
            job = {"model": model, **settings, "times": data["times"], "epochs": options.epochs, "threads": threads}
            found = in_turns(contestants(model, options), job | {"train": train}, options.rounds)
            rows = {name: summary(rounds) for name, rounds in found.items()}
            compare(rows)
            print(f"\n{model}, median of {options.rounds} x {options.epochs - 1} epochs, {threads} threads")
            print(table(rows))
            if len({row["tokens"] for row in rows.values()}) > 1:
                print("NOT THE SAME EVENTS: see the column `tokens`")
            if not options.limit:
                results = {"load_before": load, "job": job, "data": data, "rows": rows}
                name = f"peers_{model}" + (f"_{options.name}" if options.name else "")
                print(write_record(name, results, ("numpy",)))
            print(flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        print(json.dumps(prepare(*json.loads(sys.argv[2]))))
    elif sys.argv[1:2] == ["--zoo"]:
        print(json.dumps(zoo(json.loads(sys.argv[2]))))
    else:
        main()
