"""Which layout lies at a path, where that is unmistakable by names and first lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

from config import Layout
from zoo.data.dataset import DataError
from zoo.data.sources.folder import listing
from zoo.data.sources.lines import opened

SAMPLE = 200  # lines that are looked at


def recognise(path: str) -> Layout:
    """The layout of the file, folder or zip at `path`; `table` for whatever is none of the known ones.

    Raises:
        DataError: lines of numbers that may be `sequences` as well as `sessions`; a damaged file.
    """
    place = Path(path).expanduser()
    if place.is_dir() or (place.suffix == ".zip" and place.is_file()):
        layout = _of_folder(set(listing(place)))
        return _of_its_tables(place) if layout == "table" and place.is_dir() else layout
    if not place.is_file():
        return "table"
    name = place.name.removesuffix(".gz")
    suffix = Path(name).suffix.lower()
    if suffix in (".pkl", ".pickle"):
        return "pickled_dict"
    if suffix not in ("", ".txt", ".dat", ".data", ".csv", ".json", ".jsonl"):
        return "table"
    lines = _first_lines(place)
    if suffix in (".json", ".jsonl"):
        return "otto" if lines and _is_otto(lines[0]) else "table"
    if suffix == ".csv":
        return _of_header(place, lines[0] if lines else "")
    if name == "u.data" or (lines and all(line.count("::") == 3 for line in lines)):
        return "movielens"
    return _of_numbers(path, lines)


def _of_folder(names: set[str]) -> Layout:
    if names & {"u.data", "ratings.dat"} or names >= {"ratings.csv", "movies.csv"}:
        return "movielens"
    if "products.csv" in names and names & {"transactions.csv", "transactions_sample.csv"}:
        return "complete_journey"
    if names >= {"users.pq", "items.pq"}:
        return "t_ecd"
    if "product_buy.parquet" in names:
        return "synerise"
    stems = {name.partition(".")[0] for name in names}
    if sum(stem.endswith("_all") for stem in stems) == 2 and sum(stem.startswith("cross_") for stem in stems) == 2:
        return "trigrec"
    if len(stems) == 3 and stems & {"mix", "mix_log_file_final"}:
        return "tricdr"
    return "table"


def _of_its_tables(folder: Path) -> Layout:
    """That of the folder's tables with a form of their own, where there is one such form."""
    tables = [file for file in folder.iterdir() if re.search(r"\.(csv|jsonl?)(\.gz)?$", file.name)]
    found = {recognise(str(file)) for file in tables} & {"otto", "online_retail"}
    return found.pop() if len(found) == 1 else "table"


def _of_header(path: Path, line: str) -> Layout:
    columns = [column.strip(' "').lower() for column in line.split(",")]
    if columns == ["userid", "movieid", "rating", "timestamp"]:
        return "movielens"
    if {"household_id", "product_id", "transaction_timestamp"} <= set(columns):
        return _of_folder(set(listing(path.parent)))
    if "stockcode" in columns and {"invoiceno", "invoice"} & set(columns):
        return "online_retail"
    return "table"


def _of_numbers(path: str, lines: list[str]) -> Layout:
    """Of lines without a header that hold nothing but whole numbers, blanks and tabs."""
    if not lines or not all(re.fullmatch(r"[\d \t]*\d[\d \t]*", line) for line in lines):
        return "table"
    parts = [[part.split() for part in line.split("\t")] for line in lines]
    counts = {tuple(len(words) for words in part) for part in parts}
    if counts <= {(2,), (1, 1)}:
        return "pairs"
    if all(len(count) == 2 for count in counts):
        if all(count[0] == 1 for count in counts) or all(count[0] == count[1] + 1 for count in counts):
            return "sequences"
        if all(count[1] == 1 for count in counts):
            return "sessions"
    if all(len(count) == 1 for count in counts) and len(counts) > 1:
        raise DataError(
            f"{path}: lines of {min(counts)[0]} to {max(counts)[0]} numbers may start with a user or not; "
            "say data.layout=sequences (user first) or data.layout=sessions (items alone)"
        )
    return "table"


def _is_otto(line: str) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return line.startswith('{"session"') and '"events"' in line  # a long session, cut
    return isinstance(record, dict) and {"session", "events"} <= record.keys()


def _first_lines(path: Path) -> list[str]:
    """The first lines that are not blank; long ones are cut."""
    with opened(path) as file:
        lines = [file.readline(1 << 16) for _ in range(SAMPLE)]
    texts = [line.decode("utf-8-sig", "replace").strip(" \r\n") for line in lines]
    return [text for text in texts if text]
