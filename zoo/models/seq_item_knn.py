"""SeqItemKNN: what usually comes soon after the last things the user did. Training-free and hard to beat.

A directed item-to-item co-occurrence: the training-free anchor of sequential recommendation, in the family of the
sequential session rules of Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", UMUAI 2018.

    W[a, b] += 1 / distance           for every b that follows a at most `window` events later
    N[a, b]  = W[a, b] / ((sum of row a + 1)^row_power (sum of column b + 1)^column_power)
    score(u) = sum over the last `last` events, the most recent at rank r = 1, of r^-decay N[item_r]

With data.action_weights a pair counts with the product of its events' weights, an event of the history with its own.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse
from pydantic import Field

from config import ModelConfig, RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.interactions import event_weights, recency_matrix
from zoo.recommender import Baseline
from zoo.registry import ModelSpec


class SeqItemKNNConfig(ModelConfig):
    """Windows and exponents; the defaults were tuned on the validation part of ML-1M."""

    window: int = Field(20, ge=1, description="events after an item that count as following it")
    row_power: float = Field(0.8, ge=0, description="normalisation by how much follows an item")
    column_power: float = Field(0.3, ge=0, description="normalisation by how often an item follows: less popularity")
    last: int = Field(50, ge=1, description="most recent events of the history that are asked")
    decay: float = Field(1.0, ge=0, description="an event at rank r from the end weighs r^-decay")


class SeqItemKNN(Baseline):
    """A sparse (V, V) matrix: row, what was done; column, what follows."""

    def __init__(self, config: SeqItemKNNConfig, catalogue: Catalogue):
        super().__init__(config, catalogue)
        size = catalogue.items.size
        self.follows = sparse.csr_matrix((size, size), dtype=np.float32)

    def fit(self, histories: Histories) -> None:
        row, item, weight = histories.row_of_event, histories.item, event_weights(histories)
        follows = sparse.csr_matrix(self.follows.shape, dtype=np.float32)
        for distance in range(1, min(self.config.window, len(item) - 1) + 1):
            value = weight[:-distance] * weight[distance:] / np.float32(distance)
            pair = (row[:-distance] == row[distance:]) & (value > 0)
            entries = (value[pair], (item[:-distance][pair], item[distance:][pair]))
            follows = follows + sparse.csr_matrix(entries, shape=follows.shape)
        rows = (follows.sum(axis=1).A1 + 1) ** -self.config.row_power
        columns = (follows.sum(axis=0).A1 + 1) ** -self.config.column_power
        source = np.repeat(np.arange(len(rows)), np.diff(follows.indptr))
        follows.data = (follows.data * rows[source] * columns[follows.indices]).astype(np.float32)
        self.follows = follows

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self.follows, name) for name in ("data", "indices", "indptr")}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        self.follows = sparse.csr_matrix(parts, shape=self.follows.shape)

    def score(self, histories: Histories) -> np.ndarray:
        recent = recency_matrix(histories, self.catalogue.items.size, self.config.last, self.config.decay)
        return (recent @ self.follows).toarray()


MODEL = ModelSpec(
    model=SeqItemKNN,
    presets={
        "base": RunConfig(model=SeqItemKNNConfig()),
        "tiny": RunConfig(model=SeqItemKNNConfig(window=5, last=10)),
        "ml-1m": RunConfig(model=SeqItemKNNConfig()),
    },
    paper="https://doi.org/10.1007/s11257-018-9209-6",
)
