"""Cross-domain recommendation in two stages: representations of users, then a gated sequential recommender.

Legend: R rows, L slots of a row, T wanted slots, U users of a batch, G domains, D width, V items, C candidates.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import Field, model_validator

from config import DataConfig, ModelConfig, RunConfig, SplitConfig, TrainConfig, override
from zoo import backends, domain_losses, losses
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.domains import (
    DomainLoader,
    before_targets,
    of_users_known,
    recommending,
    representing,
    target_domain,
)
from zoo.data.vocabulary import MASK, NUM_SPECIALS
from zoo.layers.attention import at_slots, hiding, visible
from zoo.layers.embedding import IdEmbedding
from zoo.layers.encoder import Encoder
from zoo.layers.gradient_reversal import reverse_gradient
from zoo.layers.normalize import l2_normalize
from zoo.layers.pooling import pooled
from zoo.layers.user_gate import SequenceGate, StateGate
from zoo.recommender import Recommender
from zoo.registry import ModelSpec, Stage

KINDS = ("specific", "common", "cross")


class CrossDomainConfig(ModelConfig):
    """Hyperparameters of `CrossDomain`."""

    embedding_dim: int = Field(64, ge=1)
    max_length: int = Field(50, ge=2, description="most recent events of a history, of all domains, that are seen")
    all_events: bool = Field(True, description="train on every event, in windows of max_length; false: on the last one")
    num_blocks: int = Field(2, ge=1)
    num_heads: int = Field(2, ge=1)
    expansion: int = Field(2, ge=1, description="width of the position-wise network, in embedding_dim")
    dropout: float = Field(0.3, ge=0, lt=1)
    relative_bias: bool = Field(True, description="learn what the distance between events adds to their attention")
    causal: bool = Field(
        True, description="look back only, and predict each next item; false: look both ways, predict masked ones"
    )
    mask_share: float = Field(0.3, gt=0, le=1, description="causal=false: of a sequence's events that are masked")
    last_share: float = Field(0.1, ge=0, le=1, description="causal=false: sequences whose last event alone is")
    # Stage 1, representations. A weight of 0 leaves a part out.
    representation_epochs: int = Field(30, ge=0, description="0: no stage 1")
    representation_negatives: int = Field(2048, ge=0, description="items drawn for a batch; 0: all are in its losses")
    pooling: Literal["last", "mean"] = Field("last", description="of the states: a user's vectors")
    classification: float = Field(1.0, ge=0, description="weight of telling the domain of a specific vector")
    adversarial: float = Field(0.1, ge=0, description="weight of making common vectors of all domains alike")
    common_masked: bool = Field(True, description="common vectors predict items, too; else a constant is best")
    reversal: Literal["schedule", "constant"] = Field("schedule", description="strength of the gradient reversal")
    alignment: float = Field(0.1, ge=0, description="weight of the cross vector's distance to the common ones")
    separation: float = Field(0.1, ge=0, description="weight of the cross vector's closeness to the specific ones")
    margin: Literal["mean_square", "euclidean"] = Field("mean_square", description="what separation wants to be 1")
    same_user: bool = Field(True, description="align vectors of one user; false: of two, as the published code does")
    contrastive: float = Field(0.0, ge=0, description="weight of InfoNCE between a user's common vectors")
    contrastive_temperature: float = Field(0.1, gt=0)
    # Stage 2, the recommender.
    gating: Literal["state", "original", "none"] = Field("state", description="what the user's vectors are mixed with")
    user_dropout: float = Field(0.5, ge=0, lt=1, description="gating=state: share of training that lacks them")
    fine_tune_users: bool = Field(False, description="the recommender's stage trains the vectors of users, too")
    # The loss of the recommender is over all candidates, without negatives.
    loss: Literal["softmax"] = "softmax"
    use_actions: Literal[False] = False
    query_action: Literal[False] = False

    @model_validator(mode="after")
    def _consistent(self) -> CrossDomainConfig:
        if self.embedding_dim % self.num_heads:
            raise ValueError(f"embedding_dim={self.embedding_dim} is no multiple of num_heads={self.num_heads}")
        if self.fine_tune_users and self.gating == "none":
            raise ValueError("fine_tune_users=true trains what gating=none does without; set one otherwise")
        if not (self.representation_epochs or self.fine_tune_users or self.gating == "none"):
            raise ValueError("representation_epochs=0 leaves gates untaught: set gating=none or fine_tune_users=true")
        return self


class CrossDomain(Recommender):
    """Encoders of what is specific to a domain, common to all, and across them; a recommender gated by two of these.

    Stage 1 reads each user's events of all domains in one row. The `specific` and the `common` encoder see the events
    of one domain at a time and predict the next there, `cross` sees all and predicts the next of any; a user's vector
    is the last of the states. A discriminator tells the domains of specific vectors apart, and, through a gradient
    reversal, makes those of the common encoder alike; the cross vector is drawn to the user's own common vectors and
    kept at a distance of 1, the root of the mean square, from his specific ones.

    Stage 2 reads the events of the target domain. Its state is joined by the user's vectors, gated (`StateGate`):
    score(item) = <state + G * specific + (1 - G) * cross, item>. They are made of what precedes the event that is
    asked for, in training as in serving. Each event of the target domain is predicted at the one before it there; a
    user's first, at a vector that asks. With `causal=false` all encoders look both ways and predict masked events, of
    which vectors of users know nothing: stage 2 is a BERT4Rec.

    Deviations from the published code of TriGRec, whose defects they mend:
      * alignment and separation compare vectors of one user (there, of different users in a batch);
      * encoders look back and predict each next item; they looked both ways for masked ones (`causal=false`), which
        teaches less of the same events; of more than `representation_negatives` items so many are sampled;
      * the common encoder predicts items, too (`common_masked`), and the reversal grows (`reversal`); there its only
        aim was to hide the domain, which a constant does best;
      * padding is neither attended to nor pooled; the discriminator has as many classes as there are domains;
      * user vectors are of the visible history (there, of a history that went on after the event to be predicted);
      * the output holds the state of the sequence; theirs, `gating=original`, is a mixture of the two user vectors
        alone, in which the sequence only sets weights;
      * every event of the target domain is supervised (there, each user's last but one, and none is masked), over the
        items of that domain;
      * separation is by the mean over the width (there, `margin=euclidean`, the sum: any two vectors exceed 1);
      * domains are averaged (there, the sums of two: `classification`, `adversarial` and the specific encoder's masked
        items weigh twice as much against the cross encoder's losses), and the discriminator sees vectors of one length;
      * pre-norm blocks, one item table for input and output; the items of stage 2 begin where stage 1 ended.

    References:
        TriGRec, https://github.com/moon2y/TriGRec. Ganin & Lempitsky 2015, Unsupervised domain adaptation by
        backpropagation. Sun et al. 2019, BERT4Rec.
    """

    loader = DomainLoader
    item_tables = ("user_items",)

    def __init__(self, config: CrossDomainConfig, catalogue: Catalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        dim, items = config.embedding_dim, catalogue.items
        self.target = target_domain(catalogue)
        self.num_domains = len(catalogue.labels["domain"])
        assert catalogue.candidates is not None
        candidates = np.flatnonzero(catalogue.candidates)
        self._candidates = np.concatenate([np.arange(NUM_SPECIALS), candidates]).astype(np.int32)
        self._label = np.zeros(items.size, np.int32)  # place of each token among the candidates
        self._label[self._candidates] = np.arange(len(self._candidates))
        start = keras.initializers.RandomNormal(stddev=0.4 / dim**0.5)
        self.user_items = IdEmbedding(items.trained_size, dim, initializer=start, name="user_items")
        self.item_id = IdEmbedding(items.trained_size, dim, initializer="zeros", name="item_id")
        self.mask = IdEmbedding(NUM_SPECIALS + 2, dim, initializer=start, name="mask")
        block = (config.num_blocks, config.num_heads, config.expansion, config.dropout, config.relative_bias)
        encoder = partial(Encoder, dim, config.max_length, *block)
        self.specific, self.common, self.cross = (encoder(name=kind) for kind in KINDS)
        self.recommender = encoder(name="recommender")
        self.traits = keras.layers.Dense(dim, "relu", name="traits")
        self.discriminator = keras.layers.Dense(self.num_domains, name="discriminator")
        self.gate = None
        if config.gating != "none":
            state = config.gating == "state"
            self.gate = StateGate(dim, config.user_dropout, name="gate") if state else SequenceGate(dim, name="gate")
        self.build_weights()

    def use_weights(self, inputs: dict[str, Any]) -> None:
        super().use_weights(inputs)
        dim, place = self.config.embedding_dim, np.zeros((1, 2), np.int32)
        for encoder in (self.specific, self.common, self.cross):  # serving may do without them
            encoder(ops.zeros((1, 2, dim)), place, ops.zeros((1, 1, 2, 2)))
        self.discriminator(self.traits(ops.zeros((1, dim))))

    # ------------------------------------------------------------------------------------------- both stages

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Stage 2: (T, D) states of the wanted slots. Stage 1: what `_represent` says."""
        return self._represent(inputs, training) if "reversal" in inputs else self._recommend(inputs, training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        labels, weights = ops.reshape(y, (-1,)), ops.reshape(sample_weight, (-1,))
        if "reversal" in x:
            return self._representation_loss(x, labels, weights, y_pred)
        table = self.embed_items(self._candidates)
        return losses.softmax_cross_entropy(y_pred, table, ops.take(self._label, labels), weights)

    def _encoded(self, kind: str, inputs: dict[str, Any], training: bool) -> Any:
        """States (R, L, D) of an encoder of users."""
        item, domain = inputs["item"], inputs["domain"]
        events = self.user_items(item)
        if kind == "common":  # an item is of one domain alone: hiding that must not change what is known of the item
            events = ops.stop_gradient(events)
        events = events + self._masks(item, 0)
        seen = visible(inputs["segment"], self.config.causal)
        if kind == "cross":
            return self.cross(events, inputs["position"], hiding(seen, events.dtype), training=training)
        seen = ops.logical_and(seen, ops.equal(domain[:, :, None], domain[:, None, :]))
        encoder: Encoder = getattr(self, kind)
        return encoder(events, inputs["place"], hiding(seen, events.dtype), gaps=True, training=training)

    def _masks(self, item: Any, which: int) -> Any:
        """What stands for a masked item: one vector for the encoders of users, another for the recommender."""
        masked = ops.equal(item, MASK)
        return self.mask(ops.where(masked, NUM_SPECIALS + which, 0))

    def _known(self, inputs: dict[str, Any], domain: int | None = None) -> Any:
        """(R, L, L) bool: the events that each slot may know, all or of one domain."""
        shown = ops.logical_and(ops.not_equal(inputs["item"], MASK), ops.greater(inputs["segment"], 0))
        if domain is not None:
            shown = ops.logical_and(shown, ops.equal(inputs["domain"], domain))
        return ops.logical_and(visible(inputs["segment"], self.config.causal), shown[:, None, :])

    # --------------------------------------------------------------------------------------------- stage 1

    def _represent(self, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
        """By encoder, states (T, D), of the masked slots or, with `causal`, of all; vectors of users (U, D): `cross`,
        `cross_there` (U,), and, one per domain and stacked, (U, G, D) `specific`, `common`, (U, G) `there`."""
        row = inputs["person"] // inputs["item"].shape[1]
        known = at_slots(self._known(inputs), inputs["person"])[:, None]  # (U, 1, L), of each domain alone (U, G, L)
        domains = ops.arange(1, self.num_domains + 1, dtype="int32")[:, None]
        by_domain = ops.logical_and(known, ops.equal(ops.take(inputs["domain"], row, axis=0)[:, None], domains))
        there = {"there": ops.any(by_domain, axis=-1), "cross_there": ops.any(known[:, 0], axis=-1)}
        result = {name: ops.cast(one, inputs["people"].dtype) for name, one in there.items()}
        for kind in KINDS:
            states = self._encoded(kind, inputs, training)
            result[f"{kind}_states"] = at_slots(states, inputs.get("slot"))
            seen = known if kind == "cross" else by_domain
            result[kind] = pooled(ops.take(states, row, axis=0), seen, self.config.pooling == "last")
        return result | {"cross": result["cross"][:, 0]}

    def _representation_loss(self, x: dict[str, Any], labels: Any, weights: Any, found: dict[str, Any]) -> Any:
        config, people = self.config, x["people"]
        there = found["there"] * people[:, None]  # (U, G)
        kinds = KINDS if config.common_masked else ("specific", "cross")
        asked = dict.fromkeys(kinds, (labels, weights))
        if config.causal:
            there_next = ops.reshape(x["next_there"], (-1,)), ops.reshape(x["weight_there"], (-1,))
            asked |= {kind: there_next for kind in kinds if kind != "cross"}
        total = sum(self._items(found[f"{kind}_states"], *asked[kind], x.get("negatives")) for kind in kinds)
        if config.classification:
            logits = self._domain_logits(found["specific"])
            total = total + config.classification * domain_losses.told_apart(logits, there)
        if config.adversarial:
            logits = self._domain_logits(reverse_gradient(found["common"], x["reversal"][0]))
            total = total + config.adversarial * domain_losses.told_apart(logits, there)
        if config.contrastive:
            again = domain_losses.contrast(found["common"], there, x["history"], config.contrastive_temperature)
            total = total + config.contrastive * again
        if not config.same_user:
            found = found | {kind: ops.roll(found[kind], 1, axis=0) for kind in ("specific", "common")}
            there = ops.roll(there, 1, axis=0)
        both = people * found["cross_there"] * ops.cast(ops.any(there > 0, axis=1), people.dtype)
        if config.alignment:
            total = total + config.alignment * domain_losses.alignment(found["cross"], found["common"], there, both)
        if config.separation:
            vectors = found["cross"], found["specific"], there, both
            near = domain_losses.separation(*vectors, config.margin == "euclidean")
            total = total + config.separation * near
        return total

    def _items(self, states: Any, labels: Any, weights: Any, negatives: Any) -> Any:
        """Cross-entropy of items (T,), of all or among `negatives` (N,), given states (T, D)."""
        if negatives is None:
            return losses.softmax_cross_entropy(states, self.user_items.rows(), labels, weights)
        vectors = self.user_items(labels), self.user_items(negatives)
        return losses.uniformly_sampled(states, *vectors, weights, ops.equal(labels[:, None], negatives))

    def _domain_logits(self, vectors: Any) -> Any:
        """(U, G, G) what the discriminator makes of vectors (U, G, D)."""
        unit = l2_normalize(ops.cast(vectors, "float32"))  # in float16, the length of zeros is no number
        return self.discriminator(self.traits(unit * vectors.shape[-1] ** 0.5))

    # --------------------------------------------------------------------------------------------- stage 2

    def _recommend(self, inputs: dict[str, Any], training: bool) -> Any:
        """States (T, D), joined by what their users are like: of the last events in serving, of all slots of rows of
        the target domain alone, or of `latest` among those of all domains."""
        x = inputs.get("alone", inputs)
        latest, length = x["slot"] if "alone" in inputs else x.get("latest"), x["item"].shape[1]
        own = ops.equal(x["domain"], self.target)
        asking = self.mask(ops.full_like(x["item"], NUM_SPECIALS + 1))  # where no event of the target domain is known
        events = ops.where(own[..., None], self.embed_items(x["item"]) + self._masks(x["item"], 1), asking)
        read = ops.logical_or(own[:, None, :], ops.eye(length, dtype="bool")[None])  # these events, and itself
        seen = ops.logical_and(visible(x["segment"], self.config.causal), read)
        bias, gaps = hiding(seen, events.dtype), "latest" in inputs
        if self.config.gating != "original":
            state = self.recommender(events, x["aim"], bias, gaps=gaps, wanted=latest, training=training)
            state = ops.reshape(state, (-1, state.shape[-1]))
            return state if self.gate is None else self.gate(state, *self._users(inputs, training), training=training)
        states = self.recommender(events, x["aim"], bias, gaps=gaps, training=training)
        sequences = ops.repeat(states, length, axis=0) if latest is None else ops.take(states, latest // length, axis=0)
        return self.gate(sequences, at_slots(seen, latest), *self._users(inputs, training))

    def _users(self, inputs: dict[str, Any], training: bool = False) -> list[Any]:
        """The specific and the cross vector (T, D) of the user at each wanted slot: given, or made of what is there."""
        if "specific" in inputs:
            return [ops.reshape(inputs[kind], (-1, inputs[kind].shape[-1])) for kind in ("specific", "cross")]
        trained, kinds = self.config.fine_tune_users, (("specific", self.target), ("cross", None))
        vectors = [self._view(kind, domain, inputs, training and trained) for kind, domain in kinds]
        return vectors if trained else [ops.stop_gradient(vector) for vector in vectors]

    def introduce(self, histories: Histories) -> Histories:
        """Histories with what their users were like before each event of the target domain: `specific`, `cross` (E, D),
        which stand still while the recommender learns, and need not be made again for each batch."""
        if not of_users_known(self.config):
            return histories
        vectors, size = backends.compiled(self._users, self), (len(histories.item), self.config.embedding_dim)
        found = {kind: np.zeros(size, np.float32) for kind in ("specific", "cross")}
        for x, event in before_targets(histories, self.catalogue, self.config):
            for kind, made in zip(found, vectors(x), strict=True):
                found[kind][event] = ops.convert_to_numpy(made)[: len(event)]
        return dataclasses.replace(histories, columns=histories.columns | found)

    def embed_items(self, tokens: Any) -> Any:
        """(..., D) what stage 1 learned of the items, and what stage 2 adds."""
        return ops.stop_gradient(self.user_items(tokens)) + self.item_id(tokens)

    def encode_users(self, inputs: dict[str, Any]) -> Any:
        return self._recommend(inputs, training=False)

    def views(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """Besides, `specific_DOMAIN` and `common_DOMAIN` of each domain, zero where it has no event, and `cross`."""
        result, config = super().views(), self.config
        if not config.representation_epochs:  # nothing has trained them
            return result
        for kind in [kind for kind in ("specific", "common") if kind not in _not_represented(config)]:
            for g, name in enumerate(self.catalogue.labels["domain"], 1):
                file_name = re.sub(r"[^\w.-]+", "_", name)
                if f"{kind}_{file_name}" in result:  # two names that differ in what no file name may hold
                    file_name += f"_{g}"
                result[f"{kind}_{file_name}"] = partial(self._view, kind, g)
        return result | {"cross": partial(self._view, "cross", None)}

    def _view(self, kind: str, domain: int | None, inputs: dict[str, Any], training: bool = False) -> Any:
        """(T, D) vectors of users, of what each wanted slot may know."""
        states = self._encoded(kind, inputs, training)
        return at_slots(pooled(states, self._known(inputs, domain), self.config.pooling == "last"), inputs["slot"])

    def item_embeddings(self) -> Any:
        return self.embed_items(ops.arange(self.catalogue.items.size, dtype="int32"))


def _not_represented(config: CrossDomainConfig) -> tuple[str, ...]:
    """Layers that stage 1 leaves alone."""
    names = ["item_id", "recommender", *(["gate"] if config.gating != "none" else [])]
    if not (config.classification or config.adversarial):
        names += ["traits", "discriminator"]
    if not (config.common_masked or config.adversarial or config.contrastive):
        names += ["common"]
    return tuple(names)


def _not_recommending(config: CrossDomainConfig) -> tuple[str, ...]:
    """Layers that stage 2 leaves alone."""
    names = ["common", "traits", "discriminator"]
    if config.gating == "none" or not config.fine_tune_users:
        names += ["user_items", "specific", "cross"]
    return tuple(names)


def _recipe(train: dict[str, Any], target: str | None = None, windows: str = "keep", **model: Any) -> RunConfig:
    split, data = SplitConfig(target_domains=target and (target,)), DataConfig(windows=windows)
    return RunConfig(model=CrossDomainConfig(**model), train=TrainConfig(**train), split=split, data=data)


_SMALL = {"embedding_dim": 16, "max_length": 16, "num_blocks": 1, "dropout": 0.1, "representation_epochs": 4}
_PUBLISHED = (
    "embedding_dim=50,num_heads=1,relative_bias=false,causal=false,mask_share=0.15,last_share=0,representation_epochs=100,"
    "gating=original,pooling=mean,classification=2,adversarial=2,alignment=1,separation=1,margin=euclidean,reversal=constant,"
    "same_user=false,representation_negatives=0,common_masked=false,user_dropout=0,batch_size=32,learning_rate=1e-3"
)
_BASE = {"epochs": 40, "batch_size": 128, "learning_rate": 2e-3, "patience": 5}


MODEL = ModelSpec(
    model=CrossDomain,
    stages=(
        Stage(
            name="representations",
            loader=representing,
            frozen=_not_represented,
            epochs=lambda config: config.model.representation_epochs,  # type: ignore[attr-defined]
        ),
        Stage(name="recommender", loader=recommending, frozen=_not_recommending, prepare=CrossDomain.introduce),
    ),
    presets={
        "tiny": _recipe({"epochs": 10, "batch_size": 32, "learning_rate": 1e-2}, "kitchen", **_SMALL),
        "base": _recipe(_BASE),
        # The published code's first stage and gate, as near as options come: its discriminator saw vectors at their own
        # length, and its specific encoder's masked items weighed twice as much.
        "published": override(_recipe(_BASE), [_PUBLISHED]),
        # Food and kitchen come in overlapping windows of the same people, which are joined.
        **{domain: _recipe(_BASE, domain, "join") for domain in ("food", "kitchen")},
        **{domain: _recipe(_BASE, domain) for domain in ("toy", "game")},
    },
    paper="https://github.com/moon2y/TriGRec",
)
