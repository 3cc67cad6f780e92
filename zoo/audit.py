"""The audit: under which rules a number was measured, and what in the data makes it doubtful."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from config import EvaluateConfig
from zoo.data import splits
from zoo.data.catalogue import Prepared
from zoo.evaluation import Evaluation

SHOWN = ("hit_rate", "ndcg", "mrr", "coverage", "novelty", "diversity", "popularity")  # by `describe`


def audit(
    prepared: Prepared,
    part: Literal["validation", "test"],
    config: EvaluateConfig,
    evaluation: Evaluation,
    query_time: bool = False,
    query_action: bool = False,
) -> dict[str, Any]:
    """What a reader must know of a result before comparing it with another; JSON-able.

    Args:
        prepared: the split in the tokens of the evaluated model.
        part: what was evaluated.
        evaluation: its result.
        query_time: whether the model was told the time of the target, as a recommender asked "now" is.
        query_action: whether the model was told the action of the target, as one asked "what will they buy" is.

    Returns:
        Among others (shares from 0 to 1; None where the log has no time, or none that compares between users):
        `timestamp_ties`: share of consecutive events of a user that bear one time; only the file orders them.
        `last_two_tie`: share of the evaluated users whose last two events do: their target is the file's choice.
        `trained_after_others_target`: share of the evaluated users with a training event later than another user's
            target (leakage along the global timeline: Ji et al., TOIS 2023).
        `future_training_events`: share of the training events later than a target, mean over targets.
        `target_actions`: how many of the targets are of each action; None where the log has none.
        `trained_on_targets`: whether the catalogue was counted on more events than this split trains on.
        `warnings`: what of all this matters here, a line each.
    """
    split = prepared.split
    dataset = split.dataset
    items = prepared.catalogue.items
    result = {
        "part": part,
        "data": dataset.name,
        "data_sha256": dataset.sha256(),
        "split": split.strategy,
        "split_sha256": split.sha256,
        **evaluation.counts,
        "candidates": prepared.catalogue.num_candidates,
        "candidates_never_trained": items.size - items.trained_size,
        "seen_items": "excluded" if config.exclude_seen else "included",
        "score_ties": "count against the target",
        "tie_gap": evaluation.gaps,
        "clock": dataset.clock,
        "equal_timestamps": "in the order of the file",
        **_ties(split, part),
        **_timeline(split, part),
        "target_actions": _actions_of(split, part),
        "query_time": query_time,
        "query_action": query_action,
        "trained_on_targets": int(prepared.catalogue.item_counts.sum()) > split.count(splits.TRAIN),
        "notes": [*dataset.notes, *split.notes],
    }
    return result | {"warnings": _warnings(result, evaluation)}


def _ties(split: splits.Split, part: Literal["validation", "test"]) -> dict[str, float | None]:
    """Equal timestamps within users, of the events that the split has not left out."""
    if split.dataset.events.timestamp is None:
        return {"timestamp_ties": None, "last_two_tie": None}
    events, users = split.dataset.events, split.users(part)
    if split.count(splits.DROPPED):
        events = events.take(split.part != splits.DROPPED)
    follows = events.user[1:] == events.user[:-1]  # event i + 1 is of the same user as event i
    ties = follows & (events.timestamp[1:] == events.timestamp[:-1])
    last = np.append(events.user[1:] != events.user[:-1], True)[1:]
    mine = last & np.isin(events.user[1:], users)
    return {
        "timestamp_ties": float(ties.sum() / max(follows.sum(), 1)),
        "last_two_tie": float((ties & mine).sum() / len(users)),
    }


def _timeline(split: splits.Split, part: Literal["validation", "test"]) -> dict[str, float | None]:
    """How far training reaches beyond the targets on the clock that all users share."""
    names = ("trained_after_others_target", "future_training_events")
    events = split.dataset.events
    if events.timestamp is None or split.dataset.clock != "global":
        return dict.fromkeys(names)
    users = split.users(part)
    train, target = split.part == splits.TRAIN, split.part == splits.TARGET[part]
    never = np.iinfo(np.int64)
    last_trained = np.full(len(split.dataset.users), never.min)
    np.maximum.at(last_trained, events.user[train], events.timestamp[train])
    first_target = np.full(len(split.dataset.users), never.max)
    np.minimum.at(first_target, events.user[target], events.timestamp[target])
    earliest = np.argmin(first_target)
    others = np.full(len(users), first_target[earliest])
    others[users == earliest] = np.min(np.delete(first_target, earliest), initial=never.max)
    times = np.sort(events.timestamp[train])
    later = len(times) - np.searchsorted(times, events.timestamp[target], "right")
    shares = (np.mean(last_trained[users] > others), np.mean(later) / max(len(times), 1))
    return dict(zip(names, map(float, shares), strict=True))


def _actions_of(split: splits.Split, part: Literal["validation", "test"]) -> dict[str, int] | None:
    """How many targets are of each action."""
    names = split.dataset.labels.get("action")
    if names is None:
        return None
    codes = split.events(splits.TARGET[part]).columns["action"]
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def _warnings(result: dict[str, Any], evaluation: Evaluation) -> list[str]:
    lines = []
    if result["trained_on_targets"]:
        lines.append("the model was counted on more events than this split trains on: its targets may be among them")
    gains = {  # NDCG moves with every rank among the first k
        name: gap / (evaluation.metrics[name] + gap)
        for name, gap in evaluation.gaps.items()
        if name.startswith("ndcg@") and gap > 1e-4
    }
    most = max(gains, key=lambda name: gains[name], default="")
    if most and gains[most] > 0.01:
        reported = evaluation.metrics[most]
        lines.append(
            f"equal scores matter: {most} is {reported:.4f} because ties count against the target; "
            f"it would be {reported + evaluation.gaps[most]:.4f} if they counted for it"
        )
    if result["targets_outside_catalogue"]:
        lines.append(f"{_share(result, 'targets_outside_catalogue')} are outside the catalogue and count as misses")
    if result["repeat_targets"] and result["seen_items"] == "excluded":
        lines.append(
            f"{_share(result, 'repeat_targets')} were seen before and would never be recommended; they are ranked "
            "among unseen items (evaluate.exclude_seen=false ranks them among all)"
        )
    if (result["last_two_tie"] or 0) > 0.01:
        lines.append(
            f"the last two events of {result['last_two_tie']:.1%} of the users bear one time: "
            "the order of the file decides what their target is"
        )
    if (result["future_training_events"] or 0) > 0:
        lines.append(
            f"training knows the future: {result['future_training_events']:.1%} of its events are later than a target, "
            "on average (split.strategy=temporal avoids that)"
        )
    if result["query_time"]:
        lines.append("the model is told the time of the target; compare it only with models that are told it too")
    if result["query_action"] and len(result["target_actions"] or ()) > 1:
        lines.append(
            f"the model is told the action of the target ({', '.join(result['target_actions'])}); compare it only with "
            "models that are told it too (split.target_actions=one of them asks everybody the same)"
        )
    return lines


def _share(result: dict[str, Any], count: str) -> str:
    return f"{result[count]:,} targets ({result[count] / result['targets']:.1%})"


def describe(metrics: dict[str, Any]) -> str:
    """The contents of metrics.json for people: a small table, the rules in a line, the warnings."""
    audited, intervals = metrics["audit"], metrics.get("intervals", {})
    cuts = {int(name.partition("@")[2]) for name in metrics["test"]}
    k = 10 if 10 in cuts else max(cuts)
    names = [f"{name}@{k}" for name in SHOWN if f"{name}@{k}" in metrics["test"]]
    rows = {part: metrics[part] for part in ("validation", "test")}
    events = metrics.get("slices", {}).get("events", {})
    if events:
        rows["  of events"] = events
    if intervals:
        rows["  95 % from"], rows["  to"] = ({name: pair[end] for name, pair in intervals.items()} for end in (0, 1))
    lines = [" " * 11 + "".join(f"{name:>15}" for name in names)]
    for title, row in rows.items():
        lines.append(f"{title:<11}" + "".join(f"{row[name]:>15.4f}" if name in row else " " * 15 for name in names))
    lines.append(
        f"audit: split {audited['split']}, sha256 {audited['split_sha256'][:12]}; {audited['users']:,} users, "
        f"{audited['targets']:,} targets, {audited['candidates']:,} candidates, seen items {audited['seen_items']}, "
        f"ties lose, query time {'used' if audited['query_time'] else 'not used'}, "
        f"query action {'used' if audited['query_action'] else 'not used'}"
    )
    return "\n".join([*(line.rstrip() for line in lines), *(f"warning: {warning}" for warning in audited["warnings"])])
