"""Sequences of several domains in one order: what each event is of, and which are masked.

Besides what `sequences` says, a batch has

    domain    (R, L) int32 1, 2, ... of each event, by `Catalogue.item_domain`; 0 for unknown items and empty slots;
              of a masked event that of what it hides
    place     (R, L) int32 place among the events of its own domain in its sequence, from 0

Legend: R rows, L slots of a row, T masked slots of a batch, U sequences of a batch, E events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.masked_items import MaskedItemLoader


def target_domain(catalogue: Catalogue) -> int:
    """The domain that is recommended from, counted from 1.

    Raises:
        DataError: the log has no domains, or none or several are aimed at.
    """
    names = catalogue.labels.get("domain", ())
    if catalogue.item_domain is None or len(names) < 2:
        raise DataError("the log has no column of two domains or more, which a model across domains needs")
    aims = catalogue.labels.get("target_domains", ())
    if len(aims) != 1:
        raise DataError(f"say which domain to recommend from: split.target_domains is one of {', '.join(names)}")
    return names.index(aims[0]) + 1


class DomainLoader(MaskedItemLoader):
    """Events of the target domain are masked, and predicted from all others."""

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        self._target = target_domain(catalogue)
        super().__init__(histories, catalogue, config)

    def maskable(self) -> np.ndarray:
        assert self.catalogue.item_domain is not None
        return self.catalogue.item_domain[self.histories.item] == self._target

    def rows(self, rows: np.ndarray, real: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        x, index, filled = super().rows(rows, real)
        return x | _domains(x, self.catalogue), index, filled

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, np.ndarray]:
        """The last `max_length - 1` events and a MASK of the target domain, which `slot` points at."""
        x = MaskedItemLoader.inputs(histories, catalogue, model_config)
        return x | _domains(x, catalogue, asked=x["slot"])


class RepresentationLoader(DomainLoader):
    """Events of all domains are masked. Besides,

    first     (U,) int32 the flat slot at which each sequence begins, and
    people    (U,) float32 1 where there is one, 0 for what fills the batch up
    reversal  (1,) float32 strength of the gradient reversal: 2 / (1 + exp(-10 p)) - 1 at the share p of the training
              (Ganin & Lempitsky 2015, section 5.2), or 1 with `model.reversal=constant`
    """

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__(histories, catalogue, config)
        per_row = np.diff(self.packing.offsets)
        self._num_people = max(int(np.sort(per_row)[-self.rows_per_batch :].sum()), 1)

    def maskable(self) -> np.ndarray:
        assert self.catalogue.item_domain is not None
        return self.catalogue.item_domain[self.histories.item] > 0

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, y, weight = super().batch(rows, real, rng)
        begins = np.flatnonzero((x["segment"].reshape(-1) > 0) & (x["position"].reshape(-1) == 0))
        x["first"] = np.zeros(self._num_people, np.int32)
        x["first"][: len(begins)] = begins
        x["people"] = (np.arange(self._num_people) < len(begins)).astype(np.float32)
        model: Any = self.config.model
        share = self.epoch / max(model.representation_epochs, 1)
        strength = 1.0 if model.reversal == "constant" else 2 / (1 + np.exp(-10 * share)) - 1
        x["reversal"] = np.array([strength], np.float32)
        return x, y, weight


def _domains(x: dict[str, np.ndarray], catalogue: Catalogue, asked: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Domain and place of each event of `x`, whose items are not masked but at the flat slots `asked`."""
    assert catalogue.item_domain is not None
    domain = np.where(x["segment"] > 0, catalogue.item_domain[x["item"]], 0).astype(np.int32)
    if asked is not None:
        domain.reshape(-1)[asked] = target_domain(catalogue)
    start = np.arange(domain.shape[1])[None, :] - x["position"]  # the slot at which each event's sequence begins
    place = np.zeros(domain.shape, np.int32)
    for code in range(int(domain.max(initial=0)) + 1):
        mine = domain == code
        before = np.cumsum(mine, axis=1) - mine
        place = np.where(mine, before - np.take_along_axis(before, start, axis=1), place).astype(np.int32)
    return {"domain": domain, "place": place}
