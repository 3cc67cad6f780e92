"""RecTools' side of benchmarks/peers.py: trains one model and prints what its epochs took, a line of JSON.

    PYTHON benchmarks/peer_rectools.py JOB

PYTHON is that of an environment with RecTools; nothing of the zoo is imported. JOB is JSON from benchmarks/peers.py;
or from benchmarks/peer_quality.py: that one has `known`, and after every epoch gets the vectors of users and items; or
from benchmarks/peer_predictions.py: that one has `lists`, and is told what lists of so many items took.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
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
from rectools.models.rank import Distance

NEVER = -1e30  # the score of an item that RecTools does not know


def dated(job: dict[str, Any], stamps: np.ndarray | None, first: int, count: int) -> pd.DatetimeIndex:
    """The times of `count` events; without times, their order from `first` on stands for them."""
    return pd.to_datetime(stamps, unit="ms") if job["times"] else pd.to_datetime(first + np.arange(count))


class Export:
    """The vectors that RecTools' `recommend` compares, in the order of the job's users and items.

    RecTools knows the items alone that it trained on, which are those among the last events of somebody: a coordinate
    of its own ranks the others last.
    """

    def __init__(self, job: dict[str, Any], model: Any, events: pd.DataFrame):
        self.job, self.model, self.loaders = job, model, {}
        self.num_items = int(events[Columns.Item].max()) + 1
        with np.load(job["known"]) as known:
            self.users, item, *stamps = (known.get(column) for column in ("user", "item", "time", "query"))
        first, second = (dated(job, column, len(events), len(item)) for column in stamps)
        each = pd.DataFrame({Columns.User: self.users, Columns.Item: item, Columns.Weight: 1, Columns.Datetime: first})
        logs = {"validation": (events, first), "test": (pd.concat([events, each[item >= 0]]), second)}
        self.asked = {}  # what is known and, of a model with times, when the next item is asked for
        for part in job["parts"]:
            log, when = logs[part]
            context = each.assign(**{Columns.Datetime: when}) if job["times"] else None
            self.asked[part] = (Dataset.construct(log), context)

    def vectors(self) -> dict[str, np.ndarray]:
        """{part: (n, D + 1) users, "items": (V, D + 1)} whose inner products rank as `recommend` does."""
        module, found, items = self.model.lightning_model, {}, None
        cosine = module.torch_model.similarity_module.distance == Distance.COSINE
        with torch.random.fork_rng(devices=[]):  # so that training goes on as if nobody had asked
            for part, (users, loader) in self.batches().items():
                states, items = module._get_user_item_embeddings(loader, "cpu")
                found[part] = np.zeros((len(self.users), states.shape[1] + 1), np.float32)
                found[part][users] = compared(states, np.ones(len(states)), cosine)
        module.torch_model.train()
        trained = self.model.data_preparator.get_known_item_ids().astype(np.int64)
        found["items"] = np.zeros((self.num_items, items.shape[1] + 1), np.float32)
        found["items"][:, -1] = NEVER
        found["items"][trained] = compared(items[-len(trained) :], np.zeros(len(trained)), cosine)
        return found

    def batches(self) -> dict[str, tuple[np.ndarray, Any]]:
        """{part: (places of the users, their histories in batches)}, made once."""
        if not self.loaders:
            preparator = self.model.data_preparator
            for part, (dataset, context) in self.asked.items():
                asked = preparator.transform_dataset_u2i(dataset, self.users, context)
                places = np.searchsorted(self.users, asked.user_id_map.external_ids)
                self.loaders[part] = (places, preparator.get_dataloader_recommend(asked, self.job["batch"]))
        return self.loaders


def compared(vectors: torch.Tensor, last: np.ndarray, cosine: bool) -> np.ndarray:
    """Vectors as they enter the inner product, and one coordinate more."""
    if cosine:
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    return np.column_stack([vectors.detach().numpy(), last])


def judged(job: dict[str, Any], epoch: int, seconds: float, vectors: dict[str, np.ndarray]) -> bool:
    """Hands over the vectors of an epoch and waits for the verdict: whether training is to go on."""
    for name, array in vectors.items():
        np.save(Path(job["vectors"], name), array)
    print(json.dumps({"epoch": epoch, "seconds": seconds}), flush=True)
    return sys.stdin.readline().strip() == "on"


def lists(job: dict[str, Any], model: Any, dataset: Dataset, users: np.ndarray) -> list[float]:
    """Seconds of every user's list of new items, again and again."""
    seconds = []
    for _ in range(job["repeats"]):
        begin = time.perf_counter()
        found = model.recommend(users, dataset, job["lists"], filter_viewed=True)
        seconds.append(time.perf_counter() - begin)
    assert len(found) == job["lists"] * len(users)
    return seconds


def main() -> None:
    job = json.loads(sys.argv[1])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"])
    began, ended, tokens, slots = [], [], [], []

    def count(trainer: Any, module: Any, batch: dict[str, Any], index: int) -> None:
        if trainer.current_epoch == 0:
            tokens.append(int((batch["x"] != 0).sum()))
            slots.append(batch["x"].numel())

    def end(trainer: Any, module: Any) -> None:
        ended.append(time.perf_counter())
        if job.get("known"):
            trainer.should_stop = not judged(job, len(ended), ended[-1] - began[-1], export.vectors())

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=job["epochs"],
            precision="bf16-mixed" if job.get("precision") == "bfloat16" else "32-true",
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                LambdaCallback(
                    on_train_epoch_start=lambda *_: began.append(time.perf_counter()),
                    on_train_epoch_end=end,
                    on_train_batch_start=count,
                )
            ],
        )

    settings = {
        "loss": "sampled_softmax" if job["negatives"] else "softmax",
        "n_negatives": job["negatives"] or 1,
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
    if job["model"].startswith("sasrec"):
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
        moment = dated(job, log.get("time"), 0, len(log["user"]))
        columns = {Columns.User: log["user"], Columns.Item: log["item"], Columns.Weight: 1, Columns.Datetime: moment}
    events = pd.DataFrame(columns)
    export = Export(job, model, events) if job.get("known") else None
    dataset = Dataset.construct(events)
    model.fit(dataset)
    listed = lists(job, model, dataset, np.unique(events[Columns.User])) if job.get("lists") else []
    measured = {
        "seconds": [end - begin for begin, end in zip(began, ended, strict=True)],
        "lists": listed,
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
