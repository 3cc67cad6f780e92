"""A client's profile to a normal distribution of vectors.

Legend: B batch, T types of a bag, D width of the vector, H width of a block, M queries, K codes of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from zoo.layers.bags import BagEmbedding, DenseByType, WeightedPooling
from zoo.layers.batch_norm import BatchNorm
from zoo.layers.dropout import Dropout
from zoo.layers.gelu import gelu
from zoo.layers.normalize import LayerNorm

BAGS = {"skus": "sku", "categories": "category", "prices": "price", "urls": "url"}
LOWEST, HIGHEST = -8.0, 2.0  # bounds of the log-variance
START = -2.0  # of the log-variance: at first the noise is a third of what is normalised


class Head(keras.layers.Layer):
    """(B, H) -> (B, D): normalise, drop out, hidden layers, a linear map.

    Args:
        dim: D.
        norm, momentum: `layer`, or `batch` with that momentum, see `BatchNorm`.
        hidden_units: widths of the hidden layers (GELU).
        dropout: behind the norm, whose statistics it leaves alone, and behind each hidden layer.
        start: what the outputs are at first; None: drawn.
    """

    def __init__(
        self,
        dim: int,
        norm: Literal["layer", "batch"],
        momentum: float,
        hidden_units: Sequence[int] = (),
        dropout: float = 0.0,
        start: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.batch = norm == "batch"
        self.norm = BatchNorm(momentum, name="norm") if self.batch else LayerNorm(name="norm")
        self.drop = Dropout(dropout)
        self.hidden = [keras.layers.Dense(u, activation=gelu, name=f"hidden_{i}") for i, u in enumerate(hidden_units)]
        kernel = "glorot_uniform" if start is None else "zeros"
        bias = keras.initializers.Constant(start or 0.0)
        self.output_layer = keras.layers.Dense(dim, kernel_initializer=kernel, bias_initializer=bias, name="output")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.norm(x, training=training) if self.batch else self.norm(x)
        x = self.drop(x, training=training)
        for layer in self.hidden:
            x = self.drop(layer(x), training=training)
        return self.output_layer(x)


class ClientEncoder(keras.layers.Layer):
    """Profiles -> mean and log-variance (B, D), each by a `Head` over the blocks of all parts.

    A block is a linear map of a share, a density, a bag of ids or the pooled vectors of queries. The log-variance is
    kept within LOWEST and HIGHEST, smoothly, so that its gradient never vanishes.

    Args:
        parts: names of `profiles.PARTS` that are looked at.
        sizes: rows of the tables of ids, by the name of the ids.
        dim: D.
        block_dim: H of each block, and width of the rows of tables.
        attention: pool queries by attention; else by their mean.
        head: further arguments of both heads.

    Call arguments:
        x: arrays of `profiles`.
        texts: (B, M, K) vectors of the queries.
    """

    def __init__(
        self,
        parts: Sequence[str],
        sizes: dict[str, int],
        dim: int,
        block_dim: int,
        attention: bool,
        head: dict[str, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.parts = list(parts)
        self.numbers = {
            part: keras.layers.Dense(block_dim, name=part) for part in ("actions", "activity") if part in parts
        }
        self.times = DenseByType(block_dim, name="times") if "times" in parts else None
        self.bags = {
            part: BagEmbedding(sizes[ids], block_dim, block_dim, name=part)
            for part, ids in BAGS.items()
            if part in parts
        }
        if "queries" in parts:
            self.pooling = WeightedPooling(attention, name="pooling")
            self.queries = keras.layers.Dense(block_dim, name="queries")
        self.mean = Head(dim, **head, name="mean")
        self.variance = Head(dim, **head, start=START, name="variance")

    def call(self, x: dict[str, Any], texts: Any, training: bool = False) -> tuple[Any, Any]:
        blocks = [layer(x[part]) for part, layer in self.numbers.items()]
        if self.times is not None:
            blocks.append(self.times(x["times"]))
        blocks += [layer(x[BAGS[part]], x[f"{BAGS[part]}_weight"]) for part, layer in self.bags.items()]
        if "queries" in self.parts:
            blocks.append(self.queries(self.pooling(texts, x["query_weight"])))
        joined = ops.concatenate(blocks, axis=-1)
        log_variance = HIGHEST - ops.softplus(HIGHEST - self.variance(joined, training=training))
        log_variance = LOWEST + ops.softplus(log_variance - LOWEST)
        return self.mean(joined, training=training), log_variance
