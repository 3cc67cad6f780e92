"""Sequential recommenders: a state after every event of a history predicts the next item.

Legend: R rows, L slots of a row, T slots or wanted slots of a batch, D width, V items, N negatives.
"""

from __future__ import annotations

import abc
from typing import Any, Literal

import keras
from keras import ops
from pydantic import Field, model_validator

from config import ModelConfig
from zoo import losses
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.loaders.sequences import NextItemLoader
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.layers.embedding import ActionEmbedding, IdEmbedding, RowEmbedding
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
    # Actions: view, cart, buy ...
    use_actions: bool = Field(False, description="embed the action of each event")
    query_action: bool = Field(False, description="tell the model which action is asked for")
    action_order: tuple[str, ...] = Field(
        (), description="actions that imply each other, from a glance to a commitment: their embeddings add up"
    )
    # The score.
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(0.05, gt=0, description="cosine: divides the scores")
    item_bias: bool = Field(False, description="learn how popular each item is, as one more coordinate")
    touched_items: bool = Field(
        False, description="a step moves the items of its batch alone, and costs as much with a million as with a few"
    )
    # The loss.
    loss: Literal["softmax", "sampled_softmax", "sce", "gbce", "bce", "bpr", "bpr_max", "top1_max"] = "softmax"
    num_negatives: int = Field(256, ge=1)
    share_negatives: bool = Field(True, description="the same negatives for all events of a batch")
    popularity_power: float = Field(0.0, ge=0, description="negatives drawn as popularity^power; 0: uniform")
    bucket_items: int = Field(256, ge=1, description="sce: candidates in a bucket")
    calibration: float = Field(0.75, ge=0, le=1, description="gbce: t; 0 is plain bce, 1 fully calibrated")
    elu: float = Field(0.0, ge=0, description="bpr_max: alpha of the ELU that scores go through; 0: none")
    score_penalty: float = Field(1.0, ge=0, description="bpr_max: on squared scores of the negatives")

    @model_validator(mode="after")
    def _sampled(self) -> SequentialConfig:
        if self.touched_items and self.loss in ("softmax", "sce"):
            raise ValueError(f"touched_items=true and loss={self.loss}, which touches all items; use a sampled loss")
        return self


class SequentialRecommender(Recommender):
    """score(item) = <state after the last event, item>; one item table for input and output.

    A subclass makes the states, `states`, of the events as `embed_events` shows them; what they are compared with and
    how they are trained is here.

    With `use_actions` a model knows what each event was: a view, a purchase. With `query_action` it is told, with each
    event, the action of the next one, and at the end the action that is asked for: what they will look at next is not
    what they will buy next.

    Raises:
        DataError: the model is to see actions, and the training data have none.
    """

    loader = NextItemLoader

    def __init__(self, config: Any, catalogue: Catalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        items = catalogue.items
        self.num_tokens = items.size
        # Small, so that the first guess is uniform and Adam's steps of fixed size soon outweigh the start.
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.item_id = self.table_of_items(config.embedding_dim, start, "item_id")
        self.action_id = self.query_id = None
        if config.use_actions or config.query_action:
            names = _names_of_actions(config, catalogue)
            embedding = (names, config.action_order, config.embedding_dim, start)
            self.action_id = ActionEmbedding(*embedding, name="action_id") if config.use_actions else None
            self.query_id = ActionEmbedding(*embedding, name="query_id") if config.query_action else None
        self.bias_id = None
        if config.item_bias:
            self.bias_id = self.table_of_items(1, "zeros", "bias_id")

    def table_of_items(self, dim: int, start: Any, name: str) -> IdEmbedding:
        """A layer with a row of `dim` numbers an item."""
        make = RowEmbedding if self.config.touched_items else IdEmbedding
        return make(self.catalogue.items.trained_size, dim, initializer=start, name=name)

    @property
    def _by_rows(self) -> list[RowEmbedding]:
        return [layer for layer in self.layers if isinstance(layer, RowEmbedding)]

    @abc.abstractmethod
    def states(self, inputs: dict[str, Any], wanted: Any = None, training: bool = False) -> Any:
        """(R, L, D) the state after each event, or (T, D) after those in the `wanted` slots (T,) of all rows."""

    def embed_events(self, inputs: dict[str, Any], scale: float = 1.0, table: Any = None) -> Any:
        """(R, L, D) what is read of each event, times `scale`: its item, its action, and the one that is asked for.

        Args:
            table: of the items that are read; None: that of the items which states are compared with.
        """
        x = (self.item_id if table is None else table)(inputs["item"], *_touched(inputs))
        if self.action_id is not None:
            x = x + self.action_id(inputs["action"])
        if self.query_id is not None:
            x = x + self.query_id(inputs["next_action"])
        return x * scale

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """(T, D or D + 1) the states of the wanted slots, of all R * L where `slot` is not given."""
        if "touched" in inputs:
            for layer in self._by_rows:
                layer.touch(inputs["touched"])
        states = self.states(inputs, inputs.get("slot"), training=training)
        return self.compared(ops.reshape(states, (-1, states.shape[-1])))

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

    def embed_items(self, tokens: Any, *touched: Any) -> Any:
        """(..., D or D + 1) what the states are compared with; `touched` as in `RowEmbedding`, or nothing."""
        bias = None if self.bias_id is None else self.bias_id(tokens, *touched)
        return self._compared(self.item_id(tokens, *touched), bias)

    def _compared(self, vectors: Any, bias: Any) -> Any:
        if self.config.similarity == "cosine":
            vectors = l2_normalize(vectors)
        return vectors if bias is None else ops.concatenate([vectors, bias], axis=-1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = self.loss_of(x, y, y_pred, sample_weight)
        if "touched" in x:
            loss = loss + sum(layer.batch.address(x["touched"]) for layer in self._by_rows)
        return loss

    def loss_of(self, x: dict[str, Any], y: Any, y_pred: Any, sample_weight: Any) -> Any:
        """The loss of a batch: `y` the wanted items and `sample_weight` their weights, of as many as `y_pred` has
        rows."""
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
        if config.loss == "sce":
            table = self._compared(self.item_id.rows(), None if self.bias_id is None else self.bias_id.rows())
            noise, size = ops.transpose(x["noise"]), min(config.bucket_items, table.shape[0] - NUM_SPECIALS)
            return losses.scalable_cross_entropy(y_pred, table, labels, weights, noise, noise.shape[0], size)
        positive = ops.cast(ops.sum(y_pred * self.embed_items(labels, *_touched(x)), axis=-1), "float32")  # (T,)
        tokens = x["negatives"] if config.share_negatives else ops.reshape(x["negatives"], (-1, config.num_negatives))
        vectors = self.embed_items(tokens, *_touched(x))
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
        # Of so many pairs few are positive. A constant says so from the start, and changes no order; else all vectors
        # first grow a common part that says it, which drowns what tells them apart: training may never recover.
        count = ops.shape(negative)[1]
        prior = ops.log(losses.gbce_power(count, num_items, calibration) / ops.cast(count, "float32"))
        return losses.gbce(positive + prior, negative + prior, weights, num_items, calibration, excluded)


def _touched(inputs: dict[str, Any]) -> tuple[Any, ...]:
    """The items of a training batch, where they alone are moved."""
    return (inputs["touched"],) if "touched" in inputs else ()


def _names_of_actions(config: SequentialConfig, catalogue: Catalogue) -> list[str]:
    """The actions of the training data.

    Raises:
        DataError: there are none, or none that `model.action_order` names.
    """
    names = catalogue.actions.ids.tolist()
    if not names:
        flag = "use_actions" if config.use_actions else "query_action"
        raise DataError(f"the events have no actions, which model.{flag}=true needs; set it to false")
    if config.action_order and not set(config.action_order) & set(names):
        order = ",".join(config.action_order)
        raise DataError(f"model.action_order={order}: the data have none of these; they have {', '.join(names)}")
    return names
