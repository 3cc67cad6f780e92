"""Verdict: what the numbers of a log mean for whoever wants to recommend from it, in words."""

from __future__ import annotations

from typing import NamedTuple

from eda import statistics, units
from eda.statistics import Drift
from eda.summary import Clockwork, Summary


class Finding(NamedTuple):
    """One sentence or two about one topic; `warning` where something should be looked at before training."""

    topic: str
    text: str
    warning: bool = False


def verdict(summary: Summary, drift: Drift | None = None) -> list[Finding]:
    """The findings in the order in which decisions are taken, warnings last."""
    findings = [
        Finding("Split", _split(summary)),
        Finding("Sparsity", _sparsity(summary)),
        Finding("Repetition", _repetition(summary)),
        Finding("Histories", _histories(summary)),
        Finding("Popularity", _popularity(summary)),
        Finding("Baseline to beat", _baseline(summary)),
    ]
    if drift is not None:
        findings.append(Finding("Train and test", _drift(drift)))
    return findings + [Finding("Warning", text, True) for text in _warnings(summary)]


def suggested_split(summary: Summary) -> str:
    """The name of the split that suits the log."""
    time = summary.time
    if summary.clock == "global" and time is not None:
        if _are_sessions(summary, time):
            return "temporal"
        return "temporal" if time.returning is not None and time.returning >= 0.5 else "leave_one_out"
    if time is not None and _are_sessions(summary, time):
        return "by_user"
    return "leave_one_out"


def _are_sessions(summary: Summary, time: Clockwork) -> bool:
    return time.one_day >= 0.9 and summary.users.median <= 20


def _split(summary: Summary) -> str:
    time, name = summary.time, suggested_split(summary)
    if time is None:
        return (
            f"{name}: the log has an order but no timestamps, so only the last events of each history can be held "
            "out, and nothing can be said about the future. If every user here is one session, by_user is the split "
            "that tests on sessions never trained on."
        )
    if summary.clock == "relative":
        return (
            f"{name}: times compare within a user but not between users, so no date can divide the log."
            if name == "leave_one_out"
            else f"{name}: {units.percent(time.one_day)} of the users live within a day; they are sessions, and the "
            "honest test is on sessions never trained on."
        )
    if name == "temporal" and _are_sessions(summary, time):
        return (
            f"temporal: timestamps compare between users, and {units.percent(time.one_day)} of the users live within "
            "a day: they are sessions. Train on earlier sessions, test on later ones."
        )
    if name == "temporal":
        return (
            f"temporal: timestamps compare between users, and {units.percent(time.returning or 0)} of those active in "
            "the last tenth of the log were seen before, so a date divides it into a past to learn from and a future "
            f"to predict. leave_one_out would let {units.percent(time.future or 0)} of the training events come from "
            "after the event to predict."
        )
    return (
        f"leave_one_out: timestamps compare between users, but only {units.percent(time.returning or 0)} of those "
        "active in the last tenth of the log were seen before, so a temporal split would test mostly on strangers. "
        f"The price: {units.percent(time.future or 0)} of the training events happen after the event to predict, on "
        "average. Compare models with each other, not with a live system."
    )


def _sparsity(summary: Summary) -> str:
    density = summary.density
    word = "dense" if density >= 0.02 else "moderately sparse" if density >= 0.002 else "very sparse"
    text = (
        f"{word.capitalize()}: {units.count(summary.events)} events fill {units.percent(density)} of "
        f"{units.count(summary.users.size)} users × {units.count(summary.items.size)} items. The median item has "
        f"{units.count(summary.items.median)} events; {units.percent(summary.items.below)} of the items have fewer "
        "than five"
    )
    if summary.items.below >= 0.3:
        return text + ", too few to learn an embedding from: item features, or data.min_item_events, will matter."
    return text + "."


def _repetition(summary: Summary) -> str:
    if summary.repeats == 0:
        return "None: nobody has the same item twice. Leave seen items out of the recommendations."
    rate = f"{units.percent(summary.repeats)} of the events are with an item that the user had before"
    if summary.immediate >= 0.5 * summary.repeats:
        rate += f", mostly the very item of the event before ({units.percent(summary.immediate)} of all events)"
    if summary.repeats >= 0.2:
        return (
            f"High: {rate}. Whether seen items may be recommended changes every number: decide it from the use "
            "(evaluate.exclude_seen, predict.exclude_seen) and compare only results that agree on it."
        )
    if summary.repeats >= 0.02:
        return f"Some: {rate}. State with every result whether seen items may be recommended."
    return f"Little: {rate}. Leaving seen items out costs next to nothing."


def _histories(summary: Summary) -> str:
    users = summary.users
    text = (
        f"{_length(users.median)}: the median user has {units.count(users.median)} events, 95% have at most "
        f"{units.count(users.p95)}, and the longest history has {units.count(users.largest)}."
    )
    if users.below >= 0.01:
        text += f" {units.percent(users.below)} of the users have fewer than three events, so leave_one_out cannot test them."
    if summary.long > 0:
        text += (
            f" A sequence model that sees the last {statistics.HISTORY_LENGTH} events cuts the history of "
            f"{units.percent(summary.long)} of the users."
        )
    return text


def _length(median: float) -> str:
    return "Short" if median < 10 else "Medium" if median < 50 else "Long"


def _popularity(summary: Summary) -> str:
    gini = summary.items.gini
    word = "Highly concentrated" if gini >= 0.75 else "Concentrated" if gini >= 0.5 else "Spread out"
    return (
        f"{word}: the top 10% of the items get {units.percent(summary.items.top_share)} of the events (Gini "
        f"{gini:.2f}), the ten most popular alone {units.percent(summary.top10)}."
    )


def _baseline(summary: Summary) -> str:
    lift = summary.order_lift
    if summary.items.size < 2:
        return "most_popular: with a single item there is nothing to choose."
    if summary.users.median < 2:
        return "most_popular: more than half of the users have a single event, so there is little else to go by."
    if lift is not None and lift >= 1.2:
        return (
            f"seq_item_knn: order carries information. The same step from one item to the next recurs {lift:.1f} times "
            "as often as in shuffled histories, so a model that ignores order throws that away."
        )
    if lift is None:
        return "item_knn and ease: too few steps recur to tell whether order matters."
    return (
        f"ease: order says little here (steps between items recur {lift:.1f} times as often as in shuffled "
        "histories); a model of which items go together is the one to beat."
    )


def _drift(drift: Drift) -> str:
    return (
        f"With the {drift.strategy} split, {units.percent(float(drift.test[-1]))} of the test events are on items and "
        f"{units.percent(drift.new_users)} by users that training has never seen. The ten items most popular in "
        f"training take {units.percent(drift.top10)} of the test events."
    )


def _warnings(summary: Summary) -> list[str]:
    time, found = summary.time, []
    if time is None:
        found.append("The clock is order only: no figure of time, no temporal split, no recency.")
    elif time.tied >= 0.05:
        text = (
            f"{units.percent(time.tied)} of the events bear the same timestamp as another event of their user; their "
            "order is the order of the file."
        )
        if time.last_tied >= 0.05:
            text += (
                f" For {units.percent(time.last_tied)} of the users this decides which event is the last, and so what "
                "leave_one_out tests."
            )
        found.append(text)
    if time is not None and time.resolution == "day":
        found.append("Timestamps are whole days: sessions, hours and the order within a day are unknown.")
    limit, extreme, share = summary.extreme
    if extreme:
        who = f"{units.plural(extreme, 'user')} {'has' if extreme == 1 else 'have'}"
        found.append(
            f"{who} more than {limit:,} events, far outside the others, and {units.percent(share)} of all events: "
            f"robots, shops or shared accounts? data.max_user_events={limit} drops them."
        )
    if summary.duplicates:
        share = summary.duplicates / summary.events
        if share >= 0.001:
            found.append(
                f"{units.plural(summary.duplicates, 'event')} ({units.percent(share)}) repeat an earlier one in user, "
                "item, action and timestamp. If they are no real repeats, data.duplicates says what to do with them."
            )
    if summary.scores is not None and summary.scores[3] == 1:
        found.append(f"Every score is {summary.scores[0]:g}: it says nothing and is treated as absent.")
    if summary.users.size < 100 or summary.items.size < 20:
        found.append(
            f"{units.plural(summary.users.size, 'user')} and {units.plural(summary.items.size, 'item')} are few: "
            "differences between models will be noise."
        )
    return found
