"""Features as one JSON object: {id: [label, ...]} (S3-Rec's attributes) or {id: {feature: value, ...}}."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa

from zoo.data.sources.connection import arrow
from zoo.data.sources.lines import opened


def read(path: str, side: str) -> pa.Table | None:
    """A row per id, the ids (as text) in the column `side`; None where the file is not one such object.

    Raises:
        DataError: a file that cannot be read, or a feature that mixes types.
    """
    place = Path(path).expanduser()
    if not place.is_file() or Path(place.name.removesuffix(".gz")).suffix.lower() != ".json":
        return None
    with opened(place) as file:
        try:
            features = json.load(file)
        except ValueError:  # JSON lines, say
            return None
    if not isinstance(features, dict) or not features:
        return None
    if all(isinstance(labels, list) for labels in features.values()):
        labels = [[str(label) for label in labels] for labels in features.values()]
        return pa.table({side: list(features), "attributes": pa.array(labels, pa.list_(pa.string()))})
    if all(isinstance(row, dict) for row in features.values()):
        rows = pd.DataFrame.from_records(list(features.values()))
        rows.insert(0, side, list(features), allow_duplicates=False)
        return arrow(rows, place.name)
    return None
