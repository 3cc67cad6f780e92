"""BERT4Rec: bidirectional self-attention over a history in which items are masked.

Legend: R rows, L slots of a row, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import Field, model_validator

from config import RunConfig, TrainConfig
from zoo.data.catalogue import Catalogue
from zoo.data.loaders.masked_items import MaskedItemLoader
from zoo.data.vocabulary import MASK
from zoo.layers.attention import hiding, visible
from zoo.layers.encoder import Encoder
from zoo.layers.gelu import gelu
from zoo.layers.normalize import LayerNorm
from zoo.registry import ModelSpec, Stage
from zoo.sequential import SequentialConfig, SequentialRecommender


class BERT4RecConfig(SequentialConfig):
    """Hyperparameters of `BERT4Rec`."""

    num_blocks: int = Field(2, ge=1)
    num_heads: int = Field(2, ge=1)
    expansion: int = Field(4, ge=1, description="width of the position-wise network, in embedding_dim")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="of the attention weights")
    block: Literal["pre_norm", "post_norm"] = "pre_norm"
    relative_bias: bool = Field(False, description="learn what the distance between events adds to their attention")
    transform: bool = Field(True, description="a dense layer, GELU and norm between the last block and the scores")
    item_bias: bool = Field(True, description="learn how popular each item is, as one more coordinate")
    mask_share: float = Field(0.2, gt=0, le=1, description="of a sequence's events that are masked, at least one")
    last_share: float = Field(0.1, ge=0, le=1, description="sequences of which the last event alone is masked")

    @model_validator(mode="after")
    def _consistent(self) -> BERT4RecConfig:
        if self.embedding_dim % self.num_heads:
            raise ValueError(f"embedding_dim={self.embedding_dim} is no multiple of num_heads={self.num_heads}")
        return self


class BERT4Rec(SequentialRecommender):
    """Transformer that sees both ways, trained to predict masked items; the next item is a MASK after the last event.

    Deviations from Sun et al. 2019 and its published code, whose recipe is the preset `paper`:
      * the norms stand before the attention and the network, and once more at the end; the original's order is
        `block=post_norm`;
      * masks are drawn anew in every epoch (the code draws ten times and goes on with these). Of `last_share` of the
        sequences the last event alone is masked, in place of other masks (the code adds every sequence once more, one
        in eleven);
      * rows are packed; of a long history the last window is trained on or, with `all_events`, windows without
        overlap (the code's overlap by half or more);
      * Adam at a constant rate, without weight decay, warm-up and clipping; batches are smaller, since what held the
        original back was the number of its steps (Petrov & Macdonald 2022);
      * `relative_bias` (presets `base` and `ml-1m`) adds a number learned for each distance and head to the attention's
        logits, as in `SASRec`; the original knows positions alone;
      * dropout of the attention weights is an option, off by default; a norm's epsilon is 1e-6 (1e-12); keys and values
        have no bias; queries, keys, values and the layers behind attention and blocks start as Keras has it (there as
        all others do, from N(0, 0.02));
      * an item that is unknown to the vocabulary is a zero vector.

    References:
        Sun et al. 2019, BERT4Rec: sequential recommendation with bidirectional encoder representations from
        transformer. Petrov & Macdonald 2022, A systematic review and replicability study of BERT4Rec.
    """

    loader = MaskedItemLoader

    def __init__(self, config: BERT4RecConfig, catalogue: Catalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        dim = config.embedding_dim
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.mask = self.add_weight(shape=(1, dim), initializer=start, name="mask")
        self.encoder = Encoder(
            dim,
            config.max_length,
            config.num_blocks,
            config.num_heads,
            config.expansion,
            config.dropout,
            config.relative_bias,
            config.attention_dropout,
            config.block,
            last_norm=False,
            name="encoder",
        )
        self.dense = self.norm = None
        if config.transform:
            self.dense = keras.layers.Dense(dim, activation=gelu, name="transform")
        if config.transform or config.block == "pre_norm":
            self.norm = LayerNorm(name="norm")
        self.build_weights()

    def states(self, inputs: dict[str, Any], wanted: Any = None, training: bool = False) -> Any:
        events = self.embed_events(inputs)
        masked = ops.cast(ops.equal(inputs["item"], MASK), events.dtype)[..., None]
        events = events + masked * ops.cast(self.mask, events.dtype)
        bias = hiding(visible(inputs["segment"], causal=False), events.dtype)
        x = self.encoder(events, inputs["position"], bias, wanted=wanted, training=training)
        x = x if self.dense is None else self.dense(x)
        return x if self.norm is None else self.norm(x)


def _recipe(train: dict[str, Any], **model: Any) -> RunConfig:
    return RunConfig(model=BERT4RecConfig(**model), train=TrainConfig(**train))


MODEL = ModelSpec(
    model=BERT4Rec,
    stages=(Stage(name="train", loader=MaskedItemLoader),),
    presets={
        "tiny": _recipe(
            {"epochs": 50, "batch_size": 32, "learning_rate": 5e-3, "patience": None},
            embedding_dim=16,
            max_length=16,
            mask_share=0.4,
        ),
        "base": _recipe(
            {"epochs": 200, "batch_size": 32, "learning_rate": 2e-3, "patience": 10},
            max_length=50,
            all_events=True,
            relative_bias=True,
            mask_share=0.4,
        ),
        "ml-1m": _recipe(
            {"epochs": 100, "batch_size": 64, "learning_rate": 2e-3, "ema": 0.995, "patience": 8},
            embedding_dim=128,
            num_heads=4,
            expansion=2,
            relative_bias=True,
            all_events=True,
            dropout=0.2,
            attention_dropout=0.2,
            mask_share=0.3,
        ),
        "beauty": _recipe(
            {"epochs": 200, "batch_size": 128, "patience": 10}, max_length=50, dropout=0.5, mask_share=0.4
        ),
        # The authors' for MovieLens-1M: 400,000 steps.
        "paper": _recipe(
            {
                "epochs": 11_800,
                "batch_size": 256,
                "optimizer": "adamw",
                "learning_rate": 1e-4,
                "weight_decay": 0.01,
                "schedule": "linear",
                "warmup_steps": 100,
                "clip_norm": 5.0,
                "patience": None,
            },
            block="post_norm",
            dropout=0.2,
            attention_dropout=0.2,
            last_share=1 / 11,
            all_events=True,
        ),
    },
    paper="https://doi.org/10.1145/3357384.3357895",
    causal=False,
)
