"""Every event has its part; the parts are what brute force says; mistakes are named."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from random_datasets import dataset_of, datasets

from config import ConfigError, SplitConfig
from zoo.data import splits
from zoo.data.dataset import DataError
from zoo.data.splits import (
    DROPPED,
    TEST,
    TEST_CONTEXT,
    TRAIN,
    VALIDATION,
    VALIDATION_CONTEXT,
    by_user,
    everything,
    leave_one_out,
    split,
    temporal,
)

DAY = 86_400_000


def parts_by_user(result: splits.Split) -> dict[int, list[int]]:
    parts: dict[int, list[int]] = {}
    for user, part in zip(result.dataset.events.user.tolist(), result.part.tolist(), strict=True):
        parts.setdefault(user, []).append(part)
    return parts


@given(datasets())
def test_leave_one_out_takes_the_last_two(dataset):
    for parts in parts_by_user(leave_one_out(dataset)).values():
        expected = [TRAIN] * len(parts)
        if len(parts) >= 3:
            expected[-2:] = [VALIDATION, TEST]
        assert parts == expected


def test_leave_one_out_says_who_is_too_short():
    result = leave_one_out(dataset_of([(0, 0, t) for t in range(3)] + [(1, 0, 0), (2, 0, 0), (2, 1, 1)], 4, 2))
    assert result.notes == ("2 users with fewer than 3 events are trained on but not tested",)
    assert result.users("test").tolist() == result.users("validation").tolist() == [0]


def test_ties_of_time_keep_the_order_of_the_file():
    result = leave_one_out(dataset_of([(0, item, 5) for item in (3, 1, 2)], 1, 4))
    assert result.events(TRAIN).item.tolist() == [3]
    assert result.events(VALIDATION).item.tolist() == [1]
    assert result.events(TEST).item.tolist() == [2]


@given(datasets(min_events=1), st.integers(-1, 13), st.integers(1, 13))
def test_temporal_cuts_at_its_dates(dataset, first, gap):
    events = dataclasses.replace(dataset.events, timestamp=dataset.events.timestamp * DAY)
    dataset = dataclasses.replace(dataset, events=events)
    dates = [str(np.datetime64("1970-01-01") + days) for days in (first, first + gap)]
    result = temporal(dataset, SplitConfig(strategy="temporal", validation_from=dates[0], test_from=dates[1]))
    for time, part in zip((events.timestamp // DAY).tolist(), result.part.tolist(), strict=True):
        assert part == (TRAIN if time < first else VALIDATION if time < first + gap else TEST)


@given(datasets(min_events=4), st.floats(0.05, 0.45))
def test_temporal_never_trains_on_what_comes_later(dataset, fraction):
    try:
        result = temporal(dataset, SplitConfig(strategy="temporal", fraction=fraction))
    except DataError as error:
        assert "too many events at" in str(error)
        return
    time = dataset.events.timestamp
    in_order = [time[result.part == part] for part in (TRAIN, VALIDATION, TEST)]
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        if len(in_order[earlier]) and len(in_order[later]):
            assert in_order[earlier].max() < in_order[later].min()


def test_temporal_defaults_are_shares_of_events():
    dataset = dataset_of([(user, 0, 1000 * user) for user in range(100)], 100, 1)
    result = temporal(dataset, SplitConfig(strategy="temporal", fraction=0.2))
    assert [result.count(part) for part in (TRAIN, VALIDATION, TEST)] == pytest.approx([60, 20, 20], abs=1)


def test_temporal_counts_users_ranked_from_nothing():
    dataset = dataset_of([(0, 0, 0), (0, 0, 2 * DAY), (1, 0, 2 * DAY), (1, 0, 4 * DAY), (2, 0, 4 * DAY)], 3, 1)
    config = SplitConfig(strategy="temporal", validation_from="1970-01-02", test_from="1970-01-04")
    notes = temporal(dataset, config).notes
    assert notes[1:] == (
        "1 users of the validation part have no earlier event; they are ranked from nothing",
        "1 users of the test part have no earlier event; they are ranked from nothing",
    )


@pytest.mark.parametrize(
    ("dates", "words"),
    [
        (("1970-01-05", "1970-01-02"), "must lie before"),
        (("1970-01-05", "1970-01-05"), "must lie before"),
        (("soon", "1970-01-05"), "split.validation_from='soon': not a date"),
        (("1970-01-02", "1970-13-05"), "split.test_from='1970-13-05': not a date"),
    ],
)
def test_dates_that_cannot_be(dates, words):
    dataset = dataset_of([(0, 0, day * DAY) for day in range(9)], 1, 1)
    with pytest.raises(ConfigError) as caught:
        temporal(dataset, SplitConfig(strategy="temporal", validation_from=dates[0], test_from=dates[1]))
    assert words in str(caught.value)


def test_dates_may_bear_a_zone():
    dataset = dataset_of([(0, 0, hour * 3_600_000) for hour in range(24)], 1, 1)
    config = SplitConfig(strategy="temporal", validation_from="1970-01-01T12:00+02:00", test_from="1970-01-01T20:00")
    assert temporal(dataset, config).count(TRAIN) == 10


@pytest.mark.parametrize("clock", ["relative", "order"])
def test_temporal_needs_one_clock(clock):
    dataset = dataset_of([(0, 0, 1), (0, 0, 2), (0, 0, 3)], 1, 1, clock=clock)
    if clock == "order":
        dataset = dataclasses.replace(dataset, events=dataclasses.replace(dataset.events, timestamp=None))
    with pytest.raises(DataError, match=r"needs timestamps.*leave_one_out"):
        split(dataset, SplitConfig(strategy="temporal"))


def test_all_at_one_moment_cannot_be_cut():
    with pytest.raises(DataError, match="too many events at 1970-01-01"):
        split(dataset_of([(0, 0, 7)] * 9, 1, 1), SplitConfig(strategy="temporal"))


@given(datasets(min_events=8), st.floats(0.05, 0.45), st.integers(0, 5))
def test_by_user_never_trains_on_a_tested_user(dataset, fraction, seed):
    counts = np.bincount(dataset.events.user)
    assume((counts >= 2).sum() >= 3)
    try:
        result = by_user(dataset, fraction, seed)
    except DataError:
        eligible = (counts >= 2).sum()
        assert eligible < 2 * max(1, round(eligible * fraction)) + 1
        return
    kinds = []
    for parts in parts_by_user(result).values():
        if TRAIN in parts:
            assert set(parts) == {TRAIN}
            continue
        target, context = (TEST, TEST_CONTEXT) if TEST in parts else (VALIDATION, VALIDATION_CONTEXT)
        assert parts == [context] * (len(parts) - 1) + [target]
        assert len(parts) >= 2
        kinds.append(target)
    assert kinds.count(TEST) == kinds.count(VALIDATION) >= 1
    assert np.array_equal(result.part, by_user(dataset, fraction, seed).part)


@given(datasets(min_events=12))
def test_by_user_may_aim_at_all_events_but_the_first(dataset):
    assume((np.bincount(dataset.events.user) >= 2).sum() >= 3)
    last, rolling = by_user(dataset, 0.1, 0), split(dataset, SplitConfig(strategy="by_user", targets="all"))
    assert rolling.rolling and not last.rolling
    for mine, all_of_mine in zip(parts_by_user(last).values(), parts_by_user(rolling).values(), strict=True):
        if mine[-1] in (VALIDATION, TEST):
            assert all_of_mine == [mine[0]] + [mine[-1]] * (len(mine) - 1)
        else:
            assert all_of_mine == mine


def test_by_user_is_drawn_by_the_seed():
    dataset = dataset_of([(user, 0, t) for user in range(50) for t in range(2)], 50, 1)
    assert not np.array_equal(by_user(dataset, 0.2, 0).part, by_user(dataset, 0.2, 1).part)


@pytest.mark.parametrize("strategy", ["leave_one_out", "temporal", "by_user"])
@pytest.mark.parametrize("events", [[], [(0, 0, 1)], [(0, 0, 1), (0, 0, 2)], [(0, 0, 1), (1, 0, 2)]])
def test_too_little_to_split(strategy, events):
    with pytest.raises(DataError) as caught:
        split(dataset_of(events, 2, 1), SplitConfig(strategy=strategy))
    assert "\n" not in str(caught.value)


def test_one_user_is_enough_to_leave_one_out():
    result = split(dataset_of([(0, 0, 1), (0, 1, 2), (0, 0, 3)], 1, 2), SplitConfig())
    assert result.part.tolist() == [TRAIN, VALIDATION, TEST]


def test_everything_is_trained_on():
    result = everything(dataset_of([(0, 0, 1), (1, 0, 2)], 2, 1))
    assert result.part.tolist() == [TRAIN, TRAIN]
    assert len(result.users("test")) == 0


def test_the_fingerprint_sees_events_columns_ids_and_parts():
    dataset = dataset_of([(0, 0, 1), (0, 1, 2), (0, 0, 3), (1, 1, 1)], 2, 2)
    events = dataset.events
    item = events.item.copy()
    item[0] = 1
    others = [
        dataclasses.replace(dataset, events=dataclasses.replace(events, item=item)),
        dataclasses.replace(dataset, events=dataclasses.replace(events, timestamp=events.timestamp + 1)),
        dataclasses.replace(dataset, events=dataclasses.replace(events, timestamp=None)),
        dataclasses.replace(dataset, events=dataclasses.replace(events, columns={})),
        dataclasses.replace(dataset, users=dataclasses.replace(dataset.users, ids=np.array([10, 21]))),
        dataclasses.replace(dataset, labels={"action": ("view",)}),
    ]
    prints = [leave_one_out(d).sha256 for d in (dataset, *others)] + [everything(dataset).sha256]
    assert len(set(prints)) == len(prints)
    assert leave_one_out(dataset).sha256 == prints[0]
    assert prints[0][:12] in leave_one_out(dataset).summary()


# --------------------------------------------------------------------------------------- targets of some actions alone

ACTIONS = ("view", "cart", "buy")


@st.composite
def shops(draw):
    """Events with actions, of a few users."""
    dataset = draw(datasets(min_events=4))
    actions = draw(st.lists(st.integers(0, 2), min_size=len(dataset.events), max_size=len(dataset.events)))
    columns = {**dataset.events.columns, "action": np.array(actions, np.int16)}
    return dataclasses.replace(
        dataset, events=dataclasses.replace(dataset.events, columns=columns), labels={"action": ACTIONS}
    )


def split_or_none(dataset, **options):
    try:
        return split(dataset, SplitConfig(**options))
    except DataError:
        return None


@given(shops(), st.sampled_from([("buy",), ("cart", "buy")]))
def test_leave_one_out_aims_at_the_last_two_of_these_actions(dataset, wanted):
    result = split_or_none(dataset, target_actions=wanted)
    if result is None:
        return
    names = np.array(ACTIONS)[dataset.events.columns["action"]]
    for user, parts in parts_by_user(result).items():
        aimed = [place for place, name in enumerate(names[dataset.events.user == user]) if name in wanted]
        if len(aimed) < 2 or aimed[-2] == 0:
            assert set(parts) == {TRAIN}
            continue
        before, last = aimed[-2:]
        between, after = last - before - 1, len(parts) - last - 1
        expected = [TRAIN] * before + [VALIDATION] + [TEST_CONTEXT] * between + [TEST] + [DROPPED] * after
        assert parts == expected


@given(shops())
def test_all_actions_are_the_same_as_none_named(dataset):
    for options in (
        {"strategy": "leave_one_out"},
        {"strategy": "temporal", "fraction": 0.3},
        {"strategy": "by_user", "fraction": 0.3},
        {"strategy": "by_user", "fraction": 0.3, "targets": "all"},
    ):
        plain, named = (split_or_none(dataset, **options, target_actions=actions) for actions in (None, ACTIONS))
        assert (plain is None) == (named is None)
        if plain is not None:
            assert np.array_equal(plain.part, named.part)


@given(shops())
def test_temporal_keeps_the_other_actions_of_the_validation_as_context_of_the_test(dataset):
    plain = split_or_none(dataset, strategy="temporal", fraction=0.3)
    aimed = split_or_none(dataset, strategy="temporal", fraction=0.3, target_actions=("buy",))
    if aimed is None:
        return
    other = {TRAIN: TRAIN, VALIDATION: TEST_CONTEXT, TEST: DROPPED}
    for action, was, part in zip(dataset.events.columns["action"], plain.part, aimed.part, strict=True):
        assert part == (was if ACTIONS[action] == "buy" else other[was])


@given(shops(), st.sampled_from(["last", "all"]))
def test_by_user_aims_at_these_actions(dataset, targets):
    result = split_or_none(dataset, strategy="by_user", fraction=0.3, targets=targets, target_actions=("buy",))
    if result is None:
        return
    buys = dataset.events.columns["action"] == ACTIONS.index("buy")
    for user, parts in parts_by_user(result).items():
        aimed = [place for place, buy in enumerate(buys[dataset.events.user == user]) if buy and place]
        if TRAIN in parts:
            assert set(parts) == {TRAIN}
            continue
        found = [place for place, part in enumerate(parts) if part in (VALIDATION, TEST)]
        assert found == (aimed if targets == "all" else aimed[-1:])
        context = {VALIDATION: VALIDATION_CONTEXT, TEST: TEST_CONTEXT}[parts[found[-1]]]
        assert {part for place, part in enumerate(parts[: found[-1]]) if place not in found} <= {context}
        assert set(parts[found[-1] + 1 :]) <= {DROPPED}


def test_an_action_that_is_not_there_is_refused():
    dataset = dataset_of([(0, 0, t) for t in range(4)], 1, 1)
    with pytest.raises(ConfigError, match=r"split.target_actions: .* has no column of actions"):
        split(dataset, SplitConfig(target_actions=("buy",)))
    events = dataclasses.replace(dataset.events, columns={"action": np.zeros(4, np.int16)})
    shop = dataclasses.replace(dataset, events=events, labels={"action": ("view", "buy")})
    with pytest.raises(ConfigError, match=r"split.target_actions: .* has no action 'buys'; did you mean 'buy'"):
        split(shop, SplitConfig(target_actions=("buys",)))
    with pytest.raises(DataError, match="leaves no validation event"):
        split(shop, SplitConfig(target_actions=("buy",)))
