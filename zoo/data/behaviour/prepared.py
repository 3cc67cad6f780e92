"""A behaviour log, cut and in tokens: what training, export and the judge work on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from config import BehaviourConfig
from zoo.data.behaviour import catalogue as catalogues
from zoo.data.behaviour import windows
from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import BehaviourLog, Snapshot
from zoo.data.behaviour.windows import Windows


@dataclass(frozen=True)
class BehaviourPrepared:
    """A log cut at a time.

    Attributes:
        log: as it was read.
        tokens: the log in the tokens of the catalogue.
        catalogue: of what is known at the cut-off alone.
        cut: milliseconds: nothing at or after it is trained on.
        windows: of the targets behind it; None where everything is trained on.
        train: what is known, at the cut-off, of the clients that are trained on; events in tokens.
    """

    log: BehaviourLog
    tokens: BehaviourLog
    catalogue: BehaviourCatalogue
    cut: int
    windows: Windows | None
    train: Snapshot

    @property
    def name(self) -> str:
        """What messages call the data."""
        return self.log.name

    @cached_property
    def data_sha256(self) -> str:
        """Fingerprint of the data alone."""
        return self.log.sha256()

    @property
    def num_train_events(self) -> int:
        """Events that are trained on."""
        return int(self.train.lengths.sum())

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the data and of what is trained on."""
        digest = hashlib.sha256(json.dumps([self.data_sha256, int(self.cut)]).encode())
        digest.update(np.ascontiguousarray(self.train.client).data)
        return digest.hexdigest()

    def everyone(self) -> Snapshot:
        """What is known, at the cut-off, of the clients whom the owner asks for, in his order."""
        return self.tokens.at(self.cut, self.log.relevant())


def prepare(log: BehaviourLog, config: BehaviourConfig, *, everything: bool = False) -> BehaviourPrepared:
    """The log, cut before the official windows of targets, or, with `everything`, after its last event.

    Raises:
        DataError: the windows leave no input.
    """
    targets = None if everything else windows.official(log, config.window_days)
    cut = log.end if targets is None else targets.start
    clients = None if config.train_clients == "all" else log.relevant()
    known = catalogues.count(log.at(cut, clients), config.min_visits)
    return prepare_as(log, known, cut, targets, clients)


def prepare_as(
    log: BehaviourLog,
    known: BehaviourCatalogue,
    cut: int,
    targets: Windows | None = None,
    clients: np.ndarray | None = None,
) -> BehaviourPrepared:
    """The log in the tokens of an existing catalogue, cut at a time: what a loaded run is asked with.

    Args:
        clients: (n,) rows of those who are trained on; None: all.
    """
    tokens = known.adapt(log)
    train = tokens.at(cut, clients)
    return BehaviourPrepared(log, tokens, known, cut, targets, train.take(np.flatnonzero(train.lengths)))
