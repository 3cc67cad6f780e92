"""UBT: one vector of a client's behaviour for many tasks, by a causal stack over events of seven families of features.

Legend: R rows, L slots of a row, B clients, D width, F width of a family, U width of a client's vector, V products,
G categories, C candidates, P positives of a client, T tasks.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import BeforeValidator, Field, model_validator

from config import ModelConfig, RunConfig, TrainConfig
from zoo import task_losses
from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import KINDS
from zoo.data.loaders.behaviour_sequences import NO_HISTORY, BehaviourSequenceLoader, code_rows, query_length
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.layers.dropout import Dropout
from zoo.layers.event_encoder import EventEncoder, pooled
from zoo.layers.event_features import ProductFeatures
from zoo.layers.event_stack import EventStack
from zoo.layers.normalize import l2_normalize
from zoo.recommender import Recommender
from zoo.registry import ModelSpec, Stage

TASKS = ("churn", "category", "sku", "price", "name", "next")
ALIASES = {"category_propensity": "category", "product_propensity": "sku"}  # what the original calls them


def read_task_weights(value: Any) -> Any:
    """{task: weight} of such a dictionary, or of a text as the original's command line has it: `churn:1.0,price:0.5`.

    Raises:
        ValueError: a task that there is none of, or no number behind the colon.
    """
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple):
        if not all(isinstance(part, str) and ":" in part for part in value):
            raise ValueError("wanted task:weight, separated by commas")
        pairs = [tuple(text.strip() for text in part.split(":", 1)) for part in value]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        return value
    result = {}
    for given, weight in pairs:
        name = ALIASES.get(given, given)
        if name not in TASKS:
            close = difflib.get_close_matches(str(given), [*TASKS, *ALIASES], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(TASKS)}"
            raise ValueError(f"no task {given!r}; {hint}")
        if name in result:
            raise ValueError(f"the task {name!r} is given twice")
        result[name] = weight
    return result


Weight = Annotated[float, Field(ge=0)]
TaskWeights = Annotated[dict[str, Weight], BeforeValidator(read_task_weights)]


class UBTConfig(ModelConfig):
    """Hyperparameters of `UBT`."""

    max_length: int = Field(128, ge=2, description="most recent events of a client that are seen")
    max_visits: int | None = Field(None, ge=0, description="of these, page visits at most; null: as many as there are")
    text_length: int = Field(16, ge=1, description="codes of a name or a query that are read")
    # The events.
    family_dim: int = Field(32, ge=1, description="width of each family of features")
    embedding_dim: int = Field(64, ge=1, description="width of an event and of its state")
    gate_dim: int = Field(16, ge=1, description="width of the network that weighs the families")
    item_rows: int = Field(65_536, ge=1, description="of the table that products share by hash")
    num_hashes: int = Field(3, ge=1, description="rows of it that a product's vector is the sum of")
    url_tail: int = Field(2_048, ge=1, description="rows shared by urls with fewer visits than behaviour.min_visits")
    # The stack.
    stack: Literal["hstu", "transformer"] = "hstu"
    num_blocks: int = Field(2, ge=1)
    num_heads: int = Field(2, ge=1)
    expansion: int = Field(2, ge=1, description="transformer: width of the position-wise network, in embedding_dim")
    dropout: float = Field(0.2, ge=0, lt=1)
    user_dim: int = Field(128, ge=1, description="width of a client's vector")
    # What is learned.
    cut_offs: int = Field(6, ge=1, description="times inside the input behind which labels are taken, at most")
    cut_off_days: int = Field(7, ge=1, description="days between two of them")
    task_weights: TaskWeights = Field(
        {"churn": 1.0, "category": 0.3, "sku": 0.2, "price": 0.2, "name": 0.2, "next": 3.0},
        description="of the losses, as {task: weight} or `churn:1.0,category:0.5`; a task that is not named has none",
    )
    task_balance: Literal["static", "learned"] = Field(
        "static", description="learned: each task's uncertainty scales its loss besides"
    )
    focal_alpha: float = Field(0.5, gt=0, lt=1, description="churn: weight of clients who churn; of others 1 - this")
    focal_gamma: float = Field(1.0, ge=0, description="churn: how much less what is already likely counts")
    inactive_weight: float = Field(0.2, ge=0, le=1, description="churn: of clients who never bought; of others 1")
    cart_weight: float = Field(0.3, ge=0, le=1, description="of a product in a cart as a positive; of a purchase 1")
    max_positives: int = Field(16, ge=1, description="of a task and client in a window, at most")
    num_candidates: int = Field(8_192, ge=2, description="labels of a task above this are sampled, so many a batch")
    popularity_power: float = Field(0.5, ge=0, description="labels are sampled as (purchases + 1)^power")
    price_loss: Literal["buckets", "huber"] = Field("buckets", description="which buckets are bought, or their mean")
    name_negatives: int = Field(256, ge=1, description="names sampled, besides those of the batch")
    next_events: int = Field(512, ge=2, description="events of a batch from which later ones are to be found")
    next_reach: int = Field(16, ge=1, description="how many events later these are, at most")
    temperature: float = Field(0.1, gt=0, description="of names and of later events")
    novelty: float = Field(0.05, ge=0, description="weight of the share laid on popular labels, times the task's")

    @model_validator(mode="after")
    def _consistent(self) -> UBTConfig:
        if self.embedding_dim % self.num_heads:
            raise ValueError(f"embedding_dim={self.embedding_dim} is no multiple of num_heads={self.num_heads}")
        if not any(self.task_weights.values()):
            raise ValueError(f"task_weights={self.task_weights}: no task has a weight")
        return self


class UBT(Recommender):
    """score(product) = <u, W [item, category, price, name of the product]>, and likewise of categories.

    u, the client's vector, is made of the states after his events (the last one, their mean, the mean over each kind of
    event) and of how many events there were: of each kind, in all and lately. Each event is the fusion of seven
    families: what it is, the product, its category, price bucket and name, the url, the query; and of its time to the
    cut-off and since the event before, in buckets of the logarithm of seconds: a shift of the clock changes nothing.

    It learns from windows behind cut-offs inside the input (`BehaviourSequenceLoader`): whether nothing will be bought
    (focal loss), which categories, products and price buckets will be (InfoNCE with several positives over all labels,
    or a sample where they are many), the words of a product that will be (InfoNCE of unit vectors over the names of the
    batch and a sample), and, of each state, what comes within the next events. A client without events is one event of
    a kind of its own.

    Deviations from the published code of the team ririka, most of which mend its defects:
      * names and queries are codes, each place with a table of its own (there, all zero); a product's vector is its
        own (there, of one in 10,000 rows by remainder); prices are a bucket's cross-entropy (there, squared errors in
        the thousands); positives come from the window alone (there, the input's last item stood in for none);
      * times are seconds to the cut-off (there, days since the client's first event);
      * blocks of HSTU with a bias per head, or of a Transformer (there, a Transformer with one bias for all heads);
      * the bias looks from an event's own time (there, from the next one's, which is padding after the last);
      * the client's vector is not normalised to length one; of the statistics that were added to every step (shares of
        kinds, distinct products, gaps) the numbers of events remain, and come in at the end;
      * heads are linear (there, 50 million weights each); later events are found again (there, not asked for).

    References:
        Liu et al. 2025, Beyond aggregation: a feature-fused Universal Behavioral Transformer for generalizable user
        representation, RecSysChallenge '25. Zhai et al. 2024 (HSTU), Lin et al. 2017 (focal loss), Kendall et al. 2018
        (uncertainty weighting), Svenstrup et al. 2017 (hash embeddings).
    """

    loader = BehaviourSequenceLoader

    def __init__(self, config: UBTConfig, catalogue: BehaviourCatalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)
        dim, family = config.embedding_dim, config.family_dim
        self.num_products, self.num_categories = catalogue.items.size, catalogue.categories.size
        length = max(min(catalogue.name.shape[1], config.text_length), 1)
        self.products = ProductFeatures(
            catalogue.category,
            catalogue.price,
            code_rows(catalogue.name, catalogue.num_codes, length),
            self.num_categories,
            max(catalogue.num_prices, 1),
            1 + length * catalogue.num_codes,
            catalogue.items.trained_size,
            family,
            config.item_rows,
            config.num_hashes,
            name="products",
        )
        stack = EventStack(
            config.stack,
            dim,
            config.num_blocks,
            config.num_heads,
            config.max_length,
            config.expansion,
            config.dropout,
            name="stack",
        )
        self.encoder = EventEncoder(
            self.products,
            self.num_products <= config.num_candidates,
            NO_HISTORY + 1,
            catalogue.urls.size - NUM_SPECIALS + config.url_tail + 1,
            1 + query_length(catalogue, config) * catalogue.num_codes,
            family,
            dim,
            config.gate_dim,
            config.dropout,
            stack,
            name="encoder",
        )
        self.drop = Dropout(config.dropout)
        self.user = keras.layers.Dense(config.user_dim, name="user")
        self.tasks = tuple(task for task in TASKS if config.task_weights.get(task))
        # What is compared with u by inner products needs no bias: what all labels have alike moves no softmax.
        user, buckets = config.user_dim, config.price_loss == "buckets"
        maps = {"churn": (1, True), "category": (user, False), "sku": (user, False), "name": (family, True)}
        maps["price"] = (user, False) if buckets else (1, True)
        self.categories_of_prices = _categories_of_prices(catalogue)
        self.heads = {
            task: keras.layers.Dense(width, use_bias=bias, name=task)
            for task, (width, bias) in maps.items()
            if task in self.tasks
        }
        if "next" in self.tasks:
            self.next_query = keras.layers.Dense(dim, name="next_query")
            self.next_key = keras.layers.Dense(dim, name="next_key")
        self.log_variances = None
        if config.task_balance == "learned":
            self.log_variances = self.add_weight(shape=(len(self.tasks),), initializer="zeros", name="log_variances")
        self.trackers = {task: keras.metrics.Mean(name=f"{task}_loss") for task in self.tasks}
        self.build_weights()

    def use_weights(self, inputs: dict[str, Any]) -> None:
        super().use_weights(inputs)
        self.category_embeddings()
        user, state = ops.zeros((1, self.config.user_dim)), ops.zeros((1, self.config.embedding_dim))
        for task in self.heads:  # in one order in every process: their first weights are drawn one after another
            if task == "price" and self.config.price_loss == "buckets":
                self.embed_prices()
            elif task not in ("category", "sku"):  # whose maps are of labels, and are made by now
                self.heads[task](user)
        if "next" in self.tasks:
            self.next_query(state), self.next_key(state)

    # ------------------------------------------------------------------------------------------- the client

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """`user` (B, U): clients' vectors, those included that fill a batch up; `content` and `state` (R, L, D)."""
        content, state = self.encoder(inputs, training=training)
        user = self.user(self.drop(pooled(state, inputs, len(KINDS)), training=training))
        return {"user": self.drop(user, training=training), "content": content, "state": state}

    def encode_users(self, inputs: dict[str, Any]) -> Any:
        return self(inputs, training=False)["user"]

    def churn_scores(self, vectors: Any) -> Any:
        """(n,) logits of clients, given by their vectors (n, U), buying nothing in the window to come."""
        return self.heads["churn"](vectors)[:, 0]

    # ------------------------------------------------------------------------------------------- the labels

    def embed_items(self, tokens: Any) -> Any:
        """(..., U) what clients' vectors are compared with; zeros where products were not learned to be told apart."""
        if "sku" not in self.heads:
            return ops.zeros((*ops.shape(tokens), self.config.user_dim))
        return self.heads["sku"](ops.concatenate(self.products(tokens), axis=-1))

    def embed_categories(self, tokens: Any) -> Any:
        """(..., U) what clients' vectors are compared with; zeros where categories were not learned."""
        if "category" not in self.heads:
            return ops.zeros((*ops.shape(tokens), self.config.user_dim))
        return self.heads["category"](self.products.category(tokens))

    def embed_prices(self) -> Any:
        """(price buckets, U): each bucket's row, and the mean of its products' categories."""
        rows = self.products.price.rows()[1:]
        categories = ops.cast(ops.convert_to_tensor(self.categories_of_prices), rows.dtype)
        means = ops.matmul(categories, self.products.category.rows())
        return self.heads["price"](ops.concatenate([rows, means], axis=-1))

    def item_embeddings(self) -> Any:
        return self.embed_items(ops.arange(self.num_products, dtype="int32"))

    def category_embeddings(self) -> Any:
        """(G, U) a vector per token, specials included: <client, category> is the score of a category."""
        return self.embed_categories(ops.arange(self.num_categories, dtype="int32"))

    # --------------------------------------------------------------------------------------------- the loss

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        found = [getattr(self, f"_{task}_loss")(y, y_pred, sample_weight) for task in self.tasks]
        asked = []
        for task, loss in zip(self.tasks, found, strict=True):
            labels = "mean_price" if task == "price" and self.config.price_loss == "huber" else task
            asked.append(ops.sum(sample_weight[labels]))
            self.trackers[task].update_state(loss, sample_weight=asked[-1])
        weights = [self.config.task_weights[task] for task in self.tasks]
        if self.log_variances is None:
            return sum(weight * loss for weight, loss in zip(weights, found, strict=True))
        there = ops.cast(ops.greater(ops.stack(asked), 0), "float32")
        return task_losses.balanced(ops.stack(found), self.log_variances, there * ops.convert_to_tensor(weights))

    def _churn_loss(self, y: dict[str, Any], found: dict[str, Any], weights: dict[str, Any]) -> Any:
        scores, config = ops.cast(self.churn_scores(found["user"]), "float32"), self.config
        return task_losses.focal(scores, y["churn"], weights["churn"], config.focal_alpha, config.focal_gamma)

    def _category_loss(self, y: dict[str, Any], found: dict[str, Any], weights: dict[str, Any]) -> Any:
        return self._propensity("category", self.embed_categories(y["category_candidates"]), y, found, weights)

    def _sku_loss(self, y: dict[str, Any], found: dict[str, Any], weights: dict[str, Any]) -> Any:
        return self._propensity("sku", self.embed_items(y["sku_candidates"]), y, found, weights)

    def _propensity(self, task: str, table: Any, y: dict[str, Any], found: dict[str, Any], weights: dict) -> Any:
        scores = ops.cast(ops.matmul(found["user"], ops.transpose(table)), "float32")  # (B, C)
        scores = scores - y[f"{task}_log_q"][None]
        weight = weights[task]
        loss = task_losses.multi_positive_nce(scores, y[task], y[f"{task}_share"], weight)
        if self.config.novelty:
            loss = loss + self.config.novelty * task_losses.novelty(scores, y[f"{task}_popularity"], weight)
        return loss

    def _price_loss(self, y: dict[str, Any], found: dict[str, Any], weights: dict[str, Any]) -> Any:
        if self.config.price_loss == "huber":
            scores = ops.cast(self.heads["price"](found["user"])[:, 0], "float32")
            return task_losses.huber(scores, y["mean_price"], weights["mean_price"], 0.1) * 100.0
        scores = ops.cast(ops.matmul(found["user"], ops.transpose(self.embed_prices())), "float32")
        return task_losses.multi_positive_nce(scores, y["price"], y["price_share"], weights["price"])

    def _name_loss(self, y: dict[str, Any], found: dict[str, Any], weights: dict[str, Any]) -> Any:
        wanted = l2_normalize(self.heads["name"](found["user"]))
        names = self.products.names(ops.concatenate([y["name"], y["name_negatives"]], axis=0))
        scores = ops.matmul(wanted, ops.transpose(l2_normalize(names))) / self.config.temperature
        own = ops.arange(ops.shape(y["name"])[0], dtype="int32")[:, None]
        shares, excluded = ops.ones_like(weights["name"])[:, None], y["name_excluded"]
        return task_losses.multi_positive_nce(ops.cast(scores, "float32"), own, shares, weights["name"], excluded)

    def _next_loss(self, y: dict[str, Any], found: dict[str, Any], weights: dict[str, Any]) -> Any:
        flat = {name: ops.reshape(found[name], (-1, found[name].shape[-1])) for name in ("state", "content")}
        wanted = l2_normalize(self.next_query(ops.take(flat["state"], y["next_from"], axis=0)))
        events = l2_normalize(self.next_key(ops.take(flat["content"], y["next_to"], axis=0)))
        scores = ops.cast(ops.matmul(wanted, ops.transpose(events)) / self.config.temperature, "float32")
        own = ops.arange(ops.shape(scores)[0], dtype="int32")[:, None]
        shares, excluded = ops.ones_like(weights["next"])[:, None], y["next_excluded"]
        return task_losses.multi_positive_nce(scores, own, shares, weights["next"], excluded)


def _categories_of_prices(catalogue: BehaviourCatalogue) -> np.ndarray:
    """(price buckets, at least one, G) float32 share of each category among a bucket's products."""
    priced = np.flatnonzero(catalogue.price >= 0)
    result = np.zeros((max(catalogue.num_prices, 1), catalogue.categories.size), np.float32)
    np.add.at(result, (catalogue.price[priced], catalogue.category[priced]), 1.0)
    return result / np.maximum(result.sum(axis=1, keepdims=True), 1.0)


def _recipe(train: dict[str, Any], weights: str | None = None, **model: Any) -> RunConfig:
    if weights is not None:
        model["task_weights"] = read_task_weights(weights)
    # The original's promises: the rate is halved where the main task stalls, gradients are clipped.
    train = {"monitor": "val_loss", "reduce_on_plateau": 3, "patience": 8, "clip_norm": 1.0} | train
    return RunConfig(model=UBTConfig(**model), train=TrainConfig(**train))


_BASE = {"epochs": 30, "batch_size": 128, "learning_rate": 1e-3}

MODEL = ModelSpec(
    model=UBT,
    stages=(Stage(name="train", loader=BehaviourSequenceLoader),),
    presets={
        "tiny": _recipe(
            {"epochs": 6, "batch_size": 64, "learning_rate": 5e-3},
            max_length=32,
            family_dim=8,
            embedding_dim=16,
            user_dim=32,
            num_blocks=1,
            url_tail=64,
            name_negatives=32,
            dropout=0.1,
        ),
        # Its vectors are for whatever is asked later: no task is the main one, so their weighted sum is watched.
        "base": _recipe(_BASE),
        # The four example runs of the original.
        "churn": _recipe(_BASE | {"monitor": "val_churn_loss"}, "churn:1"),
        "category": _recipe(_BASE | {"monitor": "val_category_loss"}, "category:1"),
        "churn-category": _recipe(_BASE | {"monitor": "val_churn_loss"}, "churn:1,category:0.5"),
        "price": _recipe(_BASE | {"monitor": "val_price_loss"}, "price:1"),
    },
    paper="https://doi.org/10.1145/3758126",
    log="behaviour",
)
