"""GRU4Rec: a recurrent network reads a history event by event; trained on whole histories or session-parallel.

Legend: R rows, L slots of a row, B slots of a session-parallel batch or users, M events, D width, H width of the state.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import Field, model_validator

from config import EvaluateConfig, RunConfig, SplitConfig, TrainConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.loader import Loader
from zoo.data.loaders.sequences import NextItemLoader
from zoo.data.loaders.session_parallel import SessionParallelLoader
from zoo.data.sources import t_ecd
from zoo.data.vocabulary import PAD
from zoo.layers.attention import at_slots
from zoo.layers.dropout import Dropout
from zoo.layers.recurrent import GRU, Memory
from zoo.registry import ModelSpec, Stage
from zoo.sequential import SequentialConfig, SequentialRecommender


class GRU4RecConfig(SequentialConfig):
    """Hyperparameters of `GRU4Rec`."""

    training: Literal["sequence", "session_parallel"] = Field(
        "sequence", description="back through whole histories, or event by event through sessions side by side"
    )
    units: int | None = Field(None, ge=1, description="width of the state; null: embedding_dim")
    num_layers: int = Field(1, ge=1)
    embedding_dropout: float = Field(0.0, ge=0, lt=1, description="of the input; `dropout` is that of the states")
    constrained_embedding: bool = Field(True, description="one item table for input and output")
    logq: float = Field(1.0, ge=0, description="session_parallel, sampled_softmax: share of log-frequency taken off")

    @model_validator(mode="after")
    def _consistent(self) -> GRU4RecConfig:
        if self.training == "session_parallel" and not self.share_negatives:
            raise ValueError("training=session_parallel shares its negatives; leave share_negatives=true")
        if self.training == "session_parallel" and self.loss == "sce":
            raise ValueError("training=session_parallel has batches too small for loss=sce; take another loss")
        return self


class GRU4Rec(SequentialRecommender):
    """Gated recurrent units over the events of a history.

    `training=session_parallel` is the official code's scheme (github.com/hidasib/GRU4Rec_PyTorch_Official): what it
    computes, this computes, batch for batch, with the preset `diginetica`, but for:
      * the item table starts with standard deviation 0.02 (it drew from +-sqrt(6 / (V + D)));
      * a batch with fewer sessions than slots keeps its shape: empty slots weigh nothing and are no candidates (it
        shrank); the loss stays divided by the number of slots, as there.
    `training=sequence` deviates from Hidasi et al. 2016 as everyone's GRU4Rec on ratings does:
      * the gradient goes back through the last `max_length` events, several histories packed in a row, the state set
        back between them; full softmax and Adam by default;
      * no bias of an item by default (`item_bias`; the code has one always);
      * items are scaled by sqrt(D) on their way in, as in transformers: Adam begins with small rows;
      * a state wider than the items (`units`) is projected to their width.

    References:
        Hidasi et al. 2016, Session-based recommendations with recurrent neural networks.
        Hidasi & Karatzoglou 2018, Recurrent neural networks with top-k gains for session-based recommendations.
    """

    item_tables = ("item_id", "input_id")

    def __init__(self, config: GRU4RecConfig, catalogue: Catalogue, **kwargs: Any):
        super().__init__(config, catalogue, **{"name": "gru4rec", **kwargs})
        dim = config.embedding_dim
        units = config.units or dim
        self.drop = Dropout(config.dropout)
        self.input_id = self.item_id
        if not config.constrained_embedding:
            start = keras.initializers.RandomNormal(stddev=0.02)
            self.input_id = self.table_of_items(dim, start, "input_id")
        self.drop_input = Dropout(config.embedding_dropout)
        self.recurrent = [GRU(units, name=f"gru_{i}") for i in range(config.num_layers)]
        self.memories = []  # of what the batch before left
        if config.training == "session_parallel":
            self.memories = [Memory(name=f"memory_{i}") for i in range(config.num_layers)]
        self.project = keras.layers.Dense(dim, name="project") if units != dim else None
        self.build_weights()

    def states(self, inputs: dict[str, Any], wanted: Any = None, training: bool = False) -> Any:
        x = self.drop_input(self._embed(inputs), training=training)
        if "fresh" in inputs:
            keep = ops.logical_not(inputs["fresh"])
        else:  # packed: the state goes on while the sequence does
            segment = inputs["segment"]
            keep = ops.equal(segment[:, 1:], segment[:, :-1])
            keep = ops.concatenate([ops.zeros_like(keep[:, :1]), keep], axis=1)
        for i, layer in enumerate(self.recurrent):
            before = self.memories[i].read(keep.shape[0], layer.units) if "fresh" in inputs else None
            x = self.drop(layer(x, keep, before), training=training)
            if "fresh" in inputs:
                self.memories[i].write(x[:, -1])
        x = x if wanted is None else at_slots(x, wanted)
        return x if self.project is None else self.project(x)

    def loss_of(self, x: dict[str, Any], y: Any, y_pred: Any, sample_weight: Any) -> Any:
        loss = super().loss_of(x, y, y_pred, sample_weight)
        if self.config.training == "session_parallel":
            loss = loss * ops.mean(sample_weight)  # the mean over all slots, the empty ones too
        return loss

    def empty_cache(self, size: int) -> dict[str, np.ndarray]:
        """States of `size` histories without events, by layer; see `zoo.streaming`."""
        return {f"state_{i}": np.zeros((size, layer.units), np.float32) for i, layer in enumerate(self.recurrent)}

    def extend(self, inputs: dict[str, Any], cache: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """States (B, M, D) after the events `item` (B, M) at `position` (B, M), and the cache after the last one.

        With `query_action` the cache is that before the last event, which has to be given again with the next one: only
        then is it known by what it was followed.
        """
        x, cache = self._embed(inputs), dict(cache)
        keep = ops.greater(inputs["position"], 0)
        real = ops.sum(ops.cast(ops.not_equal(inputs["item"], PAD), "int32"), axis=1)
        last = ops.maximum(real - (2 if self.config.query_action else 1), 0)[:, None, None]
        for i, layer in enumerate(self.recurrent):
            x = layer(x, keep, cache[f"state_{i}"])
            cache[f"state_{i}"] = ops.take_along_axis(x, last, axis=1)[:, 0]
        return x if self.project is None else self.project(x), cache

    def _embed(self, inputs: dict[str, Any]) -> Any:
        scale = self.config.embedding_dim**0.5 if self.config.training == "sequence" else 1.0
        return self.embed_events(inputs, scale, self.input_id)


def loader(histories: Histories, catalogue: Catalogue, config: RunConfig) -> Loader:
    """The batches of `model.training`."""
    model: Any = config.model
    kind = SessionParallelLoader if model.training == "session_parallel" else NextItemLoader
    return kind(histories, catalogue, config)


def _recipe(train: dict[str, Any], model: dict[str, Any], **sections: Any) -> RunConfig:
    return RunConfig(model=GRU4RecConfig(**model), train=TrainConfig(**train), **sections)


MODEL = ModelSpec(
    model=GRU4Rec,
    stages=(Stage(name="train", loader=loader),),
    presets={
        "tiny": _recipe(
            {"epochs": 20, "batch_size": 32, "learning_rate": 1e-2}, {"embedding_dim": 16, "max_length": 16}
        ),
        "base": _recipe({"epochs": 100, "batch_size": 128, "patience": 10}, {"max_length": 50, "all_events": True}),
        "ml-1m": _recipe(
            {"epochs": 60, "batch_size": 128, "learning_rate": 2e-3, "ema": 0.99, "patience": 6},
            {"embedding_dim": 128, "all_events": True, "dropout": 0.3, "embedding_dropout": 0.2},
        ),
        "beauty": _recipe(
            {"epochs": 100, "batch_size": 128, "patience": 10},
            {"embedding_dim": 128, "max_length": 50, "dropout": 0.5, "embedding_dropout": 0.3},
        ),
        # The official code's parameters.
        "diginetica": _recipe(
            {
                "epochs": 10,
                "batch_size": 128,
                "optimizer": "adagrad",
                "learning_rate": 0.05,
                "momentum": 0.15,
                "patience": None,
            },
            {
                "training": "session_parallel",
                "loss": "bpr_max",
                "elu": 1.0,
                "score_penalty": 0.9,
                "num_negatives": 2048,
                "popularity_power": 0.3,
                "embedding_dim": 512,
                "embedding_dropout": 0.5,
                "dropout": 0.3,
                "item_bias": True,
                "touched_items": True,
            },
            split=SplitConfig(strategy="by_user", targets="all"),
            evaluate=EvaluateConfig(exclude_seen=False),
        ),
        # T-ECD, ten days of 317,000 items, with the widths of the study; measured on a small copy only.
        "t-ecd": _recipe(
            {"epochs": 10, "batch_size": 128, "patience": 2, "validation_users": 2000},
            {
                "embedding_dim": 128,
                "units": 256,
                "max_length": 50,
                "all_events": True,
                "loss": "sampled_softmax",
                "num_negatives": 1024,
                "popularity_power": 0.5,
                "use_actions": True,
                "action_order": t_ecd.ACTIONS,
            },
            **t_ecd.STUDY,
        ),
    },
    paper="https://arxiv.org/abs/1511.06939",
)
