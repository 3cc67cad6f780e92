"""Measurements in a process of their own: its peak of memory, its backend, nothing compiled before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def measured(module: str, *options: Any, backend: str | None = None) -> Any:
    """What `python -m benchmarks.MODULE OPTIONS...` prints last, read as JSON.

    Args:
        backend: that it runs on; None: the one of this process.

    Raises:
        SystemExit: it failed; with what it wrote to standard error.
    """
    environment = os.environ | ({"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"} if backend else {})
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])
