"""Layout `tricdr`: two domains and their merged order, as Tri-CDR ships them.

A folder with a file for each domain, such as toy and game, and `mix`, both in the order of time: text,
"user <TAB> i1 i2 ..." a line, or pickled dictionaries. In `mix` the ids of one domain are those of its own file, and
the other's come after the largest of them; so are the ids that come out. There are no times.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.trigrec import sequences

FILE = re.compile(r"([a-z]+)(_log_file_final)?\.(txt|pkl)(\.gz)?")


def inputs(path: str, data: DataConfig) -> list[Path]:
    """The three files, `mix` last.

    Raises:
        DataError: there are others, or not enough.
    """
    found = {match[1]: file for file in sorted(Path(path).iterdir()) if (match := FILE.fullmatch(file.name))}
    if len(found) != 3 or "mix" not in found:
        raise DataError(
            f"{path}: wanted mix.txt and a file for each of two domains; there are {', '.join(found) or 'none'}"
        )
    return [file for name, file in found.items() if name != "mix"] + [found["mix"]]


def read(path: str, data: DataConfig) -> Dataset:
    """The events of both domains in the order of `mix`.

    Raises:
        DataError: a file is missing or damaged, or `mix` does not merge the other two.
    """
    *domains, mix = inputs(path, data)
    names = [FILE.fullmatch(file.name)[1] for file in domains]  # type: ignore[index]
    own = [sequences(file) for file in domains]
    merged = sequences(mix)
    name = Path(path).name
    user = np.repeat(np.fromiter(merged, np.int64), [len(items) for items in merged.values()])
    item = np.fromiter((item for items in merged.values() for item in items), np.int64)
    for first in (0, 1):
        size = max(max(items) for items in own[first].values())
        later = item > size
        told = [item[~later], item[later] - size]
        there = [[i for key in merged for i in own[which].get(key, [])] for which in (first, 1 - first)]
        if all(np.array_equal(*pair) for pair in zip(told, there, strict=True)):
            break
    else:
        raise DataError(f"{name}: mix does not hold the items of {names[0]} and {names[1]} in their own order")
    label = np.where(later, names[1 - first], names[first])
    connection = connect(data.cache_dir)
    connection.register("events", pa.table({"user": user, "item": item, "domain": label}))
    return collect(connection, 'SELECT "user", item, domain FROM events', name=name, clock="order")
