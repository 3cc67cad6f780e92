"""Files of tables: CSV, TSV, Parquet and JSON lines, plain or gzip; one file, a glob or a folder."""

from __future__ import annotations

import csv
import difflib
import glob
import gzip
import os
import zlib
from pathlib import Path

import duckdb

from zoo.data.dataset import DataError
from zoo.data.sources.columns import listed
from zoo.data.sources.connection import literal, schema

SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".dat"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "sqlite"),
}
DELIMITERS = "\t,;|"
_MAX_HEADER = 2**20  # bytes


def find(path: str, *, any_suffix: bool = False) -> list[Path]:
    """The files that `path` stands for, in order of their names; a folder is searched to its depth.

    Args:
        any_suffix: take all files of a folder, not only those whose suffix is that of a table.

    Raises:
        DataError: there are none, or one is empty.
        PermissionError: one may not be read.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        files = [file for file in _walk(place) if any_suffix or _suffix(file) in SUFFIXES]
        if not files:
            raise DataError(f"{path}: the folder holds no table; wanted {', '.join(SUFFIXES)}, or one of them + .gz")
    elif place.exists():
        files = [place]
    elif glob.has_magic(path):
        files = [Path(file) for file in sorted(glob.glob(str(place), recursive=True)) if Path(file).is_file()]
        if not files:
            raise DataError(f"{path}: no file matches this pattern")
    else:
        raise DataError(f"{path}: no such file or folder{_nearest(place)}")
    for file in files:
        with file.open("rb") as stream:
            if not stream.read(1) and not any_suffix:
                raise DataError(f"{file}: the file is empty; wanted a table with a header line")
    return files


def kind(file: Path) -> str:
    """`csv`, `parquet`, `json` or `sqlite`: by the first bytes, then by the suffix; a text of unknown suffix is CSV."""
    with file.open("rb") as stream:
        start = stream.read(16)
    if start[:4] == b"PAR1":
        return "parquet"
    if start == b"SQLite format 3\x00":
        return "sqlite"
    return SUFFIXES.get(_suffix(file), "csv")


def select(connection: duckdb.DuckDBPyConnection, files: list[Path], name: str) -> tuple[str, bool]:
    """SQL that reads all `files`, one after the other, and whether its columns are text without types.

    Nothing is guessed about the columns of a CSV: the header is line 1, each value is the text in the file and an
    empty one is NULL. JSON lines keep the types of their values (text that looks like a date stays text).

    Raises:
        DataError: the files are of several kinds, or their columns differ.
    """
    kinds = {kind(file): file for file in reversed(files)}
    if len(kinds) > 1:
        raise DataError(
            f"{name}: {' and '.join(str(file) for file in kinds.values())} are of two kinds; name one by a glob"
        )
    (form,) = kinds
    paths = "[" + ", ".join(literal(glob.escape(str(file))) for file in files) + "]"
    if form == "parquet":
        return f"SELECT * FROM read_parquet({paths}, binary_as_string=true, hive_partitioning=false)", False
    compression = "gzip" if all(_is_gzip(file) for file in files) else "none"
    if compression == "none" and any(_is_gzip(file) for file in files):
        raise DataError(f"{name}: some files are gzip and some are not; name one sort by a glob")
    if form == "json":
        return _json(connection, paths, compression, _suffix(files[0])), False
    delimiter, names = header(files[0])
    for file in files[1:]:
        if header(file) != (delimiter, names):
            raise DataError(
                f"{file}: its header ({listed(header(file)[1])}) differs from that of {files[0]} ({listed(names)}); "
                "name files of one sort by a glob"
            )
    columns = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in names)
    return (
        f"SELECT * FROM read_csv({paths}, auto_detect=false, header=true, delim={literal(delimiter)}, quote='\"', "
        f"escape='\"', nullstr='', compression='{compression}', hive_partitioning=false, columns={{{columns}}})"
    ), True


def header(file: Path) -> tuple[str, list[str]]:
    """Delimiter and column names of line 1 of a CSV; the delimiter is the most frequent of tab , ; | outside quotes.

    Raises:
        DataError: line 1 is no header of several columns.
    """
    try:
        with gzip.open(file, "rb") if _is_gzip(file) else file.open("rb") as stream:
            raw = stream.readline(_MAX_HEADER)
    except (EOFError, OSError, zlib.error):
        raise DataError(f"{file}: the gzip stream ends too early or is damaged; copy the file again") from None
    if not raw:
        raise DataError(f"{file}: the file is empty; wanted a table with a header line")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file}: UTF-16; convert it to UTF-8 first: iconv -f utf-16 -t utf-8 OLD > NEW")
    if b"\x00" in raw:
        raise DataError(f"{file}: binary data; wanted CSV, TSV, Parquet, JSON lines or SQLite")
    try:
        line = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{file}: line 1: not UTF-8; convert it first: iconv -f latin1 -t utf-8 OLD > NEW") from None
    outside = "".join(line.split('"')[::2])
    delimiter = max(DELIMITERS, key=outside.count)
    if delimiter not in outside:
        raise DataError(
            f"{file}: line 1 is one column, {line[:60]!r}: wanted names parted by a comma, tab, semicolon or bar "
            "(without a header line: data.layout=pairs, sequences or sessions)"
        )
    names = [
        name.strip() or f"column{position}"
        for position, name in enumerate(next(csv.reader([line], delimiter=delimiter)))
    ]
    lower = [name.lower() for name in names]
    twice = next((name for position, name in enumerate(names) if lower.index(name.lower()) < position), None)
    if twice is not None:
        raise DataError(f"{file}: line 1 names the column {twice!r} twice; rename one (is the header line missing?)")
    return delimiter, names


def _json(connection: duckdb.DuckDBPyConnection, paths: str, compression: str, suffix: str) -> str:
    form = "auto" if suffix == ".json" else "newline_delimited"  # .json may also be one array
    options = f"format='{form}', compression='{compression}', hive_partitioning=false"
    # Types come from all lines, not from a sample: an id that is text only in the last line must not be cast.
    detected = f"SELECT * FROM read_json({paths}, {options}, sample_size=-1, map_inference_threshold=-1)"
    columns = ", ".join(
        f"{literal(column)}: {literal('VARCHAR' if _is_guessed(sql_type) else sql_type)}"
        for column, sql_type in schema(connection, detected).items()
    )
    return f"SELECT * FROM read_json({paths}, {options}, columns={{{columns}}})"


def _is_guessed(sql_type: str) -> bool:
    """Whether DuckDB's reader of JSON made this type of text."""
    return sql_type in ("DATE", "TIME", "UUID") or sql_type.startswith("TIMESTAMP")


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _walk(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:  # os.walk would pass over a folder without permission
        raise error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith((".", "_"))]
    return sorted(found)


def _nearest(place: Path) -> str:
    try:
        there = [entry.name for entry in place.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(place.name, there, n=1, cutoff=0.6)
    return f"; did you mean {str(place.parent / close[0])!r}?" if close else ""
