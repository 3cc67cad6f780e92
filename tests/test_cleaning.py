"""Cleaning: each step against brute force, the k-core as the fixed point it claims to be, and what bad options get."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ConfigError, DataConfig
from zoo.data import dates
from zoo.data.cleaning import (
    clean,
    core,
    drop_bots,
    drop_short_sessions,
    keep_scores,
    keep_window,
    merge_duplicates,
    sessions,
)
from zoo.data.dataset import DataError, Dataset, Entities, Events

DAY = 86_400_000


def make(pairs, score=None, action=None, labels=("view", "cart", "buy"), day=None, clock="global") -> Dataset:
    """A log of (user, item) pairs, sorted by user; a day apart from each other unless `day` says otherwise."""
    order = sorted(range(len(pairs)), key=lambda row: pairs[row][0])
    user = np.array([pairs[row][0] for row in order], np.int32)
    item = np.array([pairs[row][1] for row in order], np.int32)
    columns = {}
    if score is not None:
        columns["score"] = np.array([score[row] for row in order], np.float32)
    if action is not None:
        columns["action"] = np.array([labels.index(action[row]) for row in order], np.int16)
    days = np.array(day if day is not None else np.arange(len(pairs)), np.int64)
    time_of = None if clock == "order" else days[order] * DAY if len(pairs) else days
    events = Events(user, item, time_of, columns)
    users, items = Entities(np.arange(user.max(initial=-1) + 1)), Entities(np.arange(item.max(initial=-1) + 1) + 100)
    return Dataset(events, users, items, clock, {"action": labels} if action is not None else {}, "log")


def kept(dataset: Dataset) -> list[tuple[int, int]]:
    return list(zip(dataset.events.user.tolist(), dataset.events.item.tolist(), strict=True))


def test_by_default_everything_stays_and_nothing_is_said():
    dataset = make([(0, 1), (0, 1), (1, 0)])
    assert clean(dataset, DataConfig()) is dataset


# --------------------------------------------------------------------------------------------------- k-core


def core_by_hand(pairs: list[tuple[int, int]], min_user: int, min_item: int) -> list[tuple[int, int]]:
    """One event owner at a time, in whatever order: the fixed point does not depend on it."""
    pairs = list(pairs)
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        bad = next((p for p in pairs if users[p[0]] < min_user or items[p[1]] < min_item), None)
        if bad is None:
            return pairs
        pairs.remove(bad)


logs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(logs, st.integers(1, 4), st.integers(1, 4))
def test_core_is_the_fixed_point(pairs, min_user, min_item):
    pairs = sorted(pairs, key=lambda pair: pair[0])
    dataset = make(pairs)
    mask = core(dataset.events, min_user, min_item)
    found = [pair for pair, stays in zip(pairs, mask, strict=True) if stays]
    assert found == core_by_hand(pairs, min_user, min_item)
    users, items = Counter(u for u, _ in found), Counter(i for _, i in found)
    assert all(count >= min_user for count in users.values())
    assert all(count >= min_item for count in items.values())


def test_core_unravels_a_chain():
    pairs = [(user, item) for user in range(300) for item in (user, user + 1)]  # each end pulls its neighbour after it
    assert not core(make(pairs).events, 2, 2).any()
    assert core(make([*pairs, (300, 300), (300, 0)]).events, 2, 2).all()  # a ring has no end


def test_core_counts_what_is_left_and_keeps_the_rows_of_entities():
    dataset = clean(make([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]), DataConfig(min_user_events=2, min_item_events=2))
    assert kept(dataset) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(dataset.users) == 3
    assert dataset.num_users == 2
    assert dataset.notes == (
        "data.min_user_events=2, data.min_item_events=2: dropped 1 of 5 events, with them 1 users and 1 items",
    )


def test_core_of_a_million_events_is_quick():
    rng = np.random.default_rng(0)
    user = np.sort((rng.pareto(1.2, 1_000_000) * 2e4).astype(np.int64) % 200_000).astype(np.int32)
    item = ((rng.pareto(1.0, 1_000_000) * 3e3).astype(np.int64) % 100_000).astype(np.int32)
    start = time.process_time()
    mask = core(Events(user, item), 5, 5)
    assert time.process_time() - start < 5  # 0.1 s on an idle core
    assert np.bincount(user[mask])[np.unique(user[mask])].min() >= 5
    assert np.bincount(item[mask])[np.unique(item[mask])].min() >= 5


# ---------------------------------------------------------------------------------------------- other steps


@settings(max_examples=60, deadline=None)
@given(logs)
def test_duplicates(pairs):
    dataset = make(pairs)
    pairs = kept(dataset)
    first = list(dict.fromkeys(pairs))
    last = list(dict.fromkeys(reversed(pairs)))[::-1]
    merged = [pair for row, pair in enumerate(pairs) if row == 0 or pairs[row - 1] != pair]
    assert kept(merge_duplicates(dataset, "first")) == first
    assert kept(merge_duplicates(dataset, "last")) == last
    assert kept(merge_duplicates(dataset, "consecutive")) == merged


def test_the_last_of_duplicates_brings_its_own_time_and_score():
    dataset = make([(0, 0), (0, 1), (0, 0)], score=[1, 2, 3])
    cleaned = merge_duplicates(dataset, "last")
    assert cleaned.events.columns["score"].tolist() == [2, 3]
    assert cleaned.events.timestamp.tolist() == [DAY, 2 * DAY]


def test_actions_and_weights():
    dataset = make([(0, 0), (0, 1), (1, 0), (1, 2)], action=["view", "buy", "cart", "view"])
    cleaned = clean(dataset, DataConfig(actions=("buy", "view"), action_weights={"buy": 5, "cart": 0}))
    assert kept(cleaned) == [(0, 0), (0, 1), (1, 2)]
    assert cleaned.events.columns["weight"].tolist() == [1, 5, 1]
    assert cleaned.events.columns["weight"].dtype == np.float32
    assert "weight" not in dataset.events.columns
    assert cleaned.notes[-1] == "data.action_weights: buy 5, cart 0"


def test_window_includes_its_start_and_not_its_end():
    dataset = make([(0, item) for item in range(6)])  # 1970-01-01 ... 1970-01-06
    cleaned = keep_window(dataset, "1970-01-02", "1970-01-04T00:00:00")
    assert [item for _, item in kept(cleaned)] == [1, 2]
    assert [item for _, item in kept(keep_window(dataset, "1970-01-06", None))] == [5]
    assert [item for _, item in kept(keep_window(dataset, None, "1970-01-02T02:00+02:00"))] == [0]


def test_min_score_drops_what_has_none_and_counts_it():
    dataset = make([(0, item) for item in range(4)], score=[1, np.nan, 3, 4])
    cleaned = keep_scores(dataset, 3)
    assert [item for _, item in kept(cleaned)] == [2, 3]
    assert "dropped 2 of 4 events, 1 of them without a score" in cleaned.notes[0]


def test_bots():
    dataset = make([(0, item) for item in range(5)] + [(1, 0), (1, 1)])
    assert kept(drop_bots(dataset, 4)) == [(1, 0), (1, 1)]
    assert kept(drop_bots(dataset, 5)) == kept(dataset)


MINUTE = 60_000


def at(moments: list[tuple[int, float]], clock="global") -> Dataset:
    """A log of (user, minute), each with an item of its own."""
    moments = sorted(moments)
    dataset = make([(user, item) for item, (user, _) in enumerate(moments)], clock=clock)
    time_of = np.array([minute * MINUTE for _, minute in moments], np.int64)
    return replace(dataset, events=replace(dataset.events, timestamp=time_of))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200)), min_size=1, max_size=40), st.integers(1, 40))
def test_sessions_end_with_silence_or_their_user(moments, gap):
    dataset = at(moments)
    expected, last = [], None
    for user, minute in sorted(moments):
        new = last is None or user != last[0] or minute - last[1] > gap
        expected.append((expected[-1] + 1 if expected else 0) if new else expected[-1])
        last = user, minute
    assert sessions(dataset.events.user, dataset.events.timestamp, gap).tolist() == expected


def test_no_sessions_of_nothing():
    assert sessions(np.zeros(0, np.int32), np.zeros(0, np.int64), 30.0).shape == (0,)


def test_short_sessions_are_dropped():
    """Silence of exactly the gap does not end a session; two users never share one."""
    dataset = at([(0, 0), (0, 30), (0, 60), (0, 90.001), (0, 91), (1, 92), (1, 93), (1, 94)])
    cleaned = clean(dataset, DataConfig(min_session_events=3))
    assert (cleaned.events.timestamp / MINUTE).tolist() == [0, 30, 60, 92, 93, 94]
    assert cleaned.notes == (
        "data.min_session_events=3, data.session_gap=30: dropped 2 of 8 events of 3 sessions, "
        "with them 0 users and 2 items",
    )
    assert kept(drop_short_sessions(dataset, 5, session_gap=31)) == kept(dataset)[:5]
    relative = replace(dataset, clock="relative")  # a user's own clock is enough
    assert kept(clean(relative, DataConfig(min_session_events=3))) == kept(cleaned)


def test_sessions_need_times():
    with pytest.raises(DataError, match=r"data\.min_session_events=2 needs timestamps"):
        clean(make([(0, 0), (1, 1)], clock="order"), DataConfig(min_session_events=2))
    with pytest.raises(DataError, match=r"data\.min_session_events=4, data\.session_gap=30 keeps none of 2 events"):
        clean(at([(0, 0), (1, 1)]), DataConfig(min_session_events=4))


def test_domains():
    dataset = make([(0, 0), (0, 1), (1, 0), (1, 1)])
    columns = {"domain": np.array([0, 1, 1, 0], np.int16)}
    dataset = replace(dataset, events=replace(dataset.events, columns=columns), labels={"domain": ("food", "kitchen")})
    assert kept(clean(dataset, DataConfig(domains=("kitchen",)))) == [(0, 1), (1, 0)]
    with pytest.raises(ConfigError, match=r"data\.domains: log has no domain 'kitchn'; did you mean 'kitchen'"):
        clean(dataset, DataConfig(domains=("kitchn",)))
    with pytest.raises(ConfigError, match=r"no column of domains; set data\.columns\.domain or unset data\.domains"):
        clean(make([(0, 0)]), DataConfig(domains=("food",)))


options = st.fixed_dictionaries(
    {
        "duplicates": st.sampled_from(["keep", "first", "last", "consecutive"]),
        "max_user_events": st.none() | st.integers(3, 20),
        "min_user_events": st.integers(1, 3),
        "min_item_events": st.integers(1, 3),
        "min_score": st.none() | st.integers(0, 2),
    }
)


@settings(max_examples=100, deadline=None)
@given(logs, options)
def test_cleaning_only_drops_and_twice_is_once(pairs, chosen):
    dataset = make(pairs, score=[(u + i) % 4 for u, i in pairs])
    config = DataConfig(**chosen)
    try:
        once = clean(dataset, config)
    except DataError as error:
        # Names the step that kept nothing, or says that too little was left, or was there in the first place.
        assert "data." in str(error) or min(dataset.num_users, dataset.num_items) < 2
        return
    assert min(once.num_users, once.num_items) >= 2
    assert not Counter(kept(once)) - Counter(kept(dataset))
    assert (np.diff(once.events.user) >= 0).all()
    # Merging immediate repeats makes new neighbours out of what the k-core leaves; all else is idempotent.
    if chosen["duplicates"] != "consecutive":
        assert kept(clean(once, config)) == kept(once)


# ----------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"since": "1999-01-01"}, "data.since=1999-01-01 keeps none of 3 events (the log reaches from 1970-01-01"),
        ({"min_score": 10}, "data.min_score=10 keeps none of 3 events"),
        ({"max_user_events": 1}, "data.max_user_events=1 keeps none of 3 events"),
        ({"min_user_events": 50, "min_item_events": 2}, "data.min_user_events=50, data.min_item_events=2 keeps none"),
        ({"actions": ("cart",)}, "data.actions=cart keeps none of 3 events"),
    ],
)
def test_the_step_that_empties_a_log_is_named(options, named):
    dataset = make([(0, 0), (0, 1), (0, 2)], score=[1, 2, 3], action=["view", "view", "buy"])
    with pytest.raises(DataError) as caught:
        clean(dataset, DataConfig(**options))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_that_are_none():
    pairs = [(0, 0), (0, 1)]
    with pytest.raises(DataError, match="none of 2 events has a score"):
        clean(make(pairs, score=[np.nan, np.nan]), DataConfig(min_score=1))
    with pytest.raises(DataError, match=r"score of user 0 and item 101 is inf, wanted a finite number"):
        clean(make(pairs, score=[1, np.inf]), DataConfig(min_score=1))
    with pytest.raises(DataError, match="has no score"):
        clean(make(pairs), DataConfig(min_score=1))


def test_an_unknown_action_gets_the_nearest():
    dataset = make([(0, 0), (0, 1)], action=["view", "buy"])
    with pytest.raises(ConfigError, match="no action 'veiw'; did you mean 'view'"):
        clean(dataset, DataConfig(actions=("veiw",)))
    with pytest.raises(ConfigError, match=r"data\.action_weights: log has no action 'byu'; did you mean 'buy'"):
        clean(dataset, DataConfig(action_weights={"byu": 2}))
    with pytest.raises(ConfigError, match="it has view, cart, buy"):
        clean(dataset, DataConfig(actions=("xxxx",)))
    with pytest.raises(ConfigError, match="no column of actions"):
        clean(make([(0, 0)]), DataConfig(actions=("view",)))


def test_weights_that_are_none():
    with pytest.raises(ConfigError, match="view=-1, wanted a number of at least 0"):
        clean(make([(0, 0)], action=["view"]), DataConfig(action_weights={"view": -1}))
    with pytest.raises(ConfigError, match="would weigh 0"):
        clean(make([(0, 0)], action=["view"]), DataConfig(action_weights={"view": 0}))


@pytest.mark.parametrize("clock", ["order", "relative"])
def test_dates_need_a_clock_that_all_share(clock):
    with pytest.raises(DataError, match="need dates"):
        clean(make([(0, 0)], clock=clock), DataConfig(since="2020-01-01"))


@pytest.mark.parametrize("date", ["yesterday", "now", "NaT", "2020-13-01", "", "20"])
def test_dates_that_are_none(date):
    with pytest.raises(ConfigError, match=r"data\.since=.*not a date; write 2024-01-31"):
        clean(make([(0, 0)]), DataConfig(since=date))


def test_one_user_or_one_item_is_too_little():
    with pytest.raises(DataError, match="only 1 user; wanted at least two"):
        clean(make([(0, 0), (0, 1)]), DataConfig())
    with pytest.raises(
        DataError, match=r"only 1 item left \(data\.min_user_events=1, data\.min_item_events=2: dropped 1"
    ):
        clean(make([(0, 0), (1, 0), (1, 1)]), DataConfig(min_item_events=2))


def test_an_empty_log():
    empty = replace(make([(0, 0)]), events=Events(np.zeros(0, np.int32), np.zeros(0, np.int32)))
    with pytest.raises(DataError, match="no events"):
        clean(empty, DataConfig())


@given(st.integers(0, 4_000_000_000_000))
def test_dates_there_and_back(milliseconds):
    assert dates.to_milliseconds(dates.to_text(milliseconds), "x") == milliseconds // 1000 * 1000


def test_dates_of_the_usual_forms():
    assert dates.to_milliseconds("2020", "x") == dates.to_milliseconds("2020-01-01", "x") == 1_577_836_800_000
    assert dates.to_milliseconds("2020-01-01T02:00:00.250+02:00", "x") == 1_577_836_800_250
    assert dates.to_milliseconds("9999-12-31", "x") > 2**47
    assert dates.to_text(1_577_836_800_250) == "2020-01-01 00:00:00"
    assert dates.to_milliseconds("day 1082", "x") == 1082 * DAY == dates.to_milliseconds("1972-12-18", "x")
