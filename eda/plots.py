"""Plots: one function a figure. It takes a Dataset, returns a matplotlib Figure, and says its finding in the title."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from eda import statistics, style, units
from eda.statistics import Drift
from eda.style import ACCENT, EVENTS, ITEMS, MUTED, USERS
from zoo.data.dataset import Dataset

LAST_DATE = int(np.datetime64("9999-01-01", "ms").astype(np.int64))  # that a calendar axis can draw


class NotApplicable(Exception):
    """The log has nothing that this figure could show; the message says what is missing."""


# ------------------------------------------------------------------------------------------------------- counts


def per_user_interaction_count(dataset: Dataset) -> Figure:
    """How many events users have."""
    return _interaction_count(statistics.user_counts(dataset), "user", USERS)


def per_item_interaction_count(dataset: Dataset) -> Figure:
    """How many events items have."""
    return _interaction_count(statistics.item_counts(dataset), "item", ITEMS)


def _interaction_count(counts: np.ndarray, noun: str, color: str) -> Figure:
    labels, sizes = style.ranges(counts)
    figure, (ax,) = style.canvas(
        f"Half of the {noun}s have at most {units.plural(np.median(counts), 'event')}; the busiest has "
        f"{units.count(counts.max())}",
        f"events of one {noun}{style.range_note(labels)}",
        f"{noun}s",
    )
    style.bars(ax, labels, sizes, color)
    return figure


def rank_frequency(dataset: Dataset) -> Figure:
    """Concentration of events on few users and few items."""
    items, users = statistics.item_counts(dataset), statistics.user_counts(dataset)
    figure, (ax,) = style.canvas(
        f"The top 10% of the items get {units.percent(statistics.top_share(items, 0.1))} of the events, "
        f"the top 10% of the users make {units.percent(statistics.top_share(users, 0.1))}",
        "rank, most events first (logarithmic)",
        "events (logarithmic)",
    )
    for noun, counts, color, line in (("items", items, ITEMS, "-"), ("users", users, USERS, "--")):
        ranked = np.sort(counts)[::-1]
        rank = np.unique(np.geomspace(1, len(ranked), 600).astype(np.int64))
        label = f"{len(ranked):,} {noun}, Gini {statistics.gini(counts):.2f}"
        marker = "o" if len(rank) < 30 else None
        ax.plot(rank, ranked[rank - 1], line, color=color, linewidth=2.2, label=label, marker=marker)
    style.log_count_axes(ax)
    style.legend(ax)
    return figure


# ------------------------------------------------------------------------------------------------------- scores


def _scores(dataset: Dataset) -> np.ndarray:
    values = dataset.events.columns.get("score")
    if values is None:
        raise NotApplicable("the log has no scores")
    if values.min() == values.max():
        raise NotApplicable(f"every score is {values[0]:g}")
    return values


def scores(dataset: Dataset) -> Figure:
    """How often each score is given."""
    values = _scores(dataset)
    distinct, sizes = np.unique(values, return_counts=True)
    few = len(distinct) <= 24
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    title = (
        f"The most frequent score is {distinct[sizes.argmax()]:g}, the mean {values.mean(dtype=np.float64):.2f}"
        if few
        else f"Half of the scores lie between {low:.3g} and {high:.3g}, the median is {middle:.3g}"
    )
    figure, (ax,) = style.canvas(title, "score", "share of the events")
    if few:
        style.bars(ax, [f"{value:g}" for value in distinct.tolist()], sizes / len(values), EVENTS, share=True)
    else:
        ax.hist(values, bins=40, weights=np.full(len(values), 1 / len(values)), color=EVENTS)
        style.percent_axis(ax.yaxis)
    return figure


def average_score_per_item(dataset: Dataset) -> Figure:
    """Mean score of every item, those with few scores apart."""
    values, item = _scores(dataset), dataset.events.item
    counts = np.bincount(item, minlength=len(dataset.items))
    means = np.bincount(item, values, minlength=len(dataset.items)) / np.maximum(counts, 1)
    groups = [
        (means[counts >= 10], ITEMS, "with 10 scores or more"),
        (means[(counts > 0) & (counts < 10)], MUTED, "with fewer than 10"),
    ]
    groups = [group for group in groups if len(group[0])]
    main, _, which = groups[0]
    low, middle, high = np.quantile(main, (0.1, 0.5, 0.9))
    figure, (ax,) = style.canvas(
        f"Of the items {which}, half are scored {middle:.2f} or less on average, "
        f"and four fifths between {low:.2f} and {high:.2f}",
        "mean score of an item",
        "items",
    )
    ax.hist(
        [group for group, _, _ in groups],
        bins=np.linspace(values.min(), values.max(), 41).tolist(),
        stacked=True,
        color=[color for _, color, _ in groups],
        label=[f"{units.plural(len(group), 'item')} {name}" for group, _, name in groups],
    )
    style.count_axis(ax.yaxis)
    style.legend(ax)
    return figure


# --------------------------------------------------------------------------------------------------------- time


def _timestamps(dataset: Dataset) -> np.ndarray:
    if dataset.events.timestamp is None:
        raise NotApplicable("the log has no timestamps, only an order")
    return dataset.events.timestamp


def _periods(dataset: Dataset, most: int) -> statistics.Periods:
    time = _timestamps(dataset)
    if dataset.clock != "global":
        raise NotApplicable("times do not compare between users, so there is no common calendar")
    if int(time.max()) >= LAST_DATE:
        raise NotApplicable("timestamps lie beyond the year 9999; their unit is not what it seems")
    periods = statistics.periods(time, most)
    if len(periods.start) < 2:
        raise NotApplicable(f"all events lie within one {periods.name}")
    return periods


def activity_over_time(dataset: Dataset) -> Figure:
    """Events and active users in each period of the calendar."""
    periods = _periods(dataset, most=80)
    events = np.bincount(periods.index, minlength=len(periods.start))
    active = statistics.active_users(dataset, periods)
    busiest, typical = int(events.argmax()), float(np.median(events))
    when = units.date(int(periods.start[busiest].astype(np.int64)), periods.name in ("hour", "minute", "second"))
    figure, axes = style.canvas(
        f"The busiest {periods.name} ({'' if periods.name == 'day' else 'from '}{when}) has "
        f"{units.plural(int(events[busiest]), 'event')}; the median {periods.name} has {units.count(typical)}",
        f"time (UTC), by {periods.name}",
        f"events per {periods.name}",
        f"active users per {periods.name}",
        height=4.8,
    )
    edges = np.append(periods.start, periods.start[-1] + (periods.start[-1] - periods.start[-2]))
    for ax, sizes, color in zip(axes, (events, active), (EVENTS, USERS), strict=True):
        ax.stairs(sizes, edges, fill=True, color=color, alpha=0.85)
        ax.set_ylim(bottom=0)
        style.count_axis(ax.yaxis)
    style.calendar_axis(axes[-1].xaxis)
    return figure


def cold_start_over_time(dataset: Dataset) -> Figure:
    """Share of events that concern an item or a user first seen in that period."""
    periods = _periods(dataset, most=40)
    new_items = statistics.cold_share(dataset.events.item, periods.index)
    new_users = statistics.cold_share(dataset.events.user, periods.index)
    weight = np.bincount(periods.index) * (np.arange(len(periods.start)) >= len(periods.start) / 2)
    items, users = (units.percent(np.nansum(share * weight) / weight.sum()) for share in (new_items, new_users))
    figure, (ax,) = style.canvas(
        f"In the later half of the log, {items} of the events are on items first seen in the same {periods.name}, "
        f"{users} by users first seen in it",
        f"time (UTC), by {periods.name}; in the first one all is new by definition",
        "share of the events",
    )
    for share, color, marker, noun in ((new_items, ITEMS, "o", "items"), (new_users, USERS, "s", "users")):
        label = f"{noun} first seen in that {periods.name}"
        ax.plot(periods.start, share, color=color, marker=marker, markersize=3.5, label=label)
    ax.set_ylim(0, 1.03)
    style.calendar_axis(ax.xaxis)
    style.percent_axis(ax.yaxis)
    style.legend(ax)
    return figure


GAPS = (  # longest gap in the bar, and its name
    (0, "same\ntime"),
    (units.SECOND, "1 s"),
    (10 * units.SECOND, "10 s"),
    (units.MINUTE, "1 min"),
    (5 * units.MINUTE, "5 min"),
    (statistics.SESSION_GAP, "30 min"),
    (6 * units.HOUR, "6 h"),
    (units.DAY, "1 day"),
    (7 * units.DAY, "1 week"),
    (30 * units.DAY, "30 days"),
    (365 * units.DAY, "1 year"),
)


def gaps_between_events(dataset: Dataset) -> Figure:
    """Time between two consecutive events of a user."""
    _timestamps(dataset)
    gaps = statistics.gaps(dataset)
    if not len(gaps):
        raise NotApplicable("no user has two events")
    ends = np.array([end for end, _ in GAPS])
    shares = np.bincount(np.searchsorted(ends, gaps), minlength=len(ends) + 1) / len(gaps)
    border = int(np.searchsorted(ends, statistics.SESSION_GAP))
    median = float(np.median(gaps))
    figure, (ax,) = style.canvas(
        f"{units.percent(float(shares[: border + 1].sum()))} of the gaps stay within a session of 30 minutes; "
        + (f"the median gap is {units.duration(median)}" if median else f"{units.percent(shares[0])} are none at all"),
        "time from one event of a user to the next, up to ...",
        "share of the gaps",
    )
    style.bars(ax, [name for _, name in GAPS] + ["longer"], shares, EVENTS, share=True)
    ax.axvline(border + 0.5, color=ACCENT, linestyle="--", linewidth=1.2)
    ax.annotate(
        "a new session", (border + 0.5, 1), (0, 3), ("data", "axes fraction"), "offset points",
        color=ACCENT, fontsize=8.5, ha="center",
    )  # fmt: skip
    return figure


def session_lengths(dataset: Dataset) -> Figure:
    """Events in a session, which ends after 30 minutes of silence."""
    _timestamps(dataset)
    lengths = statistics.session_lengths(dataset)
    labels, sizes = style.ranges(lengths)
    figure, (ax,) = style.canvas(
        f"A session has {units.plural(round(float(lengths.mean()), 1), 'event')} on average; "
        f"{units.percent(float((lengths == 1).mean()))} of the {len(lengths):,} sessions are a single event",
        f"events in a session{style.range_note(labels)}",
        "share of the sessions",
    )
    style.bars(ax, labels, sizes / len(lengths), EVENTS, share=True)
    return figure


# ---------------------------------------------------------------------------------------------------- behaviour


def repeat_rate(dataset: Dataset) -> Figure:
    """Share of events with an item that the user had before, along the history."""
    repeat = statistics.is_repeat(dataset)
    if not repeat.any():
        raise NotApplicable("no user has the same item twice")
    immediate, position = statistics.is_immediate_repeat(dataset), statistics.position(dataset)
    edges = np.array([2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 2**62])
    size = int(np.searchsorted(edges, position.max(), side="right"))
    group = np.searchsorted(edges, position, side="right") - 1  # -1: a first event
    events = np.bincount(group[group >= 0], minlength=size)
    directly = np.bincount(group[immediate], minlength=size) / events
    returns = np.bincount(group[repeat & ~immediate], minlength=size) / events
    figure, (ax,) = style.canvas(
        f"{units.percent(float(repeat.mean()))} of the events are with an item that the user had before, "
        f"{units.percent(float(immediate.mean()))} with the very item of the event before",
        "place of the event in its user's history",
        "share of the events there",
    )
    ax.bar(np.arange(size), directly, width=0.86, color=MUTED, label="the item of the event before")
    ax.bar(np.arange(size), returns, width=0.86, bottom=directly, color=EVENTS, label="return to an earlier item")
    style.percent_axis(ax.yaxis)
    style.places(ax, [*style.range_labels(edges[:size]), f"{units.compact(edges[size - 1])}+"])
    style.legend(ax)
    return figure


def action_funnel(dataset: Dataset) -> Figure:
    """User-item pairs that reach each action."""
    if "action" not in dataset.events.columns:
        raise NotApplicable("the log has no actions")
    steps = statistics.funnel(dataset)
    if len(steps) < 2:
        raise NotApplicable(f"every action is {steps[0].action!r}")
    shown = steps[:12]
    figure, (ax,) = style.canvas(
        f"Of 100 user–item pairs with “{shown[0].action}”, "
        + " and ".join(f"{100 * step.also:.2g} also have “{step.action}”" for step in shown[1:3]),
        "pairs of a user and an item" + (f" (12 of {len(steps)} actions)" if len(steps) > 12 else ""),
        "",
        height=1.5 + 0.45 * len(shown),
    )
    notes = [f"{step.pairs:,} pairs, {step.users:,} users, {step.events:,} events" for step in shown]
    pairs = np.array([step.pairs for step in shown])
    style.rows(ax, [step.action for step in shown], pairs, [EVENTS] * len(shown), notes)
    return figure


def domain_overlap(dataset: Dataset) -> Figure:
    """Users by the set of domains in which they have events."""
    if "domain" not in dataset.events.columns:
        raise NotApplicable("the log has no domains")
    groups = statistics.domain_combinations(dataset)
    if len({name for names, _ in groups for name in names}) < 2:
        raise NotApplicable("the log has one domain only")
    total = sum(size for _, size in groups)
    shared = sum(size for names, size in groups if len(names) > 1)
    shown = groups[:12]
    figure, (ax,) = style.canvas(
        f"{units.percent(shared / total)} of the users have events in more than one domain",
        "users" + (f" (the 12 largest of {len(groups)} groups)" if len(groups) > 12 else ""),
        "",
        height=1.3 + 0.45 * len(shown),
    )
    labels = [" + ".join(names) if len(names) > 1 else f"{names[0]} only" for names, _ in shown]
    sizes = np.array([size for _, size in shown])
    colors = [USERS if len(names) > 1 else MUTED for names, _ in shown]
    style.rows(
        ax, labels, sizes, colors, [f"{size:,} ({style.short_percent(size / total)})" for size in sizes.tolist()]
    )
    return figure


# -------------------------------------------------------------------------------------------------------- drift


def train_test_drift(drift: Drift) -> Figure:
    """Popularity in the training part against the test part."""
    head = [style.short_percent(part[0]) for part in (drift.train, drift.test)]
    figure, (ax,) = style.canvas(
        f"{units.percent(drift.test[-1])} of the test events are on items never seen in training; the head of the "
        f"catalogue {'keeps its ' + head[0] if head[0] == head[1] else 'goes from ' + ' to '.join(head)}",
        "items, from the most popular in training to those it has never seen",
        "share of the events",
    )
    names = ["head", *[f"group {place}" for place in range(2, len(drift.items) - 1)], "tail", "not in training"]
    labels = [f"{name}\n{units.plural(size, 'item')}" for name, size in zip(names, drift.items.tolist(), strict=True)]
    places = np.arange(len(labels))
    ax.bar(places - 0.2, drift.train, width=0.38, color=MUTED, label="training")
    ax.bar(places + 0.2, drift.test, width=0.38, color=ACCENT, label=f"test ({drift.strategy} split)")
    style.percent_axis(ax.yaxis)
    style.places(ax, labels)
    style.legend(ax)
    return figure
