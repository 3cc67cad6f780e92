"""What stands beside every published number: date, command, commit, device, threads, versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def write_record(name: str, results: Any, packages: tuple[str, ...]) -> Path:
    """Writes benchmarks/results/NAME.json: the results and what they were measured with."""
    environment = [f"{key}={os.environ[key]}" for key in ("OMP_NUM_THREADS", "KERAS_BACKEND") if key in os.environ]
    module = "benchmarks." + Path(sys.argv[0]).stem
    options = ["FILE" if Path(option).exists() else option for option in sys.argv[1:]]
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join([*environment, "python -m", module, *options]),
        "commit": _commit(),
        "device": f"{_processor()}, {_cores()} cores",
        "threads": int(os.environ.get("OMP_NUM_THREADS", _cores())),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()}
        | {package: import_module(package).__version__ for package in packages},
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _commit() -> str:
    """The commit that is measured, `-dirty` where files differ from it; records may: benchmarks write them."""
    commit = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True).stdout.strip()
    code = ["git", "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)benchmarks/results"]
    return commit + ("-dirty" if subprocess.run(code, capture_output=True).returncode else "")


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float]:
    """Of a few seeds: mean and standard deviation, that of a sample (n - 1 below the sum); of one seed 0."""
    numbers = np.array(list(values), float)
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
