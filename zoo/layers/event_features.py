"""What is known of an event as one vector: seven families of features, each embedded, weighed and joined.

A thing that an event is not about is a row of its own in its table, which is learned like any other.

Legend: V products, F width of a family, D width of an event, K codes of a text, k hash functions.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo import backends
from zoo.data.hashing import splitmix64
from zoo.data.vocabulary import NUM_SPECIALS, PAD
from zoo.layers.embedding import IndexEmbedding, given, known

NOTHING, UNTRAINED = 0, 1  # rows of a hashed table for what is no product, and for products never trained on
# Standard deviations of the start of what is embedded. What is coarse (a kind, a category) begins large and what is
# fine (a product, a word) small: what holds of many is learned first, and details come in as far as they help. Started
# alike, the details of a few thousand clients are learned by heart before anything general is.
COARSE, MIDDLE, FINE = 0.1, 0.02, 0.005


def normal(deviation: float) -> Any:
    """Initializer of a table."""
    return keras.initializers.RandomNormal(stddev=deviation)


class HashEmbedding(keras.layers.Layer):
    """(...) tokens -> (..., F): the sum of k rows of one table, each weighed by a number of the token's own.

    That two tokens share all rows and all weights is next to impossible, however small the table (hash embeddings,
    Svenstrup et al. 2017). Of PAD, and of special and untrained tokens, there is one vector each.

    Args:
        size: tokens.
        trained_size: tokens from NUM_SPECIALS up to this have vectors of their own.
        rows: of the table; where these are enough, the first row of each token is his alone.
        num_hashes: k.
        dim: F.
    """

    def __init__(self, size: int, trained_size: int, rows: int, num_hashes: int, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_rows = min(rows, max(trained_size - NUM_SPECIALS, 1))
        self.num_hashes, self.dim = num_hashes, dim
        token = np.arange(size)
        row = hashed(token - NUM_SPECIALS, num_hashes + 1, self.num_rows) + 2  # (V, k + 1), the last for the weights
        row[(token < NUM_SPECIALS) | (token >= trained_size)] = UNTRAINED
        row[PAD] = NOTHING
        self.row_of_token = row.astype(np.int32)

    def build(self, input_shape: Any) -> None:
        """Creates the table, the weights, and where each token's lie."""
        shape = (self.num_rows + 2, self.dim)
        self.table = self.add_weight(shape=shape, initializer=normal(FINE), name="embeddings")
        # The first row alone at first, nearly: the others tell apart who shares it.
        first = np.full((self.num_rows + 2, self.num_hashes), 0.3, np.float32)
        first[:, 0] = 1.0
        self.importance = self.add_weight(shape=first.shape, initializer=given(first), name="importance_embeddings")
        self.index = known(self, self.row_of_token, "rows")

    def call(self, tokens: Any) -> Any:
        index = ops.take(self.index, tokens, axis=0)  # (..., k + 1)
        importance = ops.take(backends.dense_gradient(self.importance), index[..., -1], axis=0)  # (..., k)
        table = backends.dense_gradient(self.table)
        total = sum(importance[..., j, None] * ops.take(table, index[..., j], axis=0) for j in range(self.num_hashes))
        return ops.cast(total, self.compute_dtype)


def hashed(numbers: np.ndarray, count: int, rows: int) -> np.ndarray:
    """(n, count) int64 below `rows`: the remainder of each number, then hashes of it (the finaliser of SplitMix64)."""
    result = np.empty((len(numbers), count), np.int64)
    result[:, 0] = numbers % rows
    for j in range(1, count):
        bits = numbers.astype(np.uint64) + np.uint64(j * 0x9E3779B97F4A7C15 % 2**64)
        result[:, j] = (splitmix64(bits) % np.uint64(rows)).astype(np.int64)
    return result


class CodeEmbedding(keras.layers.Layer):
    """(..., K) rows of a table with one for each place and code -> (..., F), their mean.

    Args:
        size: rows; row 0 stands for a text without codes.
        dim: F.
    """

    def __init__(self, size: int, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.dim = size, dim

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        self.table = self.add_weight(shape=(self.size, self.dim), initializer=normal(FINE), name="embeddings")

    def call(self, rows: Any) -> Any:
        """`rows` may be negative where there is no code, but not all of a text's."""
        real = ops.cast(ops.greater_equal(rows, 0), self.compute_dtype)
        values = ops.take(backends.dense_gradient(self.table), ops.maximum(rows, 0), axis=0)  # (..., K, F)
        share = real / ops.maximum(ops.sum(real, axis=-1, keepdims=True), 1.0)
        return ops.sum(ops.cast(values, self.compute_dtype) * share[..., None], axis=-2)


class ProductFeatures(keras.layers.Layer):
    """(...) product tokens -> four families (..., F): the product itself, its category, its price, its name.

    What is known of products lies in non-trainable weights, on the device and in the weights file.

    Args:
        category: (V,) tokens; below NUM_SPECIALS: none.
        price: (V,) buckets; negative: none.
        names: (V, K) rows of a table of codes by place, see `CodeEmbedding`.
        num_categories, num_prices, num_codes: rows of the three tables; of prices without the one for none.
        trained_size: products below this were trained on.
        dim: F.
        rows, num_hashes: of the table of products, see `HashEmbedding`.
    """

    def __init__(
        self,
        category: np.ndarray,
        price: np.ndarray,
        names: np.ndarray,
        num_categories: int,
        num_prices: int,
        num_codes: int,
        trained_size: int,
        dim: int,
        rows: int,
        num_hashes: int,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.size = len(category)
        self.known = {
            "categories": np.where(category < NUM_SPECIALS, PAD, category).astype(np.int32),
            "prices": (np.maximum(price, -1) + 1).astype(np.int32),
            "names": names.astype(np.int32),
        }
        self.item = HashEmbedding(len(category), trained_size, rows, num_hashes, dim, name="item")
        self.category = IndexEmbedding(num_categories, dim, normal(COARSE), name="category")
        self.price = IndexEmbedding(num_prices + 1, dim, normal(MIDDLE), name="price")
        self.name_codes = CodeEmbedding(num_codes, dim, name="name_codes")

    def build(self, input_shape: Any) -> None:
        """Creates the tables of what is known."""
        self.tables = {name: known(self, array, name) for name, array in self.known.items()}

    def call(self, tokens: Any) -> list[Any]:
        return [
            self.item(tokens),
            self.category(ops.take(self.tables["categories"], tokens, axis=0)),
            self.price(ops.take(self.tables["prices"], tokens, axis=0)),
            self.names(tokens),
        ]

    def names(self, tokens: Any) -> Any:
        """(..., F) the names of products alone."""
        return self.name_codes(ops.take(self.tables["names"], tokens, axis=0))


class FamilyFusion(keras.layers.Layer):
    """n families (..., F) -> (..., D): W [w_1 f_1, ..., w_n f_n] + b with w = n softmax(g(f / |f|)).

    g is one small network for all families, which sees their directions alone. As W acts on each family by itself, a
    family may be `prepared` once for each thing that it can be, before the events are told what they are about.

    Args:
        count: n.
        dim: D.
        hidden: width of g.
    """

    def __init__(self, count: int, dim: int, hidden: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.count, self.dim = count, dim
        self.hidden = keras.layers.Dense(hidden, activation="silu", name="hidden")
        self.gate = keras.layers.Dense(1, use_bias=False, name="gate")  # a bias would shift all logits alike
        self.parts = [keras.layers.Dense(dim, use_bias=False, name=f"part_{i}") for i in range(count)]

    def build(self, *shapes: Any) -> None:
        """Creates b."""
        self.bias = self.add_weight(shape=(self.dim,), initializer="zeros", name="bias")

    def prepare(self, family: int, features: Any) -> Any:
        """(..., F) -> (..., D + 1): the part of W times the features, and the logit of their weight."""
        length = ops.sqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + 1e-12)
        return ops.concatenate([self.parts[family](features), self.gate(self.hidden(features / length))], axis=-1)

    def call(self, prepared: list[Any]) -> Any:
        """(..., D) of all families as `prepare` gives them."""
        weights = ops.softmax(ops.stack([part[..., -1] for part in prepared], axis=-1), axis=-1) * self.count
        total = sum(weights[..., i, None] * part[..., :-1] for i, part in enumerate(prepared))
        return total + ops.cast(self.bias, total.dtype)
