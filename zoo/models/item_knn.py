"""Item-KNN: an item is as good as its similarity to what the user has.

Sarwar, Karypis, Konstan, Riedl, "Item-based collaborative filtering recommendation algorithms", WWW 2001; the
shrinkage is that of Dacrema, Cremonesi, Jannach, "Are we really making much progress?", RecSys 2019.

    sim(i, j) = x_i . x_j / (|x_i| |x_j| + shrink)
    score(u, i) = sum of sim(i, j) over the items j of u that are among the k nearest of i

x_i (users) is binary: a repeated event counts once (with data.action_weights, its largest weight). Neighbours of equal
similarity are taken in order of their tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sparse
from pydantic import Field

from config import ModelConfig, RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.interactions import interaction_matrix
from zoo.recommender import Baseline
from zoo.registry import ModelSpec

BLOCK = 10_000_000  # pairs of events counted at once: bounds the memory to some hundred MB


class ItemKNNConfig(ModelConfig):
    """The neighbourhood."""

    neighbors: int = Field(100, ge=1, description="k, nearest items through which an item is scored")
    shrink: float = Field(10.0, ge=0, description="added to the cosine's denominator: rare pairs count less")


class ItemKNN(Baseline):
    """Cosine similarity between items, the nearest `neighbors` of each kept; sparse throughout."""

    def __init__(self, config: ItemKNNConfig, catalogue: Catalogue):
        super().__init__(config, catalogue)
        size = catalogue.items.size
        self.similarity = sparse.csr_matrix((size, size), dtype=np.float32)  # row: what the user has, column: candidate

    def fit(self, histories: Histories) -> None:
        users = interaction_matrix(histories, self.catalogue.items.size)  # (n, V)
        items = users.T.tocsr()
        norm = np.sqrt(items.multiply(items).sum(axis=1).A1)
        blocks = []
        for rows in _blocks(items, users):
            together = (items[rows] @ users).tocoo()  # (b, V)
            candidate = together.row + rows.start
            other = candidate != together.col
            row, column = together.row[other], together.col[other]
            value = together.data[other] / (norm[candidate[other]] * norm[column] + self.config.shrink)
            value = value.astype(np.float32)
            keep = _largest(row, column, value, self.config.neighbors)
            shape = (rows.stop - rows.start, users.shape[1])
            blocks.append(sparse.csr_matrix((value[keep], (row[keep], column[keep])), shape=shape))
        self.similarity = sparse.vstack(blocks).T.tocsr()

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self.similarity, name) for name in ("data", "indices", "indptr")}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        self.similarity = sparse.csr_matrix(parts, shape=self.similarity.shape)

    def score(self, histories: Histories) -> np.ndarray:
        return (interaction_matrix(histories, self.catalogue.items.size) @ self.similarity).toarray()


def _blocks(items: sparse.csr_matrix, users: sparse.csr_matrix) -> Iterator[slice]:
    """Consecutive rows of `items` whose product with `users` adds at most BLOCK pairs (or one row)."""
    pairs = np.cumsum(items @ np.diff(users.indptr).astype(np.float64))
    start = 0
    while start < items.shape[0]:
        before = pairs[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(pairs, before + BLOCK, side="right")))
        yield slice(start, stop)
        start = stop


def _largest(row: np.ndarray, column: np.ndarray, value: np.ndarray, k: int) -> np.ndarray:
    """Positions of the `k` largest values of each row, equal ones in order of their columns."""
    order = np.lexsort((column, -value, row))
    starts = np.searchsorted(row[order], row[order])
    return order[np.arange(len(order)) - starts < k]


MODEL = ModelSpec(
    model=ItemKNN,
    presets={
        "base": RunConfig(model=ItemKNNConfig()),
        "tiny": RunConfig(model=ItemKNNConfig(neighbors=20)),
        "ml-1m": RunConfig(model=ItemKNNConfig(neighbors=20, shrink=50.0)),
    },
    paper="https://doi.org/10.1145/371920.372071",
)
