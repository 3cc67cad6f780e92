"""Layout `trigrec`: two domains of Amazon reviews as TriGRec ships them, put back into one order.

A folder with, for two domains such as food and kitchen,

    food_all, kitchen_all           each sequence's items of one domain, oldest first
    cross_f_train, cross_k_train    both domains in the order of time; without the last two of food, without those of
                                    kitchen

as text, "sequence <TAB> i1 i2 ..." a line, or as pickled dictionaries of lists, as they were published. Nothing bears a
time, but the four files together know the order of all events except this: whether one of the last two of food came
before one of the last two of kitchen, where nothing else happened between them. Such events get the same time, the
others their place in the order, a second apart.

    food a b c d, kitchen K L M N    cross_f K a L b M N    cross_k K a L b c d
    time         K 1   a 3   L 5   b 7   { c d M N } 8: each domain in its own order

Sequences are windows: one person may have several, and neighbours share most of their items.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources import pickled_dict
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.lines import opened

HELD_OUT = 2  # items of its own domain that a file `cross_..._train` lacks
ALL = re.compile(r"([a-z]+)_all\.(txt|pkl)(\.gz)?")
Sequences = dict[int, list[int]]


def inputs(path: str, data: DataConfig) -> list[Path]:
    """The four files.

    Raises:
        DataError: one of them is missing.
    """
    folder = Path(path)
    found = {match[1]: file for file in sorted(folder.iterdir()) if (match := ALL.fullmatch(file.name))}
    if len(found) != 2:
        raise DataError(
            f"{path}: {len(found)} files such as food_all.txt; the layout trigrec has one of each of two domains"
        )
    if len({domain[0] for domain in found}) < 2:
        raise DataError(f"{path}: {' and '.join(found)} begin alike, and so would their files cross_..._train")
    files = list(found.values())
    for domain, file in found.items():
        suffixes = file.name.removeprefix(f"{domain}_all")
        files.append(folder / f"cross_{domain[0]}_train{suffixes}")
        if not files[-1].exists():
            raise DataError(f"{files[-1]}: missing; it holds both domains without the last two of {domain}")
    return files


def read(path: str, data: DataConfig) -> Dataset:
    """The events of both domains, in one order as far as it is known; the clock is `relative`.

    Raises:
        DataError: a file is missing or damaged, or the files do not fit together.
    """
    files = inputs(path, data)
    names = [ALL.fullmatch(file.name)[1] for file in files[:2]]  # type: ignore[index]
    own, cross = [sequences(file) for file in files[:2]], [sequences(file) for file in files[2:]]
    name = Path(path).name
    rows: dict[str, list] = {"user": [], "item": [], "timestamp": [], "domain": []}
    for key, first in own[0].items():
        try:
            sides = first, own[1][key]
            events = in_order(sides, (cross[0][key], cross[1][key]))
        except (KeyError, ValueError):
            raise DataError(f"{name}: sequence {key} is not the same in its four files") from None
        rows["user"] += [key] * len(events)
        for domain, item, time in events:
            rows["domain"].append(names[domain])
            rows["item"].append(item)
            rows["timestamp"].append(time)
    rows["timestamp"] = pa.array(np.array(rows["timestamp"]) * 1_000_000, pa.timestamp("us"))
    connection = connect(data.cache_dir)
    connection.register("events", pa.table(rows))
    sql = 'SELECT "user", item, "timestamp", domain FROM events'
    notes = ("no times: the order of both domains is put together from the published files",)
    return collect(connection, sql, name=name, clock="relative", notes=notes)


def in_order(sides: tuple[list[int], list[int]], cross: tuple[list[int], list[int]]) -> list[tuple[int, int, int]]:
    """(domain, item, time) of the events of one sequence, by time.

    Args:
        sides: the items of domain 0 and of domain 1.
        cross: both merged, without the last two of domain 0, and without those of domain 1.

    Raises:
        ValueError: they do not fit together.
    """
    merged = [_domains(cross[i], sides, lacking=i) for i in (0, 1)]
    # What precedes an event among those that both files know is its place.
    common = [side[: max(len(side) - HELD_OUT, 0)] for side in sides]
    places: list[list[int]] = [[], []]
    base: list[list[int]] = [[], []]
    for i, line in enumerate(merged):
        held, count, before = 1 - i, 0, 0
        for domain in line:
            count += domain == held
            if domain == held and count > len(common[held]):
                places[i].append(before)
            else:
                base[i].append(domain)
                before += 1
    if base[0] != base[1]:
        raise ValueError
    ends = [iter(side) for side in sides]
    events = [(domain, next(ends[domain]), 2 * place + 1) for place, domain in enumerate(base[0])]
    for domain in (0, 1):  # of domain 0 the last two stand in the file that lacks those of domain 1
        last = sides[domain][len(common[domain]) :]
        events += [(domain, item, 2 * place) for item, place in zip(last, places[1 - domain], strict=True)]
    return sorted(events, key=lambda event: event[2])  # stable: each domain stays in its order


def _domains(line: list[int], sides: tuple[list[int], list[int]], lacking: int) -> list[int]:
    """Which domain each item of a merged line is of.

    Raises:
        ValueError: the line does not merge the two sides.
    """
    rest = [list(side) for side in sides]
    rest[lacking] = rest[lacking][: max(len(rest[lacking]) - HELD_OUT, 0)]
    place, result = [0, 0], []
    for item in line:
        domain = next((d for d in (0, 1) if place[d] < len(rest[d]) and rest[d][place[d]] == item), None)
        if domain is None:
            raise ValueError
        place[domain] += 1
        result.append(domain)
    if place != [len(side) for side in rest]:
        raise ValueError
    return result


def sequences(file: Path) -> Sequences:
    """The items of each sequence of a file, text or pickle, plain or gzip.

    Raises:
        DataError: a line of another form, or a damaged file.
    """
    if ".pkl" in file.suffixes:
        return {key: list(items) for key, items in pickled_dict.histories(str(file))}
    result = {}
    with opened(file) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            key, tab, items = line.partition("\t")
            try:
                result[int(key)] = [int(item) for item in items.split()]
            except ValueError:
                tab = ""
            if not tab:
                raise DataError(f'{file.name}, line {number:,}: {line[:60]!r}; wanted "sequence <TAB> i1 i2 ..."')
    return result
