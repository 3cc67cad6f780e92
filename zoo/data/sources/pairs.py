"""Layout `pairs`: "user item" a line, every user's lines in the order of time (SASRec, BERT4Rec)."""

from __future__ import annotations

from pathlib import Path

from config import DataConfig
from zoo.data.dataset import Dataset
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.lines import read_lines, refuse, words


def read(path: str, data: DataConfig) -> Dataset:
    """The events of a file of pairs; the order of a user's lines is the order of his history.

    Raises:
        DataError: a line that does not hold two words, with its number.
    """
    name = Path(path).name
    connection = connect(data.cache_dir)
    read_lines(connection, path, name)
    connection.execute(f"CREATE TEMP TABLE pairs AS SELECT number, line, {words('line')} AS pair FROM lines")
    wanted = 'two words, "user item"; name another layout with data.layout if this is none of pairs'
    refuse(connection, "pairs", "len(pair) <> 2", name, wanted)
    sql = "SELECT pair[1] AS user, pair[2] AS item FROM pairs ORDER BY number"
    return collect(connection, sql, name=name, clock="order", infer_ids=True)
