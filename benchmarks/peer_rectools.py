"""RecTools' side of benchmarks/peers.py: trains one model and prints what its epochs took, a line of JSON.

    PYTHON benchmarks/peer_rectools.py JOB

PYTHON is that of an environment with RecTools; nothing of the zoo is imported. JOB is JSON from benchmarks/peers.py.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, HSTUModel, SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


def main() -> None:
    job = json.loads(sys.argv[1])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job["threads"])
    seed_everything(0)
    began, ended, tokens, slots = [], [], [], []

    def count(trainer: Any, module: Any, batch: dict[str, Any], index: int) -> None:
        if trainer.current_epoch == 0:
            tokens.append(int((batch["x"] != 0).sum()))
            slots.append(batch["x"].numel())

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=job["epochs"],
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                LambdaCallback(
                    on_train_epoch_start=lambda *_: began.append(time.perf_counter()),
                    on_train_epoch_end=lambda *_: ended.append(time.perf_counter()),
                    on_train_batch_start=count,
                )
            ],
        )

    settings = {
        "loss": "softmax",
        "n_factors": job["dim"],
        "n_blocks": job["blocks"],
        "n_heads": job["heads"],
        "dropout_rate": job["dropout"],
        "session_max_len": job["length"],
        "batch_size": job["batch"],
        "lr": job["rate"],
        "item_net_block_types": (IdEmbeddingsItemNet,),
        "get_trainer_func": trainer,
    }
    if job["model"] == "sasrec":
        model = SASRecModel(**settings)
    elif job["model"] == "bert4rec":
        model = BERT4RecModel(mask_prob=job["mask"], **settings)
    else:
        model = HSTUModel(
            relative_time_attention=job["times"],
            relative_pos_attention=True,
            lightning_module_kwargs={"logits_t": job["temperature"]},
            **settings,
        )
    with np.load(job["train"]) as log:
        # Without times, the order of the log stands for them.
        moment = pd.to_datetime(log["time"], unit="ms") if job["times"] else pd.to_datetime(np.arange(len(log["user"])))
        columns = {Columns.User: log["user"], Columns.Item: log["item"], Columns.Weight: 1, Columns.Datetime: moment}
    model.fit(Dataset.construct(pd.DataFrame(columns)))
    measured = {
        "seconds": [end - begin for begin, end in zip(began, ended, strict=True)],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "steps": len(tokens),
        "tokens": sum(tokens),
        "slots": sum(slots),
        "loss": float(model.fit_trainer.callback_metrics["train_loss"]),
        "versions": {package: version(package) for package in ("rectools", "torch")},
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
