"""Layout `online_retail`: invoice lines as UCI publishes them (Online Retail, and II with its other names).

A line becomes an event with an action: `buy`, `charge` (postage, fees, discounts, manual corrections: codes that
are not goods) or `cancel` (an invoice number that starts with C). Lines of unknown customers and with a quantity of the
wrong sign are dropped; lines of one customer, item and minute are one event. Without `data.actions` the events are
the purchases, charges included; `data.actions=buy` leaves the charges out, `data.actions=buy,cancel` adds the
cancellations.
"""

from __future__ import annotations

import glob
from pathlib import Path

import duckdb

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import layouts
from zoo.data.sources.connection import explained, literal, quoted, schema
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.lines import encoding, refuse

COLUMNS = {  # our name: theirs, in either edition
    "invoice": ("InvoiceNo", "Invoice"),
    "item": ("StockCode",),
    "title": ("Description",),
    "quantity": ("Quantity",),
    "date": ("InvoiceDate",),
    "price": ("UnitPrice", "Price"),
    "user": ("CustomerID", "Customer ID"),
    "country": ("Country",),
}
GOODS = "^([0-9]{5}|DCGS|gift_)"  # other codes: POST, DOT, M, C2, D, S, BANK CHARGES, AMAZONFEE, CRUK, PADS, B


def read(path: str, data: DataConfig) -> Dataset:
    """Purchases, and cancellations where `data.actions` names them, with titles of items and countries of customers.

    Raises:
        DataError: a column that is missing, a date that cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        tables = [file for file in sorted(place.glob("*.csv*")) if layouts.recognise(str(file)) == "online_retail"]
        if len(tables) != 1:
            raise DataError(f"{path}: {len(tables)} tables with invoice lines; name the one to read")
        place = tables[0]
    name = place.name
    connection = connect(data.cache_dir)
    _read_lines(connection, place, name)
    wanted = "('buy', 'charge', 'cancel')" if "cancel" in (data.actions or ()) else "('buy', 'charge')"
    connection.execute(
        "CREATE TEMP TABLE events AS SELECT user, item, time AS timestamp, action, arg_min(price, number) AS price, "
        "min(number) AS number, count(*) AS merged FROM invoice_lines "
        f"WHERE user IS NOT NULL AND item IS NOT NULL AND usable AND action IN {wanted} GROUP BY ALL"
    )
    users = "SELECT user, arg_min(country, number) AS country FROM invoice_lines WHERE user IS NOT NULL GROUP BY user"
    items = "SELECT item, arg_min(title, number) AS title FROM invoice_lines WHERE item IS NOT NULL GROUP BY item"
    return collect(
        connection,
        "SELECT user, item, timestamp, action, price FROM events ORDER BY number",
        name=name,
        users=f"{users} HAVING user IN (SELECT user FROM events) ORDER BY min(number)",
        items=f"{items} HAVING item IN (SELECT item FROM events) ORDER BY min(number)",
        notes=_notes(connection, wanted),
        infer_ids=True,
    )


def _read_lines(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    """Makes the table `invoice_lines`."""
    options = "header = true, delim = ',', quote = '\"', escape = '\"', all_varchar = true, strict_mode = false"
    csv = f"read_csv({literal(glob.escape(str(path)))}, {options}, encoding = '{encoding(path)}')"
    with explained(name):
        found = {column.strip().lower(): column for column in schema(connection, f"SELECT * FROM {csv}")}
        selected = []
        for column, theirs in COLUMNS.items():
            match = [found[one.lower()] for one in theirs if one.lower() in found]
            if not match:
                raise DataError(
                    f"{name}: no column {' or '.join(theirs)} among {', '.join(found.values())}; "
                    "data.layout=online_retail reads UCI's files only"
                )
            selected.append(f"nullif(trim({quoted(match[0])}), '') AS {column}")
        connection.execute(
            "CREATE TEMP TABLE invoice_lines AS SELECT * REPLACE (regexp_replace(user, '\\.0$', '') AS user, "
            "TRY_CAST(price AS DOUBLE) AS price), row_number() OVER () + 1 AS number, date AS line, "
            "CASE WHEN contains(date, '/') THEN try_strptime(date, ['%m/%d/%y %H:%M', '%m/%d/%Y %H:%M']) "
            "ELSE TRY_CAST(date AS TIMESTAMP) END AS time, "
            f"CASE WHEN invoice ILIKE 'C%' THEN 'cancel' WHEN regexp_matches(item, '{GOODS}', 'i') THEN 'buy' "
            "ELSE 'charge' END AS action, "
            "coalesce(CASE WHEN invoice ILIKE 'C%' THEN -1 ELSE 1 END * TRY_CAST(quantity AS DOUBLE) > 0, false) "
            f"AS usable FROM (SELECT {', '.join(selected)} FROM {csv})"
        )
    connection.execute("UPDATE invoice_lines SET line = 'no date' WHERE line IS NULL")
    refuse(
        connection, "invoice_lines", "time IS NULL", name, "an InvoiceDate such as 2010-12-01 08:26 or 12/1/2010 8:26"
    )


def _notes(connection: duckdb.DuckDBPyConnection, wanted: str) -> tuple[str, ...]:
    """What was left out or put together, a line each."""
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE user IS NULL), count(*) FILTER (WHERE user IS NOT NULL AND NOT usable), "
        f"count(*) FILTER (WHERE user IS NOT NULL AND usable AND action NOT IN {wanted}), "
        "(SELECT sum(merged - 1) FROM events), (SELECT count(*) FROM events WHERE action = 'charge') "
        "FROM invoice_lines"
    ).fetchone()
    assert row is not None
    texts = (
        "{:,} lines of unknown customers were dropped",
        "{:,} lines with a quantity of the wrong sign were dropped",
        "{:,} cancelled lines were left out; data.actions=buy,cancel keeps them",
        "{:,} lines repeat a customer, item and minute and were put together",
        "{:,} events are charges (postage, fees), not goods; data.actions=buy leaves them out",
    )
    return tuple(text.format(count) for text, count in zip(texts, row, strict=True) if count)
