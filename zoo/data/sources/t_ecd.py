"""Layout `t_ecd`: T-Tech's E-commerce Cross-Domain data, a folder of Parquet with one file of events a day.

    users.pq                            user_id, socdem_cluster, region
    {retail,marketplace}/items.pq       item_id, brand_id, category, subcategory, price, embedding
    {retail,marketplace}/events/01082.pq   timestamp, user_id, item_id, subdomain, action_type, os
    payments/receipts/01082.pq          timestamp, user_id, approximate_item_id, brand_id, count, price, ...

A view, click or cart of a shop is an event with its action; the folder is its domain. The lines of receipts are read
only where `data.domains` names `payments`; they are events with the action `buy` and a price, and those of one receipt
share their time: a basket. Times count from a day 0 that the publisher keeps to himself; here it is 1970-01-01, and
`data.since=day 1082,data.until=day 1092` reads ten days and opens no other file.

Items bring brand, category, subcategory and price, users region and cluster; whoever has no event in these days is
left out. Not read: embeddings, os and subdomain, which no model uses, offers and reviews, payments without items, and
brands.pq, which says nothing of a brand but its embedding (and some brands twice).

What the study of 2025 on ten of these days promised, what its code did, and what `STUDY` does:

    hierarchical coding of actions    the column was never read; of its events 97 % are views, none a purchase
                                      here: `ACTIONS` orders them by commitment, an event weighs by `WEIGHTS`
    sessions under three events out   users under two were
                                      here: sessions, by 30 minutes of silence; lines of receipts are events of them
    co-purchases of receipts          of one day, and of all users
                                      here: of all days and the training part; baskets to `item2vec`, which the others
                                      may start from (`train.initial_items`), to these history; nobody is tested on
                                      them
    two models compared               one on every event of the test users, the other on the last of each
                                      here: one function, the same events, averaged per user and per event
    item vectors learned beforehand   also from users of validation and test
                                      here: `item2vec` sees the training part only
"""

from __future__ import annotations

import glob
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from config import DataConfig, EvaluateConfig, SplitConfig
from zoo.data import dates
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources.connection import explained
from zoo.data.sources.engine import collect, connect, literal

SHOPS = ("retail", "marketplace")
PAYMENTS = "payments"
ACTIONS = ("view", "click", "clickout", "like", "added-to-cart", "buy")  # from a glance to a commitment
WEIGHTS = {"view": 1.0, "click": 2.0, "clickout": 2.0, "like": 3.0, "added-to-cart": 4.0, "buy": 5.0}
DAY = 24 * 60 * 60 * 1000  # milliseconds
MILLISECONDS = {"s": "timestamp * 1000", "ms": "timestamp", "us": "timestamp // 1000", "ns": "timestamp // 1000000"}
STUDY: dict[str, Any] = {  # sections of a `RunConfig` that every model of the study shares
    "data": DataConfig(
        since="day 1082",
        until="day 1092",
        domains=(*SHOPS, PAYMENTS),
        min_session_events=3,
        action_weights=WEIGHTS,
    ),
    "split": SplitConfig(strategy="by_user", fraction=0.1, targets="all", target_actions=ACTIONS[:-1]),
    "evaluate": EvaluateConfig(top_k=(1, 5, 10, 20), exclude_seen=False),
}


def inputs(path: str, data: DataConfig) -> list[Path]:
    """The files that `read` reads, which are few of those in the folder.

    Raises:
        DataError: a domain or a day that is not there.
    """
    root = Path(path)
    entities = [root / "users.pq", *(root / shop / "items.pq" for shop in SHOPS)]
    events = [file for domain in _domains(root, data) for file in _partitions(root, domain, data)]
    return [file for file in entities if file.exists()] + events


def read(path: str, data: DataConfig) -> Dataset:
    """The events of the days and domains that `data` asks for.

    Raises:
        DataError: a domain, a day or a column that is not there; times that are no timedelta.
    """
    root = Path(path)
    connection = connect(data.cache_dir)
    selects = [select for domain in _domains(root, data) for select in _events(root, domain, data)]
    with explained(root.name):
        connection.execute(f"CREATE TEMP TABLE shop_events AS {' UNION ALL BY NAME '.join(selects)}")
        items = [_items(root / shop / "items.pq") for shop in SHOPS if (root / shop / "items.pq").exists()]
        dataset = collect(
            connection,
            "SELECT * FROM shop_events ORDER BY rowid",
            name=root.name,
            users=_users(root / "users.pq") if (root / "users.pq").exists() else None,
            items=_first("item", " UNION ALL ".join(items)) if items else None,
        )
    return _by_commitment(dataset)


def _domains(root: Path, data: DataConfig) -> list[str]:
    """The domains that are read, in order.

    Raises:
        DataError: none is there, or one that is asked for is not.
    """
    folders = {**dict.fromkeys(SHOPS, "events"), PAYMENTS: "receipts"}
    there = [domain for domain, folder in folders.items() if (root / domain / folder).is_dir()]
    if data.domains is None:
        there = [domain for domain in there if domain in SHOPS]
    wanted = list(data.domains or there)
    missing = [domain for domain in wanted if domain not in there]
    if missing or not wanted:
        raise DataError(
            f"{root}: no events of {missing[0] if missing else 'retail or marketplace'}; wanted a folder with "
            f"{', '.join(f'{domain}/{folder}/DAY.pq' for domain, folder in folders.items())}"
        )
    return [domain for domain in there if domain in wanted]


def _partitions(root: Path, domain: str, data: DataConfig) -> list[Path]:
    """The files of the days that `data` asks for, in order.

    Raises:
        DataError: there are none.
    """
    folder = root / domain / ("receipts" if domain == PAYMENTS else "events")
    days = {int(file.stem): file for file in folder.iterdir() if re.fullmatch(r"\d+\.(pq|parquet)", file.name)}
    since = dates.to_milliseconds(data.since, "data.since") if data.since else -np.inf
    until = dates.to_milliseconds(data.until, "data.until") if data.until else np.inf
    chosen = [days[day] for day in sorted(days) if day * DAY < until and (day + 1) * DAY > since]
    if not chosen:
        reach = f"it has the days {min(days)} to {max(days)}" if days else "it has no DAY.pq at all"
        raise DataError(f"{folder}: no file of the days that data.since and data.until ask for; {reach}")
    return chosen


def _events(root: Path, domain: str, data: DataConfig) -> list[str]:
    """SQL of the events of a domain, one SELECT for each unit of time among its files."""
    by_unit: dict[str, list[Path]] = {}
    for file in _partitions(root, domain, data):
        by_unit.setdefault(_unit(file), []).append(file)
    if domain == PAYMENTS:
        columns = "approximate_item_id AS item, 'buy' AS action, CASE WHEN isfinite(price) THEN price END AS price"
    else:
        columns = "item_id AS item, action_type AS action"
    return [
        f"SELECT user_id AS user, {columns}, '{domain}' AS domain, "
        f"make_timestamp_ms({MILLISECONDS[unit]}) AS timestamp FROM {_parquet(*files)}"
        for unit, files in by_unit.items()
    ]


def _unit(file: Path) -> str:
    """The unit of a file's timedeltas: Parquet stores whole numbers, the Arrow schema beside them says of what.

    Raises:
        DataError: no Parquet, or its `timestamp` is no timedelta.
    """
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: no readable Parquet ({str(error).splitlines()[0]}); copy the file again") from None
    if "timestamp" not in schema.names:
        raise DataError(f"{file}: no column 'timestamp' among {', '.join(schema.names)}")
    kind = schema.field("timestamp").type
    if not pa.types.is_duration(kind):
        raise DataError(f"{file}: timestamp is of the type {kind}; wanted a timedelta since day 0, as it is published")
    return kind.unit


def _items(file: Path) -> str:
    return (
        "SELECT item_id AS item, CAST(brand_id AS VARCHAR) AS brand, nullif(trim(category), '') AS category, "
        f"nullif(trim(subcategory), '') AS subcategory, CAST(price AS DOUBLE) AS price FROM {_parquet(file)} "
        "WHERE item_id IN (SELECT item FROM shop_events)"
    )


def _users(file: Path) -> str:
    return _first(
        "user",
        "SELECT user_id AS user, CAST(socdem_cluster AS VARCHAR) AS socdem_cluster, CAST(region AS VARCHAR) AS region "
        f'FROM {_parquet(file)} WHERE user_id IN (SELECT "user" FROM shop_events)',
    )


def _first(key: str, sql: str) -> str:
    """SQL of the first row of each id, in order."""
    numbered = f"SELECT *, row_number() OVER () AS number FROM ({sql})"
    return (
        f"SELECT * EXCLUDE number FROM ({numbered}) "
        f'QUALIFY row_number() OVER (PARTITION BY "{key}" ORDER BY number) = 1 ORDER BY number'
    )


def _parquet(*files: Path) -> str:
    names = ", ".join(literal(glob.escape(str(file))) for file in files)
    return f"read_parquet([{names}], hive_partitioning = false)"


def _by_commitment(dataset: Dataset) -> Dataset:
    """`dataset` with the codes of its actions in the order of ACTIONS, unknown ones first.

    All of ACTIONS have a code: retail knows no clickout, and weights by action are those of the whole study.
    """
    labels = dataset.labels["action"]
    names = (*sorted(set(labels) - set(ACTIONS)), *ACTIONS)
    code = np.array([names.index(label) for label in labels], np.int16)
    columns = {**dataset.events.columns, "action": code[dataset.events.columns["action"]]}
    return replace(
        dataset,
        events=replace(dataset.events, columns=columns),
        labels={**dataset.labels, "action": names},
    )
