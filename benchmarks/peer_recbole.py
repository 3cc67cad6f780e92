"""RecBole's side of benchmarks/peers.py: trains its SASRec and prints what an epoch takes, a line of JSON.

    PYTHON benchmarks/peer_recbole.py JOB

PYTHON is that of an environment with RecBole; nothing of the zoo is imported. JOB is JSON from benchmarks/peers.py.
RecBole makes a padded history of each event, so an epoch computes an event as often as it is in sight, and takes the
better part of an hour: its first `BATCHES` batches are timed, and their time is that of the epoch in proportion.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

BATCHES = 10
SAMPLES = 2048  # of a batch: RecBole's default


class Beginning:
    """The first batches of a loader of RecBole's."""

    def __init__(self, loader: Any):
        self.loader, self.shuffle, self.sampler = loader, loader.shuffle, loader.sampler

    def __iter__(self) -> Any:
        return islice(self.loader, BATCHES)


def configuration(job: dict[str, Any], folder: str) -> Config:
    sys.argv = sys.argv[:1]  # it reads the command line
    return Config(
        model="SASRec",
        dataset="log",
        config_dict={
            "data_path": folder,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "MAX_ITEM_LIST_LENGTH": job["length"],
            "hidden_size": job["dim"],
            "inner_size": job["dim"],
            "n_layers": job["blocks"],
            "n_heads": job["heads"],
            "hidden_dropout_prob": job["dropout"],
            "attn_dropout_prob": job["dropout"],
            "train_batch_size": SAMPLES,
            "learning_rate": job["rate"],
            "seed": job["seed"],
            "use_gpu": False,
            "state": "ERROR",
            "checkpoint_dir": folder,
        },
    )


def main() -> None:
    job = json.loads(sys.argv[1])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job["threads"])
    with np.load(job["train"]) as log:
        events = pd.DataFrame({"user_id:token": log["user"], "item_id:token": log["item"]})
    events["timestamp:float"] = np.arange(len(events))
    # It keeps the last two events of each user for validation and test: two more are made up.
    last = events.groupby("user_id:token").tail(1)
    events = pd.concat([events, *(last.assign(**{"timestamp:float": len(events) + i}) for i in (0, 1))])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it leaves logs where it is
        Path(folder, "log").mkdir()
        events.to_csv(Path(folder, "log", "log.inter"), sep="\t", index=False)
        config = configuration(job, folder)
        init_seed(job["seed"], reproducibility=True)
        data, _, _ = data_preparation(config, create_dataset(config))
        model = get_model("SASRec")(config, data.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
        seconds, loss = [], 0.0
        for epoch in range(job["epochs"]):
            begin = time.perf_counter()
            loss = trainer._train_epoch(Beginning(data), epoch) / BATCHES
            seconds.append((time.perf_counter() - begin) * len(data) / BATCHES)
    lengths = data.dataset.inter_feat[model.ITEM_SEQ_LEN].numpy()
    measured = {
        "seconds": seconds,
        "measured_batches": BATCHES,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "steps": len(data),
        "tokens": int(lengths.sum()),
        "slots": len(lengths) * job["length"],
        "loss": loss,
        "versions": {package: version(package) for package in ("recbole", "torch")},
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
