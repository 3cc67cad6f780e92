"""Behaviour of clients as sequences of events, packed: what was known of each before a cut-off.

What a model sees, in training and serving; category, price and name of an event are those of its product:

    kind     (R, L) int32 1 + the code in `KINDS`; NO_HISTORY, alone in its sequence, of a client without any event
    item     (R, L) int32 token of the product; PAD where the event is about none
    url      (R, L) int32 1, 2, ... of a known url, then rows shared by the hashes of the others; 0: no visit
    query    (R, L, K) int32 rows of a table of codes by place, see `code_rows`
    time     (R, L) int32 seconds from the event to the cut-off
    gap      (R, L) int32 seconds since the event before; -1 of the first that is seen
    segment  (R, L) int32 1 + number of the client in the batch; 0 where the slot is empty
    slot     (n,) int32 flat slot (of R * L) of each client's last event

Legend: R rows, L slots of a row, K codes of a text, n clients, M examples of a batch, m events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import (
    KINDS,
    NO_CODE,
    SEARCH,
    VISIT,
    WITH_PRODUCT,
    BehaviourLog,
    Snapshot,
    without_events,
)
from zoo.data.behaviour.windows import cut_offs
from zoo.data.loaders.behaviour_labels import Labels, fingerprints
from zoo.data.loaders.loader import Loader
from zoo.data.loaders.packing import pack, rounded
from zoo.data.vocabulary import NUM_SPECIALS, PAD

NO_HISTORY = len(KINDS) + 1
REACH = 8  # with `max_visits`, events are looked for among the last 8 max_length ones
CROWD = 8  # a row holds up to eight times as many clients as on average
PART = 200_000  # examples whose events are counted together


class BehaviourSequenceLoader(Loader):
    """Examples are (client, cut-off) pairs: cut-offs inside the input, `model.cut_off_days` apart, and of each the
    window of `behaviour.window_days` days behind it, which ends before whatever the clients are judged by.

    `train.batch_size` counts examples: a batch has as many rows as hold that many on average. Rows are sorted by how
    many clients they hold and cut into as many groups as a batch has rows: each batch gets one row of each group, so
    that all batches are alike and M is little more than the mean. y and weight are what `Labels.batch` says.

    Clients without events before a cut-off are examples, too. There are more buyers among them than among strangers:
    all of them came later.

    Attributes:
        examples: n pairs, as a Snapshot.
        labels: theirs.
        packing: where each lies.
        size: M.
    """

    remedy = "keep more clients (behaviour.train_clients=all), or set behaviour.window_days lower"

    def __init__(self, histories: Any, catalogue: Any, config: RunConfig):
        super().__init__(histories, catalogue, config)
        section, snapshot = config.behaviour, histories
        model: Any = config.model
        self.examples: Snapshot = snapshot
        if len(snapshot):
            end = int(snapshot.cut.min())
            cuts = cut_offs(snapshot.log, end, section.window_days, model.cut_offs, model.cut_off_days)
            self.examples = snapshot.log.at(np.repeat(cuts, len(snapshot)), np.tile(snapshot.client, len(cuts)))
        self.labels = Labels(self.examples, catalogue, section.window_days, model)
        lengths = sequence_lengths(self.examples, model)
        least = max(int(lengths.mean()) // CROWD, 1) if len(lengths) else 1
        self.packing = pack(np.clip(lengths, least, model.max_length), model.max_length, closely=True)
        rows = self.packing.num_rows
        self.rows_per_batch = max(round(config.train.batch_size * rows / max(len(self.examples), 1)), 1)
        batches = -(-rows // self.rows_per_batch)
        clients = np.diff(self.packing.offsets)
        crowded = np.full(batches * self.rows_per_batch, -1)  # rows by clients, after empty ones
        crowded[len(crowded) - rows :] = np.argsort(clients, kind="stable")
        self._groups = crowded.reshape(self.rows_per_batch, batches)
        most = np.append(clients, 0)[self._groups].max(axis=1, initial=0)  # row -1 holds nobody
        self.size = max(int(most.sum()), 1)

    @property
    def num_examples(self) -> int:
        """Rows of an epoch, those included that are empty."""
        return self._groups.size

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._order = rng.permuted(self._groups, axis=1).T.reshape(-1)
            self.epoch = epoch

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        packing = self.packing
        filled = np.flatnonzero(real & (rows >= 0))
        counts = packing.offsets[rows[filled] + 1] - packing.offsets[rows[filled]]
        place = np.repeat(filled, counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        examples = packing.order[np.repeat(packing.offsets[rows[filled]], counts) + within]
        first = place * packing.row_length + packing.start[examples]
        model: Any = self.config.model
        x = laid_out(self.examples.take(examples), first, len(rows), self.catalogue, model)
        x["slot"] = np.concatenate([x["slot"], np.zeros(self.size - len(examples), np.int32)])
        y, weight = self.labels.batch(examples, self.size, rng)
        y_next, weight["next"] = later_events(x, model, rng)
        return x, y | y_next, weight

    @staticmethod
    def inputs(histories: Any, catalogue: Any, model_config: Any) -> dict[str, np.ndarray]:
        packing = pack(sequence_lengths(histories, model_config), model_config.max_length, closely=True)
        first = packing.row * packing.row_length + packing.start
        return laid_out(histories, first, rounded(packing.num_rows), catalogue, model_config)

    @staticmethod
    def anybody() -> Any:
        """A client without events."""
        return without_events()


def seen_events(snapshot: Snapshot, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """The last `max_length` events of each client, of which at most `max_visits` are visits.

    Returns:
        (m,) int64 places in the log, client by client and oldest first, and (m,) int64 their clients.
    """
    if model.max_visits is None or model.max_visits >= model.max_length:
        return snapshot.recent(model.max_length).events()
    index, owner = snapshot.recent(REACH * model.max_length).events()
    visit = snapshot.log.kind[index] == VISIT
    kept = ~visit | (_from_the_end(visit, owner, len(snapshot)) <= model.max_visits)
    index, owner = index[kept], owner[kept]
    latest = _from_the_end(np.ones(len(owner), bool), owner, len(snapshot)) <= model.max_length
    return index[latest], owner[latest]


def _from_the_end(flag: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """(m,) how many flagged events of the same client there are from each event on."""
    end = np.cumsum(np.bincount(owner, flag, count).astype(np.int64))
    summed = np.cumsum(flag)
    return end[owner] - summed + flag


def sequence_lengths(snapshot: Snapshot, model: Any) -> np.ndarray:
    """(n,) slots that each client takes: his events, or one for having none."""
    if model.max_visits is None or model.max_visits >= model.max_length:
        return np.clip(snapshot.lengths, 1, model.max_length)
    counts = [
        np.bincount(seen_events(part, model)[1], minlength=len(part)) for part in snapshot.batches(PART) if len(part)
    ]
    return np.maximum(np.concatenate(counts) if counts else np.zeros(0, np.int64), 1)


def laid_out(
    snapshot: Snapshot, first: np.ndarray, rows: int, catalogue: BehaviourCatalogue, model: Any
) -> dict[str, np.ndarray]:
    """What a model sees of n clients; see the top of this file.

    Args:
        first: (n,) flat slot at which each begins.
        rows: R.
    """
    log = snapshot.log
    index, owner = seen_events(snapshot, model)
    counts = np.bincount(owner, minlength=len(snapshot))
    place = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    slot = first[owner] + place
    flat = {
        name: np.zeros(rows * model.max_length, np.int32) for name in ("kind", "item", "url", "time", "gap", "segment")
    }
    about = things(log, index, catalogue, model)
    query = np.full((rows * model.max_length, about["query"].shape[1]), -1, np.int32)
    query[:, 0] = 0
    query[slot] = about["query"]
    for name in ("kind", "item", "url"):
        flat[name][slot] = about[name]
    time = log.time[index]
    flat["segment"][slot] = owner + 1
    flat["time"][slot] = seconds(snapshot.cut[owner] - time)
    flat["gap"][slot] = np.where(place > 0, seconds(np.diff(time, prepend=0)), -1)
    nothing = np.flatnonzero(counts == 0)
    flat["kind"][first[nothing]], flat["segment"][first[nothing]] = NO_HISTORY, nothing + 1
    flat["gap"][first[nothing]] = -1
    x: dict[str, np.ndarray] = {name: array.reshape(rows, model.max_length) for name, array in flat.items()}
    x["query"] = query.reshape(rows, model.max_length, -1)
    return x | {"slot": (first + np.maximum(counts, 1) - 1).astype(np.int32)}


def things(log: BehaviourLog, index: np.ndarray, catalogue: BehaviourCatalogue, model: Any) -> dict[str, np.ndarray]:
    """`kind`, `item`, `url` (m,) and `query` (m, K) of events at places of the log; see the top of this file."""
    kind, ref = log.kind[index], log.ref[index]
    visit, search = kind == VISIT, kind == SEARCH
    url = np.zeros(len(index), np.int32)
    url[visit] = url_rows(ref[visit], catalogue, model.url_tail)
    codes = code_rows(log.queries[ref[search]], catalogue.num_codes, query_length(catalogue, model))
    query = np.full((len(index), codes.shape[1]), -1, np.int32)
    query[:, 0] = 0
    query[search] = codes
    item = np.where(kind <= max(WITH_PRODUCT), ref, PAD).astype(np.int32)
    return {"kind": kind.astype(np.int32) + 1, "item": item, "url": url, "query": query}


def query_length(catalogue: BehaviourCatalogue, model: Any) -> int:
    """Codes of a query that are read."""
    return max(min(catalogue.query_length, model.text_length), 1)


def later_events(
    x: dict[str, np.ndarray], model: Any, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Events of a batch, and for each a later one of the same client, at random among the next `next_reach`.

    Returns:
        y["next_from"], y["next_to"]  (S,) int32 flat slots of S = `next_events` pairs
        y["next_excluded"]            (S, S) bool: column m is no negative of row n: it is of the same client, is the
                                      very same thing, or fills the batch up
        weight                        (S,) float32: 0 of what fills the batch up
    """
    size, length = model.next_events, x["segment"].shape[1]
    segment = x["segment"].reshape(-1)
    same = (segment[1:] == segment[:-1]) & (segment[1:] > 0) & (np.arange(1, len(segment)) % length > 0)
    slots = np.flatnonzero(same)
    begin = rng.permutation(slots)[:size]
    ends = np.flatnonzero(np.append(~same, True))  # last slots of sequences; empty ones are ends, too
    last = ends[np.searchsorted(ends, begin)]
    later = begin + 1 + (rng.random(len(begin)) * np.minimum(last - begin, model.next_reach)).astype(np.int64)
    flat = [x[name].reshape(len(segment), -1)[later] for name in ("kind", "item", "url", "query")]
    thing = fingerprints(np.concatenate(flat, axis=1))
    excluded = np.ones((size, size), bool)
    excluded[: len(begin), : len(begin)] = (thing[:, None] == thing) | (segment[later][:, None] == segment[later])
    np.fill_diagonal(excluded, False)
    y = {name: np.zeros(size, np.int32) for name in ("next_from", "next_to")}
    y["next_from"][: len(begin)], y["next_to"][: len(begin)] = begin, later
    return y | {"next_excluded": excluded}, (np.arange(size) < len(begin)).astype(np.float32)


def url_rows(ref: np.ndarray, catalogue: BehaviourCatalogue, tail: int) -> np.ndarray:
    """(m,) row of each url, from 1: known ones have their own, `tail` further rows are shared by hash."""
    known = catalogue.urls.size - NUM_SPECIALS
    return np.where(ref >= NUM_SPECIALS, ref - NUM_SPECIALS, known + (-1 - ref) % tail) + 1


def code_rows(codes: np.ndarray, num_codes: int, length: int) -> np.ndarray:
    """(T, length) int32 rows, in a table with one for each place and code, of texts: 1 + place * num_codes + code.

    -1 where there is no code, or one that nobody has seen; a text without any begins with row 0, which says so.

    Args:
        codes: (T, K) codes, NO_CODE behind the last; what is beyond `length` is not looked at.
    """
    result = np.full((len(codes), length), -1, np.int32)
    some = codes[:, :length].astype(np.int32)
    row = 1 + np.arange(some.shape[1], dtype=np.int32) * num_codes + some
    result[:, : some.shape[1]] = np.where((some != NO_CODE) & (some < num_codes), row, -1)
    result[(result < 0).all(axis=1), 0] = 0
    return result


def seconds(milliseconds: np.ndarray) -> np.ndarray:
    """int32, from 0."""
    return np.clip(milliseconds // 1000, 0, np.iinfo(np.int32).max).astype(np.int32)
