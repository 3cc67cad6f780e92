"""BEHAV-E: variational encoders of clients' profiles, trained by contrast between two views of each.

Legend: B batch, D width of a tower's vector, M queries, K codes of a text, C tokens of codes.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import Field, model_validator

from config import ModelConfig, RunConfig, TrainConfig
from zoo import losses
from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.profiles import PARTS, table_sizes
from zoo.data.loaders.two_views import TextLoader, TwoViewLoader
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.layers.client import ClientEncoder
from zoo.layers.normalize import l2_normalize
from zoo.layers.text import TextDecoder, TextEncoder
from zoo.recommender import UserEncoder
from zoo.registry import ModelSpec, Stage

Part = Literal["actions", "activity", "times", "skus", "categories", "prices", "urls", "queries"]


class BehavEConfig(ModelConfig):
    """Hyperparameters of `BehavE`."""

    # What is seen of a client: zoo/data/behaviour/profiles.py.
    parts: tuple[Part, ...] = Field(tuple(PARTS), min_length=1, description="what of a client is looked at")
    grid: int = Field(24, ge=2, description="points in time at which the density of events is taken")
    bandwidth: float = Field(0.05, gt=0, description="of the density, as a share of the period")
    boundary: Literal["none", "reflect", "renormalise"] = Field("renormalise", description="of the period, see kde")
    bag_size: int = Field(32, ge=1, description="most recent distinct products, categories, prices, urls of a kind")
    num_queries: int = Field(4, ge=1, description="most recent distinct queries that are read")
    text_length: int = Field(16, ge=1, description="codes of a text that are read")
    max_items: int = Field(200_000, ge=1, description="most frequent products with a vector; the others share one")
    url_hash_size: int = Field(2000, ge=0, description="vectors that rarely visited urls share; 0: they share one")
    # Two views of him: zoo/data/behaviour/views.py.
    event_dropout: float = Field(0.2, ge=0, lt=1, description="share of the events of a view that is dropped")
    time_crop: float = Field(0.2, ge=0, le=1, description="clients of whom one view is older, one newer")
    modality_dropout: float = Field(0.05, ge=0, lt=1, description="chance of each part to be hidden in a view")
    unknown_share: float = Field(0.05, ge=0, lt=1, description="ids that are read as unknown ones in training")
    # The text encoder.
    text_epochs: int = Field(2, ge=0, description="of the autoencoder of texts; 0: no such stage")
    text_dim: int = Field(64, ge=1)
    text_units: int = Field(32, ge=1, description="state of each direction of its LSTM layers")
    fine_tune_text: bool = Field(
        False, description="train it with the towers, too; so it is without a stage of its own"
    )
    query_pooling: Literal["mean", "attention"] = "attention"
    # The towers.
    towers: Literal[1, 2] = Field(2, description="2: each view has weights of its own, and vectors are concatenated")
    embedding_dim: int = Field(256, ge=1, description="D of a tower")
    block_dim: int = Field(64, ge=1, description="width of a part's vector, and of rows of tables")
    hidden_units: tuple[int, ...] = Field((), description="layers between the parts and the vector")
    norm: Literal["layer", "batch"] = "batch"
    batch_norm_momentum: float = Field(0.99, ge=0, lt=1, description="of norm=batch; give it that of train.ema")
    dropout: float = Field(0.2, ge=0, lt=1)
    # The objective.
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = Field(0.1, gt=0, description="of the cosine")
    kl_weight: float = Field(1e-2, ge=0)
    kl_warmup_steps: int = Field(200, ge=0, description="batches over which the weight of the KL term rises")
    free_bits: float = Field(0.05, ge=0, description="nats of divergence of each dimension that cost nothing")

    @model_validator(mode="after")
    def _consistent(self) -> BehavEConfig:
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts={','.join(self.parts)} names one twice")
        return self


class BehavE(UserEncoder):
    """One or two towers of profiles, whose vectors of two views of a client find each other among those of a batch.

    A tower maps the parts of a profile linearly to blocks, joins them and gives mean and log-variance of a normal
    distribution; in training its vector is drawn from it, otherwise it is the mean. The loss is InfoNCE between the two
    views, both ways, plus the divergence from N(0, I), whose weight rises from zero and which is free up to
    `free_bits` in each dimension. Queries are read by the encoder of a text autoencoder, which a stage of its own
    trains on the names of products and the queries.

    Deviations from the published code, whose settings are the presets `paper` and `paper-one-cycle`:
      * there is a divergence term (there, none: nothing kept the noise from vanishing), bounds of the log-variance,
        which starts small, and a limit to the norm of the gradient (there, the loss rose to 1e26);
      * the views differ by events and parts that are hidden (there, both towers saw the same input); `paper` leaves
        that off;
      * vectors are compared by their cosine and a temperature (there, by raw products, as in `paper`); rows of the same
        history are no negatives of each other;
      * dropout stands behind the norm (there, in front of batch norm, whose running variance then is too large);
        running statistics of batch norm are averaged as the weights are (there, a pass with dropout on re-estimated
        them), see `BatchNorm`: who changes `train.ema` changes `batch_norm_momentum`;
      * the text autoencoder is trained with the optimizer, rate and batches of the rest (there, by Adam at .001, 2,048
        texts at once);
      * queries are pooled by mean or attention (there, by the mode of each coordinate, which is the minimum); of the
        text encoder the last states of both directions are read (there, both at the last code, of which the backward
        one has seen nothing else), and it learns from queries, too;
      * activity and price buckets are parts (there, counts were reduced to shares), `paper` leaves them out; urls have
        a linear map as all others; the last `bag_size` distinct ids and `num_queries` queries are read (there, all),
        of which an older view shows those before its own cut-off, perhaps none;
        unknown and rare ids have a vector, and clients without events are zeros (there, they were missing);
      * repeated events count (there, equal ones within five seconds were dropped);
      * weight decay spares embeddings and biases; the epoch that is kept is chosen on held-out clients.

    References:
        Rodriguez & Tommasel 2025, BEHAV-E! You are not just a number to us, but an R^2048 embedding.
        Kingma & Welling 2014, Auto-encoding variational Bayes. Kingma et al. 2016, Improved variational inference with
        inverse autoregressive flow (free bits). van den Oord et al. 2018, Representation learning with contrastive
        predictive coding.
    """

    loader = TwoViewLoader

    def __init__(self, config: BehavEConfig, catalogue: BehaviourCatalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        num_codes = NUM_SPECIALS + catalogue.num_codes
        self.text_encoder = TextEncoder(num_codes, config.text_dim, config.text_units, name="text_encoder")
        self.text_decoder = TextDecoder(num_codes, config.text_units, name="text_decoder")
        head = {
            "norm": config.norm,
            "momentum": config.batch_norm_momentum,
            "hidden_units": config.hidden_units,
            "dropout": config.dropout,
        }
        self.towers = [
            ClientEncoder(
                config.parts,
                table_sizes(catalogue, config),
                config.embedding_dim,
                config.block_dim,
                config.query_pooling == "attention",
                head,
                name=f"tower_{number}",
            )
            for number in range(config.towers)
        ]
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
        names = ("text_accuracy", "info_nce", "kl", "variance", "accuracy")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.build_weights()

    def use_weights(self, inputs: dict[str, Any]) -> None:
        super().use_weights(inputs)
        self._retold(np.zeros((1, self.config.text_length), np.int32))

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Of texts, logits (B, K, C) of their codes; of two views, (mean, log-variance, vector), each (B, D), of both;
        otherwise the vectors (B, towers * D)."""
        if "text" in inputs:
            return self._retold(inputs["text"])
        texts = None
        if "queries" in self.config.parts:
            texts = self.text_encoder(inputs["query"])
            texts = texts if self._text_is_trained else ops.stop_gradient(texts)
        if "first" not in inputs:
            return ops.concatenate([tower(inputs, texts)[0] for tower in self.towers], axis=-1)
        views = []
        for number, view in enumerate(("first", "second")):
            tower = self.towers[number % len(self.towers)]
            mean, log_variance = tower({**inputs, **inputs[view]}, texts, training=training)
            noise = ops.cast(inputs["noise"][:, number], mean.dtype)
            vector = mean + ops.exp(log_variance / 2) * noise if training else mean
            views.append((mean, log_variance, vector))
        return views

    @property
    def _text_is_trained(self) -> bool:
        return self.config.fine_tune_text or not self.config.text_epochs

    def _retold(self, text: Any) -> Any:
        """Logits of the codes of texts from their vectors alone, and their lengths."""
        return self.text_decoder(self.text_encoder(text), ops.not_equal(text, 0))

    def encode_users(self, inputs: dict[str, Any]) -> Any:
        return self(inputs, training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if "text" in x:
            return self._text_loss(y, y_pred, sample_weight)
        config = self.config
        vectors = [ops.cast(vector, "float32") for _, _, vector in y_pred]
        if config.similarity == "cosine":
            vectors = [l2_normalize(vector) * config.temperature**-0.5 for vector in vectors]
        info_nce = losses.info_nce(*vectors, y, sample_weight)
        divergence = [losses.gaussian_kl(mean, log_variance, sample_weight) for mean, log_variance, _ in y_pred]
        beyond = sum(ops.sum(ops.maximum(one, config.free_bits)) for one in divergence) / 2
        weight = config.kl_weight  # in validation as at the end, so that epochs can be compared
        if training and config.kl_warmup_steps:
            weight = weight * ops.minimum(self.steps / config.kl_warmup_steps, 1.0)
        if training:
            self.steps.assign(self.steps + 1)
        self._track(
            info_nce=info_nce,
            kl=sum(ops.sum(one) for one in divergence) / 2,
            variance=sum(ops.mean(ops.exp(ops.cast(one, "float32"))) for _, one, _ in y_pred) / 2,
            accuracy=_accuracy(*vectors, y, sample_weight),
        )
        return info_nce + weight * beyond

    def _text_loss(self, codes: Any, logits: Any, weights: Any) -> Any:
        """Cross-entropy of the codes (B, K)."""
        log_share = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        own = ops.take_along_axis(log_share, ops.cast(codes, "int32")[..., None], axis=-1)[..., 0]
        right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(codes, "int32"))
        self._track(text_accuracy=losses.weighted_mean(ops.cast(right, "float32"), weights))
        return losses.weighted_mean(-own, weights)

    def _track(self, **values: Any) -> None:
        for name, value in values.items():
            self.trackers[name].update_state(ops.stop_gradient(value))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Of the metrics those that the stage has."""
        result = super().compute_metrics(x, y, y_pred, sample_weight)
        absent = set(self.trackers) - {"text_accuracy"} if "text" in x else {"text_accuracy"}
        return {name: value for name, value in result.items() if name not in absent}


def _accuracy(first: Any, second: Any, rows: Any, weights: Any) -> Any:
    """Share of the clients whose second view is nearer to their first than that of any other is; ties lose."""
    scores = ops.matmul(first, ops.transpose(second))
    none = ops.logical_or(ops.equal(rows[:, None], rows[None, :]), ops.equal(weights, 0)[None, :])
    others = ops.max(ops.where(none, losses.NEVER, scores), axis=1)
    return losses.weighted_mean(ops.cast(ops.diagonal(scores) > others, "float32"), weights)


def _text_epochs(config: RunConfig) -> int:
    model: Any = config.model
    return model.text_epochs if "queries" in model.parts else 0


def _not_in_text(config: BehavEConfig) -> tuple[str, ...]:
    """Layers that the first stage leaves alone."""
    return tuple(f"tower_{number}" for number in range(config.towers))


def _not_in_train(config: BehavEConfig) -> tuple[str, ...]:
    """Layers that the second stage leaves alone."""
    tuned = "queries" in config.parts and (config.fine_tune_text or not config.text_epochs)
    return ("text_decoder",) if tuned else ("text_decoder", "text_encoder")


def _recipe(train: dict[str, Any], **model: Any) -> RunConfig:
    train = {"monitor": "val_loss", "patience": None} | train
    return RunConfig(model=BehavEConfig(**model), train=TrainConfig(**train))


# What the published code does; its batches and epochs are for a million clients.
_PAPER: dict[str, Any] = {
    "parts": ("actions", "times", "skus", "categories", "urls", "queries"),
    "grid": 11,
    "bandwidth": 0.1,
    "boundary": "none",
    "event_dropout": 0.0,
    "time_crop": 0.0,
    "modality_dropout": 0.0,
    "unknown_share": 0.0,
    "text_epochs": 99,
    "text_units": 64,
    "query_pooling": "mean",
    "embedding_dim": 512,
    "block_dim": 128,
    "norm": "batch",
    "dropout": 0.5,
    "similarity": "dot",
    "kl_weight": 0.0,
    "free_bits": 0.0,
}
_PAPER_TRAIN = {"epochs": 300, "optimizer": "adamw", "weight_decay": 0.01, "clip_norm": 1.0}

MODEL = ModelSpec(
    model=BehavE,
    stages=(
        Stage(
            name="text",
            loader=TextLoader,
            frozen=_not_in_text,
            epochs=_text_epochs,
        ),
        Stage(name="train", loader=TwoViewLoader, frozen=_not_in_train),
    ),
    presets={
        "tiny": _recipe(
            {"epochs": 20, "batch_size": 64, "learning_rate": 1e-2},
            grid=11,
            bag_size=12,
            num_queries=2,
            url_hash_size=16,
            text_epochs=2,
            text_dim=16,
            text_units=8,
            embedding_dim=16,
            block_dim=16,
            kl_warmup_steps=10,
        ),
        # On generated logs of 2,000 clients with 100 looks each, three seeds: .643 in the mean of six tasks (random
        # vectors .550, statistics .653; thin probe).
        "base": _recipe({"epochs": 60, "batch_size": 256, "ema": 0.99, "patience": 8}),
        # Weights move fast at the height of the cycle: statistics of a hundred batches, `base`'s, are far behind them.
        "base-one-cycle": _recipe(
            {"epochs": 60, "batch_size": 256, "schedule": "one_cycle", "learning_rate": 3e-3}, batch_norm_momentum=0.9
        ),
        "paper": _recipe(
            {**_PAPER_TRAIN, "batch_size": 1000, "ema": 0.999},
            **_PAPER,
            batch_norm_momentum=0.999,
        ),
        "paper-one-cycle": _recipe(
            {**_PAPER_TRAIN, "batch_size": 4000, "schedule": "one_cycle", "learning_rate": 1e-2},
            **_PAPER,
            batch_norm_momentum=0.9,
        ),
    },
    paper="https://doi.org/10.1145/3758126.3758130",
    log="behaviour",
)
