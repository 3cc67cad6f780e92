"""Layout `otto`: JSON lines {"session": ..., "events": [{"aid": ..., "ts": milliseconds, "type": ...}, ...]}."""

from __future__ import annotations

import glob
from pathlib import Path

from config import DataConfig
from zoo.data.dataset import Dataset
from zoo.data.sources import files
from zoo.data.sources.engine import collect, connect, literal


def read(path: str, data: DataConfig) -> Dataset:
    """The events of OTTO's sessions: clicks, carts and orders."""
    paths = ", ".join(literal(glob.escape(str(file))) for file in files.find(path))
    connection = connect(data.cache_dir)
    sql = (
        "SELECT session AS user, event.aid AS item, make_timestamp_ms(event.ts) AS timestamp, event.type AS action "
        f"FROM (SELECT session, unnest(events) AS event FROM read_json([{paths}], format = 'newline_delimited', "
        "columns = {session: 'BIGINT', events: 'STRUCT(aid BIGINT, ts BIGINT, type VARCHAR)[]'}))"
    )
    return collect(connection, sql, name=Path(path).name)
