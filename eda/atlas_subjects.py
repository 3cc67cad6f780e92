"""What a map may be of: items, or products or clients of a log of behaviour, with what is known of each.

Legend: n things, V tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import DAY, KINDS, NO_CODE
from zoo.data.behaviour.prepared import BehaviourPrepared
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import Dataset
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN

POPULARITY = "events in training"


@dataclass(frozen=True)
class Subject:
    """n things with vectors.

    Attributes:
        kind: what one is called: "item" or "client".
        data: what the data are called.
        ids: (n,) external ids.
        vectors: (n, D) float32.
        columns: what is known of each, by name: (n,) float64 with NaN, or object of str with None.
        first_labels: of columns with several labels a thing, the first one.
        color_by: the column that colours unless another is wanted; None: whatever looks like a category.
        notes: what one has to know besides, a sentence each.
    """

    kind: str
    data: str
    ids: np.ndarray
    vectors: np.ndarray
    columns: dict[str, np.ndarray]
    first_labels: dict[str, np.ndarray] = field(default_factory=dict)
    color_by: str | None = None
    notes: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> Subject:
        """The things at `rows`, in that order."""
        columns, first_labels = (
            {name: values[rows] for name, values in known.items()} for known in (self.columns, self.first_labels)
        )
        return replace(self, ids=self.ids[rows], vectors=self.vectors[rows], columns=columns, first_labels=first_labels)


def items(vectors: np.ndarray, catalogue: Catalogue, dataset: Dataset) -> Subject:
    """Items of which a model learned something.

    Args:
        vectors: (V, D) float32 by token.
        catalogue: of the model.
        dataset: what is known of the items; those it does not know are on the map without features.
    """
    tokens, notes = _learned(vectors)
    found = catalogue.items.encode(dataset.items.ids)
    row = np.full(catalogue.items.size, -1)
    row[found] = np.arange(len(found))
    row[UNKNOWN] = -1
    rows = row[tokens]
    columns: dict[str, np.ndarray] = {}
    first_labels: dict[str, np.ndarray] = {}
    for name, values in dataset.items.columns.items():
        if values.ndim > 1:  # codes of a text say nothing to a person
            continue
        if values.dtype.kind in "fiub":
            columns[name] = np.where(rows < 0, np.nan, values.astype(np.float64)[rows])
        else:
            own = [None if lost else value for value, lost in zip(values[rows].tolist(), rows < 0, strict=True)]
            columns[name] = _texts(", ".join(map(str, v)) if isinstance(v, list) else v for v in own)
            if any(isinstance(value, list) for value in own):
                first_labels[name] = _texts(v[0] if isinstance(v, list) and v else v or None for v in own)
    columns[POPULARITY] = catalogue.item_counts[tokens].astype(np.float64)
    ids = catalogue.items.decode(tokens)
    return Subject("item", dataset.name, ids, vectors[tokens], columns, first_labels, notes=notes)


def products(vectors: np.ndarray, catalogue: BehaviourCatalogue, data: str) -> Subject:
    """Products of a log of behaviour of which a model learned something.

    Args:
        vectors: (V, D) float32 by token.
        catalogue: of the model.
        data: what the log is called.
    """
    tokens, notes = _learned(vectors)
    category, price = catalogue.category[tokens], catalogue.price[tokens].astype(np.float64)
    names = catalogue.categories.decode(category).astype(object)
    names[category == UNKNOWN] = None
    columns = {
        "category": _texts(names.tolist()),
        "price bucket": np.where(price == NO_CODE, np.nan, price),
        POPULARITY: catalogue.item_counts[tokens].astype(np.float64),
        "purchases": catalogue.buy_counts[tokens].astype(np.float64),
    }
    return Subject("item", data, catalogue.items.decode(tokens), vectors[tokens], columns, notes=notes)


def _learned(vectors: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Tokens of items with a vector, and a sentence on the others, if there are any."""
    learned = (vectors != 0).any(axis=1)
    learned[:NUM_SPECIALS] = False
    without = len(vectors) - NUM_SPECIALS - int(learned.sum())
    notes = (f"{without:,} items of which the model learned nothing are left out.",) if without else ()
    return np.flatnonzero(learned), notes


def clients(vectors: np.ndarray, prepared: BehaviourPrepared, window_days: int) -> Subject:
    """Clients whom the log's owner asks for.

    Args:
        vectors: (n, D) float32, in his order.
        prepared: the log.
        window_days: where it goes on behind the cut-off, the days there in which `buys next` looks for a purchase.
    """
    snapshot, rows = prepared.everyone(), prepared.log.relevant()
    index, owner = snapshot.events()
    count = len(snapshot)
    ago = (prepared.cut - snapshot.log.time[index]) / DAY
    lengths = snapshot.lengths.astype(np.float64)
    columns = {"events": lengths}
    for kind, name in enumerate(KINDS):
        columns[name] = np.bincount(owner[snapshot.log.kind[index] == kind], minlength=count).astype(np.float64)
    latest = np.full(count, np.inf)
    np.minimum.at(latest, owner, ago)
    columns["days since the last event"] = np.where(np.isfinite(latest), latest, np.nan)
    with np.errstate(invalid="ignore"):
        columns["expected action time, days ago"] = np.bincount(owner, ago, count) / lengths
    if prepared.log.end > prepared.cut:
        bought, _ = prepared.tokens.bought(snapshot.client, prepared.cut, prepared.cut + window_days * DAY)
        columns["buys next"] = np.where(np.isin(np.arange(count), bought), "yes", "no").astype(object)
    return Subject("client", prepared.name, prepared.log.clients[rows], vectors, columns, color_by="events")


def _texts(values: Iterable[Any]) -> np.ndarray:
    """(n,) object: each value as a text, None where there is none."""
    return np.array([*(None if value is None or value == "" else str(value) for value in values), None], object)[:-1]
