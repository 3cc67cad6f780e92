"""The generated shop shows the plan it documents, and nothing at all at noise 1."""

import time

import numpy as np
import pytest

from config import SampleConfig
from zoo.data import splits
from zoo.data.catalogue import prepare
from zoo.data.sources import synthetic
from zoo.data.sources.synthetic import BUY, CART, DAY, OPENING, REMOVE, VIEW, read, shop


def hit_rates(noise: float, seed: int = 0, k: int = 10, **sample) -> dict[str, float]:
    """HR@k of the users whose target is new to them, seen items out, ties lose, of scorers written here in NumPy.

    `chance` is what random scores reach, `users` how many they are.
    """
    config = SampleConfig(noise=noise, **sample)
    prepared = prepare(splits.leave_one_out(read(config, seed)))
    histories, targets = prepared.cases("test")
    train, count, size = prepared.train, len(histories), prepared.catalogue.items.size
    popularity = np.tile(prepared.catalogue.item_counts.astype(float), (count, 1))

    def incidence(of):
        matrix = np.zeros((len(of), size))
        matrix[of.row_of_event, of.item] = 1
        return matrix

    together = incidence(train).T @ incidence(train)
    norm = np.sqrt(np.maximum(np.diag(together), 1))
    cosine = together / norm[:, None] / norm
    np.fill_diagonal(cosine, 0)
    seen = incidence(histories)
    neighbours = seen @ cosine
    follows = np.zeros((size, size))
    same = train.row_of_event[1:] == train.row_of_event[:-1]
    np.add.at(follows, (train.item[:-1][same], train.item[1:][same]), 1)
    last = histories.item[histories.offsets[1:] - 1]
    markov = follows[last] / np.maximum(follows.sum(1), 1)[last, None] + 1e-3 * neighbours
    plan = shop(config, seed).plan
    row_of = np.zeros(size, np.int64)
    row_of[prepared.item_token] = np.arange(len(prepared.item_token))
    week = np.minimum((targets.timestamp - OPENING) // (7 * DAY), len(plan.popularity) - 1)
    oracle = np.zeros((count, size))
    oracle[:, prepared.item_token] = plan.next_item(prepared.split.users("test"), row_of[last], week)

    def hit_rate(scores):
        target = scores[np.arange(count), targets.item].copy()
        scores = np.where(seen > 0, -np.inf, scores)
        scores[:, :3] = -np.inf
        return float(np.mean((scores >= target[:, None]).sum(1)[new] <= k))

    new = seen[np.arange(count), targets.item] == 0
    chance = float(np.mean(k / (config.num_items - seen[new].sum(1))))
    return {"chance": chance, "users": int(new.sum())} | {
        name: hit_rate(scores)
        for name, scores in (
            ("popularity", popularity),
            ("neighbours", neighbours),
            ("markov", markov),
            ("oracle", oracle),
        )
    }


def test_the_same_seed_gives_the_same_shop():
    assert read(SampleConfig(), 3).sha256() == read(SampleConfig(), 3).sha256()
    assert read(SampleConfig(), 3).sha256() != read(SampleConfig(), 4).sha256()


def test_events_are_sorted_well_typed_and_inside_the_period():
    made = shop(SampleConfig())
    events = made.events
    pairs = list(zip(events.user.tolist(), events.timestamp.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert events.user.dtype == events.item.dtype == np.int32
    assert events.timestamp.dtype == np.int64
    assert {name: column.dtype.name for name, column in events.columns.items()} == {
        "action": "int16",
        "domain": "int16",
        "score": "float32",
        "price": "float32",
    }
    assert set(events.columns["score"].tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert events.timestamp.min() >= OPENING
    assert events.timestamp.max() < OPENING + 121 * DAY
    assert len(np.unique(events.user)) == 600  # everybody looked at least once


def test_the_funnel_goes_in_order():
    events = shop(SampleConfig(noise=0)).events
    action, item = events.columns["action"].tolist(), events.item.tolist()
    before = {CART: {VIEW}, BUY: {CART}, REMOVE: {CART}}
    for row, code in enumerate(action):
        if code in before:
            assert action[row - 1] in before[code]
            assert (events.user[row - 1], item[row - 1]) == (events.user[row], item[row])
    assert action.count(VIEW) > 5 * action.count(CART) > 10 * action.count(BUY) > 10 * action.count(REMOVE) > 0


def test_read_gives_the_events_of_the_shop():
    made, dataset = shop(SampleConfig(), 1), read(SampleConfig(), 1)
    assert np.array_equal(dataset.events.item, made.events.item)
    assert dataset.labels["action"][BUY] == "buy"
    assert len(dataset.labels["domain"]) == 2
    assert 18_000 < len(dataset.events) < 24_000


def test_nothing_is_looked_at_before_its_launch():
    for noise in (0.0, 0.5, 1.0):
        made = shop(SampleConfig(noise=noise))
        day = (made.events.timestamp - OPENING) / DAY
        assert (day >= made.plan.launched[made.events.item]).all()
    assert (made.plan.launched == 0).all()  # with no structure there is no drift


def test_complements_follow_each_other():
    plan, dataset = shop(SampleConfig(noise=0)).plan, read(SampleConfig(noise=0))
    events = dataset.events.take(dataset.events.columns["action"] == VIEW)
    chances, kept = 0, 0
    seen: set[int] = set()
    for row in range(len(events)):
        before = int(events.item[row - 1]) if row and events.user[row - 1] == events.user[row] else -1
        seen = seen if before >= 0 else set()
        follower = int(plan.complement[before]) if before >= 0 else -1
        if follower >= 0 and follower not in seen:
            chances += 1
            kept += int(events.item[row] == follower)
        seen.add(int(events.item[row]))
    assert kept / chances == pytest.approx((1 - synthetic.NEW_SESSION) * synthetic.FOLLOW, abs=0.03)
    pairs = np.flatnonzero(plan.complement >= 0)
    assert (plan.category[pairs] == plan.category[plan.complement[pairs]]).all()
    assert (plan.launched[pairs] == plan.launched[plan.complement[pairs]]).all()


def test_taste_is_shared_between_domains_unless_asked_otherwise():
    shared, unshared = shop(SampleConfig()).plan.taste, shop(SampleConfig(shared_taste=False)).plan.taste
    assert np.array_equal(shared[:, 0], shared[:, 1])
    agree = (unshared[:, 0].argmax(1) == unshared[:, 1].argmax(1)).mean()
    assert abs(agree - 1 / 6) < 0.06
    assert np.allclose(shared.sum(2), 1)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_outcomes_follow_taste_and_satisfaction_only_without_noise(noise):
    made = shop(SampleConfig(noise=noise, num_users=1500))
    user, item, plan = made.events.user, made.events.item, made.plan
    liking = plan.taste[user, plan.category[item] // 6, plan.category[item] % 6]
    score, action = made.events.columns["score"], made.events.columns["action"]
    views = action == VIEW
    happy = plan.satisfaction[user] > 0.5
    taste_gap = score[views & (liking > 0.5)].mean() - score[views & (liking < 0.1)].mean()
    removal_gap = (action[~happy] == REMOVE).mean() - (action[happy] == REMOVE).mean()
    stay_gap = plan.churned[plan.satisfaction < 0.3].mean() - plan.churned[plan.satisfaction > 0.7].mean()
    if noise:
        assert abs(taste_gap) < 0.1
        assert abs(removal_gap) < 0.01
    else:
        assert taste_gap > 1
        assert removal_gap > 0.02
        assert stay_gap > 0.4


def test_users_who_churned_fall_silent():
    made = shop(SampleConfig())
    last = np.zeros(600, np.int64)
    np.maximum.at(last, made.events.user, made.events.timestamp)
    silence = OPENING + 120 * DAY - last
    assert np.median(silence[made.plan.churned]) > 3 * np.median(silence[~made.plan.churned])


def test_popularity_drifts():
    events = read(SampleConfig(noise=0)).events
    early = events.timestamp < np.quantile(events.timestamp, 0.3)
    late = events.timestamp > np.quantile(events.timestamp, 0.7)
    counts = [np.bincount(events.item[part], minlength=240) for part in (early, late)]
    assert np.corrcoef(*counts)[0, 1] < 0.5


def test_searches_and_visits_speak_of_what_is_looked_at():
    made = shop(SampleConfig(noise=0))
    assert made.searches["codes"].shape == (len(made.searches["user"]), synthetic.CODES)
    assert made.searches["codes"].dtype == np.uint8
    item_pages = np.sort(made.visits["url"][made.visits["url"] >= synthetic.ITEM_PAGE] - synthetic.ITEM_PAGE)
    looked_at = np.sort(made.events.item[made.events.columns["action"] == VIEW])  # with no noise
    assert np.array_equal(item_pages, looked_at)
    codes, category = made.items.columns["codes"], made.plan.category
    same = (codes[:, None] == codes[None]).mean(2)
    alike = category[:, None] == category[None]
    np.fill_diagonal(alike, False)
    assert same[alike].mean() > 0.35 > 0.02 > same[category[:, None] != category[None]].mean()


def test_features_predict_taste():
    made = shop(SampleConfig())
    favourite = made.plan.taste[:, 0].argmax(1)
    segment = np.array([synthetic.SEGMENTS.index(name) for name in made.users.columns["segment"]])
    assert (segment == favourite).mean() > 0.75
    age = made.users.columns["age"]
    known = np.isfinite(age)
    assert 0.9 < known.mean() < 1
    assert np.corrcoef(age[known], favourite[known])[0, 1] > 0.8


def test_order_beats_taste_beats_popularity():
    rates = hit_rates(0.2)
    assert rates["popularity"] < 0.15
    assert rates["neighbours"] > 1.4 * rates["popularity"]
    assert rates["markov"] > 1.5 * rates["neighbours"]
    assert rates["oracle"] > rates["markov"]


def test_the_plan_alone_goes_far_without_noise():
    rates = hit_rates(0.0)
    assert rates["oracle"] > 0.75
    assert rates["oracle"] > 4 * rates["popularity"]


def test_pure_noise_teaches_nothing():
    config = SampleConfig(noise=1.0, num_users=2000)
    dataset = read(config)
    counts = np.bincount(dataset.events.item, minlength=240)
    expected = len(dataset.events) / 240
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 239) < 5 * np.sqrt(2 * 239)
    rates = hit_rates(1.0, num_users=2000)
    spread = np.sqrt(rates["chance"] / rates["users"])
    for name in ("popularity", "neighbours", "markov"):
        assert abs(rates[name] - rates["chance"]) < 4 * spread, name


def test_the_oracle_states_probabilities():
    plan = shop(SampleConfig(noise=0.3)).plan
    rng = np.random.default_rng(0)
    chances = plan.next_item(rng.integers(0, 600, 50), rng.integers(0, 240, 50), rng.integers(0, 18, 50))
    assert np.allclose(chances.sum(1), 1)
    assert chances.min() >= 0


@pytest.mark.parametrize(
    "sample",
    [
        {"num_users": 1},
        {"num_items": 2},
        {"num_items": 7},
        {"num_items": 13, "noise": 1.0},
        {"num_days": 2},
        {"events_per_user": 1},
        {"num_users": 2, "events_per_user": 3000, "num_items": 3},
    ],
)
def test_small_shops(sample):
    config = SampleConfig(**sample)
    made = shop(config)
    assert made.events.item.max() < config.num_items
    assert len(made.items) == config.num_items
    assert all(len(column) == config.num_items for column in made.items.columns.values())
    order = np.lexsort((made.events.timestamp, made.events.user))
    assert np.array_equal(order, np.arange(len(order)))


def test_the_default_shop_is_quick_and_a_million_events_take_seconds():
    start = time.perf_counter()
    read(SampleConfig())
    assert time.perf_counter() - start < 1
    start = time.perf_counter()
    large = read(SampleConfig(num_users=25_000, num_items=10_000, events_per_user=40))
    assert len(large.events) > 900_000
    assert time.perf_counter() - start < 20
