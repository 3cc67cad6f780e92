"""Clients twice: two views of each for contrastive learning; and texts, for the autoencoder that comes before.

Legend: B batch, n clients, K codes of a text, D width of a vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import SEARCH, Snapshot, without_events
from zoo.data.behaviour.profiles import Profiles, profile, text_tokens
from zoo.data.behaviour.views import two_views
from zoo.data.hashing import splitmix64
from zoo.data.loaders.loader import Loader
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN


class TwoViewLoader(Loader):
    """Batches of clients, each seen in two views that are drawn anew in every epoch.

    x    ids of bags and codes of queries as `profiles` says; `first` and `second`, dictionaries of what each view shows
         of them; and `noise` (B, 2, D) float32, standard normal, for the vectors of both
    y    (B,) int32: rows of clients with the very same history, up to a shift of time with their cut-off, have the
         same number; a client who is in the batch twice does so, too
    """

    remedy = "no client has an event before the cut-off; add data, or lower behaviour.window_days"

    def __init__(self, snapshot: Snapshot, catalogue: BehaviourCatalogue, config: RunConfig):
        super().__init__(snapshot, catalogue, config)
        self.rows_per_batch = min(config.train.batch_size, max(len(snapshot), 1))  # thousands are for logs of millions

    @property
    def num_examples(self) -> int:
        return len(self.histories)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        model: Any = self.config.model
        profiles = Profiles(self.histories.take(rows), self.catalogue, model)
        first, second = two_views(profiles, model, rng)
        x: dict[str, Any] = profiles.ids()
        for name in ("sku", "category", "url"):  # in this order, for each takes its part of the random numbers
            if name not in x:
                continue
            hidden = (x[name] >= NUM_SPECIALS) & (rng.random(x[name].shape) < model.unknown_share)
            x[name] = np.where(hidden, UNKNOWN, x[name]).astype(np.int32)
        x["first"], x["second"] = (profiles.seen(view.kept, view.cut, view.blank) for view in (first, second))
        x["noise"] = rng.standard_normal((len(rows), 2, model.embedding_dim), np.float32)
        _, same = np.unique(fingerprints(profiles), return_inverse=True)
        return x, same.astype(np.int32), real.astype(np.float32)

    @staticmethod
    def inputs(snapshot: Snapshot, catalogue: BehaviourCatalogue, model_config: Any) -> dict[str, np.ndarray]:
        """A row for each client of the snapshot, of all that is known of him."""
        return profile(snapshot, catalogue, model_config)

    @staticmethod
    def anybody() -> Snapshot:
        """A client without events."""
        return without_events()


class TextLoader(TwoViewLoader):
    """Batches of the distinct texts that are known at the cut-off: names of products and queries.

    x          {"text": (B, K) int32 tokens}
    y, weight  (B, K) the same, and 1 where there is one
    """

    remedy = "it has neither names of products nor queries: set model.text_epochs=0"

    def __init__(self, snapshot: Snapshot, catalogue: BehaviourCatalogue, config: RunConfig):
        super().__init__(snapshot, catalogue, config)
        model: Any = config.model
        log = snapshot.log
        index, _ = snapshot.events()
        asked = np.unique(log.ref[index[log.kind[index] == SEARCH]])
        texts = [
            text_tokens(codes, model.text_length, catalogue.num_codes)
            for codes in (catalogue.name[NUM_SPECIALS:], log.queries[asked])
        ]
        distinct = np.unique(np.concatenate(texts), axis=0)
        self.texts = distinct[(distinct != PAD).any(axis=1)]
        self.rows_per_batch = min(config.train.batch_size, max(len(self.texts), 1))

    @property
    def num_examples(self) -> int:
        return len(self.texts)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        text = self.texts[rows]
        return {"text": text}, text, ((text != PAD) & real[:, None]).astype(np.float32)


def fingerprints(profiles: Profiles) -> np.ndarray:
    """(n,) uint64 a number of each client's events, their times counted from the cut-off."""
    ago = profiles.cut[profiles.owner] - profiles.time
    mixed = _mixed(
        _mixed(_mixed(ago.astype(np.uint64)) + profiles.kind.astype(np.uint64)) + profiles.ref.astype(np.uint64)
    )
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed)])
    ends = np.cumsum(profiles.lengths)
    return sums[ends] - sums[ends - profiles.lengths]


def _mixed(bits: np.ndarray) -> np.ndarray:
    return splitmix64(bits) + np.uint64(0x9E3779B97F4A7C15)  # 0 does not stay 0
