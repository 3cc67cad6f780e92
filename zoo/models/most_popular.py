"""Most popular: everybody gets the items with the most training events, of all time or of the last days."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from config import ConfigError, ModelConfig, RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.interactions import event_weights
from zoo.recommender import Baseline
from zoo.registry import ModelSpec

DAY = 24 * 60 * 60 * 1000  # milliseconds


class MostPopularConfig(ModelConfig):
    """What counts as popular."""

    window_days: float | None = Field(None, gt=0, description="count the last days of training only; null: all time")


class MostPopular(Baseline):
    """score(user, item) = training events of the item (by their weights), the same for every user."""

    def __init__(self, config: MostPopularConfig, catalogue: Catalogue):
        super().__init__(config, catalogue)
        self.counts = np.zeros(catalogue.items.size, np.float32)

    def fit(self, histories: Histories) -> None:
        """Counts the events of the window.

        Raises:
            ConfigError: a window is asked of a log without timestamps.
        """
        item, weight = histories.item, event_weights(histories)
        if self.config.window_days is not None:
            if histories.timestamp is None:
                raise ConfigError(
                    f"model.window_days={self.config.window_days:g}: the log has no timestamps; "
                    "write model.window_days=null"
                )
            since = histories.timestamp.max(initial=0) - self.config.window_days * DAY
            weight = np.where(histories.timestamp > since, weight, 0)
        self.counts = np.bincount(item, weight, minlength=self.catalogue.items.size).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.counts = arrays["counts"]

    def score(self, histories: Histories) -> np.ndarray:
        return np.broadcast_to(self.counts, (len(histories), len(self.counts)))


MODEL = ModelSpec(
    model=MostPopular,
    presets={
        "base": RunConfig(model=MostPopularConfig()),
        "tiny": RunConfig(model=MostPopularConfig()),
        "ml-1m": RunConfig(model=MostPopularConfig()),
        "recent": RunConfig(model=MostPopularConfig(window_days=7)),
    },
    paper="counting",
)
