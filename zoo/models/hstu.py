"""HSTU: pointwise causal attention over a history, with biases by distance and by time.

Legend: R rows, L slots of a row, D width, H heads, B histories, M appended events.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import Field, model_validator

from config import RunConfig, TrainConfig
from zoo.data.catalogue import Catalogue
from zoo.data.loaders.sequences import NextItemLoader
from zoo.layers.attention import visible
from zoo.layers.dropout import Dropout
from zoo.layers.embedding import IndexEmbedding
from zoo.layers.hstu import HSTUBlock, time_buckets
from zoo.registry import ModelSpec, Stage
from zoo.sequential import SequentialConfig, SequentialRecommender


class HSTUConfig(SequentialConfig):
    """Hyperparameters of `HSTU`."""

    num_blocks: int = Field(2, ge=1)
    num_heads: int = Field(1, ge=1)
    query_dim: int | None = Field(None, ge=1, description="of a head's queries and keys; null: embedding_dim / heads")
    value_dim: int | None = Field(None, ge=1, description="of a head's values and gates; null: embedding_dim / heads")
    use_time: bool = Field(True, description="bias attention by the time between events")
    query_time: bool = Field(False, description="tell the model when the next item is asked for")
    similarity: Literal["dot", "cosine"] = "cosine"

    @model_validator(mode="after")
    def _consistent(self) -> HSTUConfig:
        if self.query_time and not self.use_time:
            raise ValueError("query_time=true needs use_time=true")
        if None in (self.query_dim, self.value_dim) and self.embedding_dim % self.num_heads:
            raise ValueError(f"embedding_dim={self.embedding_dim} is no multiple of num_heads={self.num_heads}")
        return self


class HSTU(SequentialRecommender):
    """Blocks of gated pointwise attention, trained to predict each next item.

    Time enters as the biases of seconds between events alone, in buckets of their logarithm, so that a shift of the
    clock changes nothing. With `query_time` an event looks back from the time of the next one, and the last event from
    the time of the request (`Histories.query_time`); without it an event looks back from its own time, and nothing that
    happens later is known. The events of a log without times are taken to happen at once.

    Deviations from Zhai et al. 2024 and its published code:
      * rows are packed; a distance is counted within a sequence, and the attention is divided by `max_length`, a number
        of the configuration (the code divides by the length that a batch is padded to: 211 where it is 200);
      * the code knows the time of the next event always, and at the last event that of the target;
      * Adam at a constant rate by default (the code: AdamW, beta_2 .98; its tables start from a truncated normal);
      * the loss is chosen by the preset; the code's is `sampled_softmax` with 128 uniform negatives per position.

    References:
        Zhai et al. 2024, Actions speak louder than words: trillion-parameter sequential transducers for generative
        recommendations.
    """

    def __init__(self, config: HSTUConfig, catalogue: Catalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        dim = config.embedding_dim
        self.drop = Dropout(config.dropout)
        self.query_dim = config.query_dim or dim // config.num_heads
        self.value_dim = config.value_dim or dim // config.num_heads
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.position = IndexEmbedding(config.max_length, dim, start, name="position")
        self.blocks = [
            HSTUBlock(
                dim,
                config.num_heads,
                self.query_dim,
                self.value_dim,
                config.max_length,
                config.use_time,
                config.dropout,
                name=f"block_{i}",
            )
            for i in range(config.num_blocks)
        ]
        self.build_weights()

    def states(self, inputs: dict[str, Any], wanted: Any = None, training: bool = False) -> Any:
        x = self.drop(self._embed(inputs), training=training)
        seen = visible(inputs["segment"], causal=True)
        place = ops.arange(x.shape[1], dtype="int32")
        bucket = self._buckets(inputs, inputs.get("time"))
        for block in self.blocks:  # slots of a sequence follow each other, so places are as far apart as positions
            here = wanted if block is self.blocks[-1] else None
            x = block(x, seen, place[:, None] - place[None, :], bucket, here, training=training)
        return x

    def empty_cache(self, size: int) -> dict[str, np.ndarray]:
        """Keys, values and times of `size` histories without events; see `zoo.streaming`."""
        config = self.config
        cache = {}
        for i in range(config.num_blocks):
            for part, dim in (("key", self.query_dim), ("value", self.value_dim)):
                cache[f"{part}_{i}"] = np.zeros((size, config.num_heads, config.max_length, dim), np.float32)
        if config.use_time:
            cache["time"] = np.zeros((size, config.max_length), np.int32)
        return cache

    def extend(self, inputs: dict[str, Any], cache: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """States (B, M, D) of the events `item` (B, M) at `position` (B, M), and the cache with them in it.

        `time` and `next_time` (B, M) are as in the loader, from the same second for all events of a history. With
        `query_time` the event before a new one has to be given again, for now it is known when the next one came.
        """
        x, cache = self._embed(inputs), dict(cache)
        bucket = None
        if "time" in inputs:
            slots = ops.arange(self.config.max_length, dtype="int32")
            here = ops.equal(inputs["position"][:, :, None], slots[None, None, :])  # (B, M, L)
            given = ops.sum(ops.where(here, inputs["time"][:, :, None], 0), axis=1)
            cache["time"] = ops.where(ops.any(here, axis=1), given, cache["time"])
            bucket = self._buckets(inputs, cache["time"])
        for i, block in enumerate(self.blocks):
            x, (cache[f"key_{i}"], cache[f"value_{i}"]) = block.extend(
                x, inputs["position"], bucket, (cache[f"key_{i}"], cache[f"value_{i}"])
            )
        return x, cache

    def _embed(self, inputs: dict[str, Any]) -> Any:
        return self.embed_events(inputs, self.config.embedding_dim**0.5) + self.position(inputs["position"])

    def _buckets(self, inputs: dict[str, Any], time: Any) -> Any:
        """(R, M, L) from the events `inputs` to those at `time` (R, L); None where they bear no time."""
        return None if time is None else time_buckets(time, inputs.get("next_time", inputs["time"]))


def _recipe(train: dict[str, Any], **model: Any) -> RunConfig:
    return RunConfig(model=HSTUConfig(**model), train=TrainConfig(**train))


MODEL = ModelSpec(
    model=HSTU,
    stages=(Stage(name="train", loader=NextItemLoader),),
    presets={
        "tiny": _recipe(
            {"epochs": 20, "batch_size": 32, "learning_rate": 5e-3},
            embedding_dim=16,
            max_length=16,
            similarity="dot",
        ),
        "base": _recipe(
            {"epochs": 100, "batch_size": 128, "patience": 10}, max_length=50, all_events=True, dropout=0.2
        ),
        "ml-1m": _recipe(
            {"epochs": 60, "batch_size": 128, "learning_rate": 2e-3, "ema": 0.99, "patience": 6},
            all_events=True,
            dropout=0.2,
            use_time=False,
        ),
        "ml-1m-large": _recipe(
            {"epochs": 100, "batch_size": 128, "patience": 10},
            embedding_dim=50,
            num_blocks=8,
            num_heads=2,
            dropout=0.2,
            use_time=False,
        ),
        # The ratings with their times: compare only with models that are told when they are asked, too.
        "ml-1m-time": _recipe({"epochs": 100, "batch_size": 128, "patience": 10}, dropout=0.2, query_time=True),
        "beauty": _recipe({"epochs": 100, "batch_size": 128, "patience": 10}, max_length=50, dropout=0.5),
        "paper": _recipe(
            {"epochs": 101, "batch_size": 128, "patience": 10},
            embedding_dim=50,
            dropout=0.2,
            loss="sampled_softmax",
            num_negatives=128,
            share_negatives=False,
            query_time=True,
        ),
    },
    paper="https://arxiv.org/abs/2402.17152",
)
