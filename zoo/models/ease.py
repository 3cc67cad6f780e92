"""EASE: a linear item-to-item model in closed form, optionally asked with what the user did last.

Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.

    P = (X'X + l2 I)^-1,   B = I - P / diag(P),   score(u) = x_u B

X (users, items) is binary: a repeated event counts once (with data.action_weights, its largest weight). Departure from
the paper: with `last`, x_u holds only the last events, the most recent at rank 1 weighing rank^-decay; the fit is the
same.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg.lapack as lapack
from pydantic import Field

from config import ConfigError, ModelConfig, RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.interactions import interaction_matrix, recency_matrix
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.recommender import Baseline
from zoo.registry import ModelSpec

MAX_ITEMS = 20_000  # the dense inverse takes V^2 float64: 3.2 GB, and minutes


class EASEConfig(ModelConfig):
    """Regularisation, and what of a history is asked."""

    l2: float = Field(200.0, gt=0, description="lambda, added to the diagonal of the Gram matrix")
    last: int | None = Field(None, ge=1, description="ask with the last events only, by recency; null: all, alike")
    decay: float = Field(0.7, ge=0, description="with `last`: an event at rank r from the end weighs r^-decay")


class EASE(Baseline):
    """A dense (V, V) matrix of item-to-item weights with a zero diagonal."""

    def __init__(self, config: EASEConfig, catalogue: Catalogue):
        super().__init__(config, catalogue)
        self.weights = np.zeros((0, 0), np.float32)

    def fit(self, histories: Histories) -> None:
        """Solves for the weights.

        Raises:
            ConfigError: the catalogue is too large for a dense inverse.
        """
        size = self.catalogue.items.trained_size - NUM_SPECIALS
        if size > MAX_ITEMS:
            raise ConfigError(
                f"--model ease: {size:,} items are too many for a dense inverse (at most {MAX_ITEMS:,}); "
                "raise data.min_item_events, or use item_knn or seq_item_knn"
            )
        users = interaction_matrix(histories, self.catalogue.items.size)[:, NUM_SPECIALS : NUM_SPECIALS + size]
        gram = (users.T @ users).astype(np.float64).toarray(order="F")
        gram[np.diag_indices(size)] += self.config.l2
        inverse, failed = lapack.dpotrf(gram, lower=True, overwrite_a=True)  # positive definite: l2 > 0
        if not failed:
            inverse, failed = lapack.dpotri(inverse, lower=True, overwrite_c=True)
        if failed:
            raise ConfigError(f"model.l2={self.config.l2:g}: the Gram matrix cannot be inverted; raise model.l2")
        weights = inverse + np.tril(inverse, -1).T  # only the lower half was written
        weights /= -np.diag(inverse).copy()
        np.fill_diagonal(weights, 0.0)
        self.weights = weights.astype(np.float32, order="C")

    def arrays(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.weights = arrays["weights"]

    def score(self, histories: Histories) -> np.ndarray:
        size = self.catalogue.items.size
        if self.config.last is None:
            asked = interaction_matrix(histories, size)
        else:
            asked = recency_matrix(histories, size, self.config.last, self.config.decay)
        trained = slice(NUM_SPECIALS, NUM_SPECIALS + len(self.weights))
        scores = np.zeros((len(histories), size), np.float32)
        scores[:, trained] = asked[:, trained] @ self.weights
        return scores


MODEL = ModelSpec(
    model=EASE,
    presets={
        "base": RunConfig(model=EASEConfig()),
        "tiny": RunConfig(model=EASEConfig(l2=20.0)),
        "ml-1m": RunConfig(model=EASEConfig()),
        "ml-1m-recency": RunConfig(model=EASEConfig(l2=400.0, last=20, decay=0.7)),
    },
    paper="https://doi.org/10.1145/3308558.3313710",
)
