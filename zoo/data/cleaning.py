"""Cleaning: what to keep of a log. Each step says in the data set's notes what it dropped.

The steps run in the order of their options: windows, actions, domains, period, score, duplicates, sessions, bots,
k-core, weights. Users and items keep their rows, so that features of those without an event left stay known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from config import ConfigError, DataConfig
from zoo.data import dates, windows
from zoo.data.dataset import DataError, Dataset, Events


def clean(dataset: Dataset, config: DataConfig) -> Dataset:
    """What `config` keeps of `dataset`; its order stays.

    Raises:
        DataError: a step leaves nothing (the message names it), all of them leave a single user or item, an infinite
            score, or a log without what a step reads.
        ConfigError: an action that the log does not have, a date or a weight that is none.
    """
    if not len(dataset.events):
        raise DataError(f"{dataset.name}: no events; nothing to clean or to learn from")
    read = dataset
    if config.windows == "join":
        dataset = windows.join(dataset)
    elif pieces := windows.warning(dataset):
        dataset = replace(dataset, notes=(*dataset.notes, f"warning: {pieces}"))
    if config.actions is not None:
        dataset = keep_actions(dataset, config.actions)
    if config.domains is not None:
        dataset = keep_domains(dataset, config.domains)
    if config.since is not None or config.until is not None:
        dataset = keep_window(dataset, config.since, config.until)
    if config.min_score is not None:
        dataset = keep_scores(dataset, config.min_score)
    if config.duplicates != "keep":
        dataset = merge_duplicates(dataset, config.duplicates)
    if config.min_session_events > 1:
        dataset = drop_short_sessions(dataset, config.min_session_events, config.session_gap)
    if config.max_user_events is not None:
        dataset = drop_bots(dataset, config.max_user_events)
    if config.min_user_events > 1 or config.min_item_events > 1:
        dataset = keep_core(dataset, config.min_user_events, config.min_item_events)
    if config.action_weights:
        dataset = weigh_actions(dataset, config.action_weights)
    for side, count in (("user", dataset.num_users), ("item", dataset.num_items)):
        if count < 2:
            left = "" if dataset is read else f" left ({dataset.notes[-1]})"
            raise DataError(f"{dataset.name}: only {count} {side}{left}; wanted at least two to recommend anything")
    return dataset


def keep_actions(dataset: Dataset, actions: tuple[str, ...]) -> Dataset:
    """The events of these actions."""
    codes = dataset.codes("action", actions, "data.actions")
    kept = np.isin(dataset.events.columns["action"], codes)
    return _keep(dataset, kept, f"data.actions={','.join(actions)}")


def keep_domains(dataset: Dataset, domains: tuple[str, ...]) -> Dataset:
    """The events of these domains."""
    codes = dataset.codes("domain", domains, "data.domains")
    kept = np.isin(dataset.events.columns["domain"], codes)
    return _keep(dataset, kept, f"data.domains={','.join(domains)}")


def keep_window(dataset: Dataset, since: str | None, until: str | None) -> Dataset:
    """The events at or after `since` and before `until`."""
    time = dataset.events.timestamp
    if time is None or dataset.clock != "global":
        problem = "no timestamps" if time is None else "only relative timestamps"
        raise DataError(f"{dataset.name}: data.since and data.until need dates, and this log has {problem}; unset them")
    kept = np.ones(len(time), bool)
    named = []
    if since is not None:
        kept &= time >= dates.to_milliseconds(since, "data.since")
        named.append(f"data.since={since}")
    if until is not None:
        kept &= time < dates.to_milliseconds(until, "data.until")
        named.append(f"data.until={until}")
    reach = f" (the log reaches from {dates.to_text(time.min())} to {dates.to_text(time.max())})"
    return _keep(dataset, kept, ", ".join(named), reach)


def keep_scores(dataset: Dataset, min_score: float) -> Dataset:
    """The events with at least this score; an event without a score is dropped and counted apart."""
    score = dataset.events.columns.get("score")
    if score is None:
        raise DataError(
            f"{dataset.name}: data.min_score={min_score:g}, but the log has no score; set data.columns.score"
        )
    if np.isinf(score).any():
        row = int(np.flatnonzero(np.isinf(score))[0])
        (user,) = dataset.users.ids[dataset.events.user[[row]]].tolist()
        (item,) = dataset.items.ids[dataset.events.item[[row]]].tolist()
        raise DataError(
            f"{dataset.name}: the score of user {user!r} and item {item!r} is "
            f"{score[row]}, wanted a finite number; mend the file or drop the row with data.query"
        )
    missing = np.isnan(score)
    step = f"data.min_score={min_score:g}"
    if missing.all():
        raise DataError(f"{dataset.name}: {step} keeps nothing: none of {len(score):,} events has a score")
    detail = f", {missing.sum():,} of them without a score" if missing.any() else ""
    return _keep(dataset, score >= min_score, step, detail)  # NaN >= x is False


def merge_duplicates(dataset: Dataset, policy: str) -> Dataset:
    """Same user and item again: the `first` or `last` event, or the first of each immediate repeat (`consecutive`)."""
    user, item = dataset.events.user, dataset.events.item
    if policy == "consecutive":
        kept = np.append(True, (user[1:] != user[:-1]) | (item[1:] != item[:-1]))
    else:
        pair = user.astype(np.int64) * len(dataset.items) + item
        kept = ~pd.Series(pair).duplicated(keep="first" if policy == "first" else "last").to_numpy()
    return _keep(dataset, kept, f"data.duplicates={policy}")


def drop_short_sessions(dataset: Dataset, min_session_events: int, session_gap: float) -> Dataset:
    """The events of sessions with at least so many; a session ends with `session_gap` minutes of silence."""
    if dataset.events.timestamp is None:
        raise DataError(
            f"{dataset.name}: data.min_session_events={min_session_events} needs timestamps, and this log has none; "
            "write data.min_session_events=1"
        )
    session = sessions(dataset.events.user, dataset.events.timestamp, session_gap)
    kept = (np.bincount(session) >= min_session_events)[session]
    step = f"data.min_session_events={min_session_events}, data.session_gap={session_gap:g}"
    return _keep(dataset, kept, step, f" of {session[-1] + 1:,} sessions")


def sessions(user: np.ndarray, timestamp: np.ndarray, session_gap: float) -> np.ndarray:
    """(E,) number of each event's session, from 0: a run of a user's events without a silence of over `session_gap`.

    Args:
        user, timestamp: (E,) sorted by user, then by time in milliseconds.
        session_gap: minutes.
    """
    starts = (np.diff(timestamp) > session_gap * 60_000) | (user[1:] != user[:-1])
    return np.cumsum(np.append(False, starts)[: len(user)])


def drop_bots(dataset: Dataset, max_user_events: int) -> Dataset:
    """The events of users with at most so many."""
    user = dataset.events.user
    kept = (np.bincount(user) <= max_user_events)[user]
    return _keep(dataset, kept, f"data.max_user_events={max_user_events}")


def keep_core(dataset: Dataset, min_user_events: int, min_item_events: int) -> Dataset:
    """The largest part of the log in which every user and every item has so many events."""
    kept = core(dataset.events, min_user_events, min_item_events)
    return _keep(dataset, kept, f"data.min_user_events={min_user_events}, data.min_item_events={min_item_events}")


def core(events: Events, min_user_events: int, min_item_events: int) -> np.ndarray:
    """(E,) bool: the k-core, by dropping whoever has too few until nobody has: the fixed point, which is unique."""
    rows = np.arange(len(events))
    user, item = events.user, events.item
    while True:
        rich = (np.bincount(user) >= min_user_events)[user] & (np.bincount(item) >= min_item_events)[item]
        if rich.all():
            break
        rows, user, item = rows[rich], user[rich], item[rich]
    kept = np.zeros(len(events), bool)
    kept[rows] = True
    return kept


def weigh_actions(dataset: Dataset, weights: dict[str, float]) -> Dataset:
    """The data set with an event column `weight` (float32): of its action as given, 1 where none is."""
    codes = dataset.codes("action", weights, "data.action_weights")
    table = np.ones(len(dataset.labels["action"]), np.float32)
    for (action, weight), code in zip(weights.items(), codes, strict=True):
        if weight < 0:
            raise ConfigError(f"data.action_weights: {action}={weight:g}, wanted a number of at least 0")
        table[code] = weight
    column = table[dataset.events.columns["action"]]
    if not column.any():
        raise ConfigError(f"data.action_weights={weights}: every event of {dataset.name} would weigh 0")
    events = replace(dataset.events, columns={**dataset.events.columns, "weight": column})
    note = "data.action_weights: " + ", ".join(f"{action} {weight:g}" for action, weight in weights.items())
    return replace(dataset, events=events, notes=(*dataset.notes, note))


def _keep(dataset: Dataset, kept: np.ndarray, step: str, detail: str = "") -> Dataset:
    """The events that `step` keeps, and a note of what it dropped.

    Raises:
        DataError: the step keeps nothing.
    """
    dropped = int(np.count_nonzero(~kept))
    if dropped == len(kept):
        raise DataError(f"{dataset.name}: {step} keeps none of {len(kept):,} events{detail}; loosen it")
    after = dataset.take(kept) if dropped else dataset
    lost = f"{dataset.num_users - after.num_users:,} users and {dataset.num_items - after.num_items:,} items"
    note = f"{step}: dropped {dropped:,} of {len(kept):,} events{detail if dropped else ''}, with them {lost}"
    return replace(after, notes=(*after.notes, note))
