"""What a model is to the rest of the zoo: something that scores the whole catalogue for a history.

Legend: B batch, D width, V items, n histories.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import h5py
import keras
import numpy as np

from zoo import backends
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories, Prefixes


class Scorer(abc.ABC):
    """Scores every item of the catalogue for any history. Evaluation and prediction need no more."""

    catalogue: Catalogue

    @abc.abstractmethod
    def score(self, histories: Histories) -> np.ndarray:
        """(n, V) float32 scores; a higher one is better. Special tokens get whatever: callers never rank them."""


class Baseline(Scorer):
    """A model that is counted, not trained: arrays made from the training histories in one pass."""

    def __init__(self, config: Any, catalogue: Catalogue):
        self.config = config
        self.catalogue = catalogue

    @abc.abstractmethod
    def fit(self, histories: Histories) -> None:
        """Counts the training histories."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """All that `fit` learned, by name."""

    @abc.abstractmethod
    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes back what `arrays` gave."""

    def save_weights(self, path: str | os.PathLike) -> None:
        """Writes the arrays to an HDF5 file."""
        with h5py.File(path, "w") as file:
            for name, array in self.arrays().items():
                file.create_dataset(name, data=array)

    def load_weights(self, path: str | os.PathLike) -> None:
        """Reads what `save_weights` wrote."""
        with h5py.File(path, "r") as file:
            self.set_arrays({name: np.asarray(file[name]) for name in file})


class UserEncoder(keras.Model, abc.ABC):
    """Turns what is known of a user into one vector. Abstract; subclasses are final."""

    loader: ClassVar[Any]  # the `Loader` class whose `inputs` makes this model's input

    def __init__(self, config: Any, catalogue: Catalogue, **kwargs: Any):
        super().__init__(**kwargs)
        self.config = config
        self.catalogue = catalogue

    @abc.abstractmethod
    def encode_users(self, inputs: dict[str, Any]) -> Any:
        """(B, D) a vector per user, a backend tensor."""

    @abc.abstractmethod
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Scalar training objective."""

    def views(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """The vectors of users that this model has, by name: `embeddings`, and what others a subclass makes."""
        return {"embeddings": self.encode_users}

    def build_weights(self) -> None:
        """Makes every weight, so that they can be loaded, counted or trained."""
        self.built = True  # the layers build themselves when they are called
        backends.build(self.use_weights, self.loader.inputs(self.loader.anybody(), self.catalogue, self.config))

    def use_weights(self, inputs: dict[str, Any]) -> None:
        """Calls every layer, none of which assigns to a weight. `inputs` are those of anybody."""
        self.encode_users(inputs)
        if isinstance(self, Recommender):
            self.item_embeddings()

    def vectors(self, histories: Histories | Prefixes, batch_size: int = 1024) -> np.ndarray:
        """(n, D) float32 vectors of `histories`; the last batch is padded, so that one shape is compiled."""
        blocks = [block for _, block in self.vector_batches(histories, batch_size)]
        return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)

    def vector_batches(
        self, histories: Histories | Prefixes, batch_size: int = 1024, view: str = "embeddings"
    ) -> Iterator[tuple[Histories, np.ndarray]]:
        """Consecutive users and their vectors (b, D), b up to `batch_size`, of one of `views`."""
        if not hasattr(self, "_compiled"):
            self._compiled: dict[str, Callable] = {}
        if view not in self._compiled:
            self._compiled[view] = backends.compiled(self.views()[view], self)
        size = min(batch_size, len(histories))
        for part in histories.batches(batch_size):
            rows = np.minimum(np.arange(size), len(part) - 1)  # repeats fill the last batch
            filled = part if len(part) == size else part.take(rows)
            inputs = self.loader.inputs(filled, self.catalogue, self.config)
            yield part, keras.ops.convert_to_numpy(self._compiled[view](inputs))[: len(part)].astype(np.float32)


class Recommender(UserEncoder, Scorer):
    """score(user, item) is always <encode_users, item_embeddings>.

    A model with an output bias folds it in as one more coordinate, a cosine is a normalised table with a temperature:
    evaluation, top-k, export and any nearest-neighbour index agree by construction.
    """

    item_tables: ClassVar[tuple[str, ...]] = ("item_id",)  # layers that `train.initial_items` starts, where they exist

    @abc.abstractmethod
    def item_embeddings(self) -> Any:
        """(V, D) a vector per token, specials included, a backend tensor."""

    def item_matrix(self) -> np.ndarray:
        """(V, D) float32, `item_embeddings` as an array."""
        return keras.ops.convert_to_numpy(self.item_embeddings()).astype(np.float32)

    def item_vectors(self) -> np.ndarray:
        """(V, D) float32 what items are like: `item_matrix` without the coordinate of a learned bias, `bias_id`."""
        matrix = self.item_matrix()
        return matrix if getattr(self, "bias_id", None) is None else matrix[:, :-1]

    def score(self, histories: Histories) -> np.ndarray:
        return self.vectors(histories, batch_size=max(len(histories), 1)) @ self.item_matrix().T
