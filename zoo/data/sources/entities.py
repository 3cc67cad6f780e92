"""Feature tables of users and items to Entities."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd

from zoo.data.dataset import Entities


def read(connection: duckdb.DuckDBPyConnection, table: str | pd.DataFrame | None, side: str, name: str) -> Entities:
    """Entities of the ids in the table `{side}_entities`, with the features of `table`."""
    ids = connection.execute(f"SELECT id FROM {side}_entities ORDER BY code").fetchnumpy()["id"]
    ids = np.asarray(ids.tolist(), dtype=object) if ids.dtype == object else np.ascontiguousarray(ids)
    return Entities(ids)
