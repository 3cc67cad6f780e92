"""Sequences of several domains in one order: what each event is of, and which are masked.

Besides what `sequences` says, a batch has

    domain    (R, L) int32 1, 2, ... of each event, by `Catalogue.item_domain`; 0 for unknown items and empty slots;
              of a masked event that of what it hides
    place     (R, L) int32 place among the events of its own domain in its sequence, from 0
    aim       (R, L) int32 how many events of the target domain come before it in its sequence

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
from zoo.data.loaders.sequences import NextItemLoader, SequenceLoader
from zoo.data.vocabulary import NUM_SPECIALS


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


def refuse_shared_items(histories: Histories, catalogue: Catalogue) -> None:
    """An event is read as one of its item's domain: items of two domains would be taught wrongly.

    Raises:
        DataError: an item occurs in two domains.
    """
    if "domain" not in histories.columns:
        return
    item, domain = histories.item, histories.columns["domain"]
    first = np.full(catalogue.items.size, -1, domain.dtype)
    first[item[::-1]] = domain[::-1]
    shared = np.unique(item[(first[item] != domain) & (item >= NUM_SPECIALS)])
    if len(shared):
        example = catalogue.items.decode(shared[:1]).tolist()[0]
        raise DataError(
            f"{len(shared):,} items occur in more than one domain, such as {example!r}; a model across domains needs "
            "items of one domain each: give them ids that tell the domains apart"
        )


class DomainLoader(MaskedItemLoader):
    """Events of the target domain are masked, and predicted from all that each encoder may see."""

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        self._target = target_domain(catalogue)
        refuse_shared_items(histories, catalogue)
        super().__init__(histories, catalogue, config)

    def maskable(self) -> np.ndarray:
        assert self.catalogue.item_domain is not None
        return self.catalogue.item_domain[self.histories.item] == self._target

    def rows(self, rows: np.ndarray, real: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        x, index, filled = super().rows(rows, real)
        return x | _domains(x, self.catalogue), index, filled

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, np.ndarray]:
        """The last `max_length - 1` events and a MASK of the target domain, which `slot` points at.

        With `model.causal` the last `max_length` events, and `slot` points at the last of them.
        """
        if model_config.causal:
            x = SequenceLoader.inputs(histories, catalogue, model_config)
            return x | _domains(x, catalogue)
        x = MaskedItemLoader.inputs(histories, catalogue, model_config)
        return x | _domains(x, catalogue, asked=x["slot"])


class NextInDomainLoader(NextItemLoader):
    """Each event of the target domain is predicted at the event before it, of whatever domain: `slot` (T,)."""

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        refuse_shared_items(histories, catalogue)
        super().__init__(histories, catalogue, config)
        assert catalogue.item_domain is not None
        self._wanted = catalogue.item_domain[histories.item] == target_domain(catalogue)
        if self._weights is not None:
            self._wanted &= self._weights > 0
        before = np.concatenate([[0], np.cumsum(self._wanted)])
        following = self._begins + 1
        counts = before[following + self.packing.lengths] - before[following]
        per_row = np.bincount(self.packing.row, counts, minlength=self.packing.num_rows)
        self.num_slots = max(int(np.sort(per_row)[-self.rows_per_batch :].sum()), 1)  # T: no batch has more

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, index, filled = self.rows(rows, real)
        following = np.minimum(index + 1, len(self.histories.item) - 1).reshape(-1)
        wanted = np.flatnonzero(filled.reshape(-1) & self._wanted[following])
        x["slot"] = np.zeros(self.num_slots, np.int32)
        x["slot"][: len(wanted)] = wanted
        x |= _domains(x, self.catalogue)
        return self.asked(x, following[x["slot"]], np.arange(self.num_slots) < len(wanted), rng)


def recommending(histories: Histories, catalogue: Catalogue, config: RunConfig) -> SequenceLoader:
    """The loader of the recommender's stage: next items, or masked ones."""
    model: Any = config.model
    return (NextInDomainLoader if model.causal else DomainLoader)(histories, catalogue, config)


class RepresentationLoader(DomainLoader):
    """Events of all domains are masked. Besides,

    person    (U,) int32 the flat slot at which each sequence ends (all of it is known there), and
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
        segment = np.pad(x["segment"], ((0, 0), (0, 1)))
        ends = np.flatnonzero((segment[:, :-1] > 0) & (segment[:, :-1] != segment[:, 1:]))
        x["person"] = np.zeros(self._num_people, np.int32)
        x["person"][: len(ends)] = ends
        x["people"] = (np.arange(self._num_people) < len(ends)).astype(np.float32)
        model: Any = self.config.model
        share = (self.epoch + 0.5) / max(model.representation_epochs, 1)  # in the middle of the epoch
        strength = 1.0 if model.reversal == "constant" else 2 / (1 + np.exp(-10 * share)) - 1
        x["reversal"] = np.array([strength], np.float32)
        return x, y, weight


def _domains(x: dict[str, np.ndarray], catalogue: Catalogue, asked: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Domain and places of each event of `x`, whose items are not masked but at the flat slots `asked`."""
    assert catalogue.item_domain is not None
    target = target_domain(catalogue)
    domain = np.where(x["segment"] > 0, catalogue.item_domain[x["item"]], 0).astype(np.int32)
    if asked is not None:
        domain.reshape(-1)[asked] = target
    start = np.arange(domain.shape[1])[None, :] - x["position"]  # the slot at which each event's sequence begins
    place, aim = np.zeros(domain.shape, np.int32), np.zeros(domain.shape, np.int32)
    for code in range(max(int(domain.max(initial=0)), target) + 1):
        mine = domain == code
        before = np.cumsum(mine, axis=1) - mine
        since = (before - np.take_along_axis(before, start, axis=1)).astype(np.int32)
        place = np.where(mine, since, place)
        if code == target:
            aim = since
    return {"domain": domain, "place": place, "aim": aim}
