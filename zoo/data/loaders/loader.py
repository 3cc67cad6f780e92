"""Loader: a `keras.utils.PyDataset` whose batch i is a pure function of (seed, epoch, i).

Nothing is counted and no random stream is kept: Keras asks for a batch more than once and from several threads. All
randomness that shapes a batch is NumPy's, so that the three backends see the same batches. Shapes are static: the
last batch of an epoch is filled with rows of weight 0.
"""

from __future__ import annotations

import abc
from typing import Any

import keras
import numpy as np

from config import RunConfig
from zoo.data.histories import Histories
from zoo.data.vocabulary import UNKNOWN


class Loader(keras.utils.PyDataset, abc.ABC):
    """Batches of one objective, in an order that each epoch permutes anew (but see `in_order`).

    Fit with `shuffle=False` and a callback that calls `set_epoch` at the beginning of each epoch.

    Attributes:
        histories: the training histories, or, of logs of behaviour, a `Snapshot` of the clients.
        catalogue: of the run, a `Catalogue` or a `BehaviourCatalogue`.
        config: of the run.
        rows_per_batch: examples that fill one batch.
        epoch: the epoch whose batches `__getitem__` gives.
        remedy: what to do about a log that gives no example.
    """

    remedy = "add data, or keep more of it (data.*, split.*)"

    in_order = False  # whether examples keep their order in every epoch

    def __init__(self, histories: Any, catalogue: Any, config: RunConfig):
        super().__init__(workers=config.train.workers)
        self.histories = histories
        self.catalogue = catalogue
        self.config = config
        self.rows_per_batch = config.train.batch_size
        self._order = np.zeros(0, np.int64)
        self.epoch = -1

    @property
    @abc.abstractmethod
    def num_examples(self) -> int:
        """Examples of one epoch."""

    @abc.abstractmethod
    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        """(x, y, weight) of the examples `rows`.

        Args:
            rows: (rows_per_batch,) numbers of examples, below `num_examples`.
            real: (rows_per_batch,) False where a row only fills the batch and must weigh nothing.
            rng: this batch's own randomness.
        """

    @staticmethod
    @abc.abstractmethod
    def inputs(histories: Any, catalogue: Any, model_config: Any) -> dict[str, np.ndarray]:
        """What the model sees of these histories; the same in training, evaluation and serving."""

    @staticmethod
    def anybody() -> Any:
        """One history, of one unknown item: enough for a model to make its weights."""
        unknown = np.full(1, UNKNOWN, np.int32)
        return Histories(unknown, np.array([0, 1]), unknown, np.zeros(1, np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Orders the examples for this epoch."""
        if epoch != self.epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._order = np.arange(self.num_examples) if self.in_order else rng.permutation(self.num_examples)
            self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_examples // self.rows_per_batch)

    def __getitem__(self, index: int) -> tuple[dict, Any, Any]:
        if self.epoch < 0:
            self.set_epoch(0)
        start = index * self.rows_per_batch
        rows = self._order[start : start + self.rows_per_batch]
        real = np.arange(self.rows_per_batch) < len(rows)
        rng = np.random.default_rng([self.config.seed, self.epoch, index])
        return self.batch(np.resize(rows, self.rows_per_batch), real, rng)
