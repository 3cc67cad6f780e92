"""GRU4Rec trained by its authors' code and by the zoo: same sessions, same parameters, same targets.

    python -m benchmarks.gru4rec_official CHECKOUT PYTHON FILE [LAYOUT] [EPOCHS] [SEEDS]

CHECKOUT is a clone of https://github.com/hidasib/GRU4Rec_PyTorch_Official, PYTHON the one that runs it, on the CPU: of
an environment with torch, "numpy<2", "pandas<3" and joblib. LAYOUT is `sessions` where none is given, EPOCHS 10, SEEDS
1 (of the zoo).
A tenth of the sessions is tested, another tenth left out; each event of a tested session but its first is to be
predicted from those before it. Held-out events of items that were never trained on are removed, for the official code
does not know them. The parameters are the official ones for Diginetica, the preset `diginetica`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.record import write_record
from config import DataConfig, RunConfig, override
from zoo import artifacts, backends, evaluation, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import Prepared, prepare
from zoo.data.splits import Split

CUT = 20


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


def official(checkout: Path, python: Path, split: Split, epochs: int) -> dict[str, float]:
    """Scores and seconds of the official code."""
    with tempfile.TemporaryDirectory() as folder:
        train, test = Path(folder, "train.tsv"), Path(folder, "test.tsv")
        frame(split, splits.TRAIN).to_csv(train, sep="\t", index=False)
        frame(split, splits.TEST, splits.TEST_CONTEXT).to_csv(test, sep="\t", index=False)
        parameters = (
            "loss=bpr-max,constrained_embedding=True,embedding=0,elu_param=1,layers=512,batch_size=128,"
            "dropout_p_embed=0.5,dropout_p_hidden=0.3,learning_rate=0.05,momentum=0.15,n_sample=2048,"
            f"sample_alpha=0.3,bpreg=0.9,logq=0.0,n_epochs={epochs}"
        )
        command = [python.absolute(), "run.py", train, "-t", test, "-ps", parameters, "-m", CUT, "-e", "conservative"]
        done = subprocess.run(
            [str(word) for word in [*command, "-d", "cpu"]], cwd=checkout, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    print(done.stdout)
    recall, mrr = map(float, re.findall(rf"(?:Recall|MRR)@{CUT}: ([\d.]+)", done.stdout))
    (seconds,) = re.findall(r"Total training time: ([\d.]+)s", done.stdout)
    losses = [float(loss) for loss in re.findall(r"loss: ([\d.]+)", done.stdout)]
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


def main() -> None:
    if not 4 <= len(sys.argv) <= 7:
        raise SystemExit(__doc__)
    checkout, python, file, *given = sys.argv[1:]
    layout, epochs, seeds = (*given, *("sessions", "10", "1")[len(given) :])
    config = override(
        registry.get("gru4rec").preset("diginetica"),
        [f"epochs={epochs}", "monitor=loss", "bootstrap=0", f"evaluate.top_k={CUT}", f"data.path={file}"],
    )
    backends.configure(config.train)
    dataset = sources.load(DataConfig(path=file, layout=layout), config.sample, 0)
    split = warm(splits.split(dataset, config.split, 0))
    print(split.summary())
    theirs = official(Path(checkout), Path(python), split, int(epochs))
    prepared = prepare(split)
    ours = [zoo(override(config, [f"seed={seed}"]), prepared) for seed in range(int(seeds))]
    results = {"official": theirs, "zoo": ours, "split_sha256": split.sha256}
    for name, row in (("official", theirs), *(("zoo", row) for row in ours)):
        scores = "  ".join(f"{metric}@{CUT} {row[f'{metric}@{CUT}']:.4f}" for metric in ("recall", "mrr"))
        print(f"{name:<10}{scores}  {row['seconds']:.0f} s")
    print(write_record("gru4rec_official", results, ("numpy", "keras", "torch", backends.name())))


if __name__ == "__main__":
    main()
