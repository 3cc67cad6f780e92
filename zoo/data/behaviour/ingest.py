"""Tables of events of five kinds to one BehaviourLog: DuckDB reads, codes and sorts, in parallel and out of core."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from zoo.data.behaviour.log import KINDS, NO_CODE, SEARCH, VISIT, WITH_PRODUCT, BehaviourLog, Products
from zoo.data.dataset import DataError
from zoo.data.sources.connection import explained, fetch, fetch_events, id_type, progress, scalar, schema
from zoo.data.sources.timestamps import to_milliseconds

SPACES = {"product": WITH_PRODUCT, "url": (VISIT,), "query": (SEARCH,)}  # kinds whose events are about the same things
TYPES = {"client": np.int32, "time": np.int64, "kind": np.int8, "ref": np.int32}
MAX_CODE = np.iinfo(np.int16).max


def collect(
    connection: duckdb.DuckDBPyConnection,
    events: dict[int, str],
    products: str | None,
    *,
    name: str,
    asked: dict[str, np.ndarray] | None = None,
    notes: tuple[str, ...] = (),
) -> BehaviourLog:
    """The log of SELECTs.

    Args:
        events: by kind, a SELECT of `client`, `timestamp` and `ref` (a product, a url, or the codes of a query), with
            the rows in the order of the file. Times are in any form that `timestamps.to_milliseconds` reads.
            A row without a client or a ref is dropped and counted in a note.
        products: a SELECT of `product`, `category`, `price` and `name`, the last three possibly NULL.
        name: what messages and reports call the data.
        asked: what the owner says of the evaluation; clients of `relevant_clients` without any event are clients too.

    Raises:
        DataError: a value that cannot be used, with its file's kind and its row (counted from 1).
    """
    said, asked = list(notes), asked or {}
    with explained(name), progress(connection, name) as step:
        kinds: dict[int, str] = {}  # SQL of the milliseconds, by kind
        for kind, sql in sorted(events.items()):
            step(f"reading {KINDS[kind]}")
            kinds[kind], dropped = _part(connection, kind, sql, f"{name}, {KINDS[kind]}")
            said += dropped
        if not kinds:
            raise DataError(f"{name}: no events of any kind; wanted {', '.join(KINDS)}")
        step("coding products")
        table, categories, unknown = _products(connection, products, kinds, name)
        said += unknown
        step("coding queries")
        queries = _queries(connection, SEARCH in kinds, name)
        step("coding urls")
        urls = _codes(connection, "url", [f"SELECT DISTINCT ref AS value FROM part_{VISIT}"] if VISIT in kinds else [])
        step("coding clients")
        also = asked.get("relevant_clients", np.zeros(0, np.int64))
        connection.register("also_relevant", pa.table({"value": pa.array(also)}))
        sources = [f"SELECT DISTINCT client AS value FROM part_{kind}" for kind in kinds]
        clients = _codes(connection, "client", [*sources, "SELECT value FROM also_relevant"])
        step("sorting")
        arrays = fetch_events(
            connection,
            "SELECT client_codes.code AS client, time, kind, ref FROM ("
            + " UNION ALL ".join(
                f"SELECT client, CAST({time} AS BIGINT) AS time, {kind} AS kind, code AS ref, "
                f"part_{kind}.rowid AS place FROM part_{kind} JOIN {space}_codes ON ref = {space}_codes.value"
                for kind, time in kinds.items()
                for space in [next(space for space, members in SPACES.items() if kind in members)]
            )
            + ") JOIN client_codes ON client = client_codes.value ORDER BY 1, 2, 3, place",
            TYPES,
        )
        connection.unregister("also_relevant")
        for kind in kinds:
            connection.execute(f"DROP TABLE part_{kind}")
    if not len(arrays["client"]):
        raise DataError(f"{name}: no event has a client, a time and something that it is about")
    offsets = np.zeros(len(clients) + 1, np.int64)
    np.cumsum(np.bincount(arrays["client"], minlength=len(clients)), out=offsets[1:])
    return BehaviourLog(
        clients,
        offsets,
        arrays["kind"],
        arrays["time"],
        arrays["ref"],
        table,
        categories,
        urls,
        queries,
        asked,
        name,
        tuple(said),
    )


def _part(connection: duckdb.DuckDBPyConnection, kind: int, sql: str, name: str) -> tuple[str, list[str]]:
    """Makes the table `part_KIND` (client, timestamp, ref) of a SELECT; returns SQL of its milliseconds, and notes."""
    found = schema(connection, sql)
    for column in ("client", "timestamp", "ref"):
        if column not in found:
            raise DataError(f"{name}: no column {column!r} among {', '.join(found)}")
    _, client = id_type("client", found["client"], f"{name}: client")
    if kind == SEARCH:
        ref = "CAST(ref AS VARCHAR)"  # of a list, too: [1, 2, 3]
    else:
        _, ref = id_type("ref", found["ref"], f"{name}: {'url' if kind == VISIT else 'product'}")
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE log AS SELECT {client} AS client, timestamp, {ref} AS ref FROM (\n{sql}\n) "
        "WHERE client IS NOT NULL AND ref IS NOT NULL"
    )
    rows, kept = (scalar(connection, f"SELECT count(*) FROM {table}") for table in (f"(\n{sql}\n)", "log"))
    notes = [f"{rows - kept:,} rows of {KINDS[kind]} without client or content dropped"] if kept < rows else []
    time, more = to_milliseconds(connection, found["timestamp"], name) if kept else ("0", [])
    connection.execute(f"DROP TABLE IF EXISTS part_{kind}; ALTER TABLE log RENAME TO part_{kind}")
    return time, notes + more


def _codes(connection: duckdb.DuckDBPyConnection, space: str, sources: list[str]) -> np.ndarray:
    """Makes the table `SPACE_codes` (value, code) of the values of SELECTs, ascending; returns the values."""
    union = " UNION ".join(sources) if sources else "SELECT CAST(NULL AS BIGINT) AS value"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {space}_codes AS SELECT value, "
        f"CAST(row_number() OVER (ORDER BY value) - 1 AS INTEGER) AS code FROM ({union}) WHERE value IS NOT NULL"
    )
    values = fetch(connection, f"SELECT value FROM {space}_codes ORDER BY code")["value"]
    return values.astype(np.int64) if values.dtype.kind in "iuf" else values.astype(object)


def _products(
    connection: duckdb.DuckDBPyConnection, sql: str | None, kinds: dict[int, str], name: str
) -> tuple[Products, np.ndarray, list[str]]:
    """Products of the properties and of the events, ids of categories, and a note on products without properties."""
    told = sql or "SELECT CAST(NULL AS BIGINT) AS product, NULL AS category, NULL AS price, NULL AS name WHERE false"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE properties AS {told}")
    found = schema(connection, "SELECT * FROM properties")
    for column in ("product", "category", "price", "name"):
        if column not in found:
            raise DataError(f"{name}: product properties have no column {column!r}, only {', '.join(found)}")
    twice = connection.execute(
        "SELECT product, count(*) FROM properties WHERE product IS NOT NULL GROUP BY 1 HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    if twice:
        raise DataError(f"{name}: product {twice[0]!r} has {twice[1]} rows of properties; wanted one")
    sources = [f"SELECT DISTINCT ref AS value FROM part_{kind}" for kind in WITH_PRODUCT if kind in kinds]
    ids = _codes(connection, "product", [*sources, "SELECT product AS value FROM properties"])
    categories = _codes(connection, "category", ["SELECT DISTINCT category AS value FROM properties"])
    rows = fetch(
        connection,
        f"SELECT coalesce(category_codes.code, {NO_CODE}) AS category, "
        f"coalesce(TRY_CAST(price AS INTEGER), {NO_CODE}) AS price, properties.product IS NULL AS unknown "
        "FROM product_codes LEFT JOIN properties ON product = product_codes.value "
        "LEFT JOIN category_codes ON category = category_codes.value ORDER BY product_codes.code",
    )
    bad = connection.execute(
        "SELECT product, CAST(price AS VARCHAR) FROM properties WHERE price IS NOT NULL AND "
        f"coalesce(TRY_CAST(price AS DOUBLE) NOT BETWEEN 0 AND {MAX_CODE}, true) LIMIT 1"
    ).fetchone()
    if bad:
        raise DataError(f"{name}: product {bad[0]!r} has the price {bad[1]}; wanted a bucket, 0 or more")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE name_texts AS SELECT product_codes.code AS row, CAST(name AS VARCHAR) AS text "
        "FROM properties JOIN product_codes ON product = product_codes.value WHERE name IS NOT NULL"
    )
    names = _texts(connection, "name_texts", len(ids), f"{name}, product names")
    unknown = int(np.count_nonzero(rows["unknown"])) if sql else 0
    notes = [f"{unknown:,} of {len(ids):,} products have no properties"] if unknown else []
    table = Products(ids, rows["category"].astype(np.int32), rows["price"].astype(np.int16), names)
    return table, categories, notes


def _queries(connection: duckdb.DuckDBPyConnection, there: bool, name: str) -> np.ndarray:
    """(Q, K) codes of the distinct queries; makes the table `query_codes`."""
    values = _codes(connection, "query", [f"SELECT DISTINCT ref AS value FROM part_{SEARCH}"] if there else [])
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE query_texts AS "
        "SELECT code AS row, CAST(value AS VARCHAR) AS text FROM query_codes"
    )
    return _texts(connection, "query_texts", len(values), f"{name}, {KINDS[SEARCH]}")


def _texts(connection: duckdb.DuckDBPyConnection, table: str, count: int, name: str) -> np.ndarray:
    """(count, K) int16 codes of texts such as `[167  24 193]`, by the column `row`; K is the length of the longest.

    Raises:
        DataError: a text that is no list of whole numbers.
    """
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE texts AS SELECT row, text, TRY_CAST('[' || regexp_replace("
        r"regexp_replace(text, '^[\s\[]+|[\s\]]+$', '', 'g'), '[\s,]+', ',', 'g') || ']' AS SMALLINT[]) AS codes "
        f"FROM {table}"
    )
    bad = connection.execute(
        "SELECT text FROM texts WHERE codes IS NULL OR list_min(codes) < 0 OR list_count(codes) < len(codes) LIMIT 1"
    ).fetchone()
    if bad:
        raise DataError(
            f"{name}: {bad[0]!r} is no list of codes; wanted whole numbers from 0 to {MAX_CODE} such as [167 24 193]"
        )
    rows = connection.sql("SELECT row, codes FROM texts").to_arrow_table()
    connection.execute(f"DROP TABLE texts; DROP TABLE {table}")
    lists = rows["codes"].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    lengths = np.diff(lists.offsets.to_numpy())
    result = np.full((count, max(int(lengths.max(initial=0)), 1)), NO_CODE, np.int16)
    place = np.repeat(rows["row"].to_numpy(), lengths)
    within = np.arange(len(place)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    result[place, within] = lists.flatten().to_numpy()
    return result
