"""Layout `sessions`: the items of one session a line, oldest first; the session's id is the number of its line.

Test files of session-based recommenders hold "i1 i2 ... <TAB> target"; the target is the session's last item.
"""

from __future__ import annotations

from pathlib import Path

from config import DataConfig
from zoo.data.dataset import Dataset
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.lines import read_lines, refuse, words


def read(path: str, data: DataConfig) -> Dataset:
    """The events of a file of sessions.

    Raises:
        DataError: a line with more than one target, with its number.
    """
    name = Path(path).name
    connection = connect(data.cache_dir)
    read_lines(connection, path, name)
    connection.execute(
        f"CREATE TEMP TABLE sessions AS SELECT number, line, {words('line')} AS items, "
        f"string_split(line, chr(9)) AS part FROM lines"
    )
    several = f"len(part) > 2 OR (len(part) = 2 AND len({words('part[2]')}) <> 1)"
    refuse(connection, "sessions", several, name, '"i1 i2 ..." or "i1 i2 ... <TAB> target"; see data.layout=sequences')
    sql = "SELECT number AS user, item FROM (SELECT number, unnest(items) AS item FROM sessions ORDER BY number)"
    return collect(connection, sql, name=name, clock="order", infer_ids=True)
