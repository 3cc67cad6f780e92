"""Time and memory from Parquet files of the RecSys Challenge 2025's schema to a packed log, cut and in tokens.

    python -m benchmarks.behaviour_loading [EVENTS ...]

Makes the five files of events and the product properties in a temporary folder, in the proportions of the challenge
(89 % visits; 9 events a client; unsorted, times on a grid of 5 seconds), then reads them in processes of their own:
`read` finds an empty cache, `cached` the memory-mapped arrays of the first. The peak is that of resident memory, which
counts memory-mapped pages that are in use.
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
from config import BehaviourConfig, DataConfig, SampleConfig

SHARES = {  # of the events, what they are about, how many of these there are per event, and the power of its long tail
    "product_buy": (0.01, "sku", 0.006, 3),
    "add_to_cart": (0.03, "sku", 0.006, 3),
    "remove_from_cart": (0.01, "sku", 0.006, 3),
    "page_visit": (0.89, "url", 0.07, 4),
    "search_query": (0.06, "query", 0.02, 2),
}
EVENTS_OF_A_CLIENT, DAYS = 9, 140


def make(folder: Path, events: int) -> None:
    """The files, by SQL."""
    from zoo.data.sources.engine import connect, literal

    connection = connect(str(folder))
    connection.execute("SELECT setseed(0.5)")
    codes = "'[' || array_to_string([CAST(hash({} + k) % 256 AS INTEGER) FOR k IN range(16)], ' ') || ']'"
    for name, (share, column, things, power) in SHARES.items():
        about = f"CAST({max(int(events * things), 10)} * pow(random(), {power}) AS BIGINT)"
        value = codes.format("16 * about") if column == "query" else "about"
        connection.execute(
            f"COPY (SELECT CAST({events // EVENTS_OF_A_CLIENT} * pow(random(), 2) AS BIGINT) * 3 AS client_id, "
            f"TIMESTAMP '2022-06-23' + to_seconds(5 * CAST({DAYS * 17280 - 1} * random() AS BIGINT)) AS timestamp, "
            f"{value} AS {column} FROM (SELECT {about} AS about FROM range({int(events * share)}))) "
            f"TO {literal(str(folder / f'{name}.parquet'))} (FORMAT parquet)"
        )
    skus = max(int(events * SHARES["product_buy"][2]), 10)
    connection.execute(
        f"COPY (SELECT i AS sku, i % 6774 AS category, i % 100 AS price, {codes.format('16 * i')} AS name "
        f"FROM range({skus + 1}) AS t(i)) TO {literal(str(folder / 'product_properties.parquet'))} (FORMAT parquet)"
    )


def measure(path: str, cache_dir: str) -> list[dict]:
    """Seconds and peak memory of this process after each step."""
    steps: list[dict] = []
    started = time.perf_counter()

    def after(step: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        steps.append({"step": step, "seconds": round(time.perf_counter() - started, 1), "peak_gib": round(peak, 2)})

    from zoo.data.behaviour import sources
    from zoo.data.behaviour.prepared import prepare

    after("imports")
    log = sources.load(DataConfig(path=path, cache_dir=cache_dir), SampleConfig())
    after("log")
    prepare(log, BehaviourConfig())
    after("cut, catalogue, tokens")
    return steps


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--measure":
        print(json.dumps(measure(*sys.argv[2:])))
        return
    results = []
    for events in map(int, sys.argv[1:] or ["5000000", "20000000"]):
        row: dict = {"events": events}
        with tempfile.TemporaryDirectory() as folder:
            files, cache = Path(folder, "log"), Path(folder, "cache")
            files.mkdir()
            make(files, events)
            row["parquet_mib"] = sum(file.stat().st_size for file in files.iterdir()) // 2**20
            for state in ("read", "cached"):
                row[state] = measured("behaviour_loading", "--measure", files, cache)
        imports, log = row["read"][:2]
        row["million_events_per_second"] = round(events / 1e6 / (log["seconds"] - imports["seconds"]), 2)
        results.append(row)
        print(f"{events:,} events, {row['parquet_mib']:,} MiB: {row['million_events_per_second']} M events/s")
        for first, second in zip(row["read"], row["cached"], strict=True):
            print(f"  {first['step']:24}{first['seconds']:>8} s {first['peak_gib']:>6} GiB", end="")
            print(f"   cached {second['seconds']:>8} s {second['peak_gib']:>6} GiB")
    write_record("behaviour_loading", results, ("duckdb", "numpy"))


if __name__ == "__main__":
    main()
