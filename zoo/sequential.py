"""Sequential recommenders: a state after every event of a history predicts the next item.

Legend: R rows, L slots of a row, T slots or wanted slots of a batch, D width, V items, N negatives.
"""

from __future__ import annotations

import abc
from typing import Any, Literal

import keras
from keras import ops
from pydantic import Field

from config import ModelConfig
from zoo import losses
from zoo.data.catalogue import Catalogue
from zoo.data.loaders.sequences import NextItemLoader
from zoo.layers.embedding import IdEmbedding
from zoo.layers.normalize import l2_normalize
from zoo.recommender import Recommender


class SequentialConfig(ModelConfig):
    """What all sequential models have in common."""

    embedding_dim: int = Field(64, ge=1)
    max_length: int = Field(200, ge=1, description="most recent events of a history that are seen")
    all_events: bool = Field(
        False, description="train on every event, in windows of max_length; false: on the last window of each history"
    )
    dropout: float = Field(0.1, ge=0, lt=1)
    # The score.
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(0.05, gt=0, description="cosine: divides the scores")
    item_bias: bool = Field(False, description="learn how popular each item is, as one more coordinate")
    # The loss.
    loss: Literal["softmax", "sampled_softmax", "gbce", "bce", "bpr", "bpr_max", "top1_max"] = "softmax"
    num_negatives: int = Field(256, ge=1)
    share_negatives: bool = Field(True, description="the same negatives for all events of a batch")
    popularity_power: float = Field(0.0, ge=0, description="negatives drawn as popularity^power; 0: uniform")
    calibration: float = Field(0.75, ge=0, le=1, description="gbce: t; 0 is plain bce, 1 fully calibrated")
    elu: float = Field(0.0, ge=0, description="bpr_max: alpha of the ELU that scores go through; 0: none")
    score_penalty: float = Field(1.0, ge=0, description="bpr_max: on squared scores of the negatives")


class SequentialRecommender(Recommender):
    """score(item) = <state after the last event, item>; one item table for input and output.

    A subclass makes the states, `states`; what they are compared with and how they are trained is here.
    """

    loader = NextItemLoader

    def __init__(self, config: Any, catalogue: Catalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        items = catalogue.items
        self.num_tokens = items.size
        # Small, so that the first guess is uniform and Adam's steps of fixed size soon outweigh the start.
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.item_id = IdEmbedding(items.trained_size, config.embedding_dim, initializer=start, name="item_id")
        self.bias_id = None
        if config.item_bias:
            self.bias_id = IdEmbedding(items.trained_size, 1, initializer="zeros", name="bias_id")
        self.drop = keras.layers.Dropout(config.dropout)

    @abc.abstractmethod
    def states(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """(R, L, D) the state after each event."""

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """(T, D or D + 1) the states of the wanted slots, of all R * L where `slot` is not given."""
        states = self.states(inputs, training=training)
        states = ops.reshape(states, (-1, states.shape[-1]))
        if "slot" in inputs:
            states = ops.take(states, inputs["slot"], axis=0)
        return self.compared(states)

    def compared(self, states: Any) -> Any:
        """(T, D) states -> (T, D or D + 1) whose inner products with `item_embeddings` are the scores."""
        if self.config.similarity == "cosine":
            states = l2_normalize(states) / self.config.temperature
        if self.bias_id is not None:
            states = ops.concatenate([states, ops.ones_like(states[:, :1])], axis=1)
        return states

    def encode_users(self, inputs: dict[str, Any]) -> Any:
        return self(inputs, training=False)

    def item_embeddings(self) -> Any:
        return self.embed_items(ops.arange(self.num_tokens, dtype="int32"))

    def embed_items(self, tokens: Any) -> Any:
        """(..., D or D + 1) what the states are compared with."""
        return self._compared(self.item_id(tokens), None if self.bias_id is None else self.bias_id(tokens))

    def _compared(self, vectors: Any, bias: Any) -> Any:
        if self.config.similarity == "cosine":
            vectors = l2_normalize(vectors)
        return vectors if bias is None else ops.concatenate([vectors, bias], axis=-1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        labels, weights = ops.reshape(y, (-1,)), ops.reshape(sample_weight, (-1,))
        config = self.config
        if config.loss == "softmax":
            if self.bias_id is None:
                bias = None
            else:  # as a coordinate of its own it would cost more
                y_pred, bias = y_pred[:, :-1], self.bias_id.rows()[:, 0]
            return losses.softmax_cross_entropy(
                y_pred, self._compared(self.item_id.rows(), None), labels, weights, bias
            )
        positive = ops.cast(ops.sum(y_pred * self.embed_items(labels), axis=-1), "float32")  # (T,)
        tokens = x["negatives"] if config.share_negatives else ops.reshape(x["negatives"], (-1, config.num_negatives))
        vectors = self.embed_items(tokens)
        if config.share_negatives:
            negative = ops.matmul(y_pred, ops.transpose(vectors))
            tokens = tokens[None, :]
        else:
            negative = ops.matmul(vectors, y_pred[:, :, None])[:, :, 0]
        negative = ops.cast(negative, "float32")  # (T, N)
        excluded = x["excluded"] if "excluded" in x else ops.equal(labels[:, None], tokens)
        if config.loss == "sampled_softmax":
            log_q, negatives_log_q = ops.reshape(x["log_q"], (-1,)), x["negatives_log_q"]
            if not config.share_negatives:
                negatives_log_q = ops.reshape(negatives_log_q, (-1, config.num_negatives))
            return losses.sampled_softmax(positive, negative, log_q, negatives_log_q, weights, excluded)
        if config.loss == "bpr":
            return losses.bpr(positive[:, None], negative, weights[:, None] * ops.cast(~excluded, "float32"))
        if config.loss == "bpr_max":
            if config.elu:
                positive, negative = ops.elu(positive, config.elu), ops.elu(negative, config.elu)
            return losses.bpr_max(positive, negative, weights, config.score_penalty, excluded)
        if config.loss == "top1_max":
            return losses.top1_max(positive, negative, weights, excluded)
        calibration = config.calibration if config.loss == "gbce" else 0.0
        num_items = self.catalogue.items.num_trained
        return losses.gbce(positive, negative, weights, num_items, calibration, excluded)
