"""item2vec: items that occur together have similar vectors.

Legend: B batch, L history, D width, V items.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import Field

from config import DataConfig, ModelConfig, RunConfig, TrainConfig
from zoo import losses
from zoo.data.catalogue import Catalogue
from zoo.data.loaders.co_occurrence import CoOccurrenceLoader
from zoo.data.sources import t_ecd
from zoo.data.vocabulary import PAD
from zoo.layers.embedding import IdEmbedding
from zoo.layers.normalize import l2_normalize
from zoo.recommender import Recommender
from zoo.registry import ModelSpec, Stage


class Item2VecConfig(ModelConfig):
    """Hyperparameters of `Item2Vec`."""

    embedding_dim: int = Field(64, ge=1)
    temperature: float = Field(0.1, gt=0, description="divides the cosines in the loss")
    # The pairs.
    pairs_from: Literal["sessions", "baskets", "both"] = Field(
        "both", description="what occurs together; a basket is the events of a user at the same time"
    )
    window: int = Field(5, ge=1, description="a log without times: events that follow within so many are pairs")
    group_pairs: int = Field(100, ge=1, description="pairs of a session or basket in an epoch, at most")
    user_pairs: int = Field(1000, ge=1, description="pairs of a user in an epoch, at most")
    mask_known: bool = Field(True, description="what occurred with an item in the very session is no negative of it")
    # The user.
    max_length: int = Field(20, ge=1, description="most recent events that make a user's vector")
    half_life: float = Field(1.0, gt=0, description="later events that halve an event's weight in it")


class Item2Vec(Recommender):
    """Contrastive co-occurrence embeddings: InfoNCE over pairs of items, the other pairs of the batch as negatives.

    score(a, b) is the cosine of the items' vectors. The loss is the mean of both directions, from the anchor to the
    positive and back; negatives that are the anchor or the positive themselves, or occurred with them in the same
    session, are left out. A user's vector is the mean of the vectors of his last events, halved every `half_life`
    events, and his score of an item is a cosine, too. An item in no pair (training says how many there are) is a zero
    vector, or as it began with `train.initial_items`; so is an item that is unknown.

    What it learns is which items occur together more often than their popularity explains: that is what makes it an
    item-to-item recommender and a start for other models' item tables (`train.initial_items`), and why popularity is
    not in the score.

    Follows the item embeddings of the T-ECD study and deviates from it:
      * only training users and events are seen, and all items of training are in the table (pairs of validation and
        test users were among the pairs, and the validation pairs were directed twins of training pairs);
      * the vectors that are trained are those that are used (a two-layer head was trained and the table before it
        exported, without normalisation);
      * long sessions and busy users are drawn from (sessions over 30 items were left out; users had no limit);
      * a session runs through all domains of a user (there were none of two domains, so no link between them);
      * duplicates are no negatives (they were), and both directions share a batch (they were rows of their own).
    And from Barkan & Koenigstein 2016: one table instead of two, InfoNCE instead of drawn negatives and a sigmoid.

    References:
        Barkan & Koenigstein 2016, Item2vec. van den Oord et al. 2018, Representation learning with contrastive
        predictive coding (InfoNCE).
    """

    loader = CoOccurrenceLoader

    def __init__(self, config: Item2VecConfig, catalogue: Catalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        self.num_tokens = catalogue.items.size
        start = keras.initializers.RandomNormal(stddev=config.embedding_dim**-0.5)  # vectors of length about one
        self.item_id = IdEmbedding(
            catalogue.items.trained_size, config.embedding_dim, initializer=start, name="item_id"
        )
        self.build_weights()

    def embed_items(self, tokens: Any) -> Any:
        """(..., D) vectors of length one; zero for special and untrained tokens."""
        return l2_normalize(self.item_id(tokens))

    def begin(self, loader: CoOccurrenceLoader) -> None:
        """Has nothing to say of items of which it will learn nothing."""
        if loader.config.train.initial_items is None:
            table = ops.convert_to_numpy(self.item_id.table).copy()
            table[loader.lonely] = 0
            self.item_id.table.assign(table)

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """(B, D) vectors of histories; that of a single item is the item's."""
        history = inputs["history"]  # (B, L)
        real = ops.cast(ops.not_equal(history, PAD), "float32")
        rank = ops.sum(real, axis=1, keepdims=True) - ops.cumsum(real, axis=1)  # (B, L) 0: the last event
        weights = real * ops.power(0.5, rank / self.config.half_life)
        vectors = self.embed_items(history)
        return l2_normalize(ops.sum(vectors * ops.cast(weights, vectors.dtype)[:, :, None], axis=1))

    def encode_users(self, inputs: dict[str, Any]) -> Any:
        return self(inputs, training=False)

    def item_embeddings(self) -> Any:
        return self.embed_items(ops.arange(self.num_tokens, dtype="int32"))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        anchor, size = x["history"][:, 0], ops.shape(y)[0]
        scores = ops.cast(ops.matmul(y_pred, ops.transpose(self.embed_items(y))), "float32") / self.config.temperature
        same = ops.equal(anchor[:, None], y[None, :])  # the anchor as another row's positive
        back = ops.transpose(same)
        if self.config.mask_known:
            same = ops.logical_or(same, x["known"][:, size:])
            back = ops.logical_or(back, x["known"][:, :size])
        popularity = ops.zeros_like(sample_weight)  # not taken off: see the class
        forth = losses.in_batch_softmax(scores, y, popularity, sample_weight, same)
        return (forth + losses.in_batch_softmax(ops.transpose(scores), anchor, popularity, sample_weight, back)) / 2


def _recipe(train: dict[str, Any], sections: dict[str, Any] | None = None, **model: Any) -> RunConfig:
    return RunConfig(model=Item2VecConfig(**model), train=TrainConfig(**train), **(sections or {}))


MODEL = ModelSpec(
    model=Item2Vec,
    stages=(Stage(name="train", loader=CoOccurrenceLoader, begin=Item2Vec.begin),),
    presets={
        "tiny": _recipe({"epochs": 12, "batch_size": 128, "learning_rate": 2e-2}, embedding_dim=16),
        "base": _recipe({"epochs": 30, "batch_size": 1024, "learning_rate": 3e-3}),
        # Amazon Beauty, where days, not minutes, lie between what goes together: HR@10 .0656, NDCG@10 .0373 (one seed)
        "beauty": _recipe(
            {"epochs": 10, "batch_size": 1024, "learning_rate": 3e-3, "patience": 2},
            {"data": DataConfig(session_gap=200_000)},
            temperature=0.2,
        ),
        # T-ECD, ten days of 317,000 items, with the width and temperature of the study; measured on a small copy only.
        "t-ecd": _recipe(
            {"epochs": 5, "batch_size": 4096, "patience": 2, "validation_users": 2000}, t_ecd.STUDY, embedding_dim=128
        ),
    },
    paper="https://doi.org/10.1109/MLSP.2016.7738886",
)
