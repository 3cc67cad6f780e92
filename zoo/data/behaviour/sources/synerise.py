"""Layout `synerise`: the files of the RecSys Challenge 2025, as released, as split by its tools, or as sold today.

    product_buy.parquet, add_to_cart.parquet, remove_from_cart.parquet    client_id, timestamp, sku
    page_visit.parquet                                                    client_id, timestamp, url
    search_query.parquet                                                  client_id, timestamp, query
    product_properties.parquet                                            sku, category, price, name
    input/relevant_clients.npy, target/*.npy                              whom and what the evaluation asks for

Events lie in the folder itself or in its `input`; where they lie in `input`, the purchases of target/*.parquet are
read, too. A file that is not there has no events. Query and name may have other column names.
"""

from __future__ import annotations

import glob
from pathlib import Path

import duckdb
import numpy as np

from config import DataConfig
from zoo.data.behaviour.ingest import collect
from zoo.data.behaviour.log import BUY, KINDS, SEARCH, VISIT, BehaviourLog
from zoo.data.dataset import DataError
from zoo.data.sources.connection import connect, explained, literal, quoted, schema
from zoo.data.sources.unpickling import load_array

CLIENT, TIME, SKU = "client_id", "timestamp", "sku"


def read(path: str, data: DataConfig, kinds: tuple[int, ...] = tuple(range(len(KINDS)))) -> BehaviourLog:
    """The log of a folder.

    Args:
        kinds: of events that are read.

    Raises:
        DataError: a column that is missing, a time or code that cannot be read.
    """
    folder = Path(path)
    is_split = not (folder / f"{KINDS[BUY]}.parquet").exists()
    place = folder / "input" if is_split else folder
    connection = connect(data.cache_dir)
    events, notes = {}, []
    for kind in kinds:
        name = KINDS[kind]
        files = [place / f"{name}.parquet"]
        if kind == BUY and is_split:
            files += [folder / "target" / f"{part}_target.parquet" for part in ("train", "validation")]
        selects = [_select(connection, file, kind) for file in files if file.exists()]
        if selects:
            events[kind] = " UNION ALL ".join(selects)
        else:
            notes.append(f"no {name}.parquet: no events of this kind")
    return collect(
        connection,
        events,
        _properties(connection, folder),
        name=folder.name or str(folder),
        asked=_asked(folder),
        notes=tuple(notes),
    )


def inputs(path: str) -> list[Path]:
    """All files that are read."""
    folder = Path(path)
    found = [*folder.glob("*.parquet"), *folder.glob("*.npy")]
    for part in ("input", "target"):
        found += [*(folder / part).glob("*.parquet"), *(folder / part).glob("*.npy")]
    return sorted(found)


def _select(connection: duckdb.DuckDBPyConnection, file: Path, kind: int) -> str:
    """A SELECT of client, timestamp and ref."""
    table, found = _table(connection, file)
    for column in (CLIENT, TIME):
        if column not in found:
            raise DataError(f"{file}: no column {column!r} among {', '.join(found)}")
    if kind == SEARCH:
        ref = _remaining(found, ("query",), (CLIENT, TIME), file)
    else:
        ref = _remaining(found, ("url",) if kind == VISIT else (SKU,), (CLIENT, TIME), file)
    return f"SELECT {CLIENT} AS client, {TIME} AS timestamp, {quoted(ref)} AS ref FROM {table}"


def _properties(connection: duckdb.DuckDBPyConnection, folder: Path) -> str | None:
    """A SELECT of product, category, price and name; None where there are no properties."""
    file = folder / "product_properties.parquet"
    if not file.exists():
        return None
    table, found = _table(connection, file)
    for column in (SKU, "category", "price"):
        if column not in found:
            raise DataError(f"{file}: no column {column!r} among {', '.join(found)}")
    name = _remaining(found, ("name",), (SKU, "category", "price"), file)
    return f"SELECT {SKU} AS product, category, price, {quoted(name)} AS name FROM {table}"


def _table(connection: duckdb.DuckDBPyConnection, file: Path) -> tuple[str, list[str]]:
    """(SQL of a Parquet file, its columns)."""
    table = f"read_parquet({literal(glob.escape(str(file)))})"
    with explained(str(file)):
        return table, list(schema(connection, f"SELECT * FROM {table}"))


def _remaining(found: list[str], usual: tuple[str, ...], others: tuple[str, ...], file: Path) -> str:
    """The column of the usual name, or the only one that is none of the `others`."""
    for name in usual:
        if name in found:
            return name
    left = [name for name in found if name not in others]
    if len(left) != 1:
        raise DataError(f"{file}: no column {' or '.join(map(repr, usual))} among {', '.join(found)}")
    return left[0]


def _asked(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of `input` and `target`, by the names of their files."""
    found = {}
    files = [folder / "relevant_clients.npy", *(folder / "input").glob("*.npy"), *(folder / "target").glob("*.npy")]
    for file in files:
        if file.exists():
            array = load_array(file)
            if array.ndim != 1:
                raise DataError(f"{file}: has the shape {array.shape}; wanted a list of ids or weights")
            found[file.stem] = array
    return found
