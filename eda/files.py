"""Files: what the analysis leaves on disk, each whole or not at all."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

from matplotlib.figure import Figure

from config import ConfigError


def save(content: Figure | str, path: Path) -> None:
    """Writes a figure as PNG, or a text as UTF-8: beside `path` first, then in its place.

    Raises:
        ConfigError: it cannot be written there.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Figure):
            with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes
                warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
                content.savefig(beside, format="png")
        else:
            beside.write_text(content, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            beside.unlink(missing_ok=True)
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror or error}); make room or rights, or choose another directory"
        ) from None
