"""Layout `complete_journey`: the grocery transactions of 84.51, as the R package completejourney holds them, in CSV.

The path is the folder or its file of transactions. A line of a receipt is an event; its domain is the department of
the product, its price the sales value. Products and households (demographics) bring their features.
"""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources.connection import explained
from zoo.data.sources.engine import collect, connect, literal
from zoo.data.sources.folder import files

TRANSACTIONS = ("transactions.csv", "transactions_sample.csv")


def read(path: str, data: DataConfig) -> Dataset:
    """Receipts as events, in the order of the file where they bear one time.

    Raises:
        DataError: no file of transactions or of products.
    """
    with files(path, (*TRANSACTIONS, "products.csv", "demographics.csv"), data.cache_dir) as found:
        transactions = next((found[name] for name in TRANSACTIONS if name in found), None)
        if transactions is None or "products.csv" not in found:
            raise DataError(f"{path}: no Complete Journey; wanted {' or '.join(TRANSACTIONS)} beside products.csv")
        name = transactions.name
        connection = connect(data.cache_dir)
        for table, source in {"transactions": transactions, "products": found["products.csv"]}.items():
            with explained(source.name):
                connection.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM {_csv(source)}")
        users = None
        if "demographics.csv" in found:
            users = f"SELECT household_id AS user, * EXCLUDE household_id FROM {_csv(found['demographics.csv'])}"
        dataset = collect(
            connection,
            "SELECT household_id AS user, t.product_id AS item, transaction_timestamp AS timestamp, "
            "department AS domain, sales_value AS price FROM transactions t LEFT JOIN products p "
            "ON t.product_id = p.product_id ORDER BY t.rowid",
            name=name,
            users=users,
            items="SELECT product_id AS item, * EXCLUDE (product_id, package_size) FROM products",
            infer_ids=True,
        )
    return replace(dataset, name=Path(path).name) if Path(path).is_dir() else dataset


def _csv(path: Path) -> str:
    options = "header = true, delim = ',', quote = '\"', escape = '\"', nullstr = ['', 'NA'], all_varchar = true"
    return f"read_csv({literal(glob.escape(str(path)))}, {options})"
