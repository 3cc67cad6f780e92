"""Catalogue: all that a model may know of users and items besides histories. Made from the training part alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from zoo.data import packed_text, splits
from zoo.data.dataset import Entities, Events
from zoo.data.features import FeatureTable, encode_features
from zoo.data.histories import Histories, Prefixes
from zoo.data.splits import Part, Split
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary


@dataclass(frozen=True)
class Catalogue:
    """Vocabularies, training popularity and features, in tokens.

    Attributes:
        users, items: vocabularies; items that only a feature table knows come after the trained ones.
        item_counts: (V,) int64 training events of each item token; 0 for specials and untrained items.
        user_features, item_features: a row per token, or None where there are no features.
        labels: names behind coded event columns (action, domain), those alone that training has; and
            `target_domains`, names of those that the split aims at, where it does not aim at all.
        candidates: (V,) bool, the items that may be recommended, where these are not all: those that were trained on in
            one of the split's target domains.
        item_domain: (V,) int16, 1 + the place in `labels["domain"]` of the domain in which an item has most of its
            training events, 0 where it has none; None where the log has no domains.
    """

    users: Vocabulary
    items: Vocabulary
    item_counts: np.ndarray
    user_features: FeatureTable | None = None
    item_features: FeatureTable | None = None
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    candidates: np.ndarray | None = None
    item_domain: np.ndarray | None = None

    @property
    def num_candidates(self) -> int:
        """Items that may be recommended."""
        return self.items.size - NUM_SPECIALS if self.candidates is None else int(np.count_nonzero(self.candidates))

    @cached_property
    def actions(self) -> Vocabulary:
        """What an event can be: the names of actions, in their order; an action that training has not is UNKNOWN."""
        names = self.labels.get("action", ())
        return Vocabulary(np.array([*names, None], dtype=object)[:-1], len(names))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays by name, for a file without pickles; text is UTF-8 bytes and offsets."""
        result = {"item_counts": self.item_counts, "labels": packed_text.text_array([json.dumps(self.labels)])}
        for name in ("candidates", "item_domain"):
            if (array := getattr(self, name)) is not None:
                result[name] = array
        for name, vocabulary in (("users", self.users), ("items", self.items)):
            result[f"{name}.num_trained"] = np.array(vocabulary.num_trained)
            result |= packed_text.pack_ids(name, vocabulary.ids)
        for name, table in (("user_features", self.user_features), ("item_features", self.item_features)):
            if table is not None:
                result |= {f"{name}.bags": table.bags, f"{name}.numbers": table.numbers}
                result |= packed_text.pack(f"{name}.names", list(table.names))
                result |= packed_text.pack(f"{name}.number_names", list(table.number_names))
        return result

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Catalogue:
        """Takes back what `arrays` gave.

        Raises:
            KeyError: an array is missing.
        """

        def vocabulary(name: str) -> Vocabulary:
            return Vocabulary(packed_text.unpack_ids(name, arrays), int(arrays[f"{name}.num_trained"]))

        def features(name: str) -> FeatureTable | None:
            if f"{name}.bags" not in arrays:
                return None
            texts = [tuple(packed_text.unpack(f"{name}.{part}", arrays)) for part in ("names", "number_names")]
            return FeatureTable(arrays[f"{name}.bags"], texts[0], arrays[f"{name}.numbers"], texts[1])

        labels = {key: tuple(names) for key, names in json.loads(arrays["labels"].tobytes()).items()}
        tables = features("user_features"), features("item_features")
        known = vocabulary("users"), vocabulary("items"), arrays["item_counts"]
        return cls(*known, *tables, labels, arrays.get("candidates"), arrays.get("item_domain"))


@dataclass(frozen=True)
class Prepared:
    """A split in tokens: what training, evaluation and prediction work on.

    Attributes:
        split: where it comes from.
        catalogue: made from the training part alone.
        user_token, item_token: token of each of the data set's users and items.
        action_token: token of each of its actions; None where it has none.
        train: the training histories of every trained user.
    """

    split: Split
    catalogue: Catalogue
    user_token: np.ndarray
    item_token: np.ndarray
    action_token: np.ndarray | None
    train: Histories

    @property
    def name(self) -> str:
        """What messages call the data."""
        return self.split.dataset.name

    @property
    def sha256(self) -> str:
        """Fingerprint of the data and of what is trained on."""
        return self.split.sha256

    @property
    def data_sha256(self) -> str:
        """Fingerprint of the data alone."""
        return self.split.dataset.sha256()

    @property
    def num_train_events(self) -> int:
        """Events that are trained on."""
        return len(self.train.item)

    def cases(self, name: Part) -> tuple[Histories | Prefixes, Histories]:
        """(histories, targets) of the users evaluated in `validation` or `test`, row by row the same users.

        Of a rolling split there is a row for each target, and a user's rows follow each other. Where the log has
        times, the `query_time` of a history is that of its first target; where it has actions, so is `query_action`.
        """
        rows = self.split.users(name)
        chosen = np.zeros(len(self.split.dataset.users), bool)
        chosen[rows] = True
        events = self.split.dataset.events
        mine = chosen[events.user]
        known = np.isin(self.split.part, splits.KNOWN[name]) & mine
        target = (self.split.part == splits.TARGET[name]) & mine
        if self.split.rolling:
            return _one_by_one(self._histories(known | target, rows), target[known | target])
        histories, targets = self._histories(known, rows), self._histories(target, rows)
        time, action = _first(targets, targets.timestamp), _first(targets, targets.columns.get("action"))
        return replace(histories, query_time=time, query_action=action), targets

    def all_histories(self) -> Histories:
        """Everything known of every user with an event: what predictions start from."""
        events = self.split.dataset.events
        return self._histories(slice(None), np.unique(events.user))

    def _histories(self, chosen: np.ndarray | slice, rows: np.ndarray) -> Histories:
        events = self.split.dataset.events.take(chosen)
        return Histories.from_events(events, rows, self.user_token, self.item_token, self.action_token)


def _one_by_one(histories: Histories, target: np.ndarray) -> tuple[Prefixes, Histories]:
    """What precedes each event of `target` (E,), and that event: a row for each."""
    owner, event = histories.row_of_event[target], np.flatnonzero(target)
    query_time = None if histories.timestamp is None else histories.timestamp[event]
    query_action = histories.columns["action"][event] if "action" in histories.columns else None
    prefixes = Prefixes(histories, owner, event - histories.offsets[owner], query_time, query_action)
    columns = {name: column[event] for name, column in histories.columns.items()}
    targets = Histories(histories.user[owner], np.arange(len(event) + 1), histories.item[event], columns=columns)
    return prefixes, targets


def _first(targets: Histories, column: np.ndarray | None) -> np.ndarray | None:
    """(n,) `column` (E,) of each row's first event; a row without one, which nobody evaluates, gets any."""
    if column is None or not len(column):
        return None
    return column[np.minimum(targets.offsets[:-1], len(column) - 1)]


def prepare(split: Split) -> Prepared:
    """Counts the training part: vocabularies, popularity, features, histories."""
    dataset = split.dataset
    train = split.events(splits.TRAIN)
    users, user_token = _vocabulary(dataset.users, train.user)
    items, item_token = _vocabulary(dataset.items, train.item)
    counts = np.bincount(item_token[train.item], minlength=items.size).astype(np.int64)
    catalogue = Catalogue(
        users,
        items,
        counts,
        encode_features(dataset.users, user_token, users),
        encode_features(dataset.items, item_token, items),
        _trained_labels(split, train),
        _candidates(split, train, item_token, items),
        _item_domain(train, item_token, items),
    )
    return _prepared(split, catalogue, user_token, item_token)


def prepare_as(split: Split, catalogue: Catalogue) -> Prepared:
    """The split in the tokens of an existing `catalogue`: what a loaded run is evaluated or asked with."""
    dataset = split.dataset
    user_token = catalogue.users.encode(dataset.users.ids)
    item_token = catalogue.items.encode(dataset.items.ids)
    return _prepared(split, catalogue, user_token, item_token)


def _prepared(split: Split, catalogue: Catalogue, user_token: np.ndarray, item_token: np.ndarray) -> Prepared:
    action_token = None
    if "action" in split.dataset.events.columns:
        names = np.array(split.dataset.labels["action"], dtype=object)
        action_token = catalogue.actions.encode(names).astype(
            np.int16
        )  # there is one for every event: as narrow as codes
    train = split.events(splits.TRAIN)
    rows = np.flatnonzero(np.bincount(train.user, minlength=len(split.dataset.users)))
    histories = Histories.from_events(train, rows, user_token, item_token, action_token)
    return Prepared(split, catalogue, user_token, item_token, action_token, histories)


def _trained_labels(split: Split, train: Events) -> dict[str, tuple[str, ...]]:
    """The names behind coded columns, without those of actions and domains that do not occur in `train`; and target
    domains."""
    labels = dict(split.dataset.labels)
    for column in ("action", "domain"):
        if column in train.columns:
            labels[column] = tuple(labels[column][code] for code in _occurring(train, column))
    if split.domains is not None:
        labels["target_domains"] = tuple(split.dataset.labels["domain"][code] for code in split.domains)
    return labels


def _occurring(train: Events, column: str) -> np.ndarray:
    """Codes of `column` that some event bears, in order."""
    return np.flatnonzero(np.bincount(train.columns[column]))


def _candidates(split: Split, train: Events, item_token: np.ndarray, items: Vocabulary) -> np.ndarray | None:
    """Items with a training event in a target domain; None where the split aims at all domains."""
    if split.domains is None:
        return None
    result = np.zeros(items.size, bool)
    result[item_token[train.item[np.isin(train.columns["domain"], split.domains)]]] = True
    result[:NUM_SPECIALS] = False
    return result


def _item_domain(train: Events, item_token: np.ndarray, items: Vocabulary) -> np.ndarray | None:
    """(V,) 1 + the domain, of those that occur, of most of an item's training events, the first of several; 0 where
    there are none."""
    if "domain" not in train.columns:
        return None
    there = _occurring(train, "domain")
    code = np.searchsorted(there, train.columns["domain"])
    pair = item_token[train.item].astype(np.int64) * len(there) + code
    counts = np.bincount(pair, minlength=items.size * len(there)).reshape(items.size, len(there))
    return np.where(counts.any(axis=1), counts.argmax(axis=1) + 1, 0).astype(np.int16)


def _vocabulary(entities: Entities, trained: np.ndarray) -> tuple[Vocabulary, np.ndarray]:
    """Vocabulary of the entities that occur in `trained` (first appearance first), then of those with features.

    Returns:
        the vocabulary, and the token of each entity (UNKNOWN where it has none).
    """
    first = np.full(len(entities), len(trained), np.int64)
    first[trained[::-1]] = np.arange(len(trained) - 1, -1, -1)  # the last assignment to an entity is its first event
    seen = np.flatnonzero(first < len(trained))
    order = seen[np.argsort(first[seen], kind="stable")]
    if entities.columns:
        order = np.concatenate([order, np.flatnonzero(first == len(trained))])
    token = np.full(len(entities), UNKNOWN, np.int32)
    token[order] = np.arange(len(order), dtype=np.int32) + NUM_SPECIALS
    return Vocabulary(entities.ids[order], len(seen)), token
