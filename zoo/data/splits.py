"""Splits: which events train, which validate, which test. Explicit, named, with a fingerprint.

Split first, count afterwards: vocabulary, popularity and features see the training part only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from config import ConfigError, SplitConfig
from zoo.data import dates, windows
from zoo.data.dataset import DataError, Dataset, Events

Part = Literal["validation", "test"]

# What an event is to the split. A `context` event is known when that part is evaluated, and not trained on.
DROPPED, TRAIN, VALIDATION, TEST, VALIDATION_CONTEXT, TEST_CONTEXT = range(6)
TARGET = {"validation": VALIDATION, "test": TEST}
KNOWN = {  # what may be known of a user when the part is evaluated
    "train": (TRAIN,),
    "validation": (TRAIN, VALIDATION_CONTEXT),
    "test": (TRAIN, VALIDATION, TEST_CONTEXT),
}


@dataclass(frozen=True)
class Split:
    """A data set and the part that each of its events belongs to.

    Attributes:
        dataset: its events are sorted by (user, timestamp, order).
        part: (E,) int8, one of the constants of this module.
        strategy: the name of the split.
        notes: what was dropped and why, a line each.
        rolling: whether each target is ranked on its own from all that its user did before it, earlier targets
            included; otherwise a user's targets are ranked together.
        domains: codes of the domains whose items are candidates; None: all items are.
    """

    dataset: Dataset
    part: np.ndarray
    strategy: str
    notes: tuple[str, ...] = ()
    rolling: bool = False
    domains: tuple[int, ...] | None = None

    def events(self, *parts: int) -> Events:
        """The events of these parts, in order."""
        return self.dataset.events.take(np.isin(self.part, parts))

    def users(self, name: Part) -> np.ndarray:
        """Rows of the data set's users that have a target in this part, ascending."""
        return np.unique(self.dataset.events.user[self.part == TARGET[name]])

    def count(self, part: int) -> int:
        """Events in a part."""
        return int(np.count_nonzero(self.part == part))

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of who did what in which part, in original ids and in order."""
        digest = hashlib.sha256(self.dataset.sha256().encode())
        digest.update(np.ascontiguousarray(self.part).data)
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for people."""
        sizes = ", ".join(f"{name} {self.count(code):,}" for name, code in (("train", TRAIN), *TARGET.items()))
        return f"split {self.strategy}: {sizes} events, sha256 {self.sha256[:12]}"


def split(dataset: Dataset, config: SplitConfig, seed: int = 0) -> Split:
    """Splits as `config.strategy` says.

    Raises:
        DataError: nothing is left to train on or to test, or a split by user of what seem to be pieces of users.
        ConfigError: dates that are missing, unreadable or in the wrong order; an action or domain that the log does not
            have.
    """
    aims, domains, moved = None, _target_domains(dataset, config), 0
    if domains is not None:
        dataset, moved = _targets_first(dataset, domains, config)
    if config.target_actions is not None:
        codes = dataset.codes("action", config.target_actions, "split.target_actions")
        aims = np.isin(dataset.events.columns["action"], codes)
    if domains is not None:
        aims = np.isin(dataset.events.columns["domain"], domains) & (True if aims is None else aims)
    if config.strategy == "leave_one_out":
        result = leave_one_out(dataset, aims)
    elif config.strategy == "temporal":
        result = temporal(dataset, config, aims)
    else:
        if pieces := windows.warning(dataset):
            raise DataError(f"{dataset.name}: split.strategy=by_user keeps people apart, but {pieces}")
        result = by_user(dataset, config.fraction, seed, config.targets == "all", aims)
    for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        if not result.count(part):
            raise DataError(
                f"{dataset.name}: the {config.strategy} split leaves no {name} event "
                f"({len(dataset.events):,} events of {dataset.num_users:,} users); add data or choose another split"
            )
    if domains is None:
        return result
    aimed_at = ", ".join(dataset.labels["domain"][code] for code in domains)
    notes = [f"targets and candidates are of {aimed_at} alone"]
    if moved:
        notes.append(f"at equal times {aimed_at} comes first, other domains count as later: {moved:,} events moved")
    return replace(result, domains=domains, notes=(*result.notes, *notes))


def _targets_first(dataset: Dataset, domains: tuple[int, ...], config: SplitConfig) -> tuple[Dataset, int]:
    """The events, where those of other domains come after a user's of `domains` that bear the same time; and how many
    changed places.

    Within a domain the file orders equal times; between domains nothing does, unless the configuration says that the
    file is right there, too. What may have come later is not known before a target, in training as in a test.
    """
    events = dataset.events
    if events.timestamp is None or config.equal_times == "file":
        return dataset, 0
    other = ~np.isin(events.columns["domain"], domains)
    order = np.lexsort((other, events.timestamp, events.user))
    moved = int(np.count_nonzero(order != np.arange(len(order))))
    return (dataset.take(order), moved) if moved else (dataset, 0)


def everything(dataset: Dataset, config: SplitConfig | None = None) -> Split:
    """All events for training: the split of a production model.

    Raises:
        ConfigError: `config.target_domains` names a domain that the log does not have.
    """
    config = config or SplitConfig()
    domains = _target_domains(dataset, config)
    if domains is not None:
        dataset, _ = _targets_first(dataset, domains, config)
    return Split(dataset, np.full(len(dataset.events), TRAIN, np.int8), "everything", domains=domains)


def _target_domains(dataset: Dataset, config: SplitConfig) -> tuple[int, ...] | None:
    if config.target_domains is None:
        return None
    return tuple(dataset.codes("domain", config.target_domains, "split.target_domains"))


def _all_or(aims: np.ndarray | None, dataset: Dataset) -> np.ndarray:
    return np.ones(len(dataset.events), bool) if aims is None else aims


def _dropped(part: np.ndarray) -> tuple[str, ...]:
    count = int(np.count_nonzero(part == DROPPED))
    return (f"{count:,} events after a user's last target are left out",) if count else ()


def _that_follow(user: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """(E,) how many events of the same user that are in `aims` follow each event; `user` is sorted."""
    if not len(user):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(np.append(user[1:] != user[:-1], True))
    so_far = np.cumsum(aims)
    return np.repeat(so_far[ends], np.diff(np.append(-1, ends))) - so_far


def leave_one_out(dataset: Dataset, aims: np.ndarray | None = None) -> Split:
    """Each user's last event is the test target, the one before it the validation target.

    Of a user with something before them, the last two events that may be targets are. What lies between them is known
    when the second is asked for; what comes after is left out. The other users, with fewer than three events where all
    may be targets, are trained on and never tested.

    Args:
        aims: (E,) bool, the events that may be targets; None: all.
    """
    user, aimed_at = dataset.events.user, _all_or(aims, dataset)
    follow = _that_follow(user, aimed_at)
    tested = np.zeros(len(dataset.users), bool)
    tested[user[follow >= 2]] = True
    part = np.full(len(user), TRAIN, np.int8)
    held_out = np.flatnonzero(tested[user] & (follow < 2))
    last, aimed = follow[held_out] == 0, aimed_at[held_out]
    part[held_out] = np.where(aimed, np.where(last, TEST, VALIDATION), np.where(last, DROPPED, TEST_CONTEXT))
    notes = []
    if short := dataset.num_users - int(np.count_nonzero(tested)):
        few = "fewer than 3 events" if aims is None else "nothing before their last two possible targets"
        notes.append(f"{short:,} users with {few} are trained on but not tested")
    return Split(dataset, part, "leave_one_out", (*notes, *_dropped(part)))


def temporal(dataset: Dataset, config: SplitConfig, aims: np.ndarray | None = None) -> Split:
    """Two dates on the global clock: train | validation_from | test_from. Dates default to event quantiles.

    Args:
        aims: (E,) bool, the events that may be targets; None: all.
    """
    time = dataset.events.timestamp
    if time is None or dataset.clock != "global":
        raise DataError(
            f"{dataset.name}: a temporal split needs timestamps that compare between users, and this log has "
            f"{'none' if time is None else 'relative ones'}; use split.strategy=leave_one_out"
        )
    shares = (1 - 2 * config.fraction, 1 - config.fraction)
    defaults = np.quantile(time, shares, method="lower") if len(time) else (0, 0)
    cuts = [
        dates.to_milliseconds(date, name) if date else int(default)
        for date, name, default in zip(
            (config.validation_from, config.test_from),
            ("split.validation_from", "split.test_from"),
            defaults,
            strict=True,
        )
    ]
    if cuts[0] >= cuts[1] and not config.validation_from and not config.test_from:
        raise DataError(
            f"{dataset.name}: too many events at {dates.to_text(cuts[0])} to cut a temporal split at quantiles; give "
            "split.validation_from and split.test_from, or use split.strategy=leave_one_out"
        )
    if cuts[0] >= cuts[1]:
        early, late = (dates.to_text(cut) for cut in cuts)
        raise ConfigError(f"split.validation_from ({early}) must lie before split.test_from ({late})")
    part = np.where(time < cuts[0], TRAIN, np.where(time < cuts[1], VALIDATION, TEST)).astype(np.int8)
    if aims is not None:
        part[~aims & (part == VALIDATION)] = TEST_CONTEXT
        part[~aims & (part == TEST)] = DROPPED
    notes = [f"validation from {dates.to_text(cuts[0])}, test from {dates.to_text(cuts[1])}"]
    for name in TARGET:
        target = part == TARGET[name]
        seen_before = np.zeros(len(dataset.users), bool)
        seen_before[dataset.events.user[np.isin(part, KNOWN[name])]] = True
        new = target & ~seen_before[dataset.events.user]
        if new.any():
            users = len(np.unique(dataset.events.user[new]))
            notes.append(f"{users:,} users of the {name} part have no earlier event; they are ranked from nothing")
    return Split(dataset, part, "temporal", tuple(notes))


def by_user(
    dataset: Dataset, fraction: float, seed: int, rolling: bool = False, aims: np.ndarray | None = None
) -> Split:
    """A share of the users is never trained on: their last event is the target, what precedes it their history.

    With `rolling` each of their events but the first is a target, with all that precedes it as its history.

    Args:
        aims: (E,) bool, the events that may be targets; None: all.
    """
    user, aimed_at = dataset.events.user, _all_or(aims, dataset)
    follow = _that_follow(user, aimed_at)
    aimed_at = aimed_at & np.append(False, user[1:] == user[:-1])[: len(user)]  # what nothing precedes is no target
    eligible = np.flatnonzero(np.bincount(user[aimed_at], minlength=len(dataset.users)))
    size = max(1, round(len(eligible) * fraction))
    if len(eligible) < 2 * size + 1:
        raise DataError(
            f"{dataset.name}: {len(eligible):,} users with a target after their first event are too few "
            "for a split by user"
        )
    drawn = np.random.default_rng([seed, 0x5B117]).permutation(eligible)[: 2 * size]
    part = np.full(len(dataset.events), TRAIN, np.int8)
    if not rolling:
        aimed_at &= follow == 0
    for users, target, context in (
        (drawn[:size], VALIDATION, VALIDATION_CONTEXT),
        (drawn[size:], TEST, TEST_CONTEXT),
    ):
        chosen = np.zeros(len(dataset.users), bool)
        chosen[users] = True
        mine = chosen[user]
        part[mine] = np.where(aimed_at[mine], target, np.where(follow[mine] > 0, context, DROPPED))
    notes = (f"{size:,} users validate and {size:,} test; none of them is trained on", *_dropped(part))
    return Split(dataset, part, "by_user", notes, rolling)
