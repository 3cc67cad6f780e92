"""RePlay's side of benchmarks/peers.py: trains one model and prints what its epochs took, a line of JSON.

    PYTHON benchmarks/peer_replay.py JOB

PYTHON is that of an environment with RePlay; nothing of the zoo is imported. JOB is JSON from benchmarks/peers.py; or
from benchmarks/peer_quality.py: that one has `known`, and after every epoch gets the vectors of users and items; or
from benchmarks/peer_predictions.py: that one has `lists`, and is told what lists of so many items took.
RePlay has two SasRecs: `current`, of replay.nn, and `former`, of replay.models.nn, which it calls deprecated. Its
Bert4Rec is of replay.models.nn.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import LambdaCallback
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema

BUCKET = 32  # histories of like length that are encoded together, short ones without most of their padding
LISTED = 256  # users of a batch that get their lists, as many as RecTools takes by itself


def current(job: dict[str, Any], path: Path, num_items: int) -> tuple[Any, Any]:
    """(module, its data) of the SasRec of replay.nn; histories come from a Parquet file."""
    from replay.nn.lightning import LightningModule
    from replay.nn.lightning.optimizer import OptimizerFactory
    from replay.nn.loss import CESampled
    from replay.nn.sequential import LengthBucketedQueryEncoder, SasRec
    from replay.nn.transform import UniformNegativeSamplingTransform
    from replay.nn.transform.template import make_default_sasrec_transforms

    schema = described(job, num_items, padding=num_items)
    model = SasRec.from_params(
        schema,
        embedding_dim=job["dim"],
        num_heads=job["heads"],
        num_blocks=job["blocks"],
        max_sequence_length=job["length"],
        dropout=job["dropout"],
    )
    model.body.encoder = LengthBucketedQueryEncoder(model.body.encoder, BUCKET)
    transforms = {"train": make_default_sasrec_transforms(schema)["train"]}
    if job["negatives"]:
        model.loss = CESampled()
        model.loss.logits_callback = model.get_logits
        transforms["train"].append(UniformNegativeSamplingTransform(num_items, job["negatives"]))
    data = ParquetModule(
        batch_size=job["batch"],
        metadata={"train": {"item": {"shape": job["length"] + 1, "padding": num_items}}},
        transforms=transforms,
        train_path=str(path),
    )
    return LightningModule(model, OptimizerFactory(learning_rate=job["rate"])), data


def former(job: dict[str, Any], histories: pd.DataFrame, num_items: int) -> tuple[Any, Any]:
    """(module, its data) of a model of replay.models.nn."""
    from replay.data.nn import PandasSequentialDataset
    from replay.models.nn.optimizer_utils import FatOptimizerFactory
    from replay.models.nn.sequential import Bert4Rec, SasRec
    from replay.models.nn.sequential.bert4rec import Bert4RecTrainingDataset
    from replay.models.nn.sequential.sasrec import SasRecTrainingDataset

    schema = described(job, num_items, padding=0)
    sequences = PandasSequentialDataset(schema, "user", "item", histories)
    settings = {
        "block_count": job["blocks"],
        "head_count": job["heads"],
        "max_seq_len": job["length"],
        "hidden_size": job["dim"],
        "dropout_rate": job["dropout"],
        "optimizer_factory": FatOptimizerFactory(learning_rate=job["rate"]),
    }
    if job["model"] == "bert4rec":  # CE_restricted: the same loss, scored at the masks alone
        module = Bert4Rec(schema, enable_embedding_tying=True, loss_type="CE_restricted", **settings)
        dataset = Bert4RecTrainingDataset(sequences, job["length"], mask_prob=job["mask"])
    else:
        sampled = {"loss_sample_count": job["negatives"], "negatives_sharing": True} if job["negatives"] else {}
        module = SasRec(schema, loss_type="CE", **sampled, **settings)
        dataset = SasRecTrainingDataset(sequences, job["length"])
    return module, torch.utils.data.DataLoader(dataset, batch_size=job["batch"], shuffle=True)


def described(job: dict[str, Any], num_items: int, padding: int) -> TensorSchema:
    """What RePlay is to know of the items."""
    item = TensorFeatureInfo(
        "item",
        FeatureType.CATEGORICAL,
        is_seq=True,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item")],
        cardinality=num_items,
        padding_value=padding,
        embedding_dim=job["dim"],
    )
    return TensorSchema([item])


def asked(job: dict[str, Any], histories: pd.DataFrame, num_items: int) -> dict[str, torch.Tensor]:
    """{part: (n, L) what is known of each of the job's users}, padded on the left with `num_items`.

    An item that nobody was trained on is left out.
    """
    with np.load(job["known"]) as known:
        users, last = known["user"], known["item"].tolist()
    train = histories.set_index("user")["item"].loc[users].tolist()
    later = [[*history, item] if item >= 0 else history for history, item in zip(train, last, strict=True)]
    logs, length = {"validation": train, "test": later}, job["length"]
    padding = [num_items] * length
    return {part: torch.tensor([(padding + history)[-length:] for history in logs[part]]) for part in job["parts"]}


def vectors(module: Any, known: dict[str, torch.Tensor], num_items: int, batch: int) -> dict[str, np.ndarray]:
    """{part: (n, D) users, "items": (V, D)} whose inner products are RePlay's scores, in the order of the job."""
    module.eval()
    with torch.no_grad():
        if hasattr(module, "_model"):  # of replay.models.nn
            read, items = module._model.forward_step, module._model.item_embedder.get_all_item_weights()
        else:
            read, items = module.model.body, module.model.body.embedder.get_item_weights()
        found = {"items": items.detach().numpy()}
        for part, histories in known.items():
            states = [read({"item": some}, some != num_items)[:, -1] for some in histories.split(batch)]
            found[part] = torch.cat(states).numpy()
    module.train()
    return found


def judged(job: dict[str, Any], epoch: int, seconds: float, vectors: dict[str, np.ndarray]) -> bool:
    """Hands over the vectors of an epoch and waits for the verdict: whether training is to go on."""
    for name, array in vectors.items():
        np.save(Path(job["vectors"], name), array)
    print(json.dumps({"epoch": epoch, "seconds": seconds}), flush=True)
    return sys.stdin.readline().strip() == "on"


def current_lists(job: dict[str, Any], path: Path, histories: pd.DataFrame, num_items: int) -> tuple[Any, Any]:
    """(data, the callback that keeps the lists) of replay.nn; histories come from a Parquet file."""
    from replay.nn.lightning.callback import TorchTopItemsCallback
    from replay.nn.lightning.postprocessor import SeenItemsFilter
    from replay.nn.transform.template import make_default_sasrec_transforms

    schema = described(job, num_items, padding=num_items)
    histories.assign(seen=histories["item"]).to_parquet(path)
    sizes = {"item": job["length"], "seen": int(histories["item"].str.len().max())}
    columns = {name: {"shape": size, "padding": num_items} for name, size in sizes.items()}
    data = ParquetModule(
        batch_size=LISTED,
        metadata={"predict": {"user": {}, **columns}},
        transforms={"predict": make_default_sasrec_transforms(schema)["predict"]},
        predict_path=str(path),
    )
    return data, TorchTopItemsCallback(job["lists"], "user", [SeenItemsFilter(num_items, "seen")])


def former_lists(job: dict[str, Any], histories: pd.DataFrame, num_items: int) -> tuple[Any, Any]:
    """(data, the callback that keeps the lists) of replay.models.nn."""
    from replay.data.nn import PandasSequentialDataset
    from replay.models.nn.sequential.callbacks import TorchPredictionCallback
    from replay.models.nn.sequential.postprocessors import RemoveSeenItems
    from replay.models.nn.sequential.sasrec import SasRecPredictionDataset

    sequences = PandasSequentialDataset(described(job, num_items, padding=0), "user", "item", histories)
    data = torch.utils.data.DataLoader(SasRecPredictionDataset(sequences, job["length"]), batch_size=LISTED)
    return data, TorchPredictionCallback(job["lists"], [RemoveSeenItems(sequences)])


def lists(job: dict[str, Any], module: Any, path: Path, histories: pd.DataFrame, num_items: int) -> list[float]:
    """Seconds of every user's list of new items, again and again."""
    if job["deprecated"]:
        data, callback = former_lists(job, histories, num_items)
    else:
        data, callback = current_lists(job, path, histories, num_items)
    predicting, seconds = trainer(callbacks=[callback]), []
    for _ in range(job["repeats"]):
        begin = time.perf_counter()
        predicting.predict(module, data, return_predictions=False)
        users, items, scores = callback.get_result()
        seconds.append(time.perf_counter() - begin)
    assert items.shape == scores.shape == (len(users), job["lists"])
    return seconds


def trainer(**more: Any) -> lightning.Trainer:
    """A trainer that neither shows nor saves anything."""
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )


def main() -> None:
    job = json.loads(sys.argv[1])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job["threads"])
    lightning.seed_everything(job["seed"], verbose=False)
    with np.load(job["train"]) as log:
        events = pd.DataFrame({"user": log["user"], "item": log["item"].astype(np.int64)})
    num_items = int(events["item"].max()) + 1
    histories = events.groupby("user")["item"].agg(list).reset_index()
    known = asked(job, histories, num_items) if job.get("known") else {}
    began, ended, tokens, slots = [], [], [], []

    def count(trainer: Any, module: Any, batch: dict[str, Any], index: int) -> None:
        if trainer.current_epoch == 0:
            mask = batch["pad_mask" if "pad_mask" in batch else "padding_mask"]
            tokens.append(int(mask.sum()))
            slots.append(mask.numel())

    def end(trainer: Any, module: Any) -> None:
        ended.append(time.perf_counter())
        if known:
            found = vectors(module, known, num_items, job["batch"])
            trainer.should_stop = not judged(job, len(ended), ended[-1] - began[-1], found)

    training = trainer(
        max_epochs=job["epochs"],
        # The current form fails in bfloat16: its buckets copy bfloat16 states into float32 ones.
        precision="bf16-mixed" if job.get("precision") == "bfloat16" and job["deprecated"] else "32-true",
        limit_val_batches=0,
        callbacks=[
            LambdaCallback(
                on_train_epoch_start=lambda *_: began.append(time.perf_counter()),
                on_train_epoch_end=end,
                on_train_batch_start=count,
            )
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.parquet")
        histories.to_parquet(path)
        if job["model"] == "bert4rec" or job["deprecated"]:
            module, data = former(job, histories, num_items)
        else:
            module, data = current(job, path, num_items)
        training.fit(module, data)
        listed = lists(job, module, path, histories, num_items) if job.get("lists") else []
    measured = {
        "seconds": [end - begin for begin, end in zip(began, ended, strict=True)],
        "lists": listed,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "steps": len(tokens),
        "tokens": sum(tokens),
        "slots": sum(slots),
        "loss": float(training.callback_metrics["train_loss_epoch"]),
        "versions": {package: version(name) for package, name in (("replay", "replay-rec"), ("torch", "torch"))},
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
