"""What a model of statistics sees of clients. Nothing is trained on it, so there are no batches.

Legend: n clients, D columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import Snapshot, without_events
from zoo.data.behaviour.statistics import Reference, statistics


class StatisticsLoader:
    """{"statistics": (n, D) float32}, the columns of `zoo.data.behaviour.statistics`."""

    @staticmethod
    def inputs(snapshot: Snapshot, catalogue: BehaviourCatalogue, model_config: Any) -> dict[str, np.ndarray]:
        """A row for each client of the snapshot, in tokens of the catalogue."""
        model = model_config
        reference = Reference.known(catalogue, model.num_categories, model.num_products, model.num_urls)
        return {"statistics": statistics(snapshot, reference)[0]}

    @staticmethod
    def anybody() -> Snapshot:
        """A client without events."""
        return without_events()
