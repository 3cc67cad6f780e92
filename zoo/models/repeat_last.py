"""Repeat last: what the user did last he does again. The baseline of logs in which people return to items.

    score(u, i) = 1 / r             where i last occurred r events before the end of u's history (r = 1: the last event)
                  -1 / (1 + n_i)    where it never did: after all of those, by its weight n_i in training

It says something only where seen items stand among the candidates; without them it is the most popular list.
"""

from __future__ import annotations

import numpy as np

from config import EvaluateConfig, ModelConfig, PredictConfig, RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.interactions import event_weights
from zoo.recommender import Baseline
from zoo.registry import ModelSpec


class RepeatLastConfig(ModelConfig):
    """It has no hyperparameters."""


class RepeatLast(Baseline):
    """The user's own items, the most recent first, then the popular ones."""

    def __init__(self, config: RepeatLastConfig, catalogue: Catalogue):
        super().__init__(config, catalogue)
        self.counts = np.zeros(catalogue.items.size, np.float32)

    def fit(self, histories: Histories) -> None:
        size = self.catalogue.items.size
        self.counts = np.bincount(histories.item, event_weights(histories), minlength=size).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.counts = arrays["counts"]

    def score(self, histories: Histories) -> np.ndarray:
        scores = np.tile(-1 / (1 + self.counts), (len(histories), 1))
        rank = np.repeat(histories.offsets[1:], histories.lengths) - np.arange(len(histories.item))
        scores[histories.row_of_event, histories.item] = 1 / rank  # of an item that recurs the last assignment stays
        return scores


def _recipe() -> RunConfig:
    included = {"evaluate": EvaluateConfig(exclude_seen=False), "predict": PredictConfig(exclude_seen=False)}
    return RunConfig(model=RepeatLastConfig(), **included)


MODEL = ModelSpec(model=RepeatLast, presets={"base": _recipe(), "tiny": _recipe()}, paper="counting")
