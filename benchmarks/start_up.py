"""Seconds from a command to its first words, its first epoch and its end, on the built-in sample, by backend.

    OMP_NUM_THREADS=2 python -m benchmarks.start_up [BACKEND,...]

`first epoch` is of `python main.py train_validation_model`, whose line of the first epoch tells a loss and a score;
`whole run` is `python main.py`: exploration, validation, production, predictions.
Each command is run twice, the second time counts: files are in memory, compiled programs where the backend keeps them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import write_record

MAIN = Path(__file__).parent.parent / "main.py"
COMMANDS = {
    "--help": ["--help"],
    "mistyped model": ["evaluate", "--model", "two_towers"],  # refused, with exit code 2
    "list_models": ["list_models"],
    "train_validation_model": ["train_validation_model"],
    "whole run": [],
}


def measure(arguments: list[str], backend: str) -> dict[str, float]:
    """Seconds to the end, and, where there are any, to the first words and to the first epoch's."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        command, begin = [sys.executable, str(MAIN), *arguments], time.perf_counter()
        done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, env=environment)
        assert done.stdout is not None
        for line in done.stdout:
            found.setdefault("first words", time.perf_counter() - begin)
            if b"epoch  1/" in line:
                found.setdefault("first epoch", time.perf_counter() - begin)
        if done.wait() != (2 if arguments == COMMANDS["mistyped model"] else 0):
            raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}")
    return {"end": time.perf_counter() - begin} | found


def main() -> None:
    backends = (sys.argv[1:] or ["tensorflow,jax,torch"])[0].split(",")
    results: dict[str, Any] = {}
    print(f"{'backend':<12}{'command':<24}{'first words':>12}{'first epoch':>12}{'end':>8}")
    for backend in backends:
        for title, arguments in COMMANDS.items():
            row = [measure(arguments, backend) for _ in range(2)][1]
            results.setdefault(backend, {})[title] = {key: round(seconds, 2) for key, seconds in row.items()}
            shown = "".join(
                f"{row[key]:>{width}.1f}" if key in row else " " * width
                for key, width in (("first words", 12), ("first epoch", 12), ("end", 8))
            )
            print(f"{backend:<12}{title:<24}{shown}", flush=True)
    print(write_record("start_up", results, ("numpy", "keras", "jax", "tensorflow", "torch")))


if __name__ == "__main__":
    main()
