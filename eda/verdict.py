"""Verdict: what the numbers of a log mean for whoever wants to recommend from it, in words."""

from __future__ import annotations

from typing import Literal, NamedTuple

from eda import statistics, units
from eda.statistics import Drift
from eda.summary import Summary, Timing

RECENCY = 1.1  # the lift from which a model that ignores recency is no longer the baseline to beat
UNLIKELY = 10 * units.YEAR  # after 1970; logs of interactions are younger


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


def suggested_split(summary: Summary) -> Literal["leave_one_out", "temporal", "by_user"]:
    """The split that suits the log."""
    time = summary.time
    if summary.users.largest < 3:
        return "by_user"
    if time is None:
        return "leave_one_out"
    if time.returning is None:
        return "by_user" if _are_sessions(summary, time) else "leave_one_out"
    return "temporal" if _are_sessions(summary, time) or min(time.returning) >= 0.5 else "leave_one_out"


def _are_sessions(summary: Summary, time: Timing) -> bool:
    """Whether the "users" of the log are visits: nearly all of them short and over within a day."""
    return time.one_day >= 0.9 and summary.users.median <= 20


def _split(summary: Summary) -> str:
    time, name = summary.time, suggested_split(summary)
    if summary.users.largest < 2:
        return "none yet: no user has a second event, so there is nothing to predict from what came before."
    if summary.users.largest < 3:
        return "by_user: no user has the three events that leave_one_out needs. Test on users never trained on."
    if time is None:
        return (
            f"{name}: the log has an order but no timestamps, so only the last events of each history can be held "
            "out, and nothing can be said about the future. If every user here is one session, by_user is the split "
            "that tests on sessions never trained on."
        )
    if _are_sessions(summary, time):
        visits = f"{units.percent(time.one_day)} of the users live within a day: they are sessions"
        if name == "temporal":
            return (
                f"temporal: {visits}, and timestamps compare between them. Train on earlier ones, test on later ones."
            )
        return f"by_user: {visits}, and times do not compare between them. Test on sessions never trained on."
    if time.returning is None or time.future is None:
        return f"{name}: times compare within a user but not between users, so no date can divide the log."
    future = units.percent(time.future)
    users, events = (units.percent(share) for share in time.returning)
    if name == "temporal":
        return (
            f"temporal: timestamps compare between users, and {users} of those active in the last tenth of the log "
            "were seen before, so a date divides it into a past to learn from and a future to predict. With "
            f"leave_one_out, {future} of the training events would come after the event to predict."
        )
    return (
        f"leave_one_out: timestamps compare between users, but of the last tenth of the log only {users} of the users "
        f"were seen before, with {events} of its events, so a temporal split would test mostly on strangers. The "
        f"price: on average {future} of the training events come after the event to predict. Compare models with each "
        "other, not with a live system."
    )


def _sparsity(summary: Summary) -> str:
    density = summary.density
    word = "Dense" if density >= 0.02 else "Moderately sparse" if density >= 0.002 else "Very sparse"
    text = (
        f"{word}: {units.plural(summary.events, 'event')} of {units.plural(summary.users.size, 'user')} with "
        f"{units.plural(summary.items.size, 'item')}, a density of {units.percent(density)}. The median item has "
        f"{units.plural(summary.items.median, 'event')}; {units.percent(summary.items.below)} of the items have fewer "
        "than five"
    )
    if summary.items.below >= 0.3:
        return text + ", too few to learn an embedding from: item features or data.min_item_events will matter."
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
    word = "Short" if users.median < 10 else "Medium" if users.median < 50 else "Long"
    text = (
        f"{word}: the median user has {units.plural(users.median, 'event')}, 95% have at most "
        f"{units.count(users.p95)}, and the longest history has {units.count(users.largest)}."
    )
    if users.below >= 0.01:
        text += (
            f" {units.percent(users.below)} of the users have fewer than three events: leave_one_out cannot test them."
        )
    if summary.long >= 0.001:
        text += (
            f" A sequence model that sees the last {statistics.HISTORY_LENGTH} events cuts the history of "
            f"{units.percent(summary.long)} of the users."
        )
    return text


def _popularity(summary: Summary) -> str:
    gini = summary.items.gini
    word = "Highly concentrated" if gini >= 0.75 else "Concentrated" if gini >= 0.5 else "Spread out"
    return (
        f"{word}: the top 10% of the items get {units.percent(summary.items.top_share)} of the events (Gini "
        f"{gini:.2f}), the ten most popular alone {units.percent(summary.top10)}."
    )


def _baseline(summary: Summary) -> str:
    lift = summary.recency_lift
    if summary.items.size < 2:
        return "most_popular: with a single item there is nothing to choose."
    if summary.users.median < 2:
        return "most_popular: more than half of the users have a single event, so there is little else to go by."
    if lift is None:
        return "item_knn or ease: too few pairs of items recur to tell whether recency matters."
    if lift >= RECENCY:
        return (
            f"seq_item_knn: recency counts. The last item and the next one recur together {lift:.2f} times as often as "
            "an earlier item and the next one, so a model that takes a history as a bag throws knowledge away."
        )
    return (
        f"ease: recency says little here (the last item and the next one recur together {lift:.2f} times as often as "
        "an earlier item and the next one); a model of which items go together is the one to beat."
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
        found.append("The clock is order only: no figure of time, no temporal split, no session, no age of an event.")
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
    if time is not None and summary.clock == "global" and time.first < UNLIKELY:
        found.append(
            f"The log begins on {units.date(time.first)}: are the timestamps in another unit, or is a time missing?"
        )
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
