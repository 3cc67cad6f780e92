"""Embeddings: tables of rows, whose gradients are dense on every backend.

Adam would otherwise take larger steps on TensorFlow for rows that repeat in a batch, because it squares sparse
gradients before summing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from zoo import backends
from zoo.data.vocabulary import NUM_SPECIALS


def given(array: np.ndarray) -> Any:
    """Initializer of a weight that starts as `array`."""
    return lambda shape, dtype=None, **_: ops.convert_to_tensor(array, dtype)


def known(layer: keras.layers.Layer, array: np.ndarray, name: str) -> keras.Variable:
    """A weight of `layer` that is `array` from its start (see `backends.build`) and is not trained."""
    return layer.add_weight(
        shape=array.shape,
        dtype=str(array.dtype),
        trainable=False,
        initializer=given(array),
        name=name,
    )


class IdEmbedding(keras.layers.Layer):
    """(...) tokens -> (..., D). Special and untrained tokens are zero vectors, so that features must speak for them.

    Args:
        trained_size: tokens from NUM_SPECIALS up to this have a row.
        dim: D.
        initializer: of the rows.
    """

    def __init__(self, trained_size: int, dim: int, initializer: Any = "uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.trained_size = trained_size
        self.dim = dim
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        self.table = self.add_weight(
            shape=(self.trained_size, self.dim), initializer=self.initializer, name="embeddings"
        )

    def call(self, tokens: Any) -> Any:
        trained = ops.logical_and(ops.greater_equal(tokens, NUM_SPECIALS), ops.less(tokens, self.trained_size))
        rows = ops.take(backends.dense_gradient(self.table), ops.where(trained, tokens, 0), axis=0)
        return ops.cast(rows * ops.cast(trained, rows.dtype)[..., None], self.compute_dtype)

    def rows(self) -> Any:
        """(trained_size, D) the whole table, that of the special tokens included."""
        return ops.cast(backends.dense_gradient(self.table), self.compute_dtype)


class BatchRows(keras.layers.Layer):
    """A weight of zeros that is added to those rows of a table which a batch touches: its gradient is theirs.

    Its last column is added to nothing. See `address`. None of it is saved.
    """

    def make(self, count: int, dim: int) -> None:
        """Creates the weight, (count, dim + 1), if there is none."""
        if not self.built:
            # In float32 also where the model computes in less: tokens are whole numbers.
            self.step = self.add_weight(
                shape=(count, dim + 1), initializer="zeros", dtype="float32", autocast=False, name="step_embeddings"
            )
            self.built = True

    def address(self, tokens: Any) -> Any:
        """Zero, of which `tokens` (U,) are the gradient in the last column.

        As a term of the loss it tells the optimizer whose rows these are: in a compiled step of JAX it sees gradients
        and what it may change, nothing else.
        """
        return ops.sum(self.step[:, -1] * ops.cast(tokens, "float32"))

    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Loads nothing."""


class RowEmbedding(IdEmbedding):
    """An `IdEmbedding` of which a training step reads and moves the rows of its batch alone: its cost does not grow
    with the table.

    Where a call is told which rows a batch touches, these are read without a gradient, and a weight of zeros is added
    to them: its gradient is theirs. The optimizers of `zoo.optimizers.BY_ROWS` move the rows by it.

    Raises:
        ValueError: the table has more rows than float32 counts one by one (16,777,216).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.trained_size > 2**24:
            raise ValueError(
                f"touched_items=true: {self.trained_size:,} items are more than {2**24:,}, of which it can tell apart; "
                "set it to false"
            )
        self.batch = BatchRows(name=f"{self.name}_batch")  # by whose name PyTorch tells gradients apart

    def touch(self, tokens: Any) -> None:
        """Expects batches that touch as many rows as there are `tokens`; the first time not within a compiled step."""
        self.batch.make(tokens.shape[0], self.dim)

    def call(self, tokens: Any, touched: Any = None) -> Any:
        """`touched` (U,), in training: the trained tokens of the batch in ascending order, each once, after PADs."""
        if touched is None:
            return super().call(tokens)
        known = ops.logical_and(ops.greater_equal(tokens, NUM_SPECIALS), ops.less(tokens, self.trained_size))
        rows = backends.read_rows(self.table, touched) + self.batch.step[:, :-1]
        place = ops.searchsorted(touched, ops.reshape(ops.where(known, tokens, 0), (-1,)))
        place = ops.reshape(place, ops.shape(tokens))
        vectors = ops.take(backends.dense_gradient(rows), place, axis=0)
        return ops.cast(vectors * ops.cast(known, vectors.dtype)[..., None], self.compute_dtype)


class ActionEmbedding(keras.layers.Layer):
    """(...) action tokens -> (..., D). Special tokens (none, hidden, unknown) are zero vectors.

    The actions of `order`, from a glance to a commitment, are coded as a hierarchy: each adds a row of its own to the
    vector of the one before, for whoever buys has also looked, and the rare ones begin where the frequent ones are.

    Args:
        names: of the actions, in the order of their tokens.
        order: those that imply each other, the least first; names that are not among `names` are passed over.
        dim: D.
        initializer: of the rows.
    """

    def __init__(self, names: Sequence[str], order: Sequence[str], dim: int, initializer: Any = "uniform", **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.initializer = keras.initializers.get(initializer)
        self.rows = np.eye(NUM_SPECIALS + len(names), len(names), -NUM_SPECIALS, dtype=np.float32)  # of each token
        levels = [list(names).index(name) for name in order if name in names]
        for level, action in enumerate(levels):
            self.rows[NUM_SPECIALS + action, levels[:level]] = 1

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        shape = (self.rows.shape[1], self.dim)
        self.table = self.add_weight(shape=shape, initializer=self.initializer, name="embeddings")

    def call(self, tokens: Any) -> Any:
        vectors = ops.matmul(ops.convert_to_tensor(self.rows, self.table.dtype), self.table)
        return ops.cast(ops.take(vectors, tokens, axis=0), self.compute_dtype)


class IndexEmbedding(keras.layers.Layer):
    """(...) integers from 0 -> (..., D): positions, buckets of time.

    Args:
        size: number of rows.
        dim: D.
        initializer: of the rows.
    """

    def __init__(self, size: int, dim: int, initializer: Any = "uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        self.table = self.add_weight(shape=(self.size, self.dim), initializer=self.initializer, name="embeddings")

    def call(self, index: Any) -> Any:
        return ops.cast(ops.take(backends.dense_gradient(self.table), index, axis=0), self.compute_dtype)

    def rows(self) -> Any:
        """(size, D) the whole table."""
        return ops.cast(backends.dense_gradient(self.table), self.compute_dtype)
