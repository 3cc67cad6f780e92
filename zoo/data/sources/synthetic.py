"""The built-in sample: a generated shop with planted structure and one dial, `sample.noise`.

The plan, in numbers (each is a constant below):

* **Goods.** Two domains, grocery and kitchen, of six categories each; category k of one goes with category k of the
  other (coffee with espresso makers). Items come in kits of six of one category, one brand, launched together.
* **Taste.** A user has a favourite of the six category pairs (60 % of his free choices), a second (25 %), and little
  for the rest. Age follows the favourite, gender the second, the `segment` names the favourite in 80 % of cases. With
  `sample.shared_taste` his taste in the kitchen is his taste in the grocery; without, it is drawn anew.
* **Order.** Looks come in sessions (a look opens a new one with chance 1/8), a session stays in one domain. Within a
  session the next look is the complement of the last item (the next of its kit; the last of a kit has none) with chance
  0.85, and otherwise a free choice: category by taste, item by the popularity of the week, mostly (70 %) the first of a
  kit, and not an item already seen, where there is another.
* **Drift.** Two thirds of the kits are there when the shop opens, the others arrive over time, on Mondays (`launched`);
  the popularity of a kit decays by 1/e in 30 days, to a floor of 5 %.
* **Funnel.** A view is followed by a cart more often the better the category suits (chance 4 % + 0.3 × taste), and four
  carts of ten by a purchase, or by a removal (chance 40 % × (1 - satisfaction)). Scores, 1 to 5, rise with taste, with
  the item's quality and with the user's satisfaction; unhappy users leave for good (chance (1 - satisfaction)²).
* **Words.** 16 codes 0..255 describe each item and each search: those of its category, a third replaced at random.

`noise` is the chance that a look is a uniformly random item among those launched, and the chance that it is one event
with an action and a score drawn at random; launches move towards the opening by the same share. At 1 items are
independent and uniform, of equal popularity: nothing can be learned. At 0 the plan rules alone, and `Plan.next_item` is
the oracle.

Hit rate at 10 of the users whose last event is with a new item, seen items out, as tests/test_synthetic.py counts it:

    noise                        0     0.2   0.5   1
    chance                       .05   .05   .05   .05
    popularity                   .10   .10   .08   .05
    cosine of items              .40   .27   .13   .05
    first-order Markov chain     .76   .57   .39   .05
    the oracle                   .85   .65   .45   -
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from config import SampleConfig
from zoo.data.dataset import Dataset, Entities, Events

DOMAINS = ("grocery", "kitchen")
CATEGORIES = (
    ("coffee", "tea", "baking", "pasta", "spices", "breakfast"),
    ("espresso makers", "teapots", "cake tins", "pots", "mills", "toasters"),
)
SEGMENTS = ("baristas", "tea lovers", "bakers", "cooks", "gourmets", "early birds")
TAGS = ("organic", "gift", "classic", "design", "family", "travel", "sale")
ACTIONS = ("view", "cart", "buy", "remove")
VIEW, CART, BUY, REMOVE = range(4)
ALONE = (0.84, 0.1, 0.04, 0.02)  # chance of each action where it is drawn at random

OPENING = 1_704_067_200_000  # Monday 2024-01-01 00:00 UTC, in milliseconds
SECOND, DAY = 1_000, 86_400_000
PAIRS = len(SEGMENTS)
KIT = 6  # items that complement each other, in order
ENTRY = np.array([0.7, 0.1, 0.08, 0.06, 0.04, 0.02])  # where in a kit a free choice enters
TASTE = (0.6, 0.25)  # share of the favourite and of the second category pair
FOLLOW = 0.85  # chance of the complement, within a session
NEW_SESSION = 1 / 8
FADE_DAYS, FLOOR = 30.0, 0.05
CODES = 16
HOME, CATEGORY_PAGE, ITEM_PAGE = 0, 1, 1_000  # urls of page visits: the first of each kind


@dataclass(frozen=True)
class Plan:
    """What was planted: U users, I items, W weeks.

    Attributes:
        category: (I,) 0..11; `category // 6` is the domain and `category % 6` the pair.
        complement: (I,) the item that follows each item; -1 for the last of a kit.
        launched: (I,) day of its launch.
        popularity: (W, I) weight of each item among its category, in free choices; 0 before the launch.
        quality: (I,) what it adds to an item's scores.
        words: (12, 16) codes of each category.
        taste: (U, 2, 6) share of each category in a user's free choices in each domain.
        kitchen: (U,) share of his sessions that go to the second domain.
        satisfaction: (U,) 0..1.
        churned: (U,) True where a user left for good.
        noise: the dial.
    """

    category: np.ndarray
    complement: np.ndarray
    launched: np.ndarray
    popularity: np.ndarray
    quality: np.ndarray
    words: np.ndarray
    taste: np.ndarray
    kitchen: np.ndarray
    satisfaction: np.ndarray
    churned: np.ndarray
    noise: float

    def next_item(self, user: np.ndarray, previous: np.ndarray, week: np.ndarray) -> np.ndarray:
        """(n, I) chance of each item to come after `previous`, of users in weeks (n,), seen items not passed over."""
        sums = np.stack([np.bincount(self.category, weights, 2 * PAIRS) for weights in self.popularity])
        within = self.popularity / np.maximum(sums, 1e-12)[:, self.category]
        stays = (1 - NEW_SESSION) * (1 - self.noise)
        domains = np.stack([1 - self.kitchen, self.kitchen], axis=1)[user] * (1 - stays)
        domains[np.arange(len(user)), self.category[previous] // PAIRS] += stays
        chosen = (domains[:, :, None] * self.taste[user]).reshape(-1, 2 * PAIRS)
        free = chosen[:, self.category] * within[week]
        follows = np.where(self.complement[previous] >= 0, (1 - NEW_SESSION) * FOLLOW, 0.0)
        planned = free * (1 - follows)[:, None]
        rows = np.flatnonzero(follows)
        planned[rows, self.complement[previous[rows]]] += follows[rows]
        present = (self.popularity > 0)[week]
        return self.noise * present / present.sum(axis=1, keepdims=True) + (1 - self.noise) * planned


@dataclass(frozen=True)
class Shop:
    """Everything that happened in the shop.

    Attributes:
        events: views, carts, purchases and removals of items, sorted by user and time, with the columns action,
            domain, score and price.
        searches: user (S,) rows of `users`, timestamp (S,), codes (S, 16) uint8.
        visits: user (P,), timestamp (P,), url (P,) int64: home, a category's page, an item's page.
        users, items: ids and features.
        plan: what was planted.
    """

    events: Events
    searches: dict[str, np.ndarray]
    visits: dict[str, np.ndarray]
    users: Entities
    items: Entities
    plan: Plan


def read(config: SampleConfig, seed: int = 0) -> Dataset:
    """The shop's item events, with all that is known of its users and items."""
    made = shop(config, seed)
    note = f"generated with noise {config.noise:g}, seed {seed}"
    labels = {"action": ACTIONS, "domain": DOMAINS}
    return Dataset(made.events, made.users, made.items, labels=labels, name="sample", notes=(note,))


def shop(config: SampleConfig, seed: int = 0) -> Shop:
    """Generates the shop; the same configuration and seed give the same shop."""
    rng = np.random.default_rng([seed, 0x5407])
    items, goods = _goods(config, rng)
    users, people = _people(config, rng, goods["category"])
    plan = Plan(**goods, **people, noise=config.noise)
    looks = _looks(config, rng, plan)
    item = _items(rng, plan, looks)
    events = _events(rng, plan, looks, item, items.columns["price"])
    searches, visits = _searches_and_visits(rng, plan, looks, item)
    return Shop(events, searches, visits, users, items, plan)


@dataclass(frozen=True)
class _Looks:
    """Looks at items (n,), sorted by user and time; a session begins where `opens`."""

    user: np.ndarray
    opens: np.ndarray
    time: np.ndarray
    week: np.ndarray
    domain: np.ndarray


def _looks(config: SampleConfig, rng: np.random.Generator, plan: Plan) -> _Looks:
    """Who looks how often, and when: sessions at random times between joining and leaving."""
    n = config.num_users
    joined = rng.random(n) * 0.5
    left = np.where(plan.churned, joined + (1 - joined) * rng.uniform(0.3, 0.8, n), 1.0)
    rate = rng.gamma(2.0, size=n) * (left - joined)
    count = 1 + rng.poisson(rate / rate.mean() * (config.events_per_user - 1))
    user = np.repeat(np.arange(n, dtype=np.int32), count)
    first = np.cumsum(count) - count
    opens = rng.random(len(user)) < NEW_SESSION
    opens[first] = True
    session = np.cumsum(opens) - 1
    visitor = user[opens]
    start = joined[visitor] + (left - joined)[visitor] * rng.random(len(visitor))
    start = config.num_days * start[np.lexsort((start, visitor))]
    spent = np.cumsum(rng.integers(30, 120, len(user)))  # counted on from session to session: time never runs back
    spent -= np.repeat(spent[first], count)
    time = OPENING + (start * DAY).astype(np.int64)[session] + spent * SECOND
    domain = (rng.random(len(visitor)) < plan.kitchen[visitor]).astype(np.int64)
    return _Looks(user, opens, time, (start // 7).astype(np.int64)[session], domain[session])


def _events(rng: np.random.Generator, plan: Plan, looks: _Looks, item: np.ndarray, price: np.ndarray) -> Events:
    """What comes of each look: a view, perhaps a cart, perhaps a purchase or a removal; or one random action."""
    user, category = looks.user, plan.category[item]
    signal = rng.random(len(user)) >= plan.noise
    liking = np.where(signal, plan.taste[user, category // PAIRS, category % PAIRS], 1 / PAIRS)
    mood = np.where(signal, plan.satisfaction[user], 0.5)
    stars = 1.5 + 4 * liking + 2 * (mood - 0.5) + plan.quality[item] + rng.normal(0, 0.5, len(user))
    stars = np.where(signal, np.clip(np.rint(stars), 1, 5), rng.integers(1, 6, len(user)))
    carted = signal & (rng.random(len(user)) < 0.04 + 0.3 * liking)
    outcome = rng.random(len(user))
    bought = carted & (outcome > 0.6)
    removed = carted & (outcome < 0.4 * (1 - mood))
    stages = 1 + carted + (bought | removed)
    look = np.repeat(np.arange(len(user)), stages)
    stage = np.arange(len(look)) - np.repeat(np.cumsum(stages) - stages, stages)
    action = np.where(stage < 2, stage, np.where(bought, BUY, REMOVE)[look])
    alone = rng.choice(len(ACTIONS), len(user), p=ALONE)
    columns = {
        "action": np.where(signal[look], action, alone[look]).astype(np.int16),
        "domain": (category // PAIRS)[look].astype(np.int16),
        "score": stars[look].astype(np.float32),
        "price": price[item][look].astype(np.float32),
    }
    return Events(user[look], item[look].astype(np.int32), looks.time[look] + 10 * SECOND * stage, columns)


def _searches_and_visits(rng: np.random.Generator, plan: Plan, looks: _Looks, item: np.ndarray) -> tuple[dict, dict]:
    """A session opens on the home page, half of them with a search for the category of its first item."""
    user, time, category = looks.user, looks.time, plan.category[item]
    first = np.flatnonzero(looks.opens)
    asked = first[rng.random(len(first)) < 0.5]
    codes = _reworded(rng, plan.words[category[asked]])
    searches = {"user": user[asked], "timestamp": time[asked] - 5 * SECOND, "codes": codes}
    page = np.concatenate([np.full(len(first), HOME), CATEGORY_PAGE + category[first], ITEM_PAGE + item])
    at = np.concatenate([time[first] - 8 * SECOND, time[first] - 3 * SECOND, time])
    who = np.concatenate([user[first], user[first], user])
    order = np.lexsort((at, who))
    return searches, {"user": who[order], "timestamp": at[order], "url": page[order]}


def _goods(config: SampleConfig, rng: np.random.Generator) -> tuple[Entities, dict]:
    """Items with their features, and what the plan says of them."""
    count = config.num_items
    index = np.arange(count)
    kit, place = index // KIT, index % KIT
    kits = int(kit[-1]) + 1
    kit_category = np.arange(kits) * 7 % (2 * PAIRS)  # 7 and 12 have no common factor: the domains take turns
    category = kit_category[kit]
    complement = np.where((place < KIT - 1) & (index + 1 < count), index + 1, -1)
    there = np.arange(kits) < max(2 * PAIRS, 2 * kits // 3)  # at the opening: at least a kit of every category
    day = np.where(there, -60.0, 0.9 * config.num_days) * rng.random(kits) * (1 - config.noise)
    launched = (7 * np.floor(day / 7))[kit]
    weeks = -(-config.num_days // 7)
    age = 7 * np.arange(weeks)[:, None] - launched[None, :]
    fame = rng.lognormal(0.0, 1.0, kits)[kit] * ENTRY[place]
    popularity = np.where(age >= 0, (FLOOR + np.exp(-np.maximum(age, 0) / FADE_DAYS)) * fame, 0.0)
    quality = rng.normal(0, 0.4, count)
    price = np.round(np.where(category // PAIRS, 40.0, 6.0) * rng.lognormal(0, 0.5, count), 2)
    words = rng.integers(0, 256, (2 * PAIRS, CODES)).astype(np.uint8)
    kinds = np.array([kind for domain in CATEGORIES for kind in domain], object)
    houses = zip(kinds[kit_category], rng.integers(1, 4, kits), strict=True)
    brand = np.array([f"{kind} house {number}" for kind, number in houses], object)[kit]
    names = kinds[category]
    tagged = rng.random((count, len(TAGS))) < 0.25
    tagged[index, category % len(TAGS)] = True
    tags = np.empty(count, object)
    tags[:] = [[TAGS[t] for t in np.flatnonzero(row)] for row in tagged]
    title = np.array([f"{name} no. {k} part {p}" for name, k, p in zip(names, kit, place + 1, strict=True)], object)
    columns = {
        "category": names,
        "brand": brand,
        "price": price,
        "launched": launched,
        "tags": tags,
        "title": title,
        "codes": _reworded(rng, words[category]),
    }
    return Entities(1_000 + index, columns), {
        "category": category,
        "complement": complement,
        "launched": launched,
        "popularity": popularity,
        "quality": quality,
        "words": words,
    }


def _people(config: SampleConfig, rng: np.random.Generator, category: np.ndarray) -> tuple[Entities, dict]:
    """Users with their features, and what the plan says of them; nobody likes a category without items."""
    n = config.num_users
    ranking = rng.permuted(np.tile(np.arange(PAIRS), (n, 2, 1)), axis=2)
    if config.shared_taste:
        ranking[:, 1] = ranking[:, 0]
    taste = np.full((n, 2, PAIRS), (1 - sum(TASTE)) / (PAIRS - len(TASTE)))
    np.put_along_axis(taste, ranking[:, :, :2], np.array(TASTE), axis=2)
    favourite, second = ranking[:, 0, 0], ranking[:, 0, 1]
    age = np.clip(np.rint(rng.normal(22 + 9 * favourite, 5)), 16, 90)
    age[rng.random(n) < 0.05] = np.nan
    gender = np.where(rng.random(n) < np.where(second % 2, 0.8, 0.2), "F", "M").astype(object)
    gender[rng.random(n) < 0.05] = None
    segment = np.where(rng.random(n) < 0.8, favourite, rng.integers(0, PAIRS, n))
    columns = {"age": age, "gender": gender, "segment": np.array(SEGMENTS, object)[segment]}
    available = np.bincount(category, minlength=2 * PAIRS).reshape(2, PAIRS) > 0
    taste *= available
    satisfaction = rng.random(n)
    return Entities(1 + np.arange(n), columns), {
        "taste": taste / np.maximum(taste.sum(axis=2, keepdims=True), 1e-12),
        "kitchen": rng.beta(4, 4, n) * available[1].any(),
        "satisfaction": satisfaction,
        "churned": rng.random(n) < (1 - satisfaction) ** 2,
    }


def _items(rng: np.random.Generator, plan: Plan, looks: _Looks) -> np.ndarray:
    """(n,) the item of each look: noise, the complement of the last item, or a free choice."""
    user, week, popularity = looks.user, looks.week, plan.popularity
    number = popularity.shape[1]
    order = np.argsort(plan.category, kind="stable")
    mass = np.concatenate([[0.0], np.cumsum(popularity[:, order])])
    bounds = np.searchsorted(plan.category[order], np.arange(2 * PAIRS + 1))
    likes = np.cumsum(plan.taste, axis=2)
    likes[:, :, -1] = 1.0

    def choose(rows: np.ndarray) -> np.ndarray:
        """Free choices: a category by taste, an item of it by the popularity of the week."""
        drawn = rng.random(len(rows))[:, None]
        kind = looks.domain[rows] * PAIRS + (drawn >= likes[user[rows], looks.domain[rows]]).sum(axis=1)
        low, high = week[rows] * number + bounds[kind], week[rows] * number + bounds[kind + 1]
        at = mass[low] + rng.random(len(rows)) * (mass[high] - mass[low])
        return order[np.clip(np.searchsorted(mass, at, side="right") - 1, low, high - 1) % number]

    launch_order = np.argsort(-(popularity > 0).sum(axis=0), kind="stable")
    present = (popularity > 0).sum(axis=1)
    random = rng.random(len(user)) < plan.noise
    chosen = np.where(random, launch_order[rng.integers(0, present[week])], choose(np.arange(len(user))))
    follows = ~random & ~looks.opens & (rng.random(len(user)) < FOLLOW)
    item, free = _followed(chosen, follows, plan.complement)
    for _ in range(10):  # each time, free choices of what was seen before are made again
        seen = np.ones(len(user), bool)
        seen[np.unique(user * np.int64(number) + item, return_index=True)[1]] = False
        again = np.flatnonzero(seen & free & ~random)
        if not len(again):
            break
        chosen[again] = choose(again)
        item, free = _followed(chosen, follows, plan.complement)
    return item


def _followed(chosen: np.ndarray, follows: np.ndarray, complement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items, where each look that follows takes the complement of the item before it, if that has one.

    Returns:
        the items, and where they are the chosen ones.
    """
    item = chosen.copy()
    place = np.arange(len(item))
    run = place - np.maximum.accumulate(np.where(follows, 0, place))  # looks since the last one that did not follow
    order = np.argsort(run, kind="stable")
    free = ~follows
    for start, end in pairwise(np.searchsorted(run[order], np.arange(1, run.max(initial=0) + 2))):
        rows = order[start:end]
        following = complement[item[rows - 1]]
        item[rows] = np.where(following >= 0, following, chosen[rows])
        free[rows] = following < 0
    return item, free


def _reworded(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Codes of which a third is replaced at random."""
    other = rng.integers(0, 256, codes.shape).astype(np.uint8)
    return np.where(rng.random(codes.shape) < 1 / 3, other, codes)
