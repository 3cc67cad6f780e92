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
        connection = connect(data.cache_dir)
        with explained(transactions.name):
            sql = _select(transactions, "household_id", "product_id")
            connection.execute(f"CREATE TEMP TABLE transactions AS {sql}")
        with explained("products.csv"):
            connection.execute(f"CREATE TEMP TABLE products AS {_select(found['products.csv'], 'product_id')}")
        users = _select(found["demographics.csv"], "household_id") if "demographics.csv" in found else None
        dataset = collect(
            connection,
            "SELECT household_id AS user, t.product_id AS item, transaction_timestamp AS timestamp, "
            "department AS domain, sales_value AS price FROM transactions t LEFT JOIN products p "
            "ON t.product_id = p.product_id ORDER BY t.rowid",
            name=transactions.name,
            users=users,
            items="SELECT * EXCLUDE package_size FROM products",
        )
    return replace(dataset, name=Path(path).name) if Path(path).is_dir() else dataset


def _select(path: Path, *ids: str) -> str:
    """SQL of a file as text, but its ids integers: R writes 900000 as 9e+05, which a cast reads."""
    options = "header = true, delim = ',', quote = '\"', escape = '\"', nullstr = ['', 'NA'], all_varchar = true"
    integers = ", ".join(f"CAST({column} AS BIGINT) AS {column}" for column in ids)
    return f"SELECT * REPLACE ({integers}) FROM read_csv({literal(glob.escape(str(path)))}, {options})"
