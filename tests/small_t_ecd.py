"""A small copy of T-ECD: its folders, files, columns, types and oddities, with an order of items to be learned.

`python -m tests.small_t_ecd FOLDER` writes one.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

DAYS = range(1080, 1094)  # two days more than the study's on either side
SHOPS = {"retail": ("fmcg", 60), "marketplace": ("nfmcg", 90)}  # prefix of item ids, number of items
ACTIONS = {"retail": ("view", "added-to-cart", "click"), "marketplace": ("view", "click", "clickout", "like")}
SUBDOMAINS = {"retail": ("catalog", "search", "cart"), "marketplace": ("u2i", "catalog", None)}
BOT = 7  # the user who never sleeps
NS_PER_DAY = 86_400_000_000_000


def write(folder: Path, users: int = 250, bot_events: int = 2_000, unit: str = "ns", seed: int = 0) -> pd.DataFrame:
    """Writes the folder; returns its shop events in order of their time.

    Within a session an item is followed by the next one of its shop (chance .6), or by itself (.2). Sessions are of
    one to eight events. Views are 9 of 10.
    """
    random = np.random.default_rng(seed)
    events = pd.concat([_sessions(random, users), _bot(random, bot_events)], ignore_index=True)
    events = events.sort_values("nanoseconds", kind="stable", ignore_index=True)
    _entities(folder, random, users)
    for shop in SHOPS:
        mine = events[events["domain"] == shop]
        columns = ["nanoseconds", "user_id", "item_id", "subdomain", "action_type", "os"]
        _partition(folder / shop / "events", mine[columns], unit)
    _receipts(folder, random, users, unit)
    return events


def _sessions(random: np.random.Generator, users: int) -> pd.DataFrame:
    rows = []
    for user in range(100, 100 + users):
        for _ in range(random.integers(1, 6)):
            shop = "retail" if random.random() < 0.4 else "marketplace"
            prefix, size = SHOPS[shop]
            time = DAYS[0] * NS_PER_DAY + int(random.integers(0, len(DAYS) * NS_PER_DAY - NS_PER_DAY // 12))
            item = int(size * random.random() ** 2)
            for _ in range(random.integers(1, 9)):
                action = "view" if random.random() < 0.9 else str(random.choice(ACTIONS[shop][1:]))
                subdomain = SUBDOMAINS[shop][random.integers(3)]
                rows.append((time, user, f"{prefix}_{item}", subdomain, action, "ios", shop))
                time += int(random.integers(1, 10 * 60)) * 1_000_000_000 + 123_456_789
                chance = random.random()
                item = (item + 1) % size if chance < 0.6 else item if chance < 0.8 else int(random.integers(size))
    columns = ["nanoseconds", "user_id", "item_id", "subdomain", "action_type", "os", "domain"]
    return pd.DataFrame(rows, columns=columns)


def _bot(random: np.random.Generator, count: int) -> pd.DataFrame:
    """One user who opens something every few seconds, on all days."""
    shop = random.choice(list(SHOPS), count)
    item = random.integers(0, 60, count)
    return pd.DataFrame(
        {
            "nanoseconds": DAYS[0] * NS_PER_DAY + np.sort(random.integers(0, len(DAYS) * NS_PER_DAY, count)),
            "user_id": BOT,
            "item_id": [f"{SHOPS[one][0]}_{number}" for one, number in zip(shop, item, strict=True)],
            "subdomain": "search",
            "action_type": "view",
            "os": None,
            "domain": shop,
        }
    )


def _entities(folder: Path, random: np.random.Generator, users: int) -> None:
    """users.pq, brands.pq and both items.pq: with what is missing, twice, or in none of the events."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.arange(90, 100 + users, dtype=np.uint64)  # ten of them without an event, and the bot is not among them
    known = {"socdem_cluster": random.integers(0, 20, len(ids)), "region": random.integers(0, 80, len(ids))}
    table = pd.DataFrame({"user_id": ids, **known}).astype({"socdem_cluster": "Int64", "region": "Int64"})
    table.loc[5:15, "socdem_cluster"] = None
    table.to_parquet(folder / "users.pq")
    brands = pd.DataFrame({"brand_id": np.r_[np.arange(12), 3, 3, 5].astype(np.uint64)})  # some brands twice
    brands["embedding"] = list(random.normal(size=(len(brands), 4)).astype(np.float32))
    brands.to_parquet(folder / "brands.pq")
    for shop, (prefix, size) in SHOPS.items():
        number = np.arange(size + 5)  # five that nobody opens
        items = pd.DataFrame({"item_id": [f"{prefix}_{one}" for one in number]})
        items["brand_id"] = pd.array(number % 12, "UInt64")
        items["category"] = [None if one % 10 == 0 else f"{shop} {one % 4}" for one in number]
        items["subcategory"] = [None if one % 6 == 0 else f"{shop} {one % 4}.{one % 3}" for one in number]
        items["price"] = np.where(number % 9 == 0, np.nan, 10.0 + number)
        items["embedding"] = list(random.normal(size=(len(items), 300)).astype(np.float32))
        items.loc[4, "brand_id"] = None
        twice = items.iloc[[2]].assign(price=1e6)
        items = pd.concat([items, twice]).drop(index=[7])  # one is listed twice, one not at all
        (folder / shop).mkdir(exist_ok=True)
        items.to_parquet(folder / shop / "items.pq", index=False)


def _receipts(folder: Path, random: np.random.Generator, users: int, unit: str) -> None:
    """Baskets of two to five items of one receipt, brand -1 and missing items among them."""
    count = users // 2
    size = random.integers(2, 6, count)
    receipt = np.repeat(np.arange(count), size)
    time = DAYS[0] * NS_PER_DAY + random.integers(0, len(DAYS) * NS_PER_DAY, count)
    item = pd.Series(random.integers(0, 60, len(receipt))).map("fmcg_{}".format)
    lines = pd.DataFrame({"nanoseconds": time[receipt], "user_id": (100 + np.arange(count)).astype(np.uint64)[receipt]})
    lines["brand_id"] = np.where(receipt % 5 == 0, -1, 3)
    lines["approximate_item_id"] = item.where(np.arange(len(item)) % 11 != 0, None)
    lines["count"] = 1.0
    lines["price"] = np.where(receipt % 7 == 0, np.nan, 99.0)
    lines["transaction_hash"] = receipt.astype(str)
    _partition(folder / "payments" / "receipts", lines, unit)
    _partition(folder / "payments" / "events", lines[["nanoseconds", "user_id", "brand_id"]], unit)


def _partition(folder: Path, table: pd.DataFrame, unit: str) -> None:
    """A file a day."""
    folder.mkdir(parents=True, exist_ok=True)
    table = table.astype({"user_id": np.uint64})
    for day, part in table.groupby(table["nanoseconds"] // NS_PER_DAY):
        time = part["nanoseconds"].to_numpy().astype("timedelta64[ns]").astype(f"timedelta64[{unit}]")
        part = part.drop(columns="nanoseconds")
        part.insert(0, "timestamp", time)
        part.to_parquet(folder / f"{day:05d}.pq", index=False)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
