"""Client statistics: what clients did, counted, as vectors that stand beside learned ones.

Legend: B batch, n clients, D columns.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from pydantic import Field

from config import ModelConfig, RunConfig
from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import Snapshot
from zoo.data.behaviour.statistics import CLIP, moments
from zoo.data.dataset import DataError
from zoo.data.loaders.statistics import StatisticsLoader
from zoo.recommender import UserEncoder
from zoo.registry import ModelSpec

ADAPTED = 200_000  # clients whose mean and deviation are taken


class ClientStatsConfig(ModelConfig):
    """Which categories, products and urls get columns of their own: the most frequent ones."""

    num_categories: int = Field(50, ge=0, description="categories with columns of their own")
    num_products: int = Field(50, ge=0, description="products with columns of their own")
    num_urls: int = Field(30, ge=0, description="urls with columns of their own")
    clip: float = Field(CLIP, gt=0, description="deviations from the mean beyond which a number says no more")


class Standardize(keras.layers.Layer):
    """(B, D) -> (B, D): columns of mean 0 and deviation 1 over the clients that were adapted to, clipped.

    Args:
        clip: deviations from the mean at which numbers end.
    """

    def __init__(self, clip: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.clip = clip

    def build(self, input_shape: Any) -> None:
        """Creates mean and deviation, which nothing trains."""
        shape = (input_shape[-1],)
        self.mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="mean")
        self.deviation = self.add_weight(shape=shape, initializer="ones", trainable=False, name="deviation")

    def call(self, inputs: Any) -> Any:
        return ops.clip((inputs - self.mean) / self.deviation, -self.clip, self.clip)


class ClientStats(UserEncoder):
    """Counts, recency, gaps, prices, tastes and hours of each client, standardised; nothing is trained.

    Instead of a fit, `adapt` takes mean and deviation of the training clients; they are saved as weights.

    References:
        The columns are of the kinds that leading entries of the RecSys Challenge 2025 describe; the list is in
        zoo/data/behaviour/statistics.py.
    """

    loader = StatisticsLoader

    def __init__(self, config: ClientStatsConfig, catalogue: BehaviourCatalogue, **kwargs: Any):
        super().__init__(config, catalogue, **kwargs)  # type: ignore[arg-type]
        self.standardize = Standardize(config.clip, name="standardize", dtype="float32")
        self.build_weights()

    def adapt(self, snapshot: Snapshot) -> None:
        """Takes the mean and the deviation of each column over clients, at most 200,000 of them, evenly drawn.

        Args:
            snapshot: what is known of the training clients, in tokens of the catalogue.

        Raises:
            DataError: there is none.
        """
        if not len(snapshot):
            raise DataError(
                f"{snapshot.log.name}: no client with events before the cut-off to learn from; "
                "see behaviour.train_clients and behaviour.window_days"
            )
        rows = np.linspace(0, len(snapshot) - 1, min(len(snapshot), ADAPTED)).astype(np.int64)
        values = self.loader.inputs(snapshot.take(rows), self.catalogue, self.config)["statistics"]
        mean, deviation = moments(values, np.arange(len(values)))
        self.standardize.mean.assign(mean.astype(np.float32))
        self.standardize.deviation.assign(deviation.astype(np.float32))

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """(B, D) standardised columns."""
        return self.standardize(inputs["statistics"])

    def encode_users(self, inputs: dict[str, Any]) -> Any:
        return self(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        raise NotImplementedError("statistics are counted: call adapt instead of fit")


def _recipe(**model: Any) -> RunConfig:
    return RunConfig(model=ClientStatsConfig(**model))


MODEL = ModelSpec(
    model=ClientStats,
    presets={"tiny": _recipe(num_categories=12, num_products=20, num_urls=10), "base": _recipe()},
    paper="https://github.com/Synerise/recsys2025",
    log="behaviour",
)
