"""Summary: the numbers of a log, once computed, for the report's table and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eda import statistics, units
from zoo.data.dataset import Clock, Dataset


@dataclass(frozen=True)
class Spread:
    """How events spread over users or over items.

    Attributes:
        size: users (items) with at least one event.
        mean, median, largest: events of one.
        p95: 95 % have at most so many.
        gini: 0 equal, towards 1 concentrated.
        top_share: share of all events on the top 10 %.
        below: share with fewer than three events (users) or five events (items).
    """

    size: int
    mean: float
    median: float
    p95: float
    largest: int
    gini: float
    top_share: float
    below: float

    @classmethod
    def of(cls, counts: np.ndarray, enough: int) -> Spread:
        """The spread of `counts`; whoever has fewer than `enough` is `below`."""
        return cls(
            size=len(counts),
            mean=float(counts.mean()),
            median=float(np.median(counts)),
            p95=float(np.quantile(counts, 0.95)),
            largest=int(counts.max()),
            gini=statistics.gini(counts),
            top_share=statistics.top_share(counts, 0.1),
            below=float((counts < enough).mean()),
        )


@dataclass(frozen=True)
class Timing:
    """What the timestamps say; durations in milliseconds.

    Attributes:
        first, last: of the whole log.
        resolution: what all timestamps are multiples of.
        tied: share of events that bear the same timestamp as another event of their user.
        last_tied: share of users (of two events or more) whose last event ties with the one before.
        user_span: median time between a user's first and last event (of two events or more).
        one_day: share of those users whose events all lie within 24 hours.
        gap: median between two events of a user.
        session: mean events in a session.
        sessions_per_user: mean.
        returning: of the last tenth of the log, the share of users seen before and of events by them; None unless the
            clock is global.
        future: share of training events after the event to predict, in a leave-one-out split; None as above.
    """

    first: int
    last: int
    resolution: str
    tied: float
    last_tied: float
    user_span: float
    one_day: float
    gap: float
    session: float
    sessions_per_user: float
    returning: tuple[float, float] | None
    future: float | None


@dataclass(frozen=True)
class Summary:
    """Everything that the table and the verdict are made of.

    Attributes:
        repeats: share of events with an item that the user had before; `immediate`: with the item just before.
        recency_lift: how much more the last item tells of the next than an earlier one does; None: unknown.
        duplicates: events equal to an earlier one in user, item, action and timestamp.
        extreme: (limit, users above it, their share of events).
        top10: share of all events on the ten most popular items.
        long: share of users with more than `statistics.HISTORY_LENGTH` events.
        scores: (lowest, mean, highest, distinct values), where there are scores.
    """

    name: str
    clock: Clock
    events: int
    users: Spread
    items: Spread
    repeats: float
    immediate: float
    recency_lift: float | None
    duplicates: int
    extreme: tuple[int, int, float]
    top10: float
    long: float
    scores: tuple[float, float, float, int] | None
    time: Timing | None

    @property
    def density(self) -> float:
        """Events per cell of the users x items matrix; above 1 where repeats are many."""
        return self.events / (self.users.size * self.items.size)


def summarise(dataset: Dataset) -> Summary:
    """All numbers of a log with at least one event."""
    users, items = statistics.user_counts(dataset), statistics.item_counts(dataset)
    return Summary(
        name=dataset.name,
        clock=dataset.clock,
        events=len(dataset.events),
        users=Spread.of(users, 3),
        items=Spread.of(items, 5),
        repeats=statistics.repeat_share(dataset),
        immediate=float(statistics.is_immediate_repeat(dataset).mean()),
        recency_lift=statistics.recency_lift(dataset),
        duplicates=statistics.num_duplicates(dataset),
        extreme=statistics.extreme_users(dataset),
        top10=float(np.sort(items)[-10:].sum() / items.sum()),
        long=float((users > statistics.HISTORY_LENGTH).mean()),
        scores=_scores(dataset),
        time=_timing(dataset),
    )


def _scores(dataset: Dataset) -> tuple[float, float, float, int] | None:
    scores = dataset.events.columns.get("score")
    if scores is None:
        return None
    distinct = np.unique(scores)
    return float(distinct[0]), float(scores.mean(dtype=np.float64)), float(distinct[-1]), len(distinct)


def _timing(dataset: Dataset) -> Timing | None:
    time, user = dataset.events.timestamp, dataset.events.user
    if time is None:
        return None
    is_first = np.append(True, user[1:] != user[:-1])
    starts, ends = np.flatnonzero(is_first), np.flatnonzero(np.append(is_first[1:], True))
    several = ends > starts
    span = (time[ends] - time[starts])[several]
    gaps, sessions, tied = statistics.gaps(dataset), statistics.session_lengths(dataset), statistics.tied(dataset)
    compares = dataset.clock == "global"
    return Timing(
        first=int(time.min()),
        last=int(time.max()),
        resolution=statistics.resolution(time),
        tied=float(tied.mean()),
        last_tied=float(tied[ends[several]].mean()) if several.any() else 0.0,
        user_span=float(np.median(span)) if several.any() else 0.0,
        one_day=float((span <= units.DAY).mean()) if several.any() else 0.0,
        gap=float(np.median(gaps)) if len(gaps) else 0.0,
        session=float(sessions.mean()),
        sessions_per_user=len(sessions) / len(starts),
        returning=statistics.returning_share(dataset) if compares else None,
        future=statistics.future_share(dataset) if compares else None,
    )


def table(summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """The numbers in words: [(heading, [(name, value), ...]), ...]."""
    users, items, time = summary.users, summary.items, summary.time
    groups = [
        (
            "Size",
            [
                ("Users", units.count(users.size)),
                ("Items", units.count(items.size)),
                ("Events", units.count(summary.events)),
                ("Density (events per user × item)", units.percent(summary.density)),
            ],
        )
    ]
    if time is not None:
        groups[0][1].append(("Exact duplicates (same time too)", units.count(summary.duplicates)))
    for noun, spread, enough in (("user", users, 3), ("item", items, 5)):
        rows = [
            ("Mean", f"{spread.mean:,.1f}"),
            ("Median", units.count(spread.median)),
            ("95th percentile", units.count(spread.p95)),
            ("Maximum", units.count(spread.largest)),
            (f"Share of {noun}s with fewer than {enough}", units.percent(spread.below)),
            (f"Events on the top 10% of {noun}s", units.percent(spread.top_share)),
            ("Gini coefficient", f"{spread.gini:.2f}"),
        ]
        groups.append((f"Events per {noun}", rows))
    repetition = [
        ("Repeat rate (item the user had before)", units.percent(summary.repeats)),
        ("Immediate repeats (same item as just before)", units.percent(summary.immediate)),
        ("Events on the 10 most popular items", units.percent(summary.top10)),
    ]
    if summary.recency_lift is not None:
        repetition.append(("Recency: last item against an earlier one", f"× {summary.recency_lift:.2f}"))
    groups.append(("Behaviour", repetition))
    if time is not None:
        rows = [("Time between events of a user, median", units.duration(time.gap))]
        if summary.clock == "global":
            rows = [
                ("First event (UTC)", units.date(time.first, with_time=True)),
                ("Last event (UTC)", units.date(time.last, with_time=True)),
                ("Time span", units.duration(time.last - time.first)),
                *rows,
            ]
        rows += [
            ("First to last event of a user, median", units.duration(time.user_span)),
            ("Tie rate (same user, same time)", units.percent(time.tied)),
            ("Resolution of the clock", time.resolution),
            ("Events per session (30 minutes), mean", units.count(round(time.session, 1))),
            ("Sessions per user, mean", units.count(round(time.sessions_per_user, 1))),
        ]
        groups.append(("Time", rows))
    if summary.scores is not None:
        low, mean, high, distinct = summary.scores
        rows = [
            ("Lowest", f"{low:g}"),
            ("Mean", f"{mean:.3g}"),
            ("Highest", f"{high:g}"),
            ("Different values", units.count(distinct)),
        ]
        groups.append(("Scores", rows))
    return groups
