"""Layout `sequences`: a user and his items a line, oldest first, with or without the seconds between them.

Three forms, told apart line by line:

    user i1 i2 i3                       (S3-Rec)
    user i1 i2 i3 <TAB> g1 g2 g3        (seconds since the event before; g1 is 0)
    user <TAB> i1 i2 i3 [<TAB> g1 g2 g3]
"""

from __future__ import annotations

from pathlib import Path

from config import DataConfig
from zoo.data.dataset import Dataset
from zoo.data.sources.connection import scalar
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.lines import read_lines, refuse, words

WANTED = '"user i1 i2 ..." with, behind a tab, as many gaps in seconds as there are items, or none in any line'


def read(path: str, data: DataConfig) -> Dataset:
    """The events of a file of sequences; with gaps the clock is `relative`: each user's first event is at 0.

    Raises:
        DataError: a line of none of these forms, a gap that is no number or negative, a user with gaps in two lines.
    """
    name = Path(path).name
    connection = connect(data.cache_dir)
    read_lines(connection, path, name)
    connection.execute(
        "CREATE TEMP TABLE sequences AS SELECT number, line, first[1] AS user, "
        f"CASE WHEN apart THEN {words('part[2]')} ELSE first[2:] END AS items, "
        f"CASE WHEN apart THEN {words('part[3]')} ELSE {words('part[2]')} END AS gaps, "
        "len(part) > CASE WHEN apart THEN 3 ELSE 2 END AS excess FROM ("
        "  SELECT *, len(first) = 1 AND len(part) > 1 AS apart FROM ("
        "    SELECT number, line, string_split(line, chr(9)) AS part, "
        f"    {words('string_split(line, chr(9))[1]')} AS first "
        "    FROM lines))"
    )
    timed = scalar(connection, "SELECT bool_or(len(gaps) > 0) FROM sequences")
    wrong = "excess OR coalesce(len(items), 0) = 0"
    refuse(connection, "sequences", wrong, name, WANTED)
    if not timed:
        sql = "SELECT user, item FROM (SELECT number, user, unnest(items) AS item FROM sequences ORDER BY number)"
        return collect(connection, sql, name=name, clock="order", infer_ids=True)
    refuse(connection, "sequences", "coalesce(len(gaps), 0) <> len(items)", name, WANTED)
    bad = "len(list_filter(gaps, lambda gap: NOT coalesce(TRY_CAST(gap AS DOUBLE) BETWEEN 0 AND 1e11, false))) > 0"
    refuse(connection, "sequences", bad, name, "gaps that are numbers of seconds, none negative")
    again = "user IN (SELECT user FROM sequences GROUP BY user HAVING count(*) > 1)"
    refuse(connection, "sequences", again, name, "one line a user: gaps say nothing about the time between two lines")
    sql = (
        "SELECT user, item, make_timestamp(CAST(1e6 * sum(gap) OVER (PARTITION BY number ORDER BY place) AS BIGINT)) "
        "AS timestamp FROM (SELECT number, user, unnest(items) AS item, unnest(CAST(gaps AS DOUBLE[])) AS gap, "
        "generate_subscripts(items, 1) AS place FROM sequences) ORDER BY number, place"
    )
    return collect(connection, sql, name=name, clock="relative", infer_ids=True)
