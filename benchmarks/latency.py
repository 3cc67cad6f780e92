"""Milliseconds from a user's new event to his new vector and top ten: appended to a state, and read whole.

    OMP_NUM_THREADS=2 python -m benchmarks.latency [MODEL,...] [BACKEND,...] [K=V,...]

One user with 100 to 198 events in a window of 200; d64, two blocks (GRU4Rec: one layer), 50,000 items. The weights are
those of the start: time does not depend on them. `append` is `Stream.append`; `whole` is `Recommender.vectors` of the
history; `top ten` is an exact search among all items. Medians of 90 events, after 9 that compile; `p95` the slowest
twentieth.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record

ITEMS, WARM, MEASURED = 50_000, 9, 90
COMMON = "embedding_dim=64,max_length=200"


def child(name: str, knobs: str) -> dict[str, Any]:
    """Milliseconds on this process's backend."""
    from zoo import memory

    memory.keep_freed(os.environ["KERAS_BACKEND"])  # as main.py does, before the backend's threads begin
    from config import override
    from zoo import backends, registry
    from zoo.data.catalogue import Catalogue
    from zoo.data.histories import Histories
    from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary
    from zoo.streaming import Stream
    from zoo.topk import InnerProductIndex

    spec = registry.get(name)
    config = override(spec.preset("base"), [option for option in (COMMON, knobs) if option])
    backends.configure(config.train)
    backends.seed(0)
    items = Vocabulary(np.arange(ITEMS), ITEMS)
    catalogue = Catalogue(Vocabulary(np.arange(1), 1), items, np.ones(items.size, np.int64))
    model: Any = spec.model(config.model, catalogue)
    events = np.random.default_rng(0).integers(NUM_SPECIALS, items.size, 200).astype(np.int32)
    times = 1_600_000_000_000 + 60_000 * np.arange(200)

    def history(count: int) -> Histories:
        user, offsets = np.full(1, UNKNOWN, np.int32), np.array([0, count])
        return Histories(user, offsets, events[:count], times[:count])

    index = InnerProductIndex(model.item_matrix(), None)
    stream = Stream(model, history(100))
    taken: dict[str, list[float]] = {"append": [], "whole": [], "top ten": []}
    for count in range(100, 100 + WARM + MEASURED):
        begin = time.perf_counter()
        vectors = stream.append(events[count : count + 1], times[count : count + 1])
        appended = time.perf_counter()
        index.search(vectors, 10, None)
        found = time.perf_counter()
        again = model.vectors(history(count + 1))
        taken["whole"].append(time.perf_counter() - found)
        taken["append"].append(appended - begin)
        taken["top ten"].append(found - appended)
        assert np.abs(again - vectors).max() < 1e-4
    return {
        what: {
            "median": round(1e3 * float(np.median(seconds[WARM:])), 2),
            "p95": round(1e3 * float(np.quantile(seconds[WARM:], 0.95)), 2),
        }
        for what, seconds in taken.items()
    }


def main() -> None:
    knobs = [option for option in sys.argv[1:] if "=" in option]
    given = [option for option in sys.argv[1:] if "=" not in option]
    models, backends = (*given, *("sasrec,hstu,gru4rec", "tensorflow,jax,torch")[len(given) :])
    results: dict[str, Any] = {}
    print(f"{'model':<10}{'backend':<12}" + "".join(f"{what:>12}{'p95':>8}" for what in ("append", "whole", "top ten")))
    for model in models.split(","):
        for backend in backends.split(","):
            row = measured("latency", "--child", model, *knobs, backend=backend)
            results.setdefault(model, {})[backend] = row
            numbers = "".join(f"{times['median']:>12.2f}{times['p95']:>8.2f}" for times in row.values())
            print(f"{model:<10}{backend:<12}{numbers}", flush=True)
    print(write_record("latency", results, ("numpy", "keras", "jax", "tensorflow", "torch")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], ",".join(sys.argv[3:]))))
    else:
        main()
