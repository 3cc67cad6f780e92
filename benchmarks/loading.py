"""Time and memory from a Parquet file to the first batch of the two-tower's loader.

    python -m benchmarks.loading [EVENTS] [integers|text]

Makes the file in a temporary folder, then goes the way of a run in processes of their own: `read` finds an empty cache
(large logs are put into it), `cached` finds the memory-mapped arrays of the first. Seconds (on the clock, and of all
cores together) and memory are those since the start of the process; the peak is that of resident memory, which counts
memory-mapped pages that are in use.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.process import measured
from benchmarks.record import write_record
from config import DataConfig, RunConfig, SplitConfig

EVENTS_OF_A_USER = 50
ITEMS = 100_000
NUMBERS = ("seconds", "cpu_seconds", "peak_gib")


def make(path: Path, events: int, ids: str) -> None:
    """A log in the order of time; users and items have a long tail."""
    from zoo.data.sources.engine import connect, literal

    user = f"CAST({max(events // EVENTS_OF_A_USER, 2)} * pow(random(), 1.5) AS BIGINT)"
    item = f"CAST({ITEMS} * pow(random(), 3) AS BIGINT)"
    if ids == "text":
        user, item = f"printf('client-%d', {user})", f"printf('B%09d', {item})"
    connection = connect(str(path.parent))
    connection.execute("SELECT setseed(0.5)")
    connection.execute(
        f"COPY (SELECT {user} AS user_id, {item} AS item_id, 1600000000 + i // 4 AS timestamp "
        f"FROM range({events}) AS t(i)) TO {literal(str(path))} (FORMAT parquet)"
    )


def measure(path: str, cache_dir: str) -> list[dict]:
    """Seconds and peak memory of this process after each step."""
    steps: list[dict] = []
    started = time.perf_counter()

    def after(step: str) -> None:
        seconds, cpu = time.perf_counter() - started, time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        numbers = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_gib": round(peak, 2)}
        steps.append({"step": step, **numbers})

    from zoo.data import sources, splits
    from zoo.data.catalogue import prepare
    from zoo.data.loaders.pairs import PairLoader
    from zoo.models.two_tower import TwoTowerConfig

    after("imports")
    dataset = sources.load(DataConfig(path=path, cache_dir=cache_dir))
    after("data set")
    split = splits.split(dataset, SplitConfig())
    after("split")
    prepared = prepare(split)
    after("catalogue, histories")
    _ = split.sha256
    after("sha256 of the split")
    loader = PairLoader(prepared.train, prepared.catalogue, RunConfig(model=TwoTowerConfig()))
    loader.set_epoch(0)
    after("loader")
    loader[0]
    after("first batch")
    return steps


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--measure":
        print(json.dumps(measure(*sys.argv[2:])))
        return
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    ids = sys.argv[2] if len(sys.argv) > 2 else "integers"
    results: dict = {"events": events, "ids": ids}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.parquet")
        make(path, events, ids)
        results["parquet_mib"] = path.stat().st_size // 2**20
        for state in ("read", "cached"):
            results[state] = measured("loading", "--measure", path, Path(folder, "cache"))
    print(f"{events:,} events, {ids} ids, {results['parquet_mib']:,} MiB of Parquet")
    print(f"{'':24}" + 2 * f"{'seconds':>10}{'cpu':>8}{'peak GiB':>10}")
    for first, second in zip(results["read"], results["cached"], strict=True):
        row = [first[key] for key in NUMBERS] + [second[key] for key in NUMBERS]
        print(f"{first['step']:24}" + "{:>10}{:>8}{:>10}{:>10}{:>8}{:>10}".format(*row))
    write_record(f"loading_{events}_{ids}", results, ("duckdb", "numpy", "keras"))


if __name__ == "__main__":
    main()
