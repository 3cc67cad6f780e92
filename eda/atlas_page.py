"""Atlas page: the map of items as one HTML file that needs nothing else, drawn by WebGL.

The data lie in it as one text: base64 of gzip of

    length of the header    4 bytes, little endian
    header                  JSON: what is said of the columns, and where each array lies
    arrays                  each from a multiple of 8 bytes after the header on; places are 16-bit, 0 to 65535

Nothing that comes from a log is ever read as HTML: it is escaped, or data that the script writes as text.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from eda.atlas import Atlas

MOVING = 150_000  # points drawn while the view moves


def render(atlas: Atlas) -> str:
    """The page."""
    notes = list(atlas.notes)
    if len(atlas.ids) > MOVING:
        notes.append(f"While the view moves, {MOVING:,} of the items are drawn.")
    parts = {
        "title": escape(atlas.title),
        "notes": " ".join(map(escape, notes)),
        "script": resources.files("eda").joinpath("atlas.js").read_text(encoding="utf-8"),
        "data": base64.b64encode(payload(atlas)).decode("ascii"),
    }
    template = resources.files("eda").joinpath("atlas.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)  # once: what is put in is not looked at


def payload(atlas: Atlas) -> bytes:
    """The data of the page, packed."""
    arrays: dict[str, np.ndarray] = {
        "flat": _quantised(atlas.flat),
        "solid": _quantised(atlas.solid),
        "group": atlas.group.astype(np.uint8),
    }
    columns: list[dict[str, Any]] = []
    for number, (name, values) in enumerate(atlas.columns.items()):
        column: dict[str, Any] = {"name": name}
        if values.dtype != object:
            arrays[f"column {number}"] = values.astype(np.float64)
        else:
            code, distinct = pd.factorize(values)
            if len(distinct) > len(values) / 2:
                column["texts"] = values.tolist()
            else:
                column["values"] = distinct.tolist()
                arrays[f"column {number}"] = (code + 1).astype(np.uint16 if len(distinct) < 2**16 - 1 else np.uint32)
        columns.append(column)
    header: dict[str, Any] = {
        "count": len(atlas.ids),
        "moving": MOVING,
        "ids": [str(item) for item in atlas.ids.tolist()],
        "columns": columns,
        "color_by": atlas.color_by,
        "groups": atlas.groups,
        "colors": atlas.colors,
        "arrays": {},
    }
    body, size = [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        header["arrays"][name] = {"type": array.dtype.name, "offset": size, "length": array.size}
        data += b"\0" * (-len(data) % 8)
        body.append(data)
        size += len(data)
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 8)
    packed = struct.pack("<I", len(text)) + text + b"".join(body)
    return gzip.compress(packed, compresslevel=6, mtime=0)  # no time: the same map is the same file


def _quantised(places: np.ndarray) -> np.ndarray:
    """[-1, 1] as 0 to 65535."""
    return np.rint((np.clip(places, -1, 1).astype(np.float64) + 1) * 32767.5).astype(np.uint16)
