"""Plots: one function a figure. Each takes a Dataset, returns a matplotlib Figure, and says its finding in the title."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from eda import statistics, style, units
from eda.statistics import Drift
from eda.style import ACCENT, EVENTS, GREY, INK, ITEMS, MUTED, USERS
from zoo.data.dataset import Dataset


class NotApplicable(Exception):  # noqa: N818 - no error: the figure says why it is left out
    """The log has nothing that this figure could show; the message says what is missing."""


# ------------------------------------------------------------------------------------------------------- counts


def per_user_interaction_count(dataset: Dataset) -> Figure:
    """How many events users have."""
    return _interaction_count(statistics.user_counts(dataset), "user", USERS)


def per_item_interaction_count(dataset: Dataset) -> Figure:
    """How many events items have."""
    return _interaction_count(statistics.item_counts(dataset), "item", ITEMS)


def _interaction_count(counts: np.ndarray, noun: str, color: str) -> Figure:
    median, largest = np.median(counts), int(counts.max())
    figure, (ax,) = style.canvas(
        f"Half of the {noun}s have at most {units.plural(int(median), 'event')}; the busiest has {largest:,}",
        f"events of one {noun} (ranges grow with the count: a logarithmic scale)",
        f"{noun}s",
    )
    style.bars(ax, *style.ranges(counts), color)
    return figure


def rank_frequency(dataset: Dataset) -> Figure:
    """Concentration of events on few users and few items."""
    items = statistics.item_counts(dataset)
    figure, (ax,) = style.canvas(
        f"The top 10% of the items get {units.percent(statistics.top_share(items, 0.1))} of the events",
        "rank, most events first (logarithmic)",
        "events (logarithmic)",
    )
    for noun, counts, color in (("items", items, ITEMS), ("users", statistics.user_counts(dataset), USERS)):
        ranked = np.sort(counts)[::-1]
        rank = np.unique(np.geomspace(1, len(ranked), 600).astype(np.int64))
        label = f"{noun}: {len(ranked):,}, Gini {statistics.gini(counts):.2f}"
        ax.plot(rank, ranked[rank - 1], color=color, linewidth=2.2, label=label, marker="o" if len(rank) < 30 else None)
    ax.set_xscale("log")
    ax.set_yscale("log")
    style.count_axis(ax.xaxis)
    style.count_axis(ax.yaxis)
    style.legend(ax, loc="lower left")
    return figure


# ------------------------------------------------------------------------------------------------------- scores


def _scores(dataset: Dataset) -> np.ndarray:
    scores = dataset.events.columns.get("score")
    if scores is None:
        raise NotApplicable("the log has no scores")
    if scores.min() == scores.max():
        raise NotApplicable(f"every score is {scores[0]:g}")
    return scores


def scores(dataset: Dataset) -> Figure:
    """How often each score is given."""
    values = _scores(dataset)
    distinct, sizes = np.unique(values, return_counts=True)
    labels = [f"{value:g}" for value in distinct.tolist()]
    title = f"The most frequent score is {distinct[sizes.argmax()]:g}, the mean {values.mean(dtype=np.float64):.2f}"
    if len(distinct) > 24:
        title = f"Half of the scores lie between {np.quantile(values, 0.25):.3g} and {np.quantile(values, 0.75):.3g}"
    figure, (ax,) = style.canvas(title, "score", "share of events")
    if len(distinct) <= 24:
        style.bars(ax, labels, sizes / len(values), EVENTS, share=True)
        return figure
    ax.hist(values, bins=40, weights=np.full(len(values), 1 / len(values)), color=EVENTS)
    style.percent_axis(ax.yaxis)
    return figure


def average_score_per_item(dataset: Dataset) -> Figure:
    """Mean score of every item, with few scores and with many."""
    values, item = _scores(dataset), dataset.events.item
    counts = np.bincount(item, minlength=len(dataset.items))
    means = np.bincount(item, values, minlength=len(dataset.items)) / np.maximum(counts, 1)
    few, many = means[(counts > 0) & (counts < 10)], means[counts >= 10]
    reliable = many if len(many) else few
    figure, (ax,) = style.canvas(
        f"The average item {'with ten scores or more ' if len(many) else ''}is scored {reliable.mean():.2f}; "
        f"two thirds of them lie within {reliable.std():.2f} of that",
        "mean score of an item",
        "items",
    )
    ax.hist(
        [many, few],
        bins=np.linspace(values.min(), values.max(), 41),  # type: ignore[arg-type]
        stacked=True,
        color=[ITEMS, MUTED],
        label=[f"10 scores or more ({len(many):,} items)", f"fewer: chance decides ({len(few):,} items)"],
    )
    style.count_axis(ax.yaxis)
    style.legend(ax, loc="upper left")
    return figure


# --------------------------------------------------------------------------------------------------------- time


def _timestamps(dataset: Dataset, compare: bool = False) -> np.ndarray:
    time = dataset.events.timestamp
    if time is None:
        raise NotApplicable("the log has no timestamps, only an order")
    if compare and dataset.clock != "global":
        raise NotApplicable("times do not compare between users, so there is no common calendar")
    if compare and time.min() == time.max():
        raise NotApplicable("every event has the same timestamp")
    return time


def activity_over_time(dataset: Dataset) -> Figure:
    """Events and active users in each period of the calendar."""
    periods = statistics.periods(_timestamps(dataset, compare=True))
    size = len(periods.start)
    events = np.bincount(periods.index, minlength=size)
    active = np.unique(periods.index * len(dataset.users) + dataset.events.user) // len(dataset.users)
    busiest = int(events.argmax())
    figure, (ax,) = style.canvas(
        f"The busiest {periods.name} began on {_day(periods, busiest)}, with {events[busiest]:,} events, "
        f"{events[busiest] / max(np.median(events), 1):.1f} times the median",
        f"time (UTC), by {periods.name}",
        f"per {periods.name}",
    )
    steps = np.append(periods.start, periods.start[-1] + (periods.start[-1] - periods.start[-2]))
    ax.stairs(events, steps, fill=True, color=EVENTS, alpha=0.55, label="events")
    ax.stairs(
        np.bincount(active, minlength=size), steps, baseline=None, color=USERS, linewidth=1.8, label="active users"
    )
    ax.set_ylim(bottom=0)
    _calendar(ax)
    style.count_axis(ax.yaxis)
    style.legend(ax, loc="best")
    return figure


def cold_start_over_time(dataset: Dataset) -> Figure:
    """Share of events that concern an item or a user first seen in that period."""
    periods = statistics.periods(_timestamps(dataset, compare=True), most=40)
    events = dataset.events
    late = slice(len(periods.start) // 2, None)
    shares = {
        noun: statistics.cold_share(rows, periods.index)
        for noun, rows in (("item", events.item), ("user", events.user))
    }
    means = {noun: units.percent(float(np.nanmean(share[late]))) for noun, share in shares.items()}
    figure, (ax,) = style.canvas(
        f"In the later half, {means['item']} of a {periods.name}'s events are on items new in that {periods.name}, "
        f"{means['user']} by new users",
        f"time (UTC), by {periods.name}; the first is all new by definition",
        "share of the events",
    )
    for noun, color, marker in (("item", ITEMS, "o"), ("user", USERS, "s")):
        ax.plot(
            periods.start, shares[noun], color=color, marker=marker, markersize=3.5, label=f"{noun} first seen then"
        )
    ax.set_ylim(0, 1.03)
    _calendar(ax)
    style.percent_axis(ax.yaxis)
    style.legend(ax, loc="best")
    return figure


def _day(periods: statistics.Periods, index: int) -> str:
    return units.date(int(periods.start[index].astype(np.int64)), periods.name in ("hour", "minute", "second"))


def _calendar(ax) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=8)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))


GAPS = (  # upper ends, and how they are called
    (0, "same\ntime"),
    (units.SECOND, "1 s"),
    (10 * units.SECOND, "10 s"),
    (units.MINUTE, "1 min"),
    (5 * units.MINUTE, "5 min"),
    (30 * units.MINUTE, "30 min"),
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
    sizes = np.bincount(np.searchsorted(ends, gaps), minlength=len(ends) + 1)
    within = float((gaps <= statistics.SESSION_GAP).mean())
    figure, (ax,) = style.canvas(
        f"After {units.percent(within)} of the events the next one follows within 30 minutes; "
        f"the median gap is {units.duration(float(np.median(gaps))) if np.median(gaps) else 'nothing'}",
        "time to the user's next event, up to ...",
        "share of the gaps",
    )
    style.bars(ax, [name for _, name in GAPS] + ["longer"], sizes / len(gaps), EVENTS, share=True)
    border = int(np.searchsorted(ends, statistics.SESSION_GAP)) + 0.5
    ax.axvline(border, color=ACCENT, linestyle="--", linewidth=1.2)
    ax.text(border + 0.08, ax.get_ylim()[1], "a new session", color=ACCENT, fontsize=8.5, va="top")
    return figure


def session_lengths(dataset: Dataset) -> Figure:
    """Events in a session, which ends after 30 minutes of silence."""
    _timestamps(dataset)
    lengths = statistics.session_lengths(dataset)
    single = float((lengths == 1).mean())
    figure, (ax,) = style.canvas(
        f"A session has {units.count(round(float(lengths.mean()), 1))} events on average; "
        f"{units.percent(single)} of the {len(lengths):,} sessions are a single event",
        "events in a session (a session ends after 30 minutes of silence; ranges grow with the count)",
        "share of the sessions",
    )
    labels, sizes = style.ranges(lengths)
    style.bars(ax, labels, sizes / len(lengths), EVENTS, share=True)
    return figure


# ---------------------------------------------------------------------------------------------------- behaviour


def repeat_rate(dataset: Dataset) -> Figure:
    """Share of events with an item that the user had before, along the history."""
    repeat = statistics.is_repeat(dataset)
    if not repeat.any():
        raise NotApplicable("no user has the same item twice")
    immediate = statistics.is_immediate_repeat(dataset)
    position = statistics.position(dataset)
    edges = np.array([2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000])
    edges = edges[edges <= position.max()]
    group = np.searchsorted(edges, position, side="right") - 1
    later = group >= 0
    events = np.bincount(group[later], minlength=len(edges))
    directly = np.bincount(group[later & immediate], minlength=len(edges)) / events
    returns = np.bincount(group[later & repeat & ~immediate], minlength=len(edges)) / events
    figure, (ax,) = style.canvas(
        f"{units.percent(float(repeat.mean()))} of the events are with an item that the user had before",
        "place of the event in its user's history",
        "share of the events there",
    )
    ends = [*(edges[1:] - 1).tolist(), None]
    labels = [
        f"{units.compact(a)}+" if b is None else f"{a}" if a == b else f"{units.compact(a)}–{units.compact(b)}"
        for a, b in zip(edges.tolist(), ends, strict=True)
    ]
    places = np.arange(len(edges))
    ax.bar(places, directly, width=0.86, color=MUTED, label="the same item as just before")
    ax.bar(places, returns, width=0.86, bottom=directly, color=EVENTS, label="return to an earlier item")
    style.label_places(ax, labels)
    style.percent_axis(ax.yaxis)
    ax.margins(y=0.2)
    style.legend(ax, loc="upper left", ncols=2)
    return figure


def action_funnel(dataset: Dataset) -> Figure:
    """User-item pairs that reach each action."""
    if "action" not in dataset.events.columns:
        raise NotApplicable("the log has no actions")
    rows = statistics.funnel(dataset)
    if len(rows) < 2:
        raise NotApplicable(f"every action is {rows[0][0]!r}")
    shown, first = rows[:12], rows[0][0]
    figure, (ax,) = style.canvas(
        f"Of 100 user–item pairs with {first!r}, "
        + ", ".join(f"{100 * share:.3g} also have {name!r}" for name, _, _, _, share in shown[1:4]),
        "pairs of a user and an item with that action" + (f" (12 of {len(rows)} actions)" if len(rows) > 12 else ""),
        "",
        height=1.6 + 0.45 * len(shown),
    )
    pairs = np.array([row[3] for row in shown])
    _horizontal(
        ax,
        [row[0] for row in shown],
        pairs,
        [EVENTS] * len(shown),
        [f"{size:,} pairs, {users:,} users, {events:,} events" for _, events, users, size, _ in shown],
    )
    return figure


def domain_overlap(dataset: Dataset) -> Figure:
    """Users by the set of domains in which they have events."""
    if "domain" not in dataset.events.columns:
        raise NotApplicable("the log has no domains")
    rows = statistics.domain_combinations(dataset)
    if len({name for names, _ in rows for name in names}) < 2:
        raise NotApplicable("the log has one domain only")
    total = sum(size for _, size in rows)
    shared = sum(size for names, size in rows if len(names) > 1)
    shown = rows[:12]
    figure, (ax,) = style.canvas(
        f"{units.percent(shared / total)} of the users have events in more than one domain",
        "users" + (f" (the 12 largest of {len(rows)} groups)" if len(rows) > 12 else ""),
        "",
        height=1.6 + 0.45 * len(shown),
    )
    labels = [" + ".join(names) if len(names) > 1 else f"{names[0]} only" for names, _ in shown]
    sizes = np.array([size for _, size in shown])
    colors = [USERS if len(names) > 1 else MUTED for names, _ in shown]
    _horizontal(
        ax, labels, sizes, colors, [f"{size:,} ({style.short_percent(size / total)})" for size in sizes.tolist()]
    )
    return figure


def _horizontal(ax, labels: list[str], sizes: np.ndarray, colors: list[str], notes: list[str]) -> None:
    """Bars from top to bottom, each with its note: inside a long bar, behind a short one."""
    places = np.arange(len(labels))
    ax.barh(places, sizes, color=colors, height=0.72)
    ax.set_yticks(places, [label if len(label) <= 34 else label[:33] + "…" for label in labels], color=INK)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    style.count_axis(ax.xaxis)
    for place, (size, note) in enumerate(zip(sizes.tolist(), notes, strict=True)):
        inside = size > 0.6 * sizes.max()
        ax.annotate(
            note,
            (size, place),
            (-5 if inside else 5, 0),
            textcoords="offset points",
            va="center",
            ha="right" if inside else "left",
            fontsize=8.5,
            color="white" if inside else GREY,
        )


# -------------------------------------------------------------------------------------------------------- drift


def train_test_drift(drift: Drift) -> Figure:
    """Popularity in the training part against the test part."""
    gain = drift.test[:-1] - drift.train[:-1]
    figure, (ax,) = style.canvas(
        f"{units.percent(float(drift.test[-1]))} of the test events are on items never seen in training; "
        f"the most popular fifth {'keeps' if abs(gain[0]) < 0.02 else 'gains' if gain[0] > 0 else 'loses'}"
        + ("" if abs(gain[0]) < 0.02 else f" {100 * abs(gain[0]):.0f} points"),
        "items, from the most popular in training to those it has never seen",
        "share of the events",
    )
    names = ["head", *[f"group {place}" for place in range(2, len(drift.items) - 1)], "tail", "not in training"]
    labels = [
        f"{name}\n{size:,} item{'s' * (size != 1)}" for name, size in zip(names, drift.items.tolist(), strict=True)
    ]
    places = np.arange(len(labels))
    ax.bar(places - 0.2, drift.train, width=0.38, color=MUTED, label="training")
    ax.bar(places + 0.2, drift.test, width=0.38, color=ACCENT, label=f"test ({drift.strategy})")
    style.label_places(ax, labels)
    ax.tick_params(axis="x", rotation=0)
    for label in ax.get_xticklabels():
        label.set_horizontalalignment("center")
    style.percent_axis(ax.yaxis)
    ax.margins(y=0.2)
    style.legend(ax, loc="upper right", ncols=2)
    return figure


# Every figure of a log, in the order of the report, with how to read it. A file bears the name of its function.
FIGURES: tuple[tuple[Callable[[Dataset], Figure], str], ...] = (
    (
        per_user_interaction_count,
        "Each bar counts the users whose number of events falls in the range below it. Bars on the left are users of "
        "whom little is known.",
    ),
    (
        per_item_interaction_count,
        "The same for items. Bars on the left are items of which a model can learn little but from their features.",
    ),
    (
        rank_frequency,
        "Users and items from the busiest to the quietest. A straight line is a power law; the earlier it falls, the "
        "more a few hold. The Gini coefficient is 0 where all have the same and nears 1 where one has everything.",
    ),
    (scores, "The share of the events that bear each score."),
    (average_score_per_item, "Items by their mean score. Means of a few scores are mostly chance and are drawn grey."),
    (
        activity_over_time,
        "Events and users with at least one event, in each period. The first and the last period may be incomplete.",
    ),
    (
        cold_start_over_time,
        "How much of each period no model that was trained before it could have known. Where the item line stays "
        "high, features matter; where the user line stays high, histories must be read at once, not learned as ids.",
    ),
    (
        gaps_between_events,
        "The share of gaps up to the duration below each bar and longer than the one before. Events at the same time "
        "have no order but that of the file.",
    ),
    (session_lengths, "A session is a run of events of one user without a silence of more than 30 minutes."),
    (
        repeat_rate,
        "Of the events at each place of a history, those that return to an item already in it. Where returns are "
        "many, people want to be shown what they know.",
    ),
    (
        action_funnel,
        "Pairs of a user and an item with at least one event of the action, most frequent first, with the users and "
        "the events behind them.",
    ),
    (
        domain_overlap,
        "Users grouped by the exact set of domains they act in. Who acts in several can carry taste across.",
    ),
)
DRIFT_CAPTION = (
    "Items are ordered by their events in training and cut where each group holds a fifth of them. If popularity "
    "stayed as it was, every pair of bars would be equal; bars on the right are what training could not foresee."
)
