"""The analysis of a log: statistics against loops, figures and report as a reader gets them."""

from collections import Counter, defaultdict
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from config import SplitConfig
from eda import files, plots, statistics, style, units
from eda.report import FIGURES
from eda.summary import summarise, table
from eda.verdict import verdict
from zoo.data import splits
from zoo.data.dataset import Dataset, Entities, Events

HOUR, DAY = 3_600_000, 86_400_000
START = 18_500 * DAY  # in August 2020


def log(rows, clock="global", labels=None, **columns):
    """A Dataset of (user, item, time) rows; users and items are numbered, times may be None."""
    rows = sorted(enumerate(rows), key=lambda row: (row[1][0], row[1][2] or 0, row[0]))
    order = [index for index, _ in rows]
    user, item, time = zip(*[row for _, row in rows], strict=True)
    return Dataset(
        Events(
            np.array(user, np.int32),
            np.array(item, np.int32),
            None if time[0] is None else np.array(time, np.int64),
            {name: np.asarray(values)[order] for name, values in columns.items()},
        ),
        Entities(np.arange(max(user) + 1)),
        Entities(np.arange(max(item) + 1)),
        clock,
        labels or {},
        "log",
    )


def random_log(seed=0, users=60, items=40, events=1500, days=100, **columns):
    random = np.random.default_rng(seed)
    rows = zip(
        random.integers(0, users, events).tolist(),
        (items * random.random(events) ** 2).astype(int).tolist(),
        (START + random.integers(0, days * DAY, events)).tolist(),
        strict=True,
    )
    return log(list(rows), **columns)


LOGS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=40).map(
    lambda rows: log([(user, item, START + time * HOUR // 4) for user, item, time in rows])
)


def by_user(dataset):
    histories = defaultdict(list)
    time = dataset.events.timestamp
    for event, user in enumerate(dataset.events.user.tolist()):
        histories[user].append((int(dataset.events.item[event]), None if time is None else int(time[event])))
    return histories


# -------------------------------------------------------------------------------------------------- statistics


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(counts):
    difference = np.mean([abs(a - b) for a in counts for b in counts])
    assert statistics.gini(np.array(counts)) == pytest.approx(difference / (2 * np.mean(counts)))


def test_gini_at_its_ends():
    assert statistics.gini(np.full(100, 7)) == pytest.approx(0)
    assert statistics.gini(np.array([0] * 999 + [5])) == pytest.approx(0.999)


@settings(max_examples=60, deadline=None)
@given(LOGS)
def test_histories_against_loops(dataset):
    gaps, sessions, repeats, immediate, places, ties = [], [], [], [], [], []
    for history in by_user(dataset).values():
        items, times = zip(*history, strict=True)
        gaps += [b - a for a, b in pairwise(times)]
        sessions.append(1)
        for gap in (b - a for a, b in pairwise(times)):
            if gap > statistics.SESSION_GAP:
                sessions.append(1)
            else:
                sessions[-1] += 1
        repeats += [item in items[:place] for place, item in enumerate(items)]
        immediate += [place > 0 and items[place - 1] == item for place, item in enumerate(items)]
        places += range(1, len(items) + 1)
        ties += [times.count(time) > 1 for time in times]
    assert statistics.gaps(dataset).tolist() == gaps
    assert statistics.session_lengths(dataset).tolist() == sessions
    assert statistics.is_repeat(dataset).tolist() == repeats
    assert statistics.repeat_share(dataset) == pytest.approx(np.mean(repeats))
    assert statistics.is_immediate_repeat(dataset).tolist() == immediate
    assert statistics.position(dataset).tolist() == places
    assert statistics.tied(dataset).tolist() == ties
    events = [(user, *event) for user, history in by_user(dataset).items() for event in history]
    assert statistics.num_duplicates(dataset) == len(events) - len(set(events))


@settings(max_examples=40, deadline=None)
@given(LOGS)
def test_time_against_loops(dataset):
    user, time = dataset.events.user, dataset.events.timestamp
    periods = statistics.periods(time, most=4)
    ends = np.append(periods.start[1:], np.datetime64("2200-01-01"))
    stamps = time.astype("datetime64[ms]")
    assert (periods.start[periods.index] <= stamps).all()
    assert (stamps < ends[periods.index]).all()
    active = [len(set(user[periods.index == period].tolist())) for period in range(len(periods.start))]
    assert statistics.active_users(dataset, periods).tolist() == active
    seen, shares = set(), []
    for period in range(len(periods.start)):
        mine = user[periods.index == period].tolist()
        shares.append(np.mean([row not in seen for row in mine]) if mine else np.nan)
        seen |= set(mine)
    np.testing.assert_allclose(statistics.cold_share(user, periods.index), shares)
    border = np.quantile(time, 0.9, method="lower")
    late, early = user[time >= border].tolist(), set(user[time < border].tolist())
    expected = (len(set(late) & early) / len(set(late)), np.mean([row in early for row in late]))
    assert statistics.returning_share(dataset) == pytest.approx(expected)
    part = splits.leave_one_out(dataset).part
    train, test = time[part == splits.TRAIN], time[part == splits.TEST]
    future = np.mean([np.mean(train > moment) for moment in test]) if len(test) else 0
    assert statistics.future_share(dataset) == pytest.approx(future)


@pytest.mark.parametrize(
    ("days", "name"),
    [(1e-4, "second"), (0.03, "minute"), (2, "hour"), (50, "day"), (300, "week"), (900, "month"), (5000, "quarter")],
)
def test_periods_are_as_fine_as_the_log_allows(days, name):
    time = START + np.linspace(0, days * DAY, 5000).astype(np.int64)
    periods = statistics.periods(time)
    assert periods.name == name
    assert len(periods.start) <= 81
    if name == "week":
        assert {str(start.astype("datetime64[D]").item().weekday()) for start in periods.start} == {"0"}


@pytest.mark.parametrize(
    ("step", "name"), [(DAY, "day"), (HOUR, "hour"), (60_000, "minute"), (1000, "second"), (1, "millisecond")]
)
def test_resolution(step, name):
    assert statistics.resolution(np.arange(0, 50_000, 7, dtype=np.int64) * step) == name


def test_resolution_looks_past_the_first_events():
    time = np.arange(5000, dtype=np.int64) * DAY
    time[-1] += 1
    assert statistics.resolution(time) == "millisecond"


def test_funnel_against_sets():
    random = np.random.default_rng(1)
    action = random.choice(4, 1500, p=[0.1, 0.6, 0.3, 0.0]).astype(np.int16)
    dataset = random_log(labels={"action": ("buy", "view", "cart", "never")}, action=action)
    rows = list(zip(dataset.events.user.tolist(), dataset.events.item.tolist(), strict=True))
    codes = dataset.events.columns["action"].tolist()
    pairs = {code: {row for row, own in zip(rows, codes, strict=True) if own == code} for code in range(3)}
    steps = statistics.funnel(dataset)
    assert [step.action for step in steps] == ["view", "cart", "buy"]
    for step, code in zip(steps, (1, 2, 0), strict=True):
        assert step.events == codes.count(code)
        assert step.users == len({user for user, _ in pairs[code]})
        assert step.pairs == len(pairs[code])
        assert step.also == pytest.approx(len(pairs[code] & pairs[1]) / len(pairs[1]))


@pytest.mark.parametrize("count", [1, 3, 63])
def test_domain_combinations_against_sets(count):
    domain = np.random.default_rng(2).integers(0, count, 1500).astype(np.int16)
    names = tuple(f"domain {code}" for code in range(count))
    dataset = random_log(users=700, labels={"domain": names}, domain=domain)
    sets = defaultdict(set)
    for user, code in zip(dataset.events.user.tolist(), dataset.events.columns["domain"].tolist(), strict=True):
        sets[user].add(names[code])
    found = statistics.domain_combinations(dataset)
    assert {frozenset(group): size for group, size in found} == Counter(map(frozenset, sets.values()))
    assert [size for _, size in found] == sorted((size for _, size in found), reverse=True)


def test_many_domains_end_in_other():
    names = tuple(f"domain {code}" for code in range(80))
    dataset = log([(0, 0, START), (1, 0, START)], labels={"domain": names}, domain=np.array([61, 79], np.int16))
    assert {group for group, _ in statistics.domain_combinations(dataset)} == {("domain 61",), ("other",)}


def test_recency_lift_tells_order_from_noise():
    random = np.random.default_rng(3)
    noise = [(user, int(100 * random.random() ** 2), None) for user in range(500) for _ in range(20)]
    assert statistics.recency_lift(log(noise, "order")) == pytest.approx(1, abs=0.06)
    chain = []
    for user in range(500):
        item = int(random.integers(100))
        for _ in range(20):
            chain.append((user, item, None))
            item = (item + 1) % 100 if random.random() < 0.7 else int(random.integers(100))
    assert statistics.recency_lift(log(chain, "order")) > 1.2
    tied = [(user, item, START) for user, item, _ in chain]  # the order of the file is no knowledge
    assert statistics.recency_lift(log(tied)) == pytest.approx(1, abs=0.1)
    assert statistics.recency_lift(log(chain[:10], "order")) is None


def test_drift_groups_hold_equal_shares_of_training():
    dataset = random_log(events=5000)
    split = splits.split(dataset, SplitConfig(strategy="temporal"), 0)
    drift = statistics.drift(split)
    assert drift.train.sum() == pytest.approx(1)
    assert drift.test.sum() == pytest.approx(1)
    assert drift.items.sum() == dataset.num_items
    assert np.abs(drift.train[:-1] - 0.2).max() < 0.1
    train, test = split.events(splits.TRAIN), split.events(splits.TEST)
    top = [item for item, _ in Counter(train.item.tolist()).most_common(10)]
    assert drift.top10 == pytest.approx(np.isin(test.item, top).mean(), abs=0.01)
    assert drift.new_users == pytest.approx(1 - np.isin(test.user, train.user).mean())
    fresh = log([(user, 0, START + user) for user in range(80)] + [(user, 1, START + 99) for user in range(20)])
    assert statistics.drift(splits.split(fresh, SplitConfig(strategy="temporal"), 0)).test[-1] == 1


def test_extreme_users_are_counted():
    rows = [(user, place % 50, START + place) for user in range(200) for place in range(5 + user % 10)]
    assert statistics.extreme_users(log(rows))[1] == 0
    limit, users, share = statistics.extreme_users(log([*rows, *((200, n % 50, START + n) for n in range(3000))]))
    assert users == 1
    assert limit < 3000
    assert share == pytest.approx(3000 / (3000 + len(rows)))


# ------------------------------------------------------------------------------------------------- words and figures


def test_units():
    assert [units.count(value) for value in (0, 1.5, 1234.4, 12.5)] == ["0", "1.5", "1,234", "12"]
    assert [units.compact(value) for value in (7, 999, 1234, 999_600, 5e6, 2e9)] == [
        "7",
        "999",
        "1.23k",
        "1M",
        "5M",
        "2G",
    ]
    assert [units.percent(value) for value in (0, 1e-6, 0.0012, 0.1234, 0.9999, 1, 1.25)] == [
        "0%", "less than 0.01%", "0.12%", "12.3%", "more than 99.9%", "100%", "125%",
    ]  # fmt: skip
    assert [units.duration(value) for value in (0, 5, 1000, 5_400_000, 40 * DAY, units.YEAR)] == [
        "none", "5 ms", "1 second", "1.5 hours", "40 days", "1 year",
    ]  # fmt: skip
    assert units.date(START) == "2020-08-26"
    assert units.plural(1, "user") == "1 user"
    assert units.plural(2.5, "event") == "2.5 events"


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(1, 30), st.integers(1, 10**7)), min_size=1, max_size=60))
def test_ranges_count_everyone_once(counts):
    labels, sizes = style.ranges(np.array(counts))
    assert sizes.sum() == len(counts)
    assert len(labels) == len(sizes) == len(set(labels))
    assert sizes[0] > 0
    assert sizes[-1] > 0
    assert len(labels) <= 24


def test_ranges_are_single_where_they_are_few():
    labels, sizes = style.ranges(np.array([3, 3, 5]))
    assert labels == ["3", "4", "5"]
    assert sizes.tolist() == [2, 0, 1]


def bar_heights(figure):
    return [patch.get_height() for patch in figure.axes[0].patches]


def test_users_are_drawn_by_their_counts():
    rows = [(user, place, START + place) for user in range(90, 100) for place in range(1 + user % 2)]
    figure = plots.per_user_interaction_count(log(rows))
    assert bar_heights(figure) == [5, 5]  # five users with one event, five with two; not the ids 90 to 99
    assert "busiest has 2" in figure.get_suptitle()


def test_scores_and_their_means():
    scores = np.arange(1500) % 5 + 1.0
    dataset = random_log(score=scores.astype(np.float32))
    np.testing.assert_allclose(bar_heights(plots.scores(dataset)), 0.2)
    assert sum(bar_heights(plots.average_score_per_item(dataset))) == dataset.num_items
    fine = random_log(score=np.random.default_rng(0).random(1500).astype(np.float32))
    assert "Half of the scores" in plots.scores(fine).get_suptitle()


@pytest.mark.parametrize(
    ("draw", "dataset", "reason"),
    [
        (plots.scores, random_log(), "no scores"),
        (plots.average_score_per_item, random_log(score=np.full(1500, 3.5, np.float32)), "every score is 3.5"),
        (plots.activity_over_time, log([(0, 0, None), (0, 1, None)], "order"), "no timestamps"),
        (plots.cold_start_over_time, log([(0, 0, 0), (0, 1, DAY)], "relative"), "do not compare"),
        (plots.activity_over_time, log([(0, 0, START), (1, 1, START)]), "one second"),
        (plots.activity_over_time, log([(0, 0, START), (1, 1, START * 1000)]), "unit"),
        (plots.gaps_between_events, log([(0, 0, START), (1, 1, START)]), "two events"),
        (plots.session_lengths, log([(0, 0, None)], "order"), "no timestamps"),
        (plots.repeat_rate, log([(0, 0, START), (0, 1, START)]), "same item twice"),
        (plots.action_funnel, random_log(), "no actions"),
        (
            plots.action_funnel,
            random_log(labels={"action": ("view", "buy")}, action=np.zeros(1500, np.int16)),
            "every action is 'view'",
        ),
        (plots.domain_overlap, random_log(), "no domains"),
        (
            plots.domain_overlap,
            random_log(labels={"domain": ("shop", "bank")}, domain=np.ones(1500, np.int16)),
            "one domain",
        ),
    ],
)
def test_what_does_not_apply_says_why(draw, dataset, reason):
    with pytest.raises(plots.NotApplicable, match=reason):
        draw(dataset)


def full_log(**options):
    random = np.random.default_rng(4)
    return random_log(
        labels={"action": ("view", "buy"), "domain": ("shop", "bank")},
        action=random.integers(0, 2, 1500).astype(np.int16),
        domain=random.integers(0, 2, 1500).astype(np.int16),
        score=random.integers(1, 6, 1500).astype(np.float32),
        **options,
    )


def test_every_figure_is_labelled():
    for draw, caption in FIGURES:
        figure = draw(full_log())
        assert isinstance(figure, Figure)
        assert len(figure.get_suptitle()) > 20, draw
        assert figure.axes[-1].get_xlabel(), draw
        assert caption.endswith("."), draw


def test_no_label_of_a_figure_touches_another():
    for dataset in (full_log(), log([(0, 0, START), (0, 0, START + 1), (1, 1, START + DAY)])):
        for draw, _ in FIGURES:
            try:
                figure = draw(dataset)
            except plots.NotApplicable:
                continue
            figure.draw_without_rendering()
            for ax in figure.axes:
                boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
                upright = not any(label.get_rotation() for label in ax.get_xticklabels())
                inside = [box for box in boxes if box.x1 > ax.bbox.x0 - 5 and box.x0 < ax.bbox.x1 + 5]
                if upright:
                    assert not any(a.overlaps(b) for a, b in combinations(inside, 2)), draw


def test_names_that_a_figure_could_stumble_over(tmp_path):
    names = ("$a_{b$", "買う 🛒", "<script>alert(1)</script>\n")
    codes = np.random.default_rng(0).integers(0, 3, 1500).astype(np.int16)
    dataset = random_log(labels={"action": names, "domain": names}, action=codes, domain=codes)
    files.save(plots.action_funnel(dataset), tmp_path / "a.png")
    files.save(plots.domain_overlap(dataset), tmp_path / "b.png")


# ---------------------------------------------------------------------------------------------------------- verdict


def findings(dataset):
    found = verdict(summarise(dataset))
    topics = {finding.topic: finding.text for finding in found if not finding.warning}
    return topics, " ".join(finding.text for finding in found if finding.warning)


def test_verdict_of_a_log_with_returning_users():
    topics, warnings = findings(random_log())
    assert topics["Split"].startswith("temporal: ")
    assert topics["Repetition"].startswith("High: ")
    assert "timestamp" not in warnings


def test_verdict_of_strangers():
    rows = [(user, place, START + user * 10 * DAY + place * 12 * HOUR) for user in range(60) for place in range(30)]
    topics, _ = findings(log(rows))
    assert topics["Split"].startswith("leave_one_out: ")
    assert topics["Repetition"].startswith("None: ")


def test_verdict_of_sessions():
    rows = [(user, (user + place) % 30, START + user * HOUR + place) for user in range(200) for place in range(4)]
    assert findings(log(rows))[0]["Split"].startswith("temporal: ")
    relative = [(user, item, time - START - user * HOUR) for user, item, time in rows]
    assert findings(log(relative, "relative"))[0]["Split"].startswith("by_user: ")


def test_verdict_of_an_order():
    topics, warnings = findings(log([(user, place, None) for user in range(150) for place in range(30)], "order"))
    assert topics["Split"].startswith("leave_one_out: ")
    assert "order only" in warnings


def test_verdict_of_pairs():
    topics, _ = findings(log([(user, user + place, START + user * DAY) for user in range(50) for place in range(2)]))
    assert topics["Split"].startswith("by_user: ")


def test_warnings():
    rows = [(user, place % 40, START + place // 2 * DAY) for user in range(150) for place in range(6)]
    rows += [(150, place % 40, START + place * DAY) for place in range(2000)] + rows[:60]
    _, warnings = findings(log(rows, score=np.ones(len(rows), np.float32)))
    for words in ("same timestamp", "whole days", "1 user has more than", "60 events", "Every score is 1"):
        assert words in warnings
    assert "1970-01-01" in findings(log([(0, 0, 5), (0, 1, 900_000_000)]))[1]


def test_a_single_event_is_described():
    topics, _ = findings(log([(0, 0, START)]))
    assert topics["Split"].startswith("none yet")
    assert topics["Baseline to beat"].startswith("most_popular")


def test_table_holds_the_numbers():
    rows = dict(row for _, group in table(summarise(random_log())) for row in group)
    assert rows["Users"] == "60"
    assert rows["Events"] == "1,500"
    assert {"Time span", "Tie rate (same user, same time)", "Repeat rate (item the user had before)"} <= set(rows)
