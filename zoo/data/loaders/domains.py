"""Sequences of several domains in one order: what each event is of, and which are masked.

Besides what `sequences` says, a batch has

    domain    (R, L) int32 1, 2, ... of each event, by `Catalogue.item_domain`; 0 for unknown items and empty slots;
              of a masked event that of what it hides
    place     (R, L) int32 place among the events of its own domain in its sequence, from 0
    aim       (R, L) int32 how many events of the target domain come before it in its sequence
    latest    the shape of `slot`, int32: for each flat slot there that of the latest event of the target domain in the
              same sequence, up to it; the slot itself where there is none. Where one asks for events of that domain in
              rows that hold others, too

Legend: R rows, L slots of a row, T masked slots of a batch, U sequences of a batch, E events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.masked_items import MaskedItemLoader
from zoo.data.loaders.packing import pack
from zoo.data.loaders.sequences import NextItemLoader, SequenceLoader, cut, events_at
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

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, y, weight = super().batch(rows, real, rng)
        return x | _latest(x, self._target), y, weight

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, Any]:
        """The last `max_length - 1` events and a MASK of the target domain, which `slot` points at.

        With `model.causal` the last `max_length` events, and `slot` points at the last of them; where the recommender
        is trained on rows of the target domain alone, `alone` is a dictionary of such rows, as long.
        """
        if not model_config.causal:
            x = MaskedItemLoader.inputs(histories, catalogue, model_config)
            x |= _domains(x, catalogue, asked=x["slot"])
            return x | _latest(x, target_domain(catalogue))
        x = SequenceLoader.inputs(histories, catalogue, model_config)
        x |= _domains(x, catalogue)
        if model_config.fine_tune_users:
            return x | _latest(x, target_domain(catalogue))
        alone = SequenceLoader.inputs(_alone(histories, catalogue), catalogue, model_config)
        return x | {"alone": alone | _domains(alone, catalogue)}


class NextInDomainLoader(NextItemLoader):
    """Each event of the target domain is predicted: what the user is like at the event before it, of whatever domain,
    `slot` (T,), joins the state of the one before it there, `latest`."""

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        refuse_shared_items(histories, catalogue)
        super().__init__(histories, catalogue, config)
        assert catalogue.item_domain is not None
        self._target = target_domain(catalogue)
        self._wanted = catalogue.item_domain[histories.item] == self._target
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
        x |= _latest(x, self._target)
        return self.asked(x, following[x["slot"]], np.arange(self.num_slots) < len(wanted), rng)


class DomainAloneLoader(NextItemLoader):
    """Each event of the target domain is predicted from the one before it there; y and weight (R, L).

    The rows hold the events of the target domain, and, before a user's first one, the event that precedes it. What the
    other domains have to say comes as vectors of the user, where the histories have these columns:

    specific, cross    (R, L, D) float32 of all that precedes the event which is predicted at each slot
    """

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        refuse_shared_items(histories, catalogue)
        super().__init__(_alone(histories, catalogue), catalogue, config)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, index, filled = self.rows(rows, real)
        x |= _domains(x, self.catalogue)
        following = np.minimum(index + 1, len(self.histories.item) - 1)
        for kind in ("specific", "cross"):
            if kind in self.histories.columns:
                x[kind] = np.where(filled[..., None], self.histories.columns[kind][following], np.float32(0))
        return self.asked(x, following, filled, rng)


def recommending(histories: Histories, catalogue: Catalogue, config: RunConfig) -> SequenceLoader:
    """The loader of the recommender's stage: next items of the target domain, or masked ones."""
    model: Any = config.model
    if not model.causal:
        return DomainLoader(histories, catalogue, config)
    return (NextInDomainLoader if model.fine_tune_users else DomainAloneLoader)(histories, catalogue, config)


def of_users_known(model: Any) -> bool:
    """Whether `recommending` takes vectors of users as they are."""
    return model.causal and not model.fine_tune_users and model.gating != "none"


def before_targets(
    histories: Histories, catalogue: Catalogue, model: Any, rows: int = 64
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """What precedes the events of the target domain, in batches: (x with `slot` (T,), event (n,)).

    The first n slots are those before the events; the others fill up. A history longer than `model.max_length` is seen
    in windows that overlap by half, so that at least so many events of it are seen.
    """
    assert catalogue.item_domain is not None
    length, starts, step = model.max_length, histories.offsets[:-1], max(model.max_length // 2, 1)
    counts = np.where(histories.lengths, 1 + np.maximum(-(-(histories.lengths - length) // step), 0), 0)
    ordinal = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = np.repeat(starts, counts) + ordinal * step
    packing = pack(np.minimum(np.repeat(histories.offsets[1:], counts) - begins, length), length)
    wanted = np.append(catalogue.item_domain[histories.item] == target_domain(catalogue), False)
    wanted[histories.offsets] = False  # nothing is before the first event of a history
    start_of = np.repeat(starts, histories.lengths)
    for first in range(0, packing.num_rows, rows):
        index, position, segment = packing.layout(np.arange(first, first + rows), begins)
        new = (position >= length - step) | (index - position == start_of[index])  # not seen by the window before
        slot = np.flatnonzero((segment > 0) & new & wanted[index + 1])
        filled = np.zeros(index.size, np.int32)
        filled[: len(slot)] = slot
        x = events_at(histories, index, position, segment)
        yield x | _domains(x, catalogue) | {"slot": filled}, index.reshape(-1)[slot] + 1


class _Representing(SequenceLoader):
    """What both objectives of the encoders of users have in common. Besides what is predicted, a batch has

    person     (U,) int32 the flat slot at which each sequence ends (all of it is known there), and
    people     (U,) float32 1 where there is one, 0 for what fills the batch up
    history    (U,) int32 the history that each sequence is a window of
    reversal   (1,) float32 strength of the gradient reversal: 2 / (1 + exp(-10 p)) - 1 at the share p of the training
               (Ganin & Lempitsky 2015, section 5.2), or 1 with `model.reversal=constant`
    negatives  (N,) int32 trained items, drawn uniformly, `model.representation_negatives` of them; absent where there
               are no more items than that, and the losses use them all
    """

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__(histories, catalogue, config)
        per_row = np.diff(self.packing.offsets)
        self._num_people = max(int(np.sort(per_row)[-self.rows_per_batch :].sum()), 1)
        self._history = histories.row_of_event[self._begins]

    def with_people(
        self, x: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        segment = np.pad(x["segment"], ((0, 0), (0, 1)))
        ends = np.flatnonzero((segment[:, :-1] > 0) & (segment[:, :-1] != segment[:, 1:]))
        x["person"], x["history"] = (np.zeros(self._num_people, np.int32) for _ in range(2))
        x["person"][: len(ends)] = ends
        x["history"][: len(ends)] = self._history[self.packing.sequences(rows, x["segment"], ends)]
        x["people"] = (np.arange(self._num_people) < len(ends)).astype(np.float32)
        model: Any = self.config.model
        share = (self.epoch + 0.5) / max(model.representation_epochs, 1)  # in the middle of the epoch
        strength = 1.0 if model.reversal == "constant" else 2 / (1 + np.exp(-10 * share)) - 1
        x["reversal"] = np.array([strength], np.float32)
        count, trained = model.representation_negatives, self.catalogue.items.trained_size
        if 0 < count < trained - NUM_SPECIALS:
            x["negatives"] = rng.integers(NUM_SPECIALS, trained, count, dtype=np.int32)
        return x


class MaskedRepresentationLoader(_Representing, DomainLoader):
    """Events of all domains are masked, and predicted from what each encoder may see."""

    def maskable(self) -> np.ndarray:
        assert self.catalogue.item_domain is not None
        return self.catalogue.item_domain[self.histories.item] > 0

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, y, weight = super().batch(rows, real, rng)
        del x["latest"]  # of the recommender
        return self.with_people(x, rows, rng), y, weight


class NextRepresentationLoader(_Representing):
    """Each event predicts the next of any domain, y and weight (R, L), and the next of its own domain:

    next_there    (R, L) int32, PAD where there is none, and
    weight_there  (R, L) float32
    """

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        refuse_shared_items(histories, catalogue)
        super().__init__(histories, catalogue, config)
        assert catalogue.item_domain is not None
        row, domain = histories.row_of_event, catalogue.item_domain[histories.item]
        order = np.lexsort((domain, row))  # keeps the order within a domain
        self._next, self._next_there = (np.arange(len(row)) for _ in range(2))  # of the last, itself
        follows = np.flatnonzero(row[1:] == row[:-1])
        self._next[follows] += 1
        row, domain = row[order], domain[order]
        follows = np.flatnonzero((row[1:] == row[:-1]) & (domain[1:] == domain[:-1]))
        self._next_there[order[follows]] = order[follows + 1]

    def windows(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        model: Any = self.config.model
        return cut(self.histories.offsets[:-1], self.histories.offsets[1:], max_length, model.all_events)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, index, filled = self.rows(rows, real)
        x |= _domains(x, self.catalogue)
        following, there = self._next[index], self._next_there[index]
        _, x["next_there"], x["weight_there"] = self.asked({}, there, filled & (there != index), rng)
        return self.asked(self.with_people(x, rows, rng), following, filled & (following != index), rng)


def representing(histories: Histories, catalogue: Catalogue, config: RunConfig) -> SequenceLoader:
    """The loader of the stage of representations: next items, or masked ones."""
    model: Any = config.model
    return (NextRepresentationLoader if model.causal else MaskedRepresentationLoader)(histories, catalogue, config)


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


def _latest(x: dict[str, np.ndarray], target: int) -> dict[str, np.ndarray]:
    """Where the state of the target domain is, for each of the slots that are asked."""
    place = np.arange(x["domain"].shape[1])
    latest = np.maximum.accumulate(np.where(x["domain"] == target, place, -1), axis=1)
    latest = np.where(latest >= place - x["position"], latest, place)  # none in this sequence
    row, column = np.divmod(x["slot"], len(place))
    return {"latest": (row * len(place) + latest[row, column]).astype(np.int32)}


def _alone(histories: Histories, catalogue: Catalogue) -> Histories:
    """The events of the target domain, and the one before the first of them."""
    assert catalogue.item_domain is not None
    row = histories.row_of_event
    own = np.flatnonzero(catalogue.item_domain[histories.item] == target_domain(catalogue))
    first = own[np.diff(row[own], prepend=-1) > 0]
    kept = np.sort(np.concatenate([own, first[first > histories.offsets[row[first]]] - 1]))
    offsets = np.searchsorted(row[kept], np.arange(len(histories) + 1))
    columns = {name: column[kept] for name, column in histories.columns.items()}
    stamps = None if histories.timestamp is None else histories.timestamp[kept]
    return replace(histories, offsets=offsets, item=histories.item[kept], timestamp=stamps, columns=columns)
