"""Where downloads and prepared arrays are kept."""

from __future__ import annotations

import os
from pathlib import Path


def directory(cache_dir: str | None = None) -> Path:
    """`data.cache_dir`, or the user's own cache."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recommender-zoo"
