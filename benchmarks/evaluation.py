"""Time and memory of an evaluation over the whole catalogue, and the score of popularity on MovieLens-1M.

    OMP_NUM_THREADS=2 python -m benchmarks.evaluation [PAIRS_FILE]

The model is an inner product of ready vectors, so that what is measured is evaluation: scores, ranks, lists, all
metrics and their intervals. PAIRS_FILE is MovieLens-1M as "user item" lines in order (layout `pairs`).
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.record import write_record
from config import EvaluateConfig
from zoo.data import splits
from zoo.data.catalogue import Catalogue, prepare
from zoo.data.dataset import Dataset, Entities, Events
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, Vocabulary
from zoo.evaluation import Evaluation, evaluate
from zoo.recommender import Scorer

SIZES = [(6_040, 3_416, 165), (5_000, 100_000, 50)]  # users, items, events a user
DIM, REPEATS = 64, 5


class Vectors(Scorer):
    """Inner products of random vectors."""

    def __init__(self, num_users: int, catalogue: Catalogue):
        random = np.random.default_rng(0)
        self.catalogue = catalogue
        self.users = random.normal(size=(num_users, DIM)).astype(np.float32)
        self.items = random.normal(size=(catalogue.items.size, DIM)).astype(np.float32)

    def score(self, histories: Histories) -> np.ndarray:
        return self.users[histories.user] @ self.items.T


class Popular(Scorer):
    """Training counts."""

    def __init__(self, catalogue: Catalogue):
        self.catalogue = catalogue

    def score(self, histories: Histories) -> np.ndarray:
        counts = self.catalogue.item_counts.astype(np.float32)
        return np.broadcast_to(counts, (len(histories), len(counts)))


def speed(num_users: int, num_items: int, events: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    size = num_items + NUM_SPECIALS
    user = np.arange(num_users, dtype=np.int32)
    item = random.integers(NUM_SPECIALS, size, num_users * events).astype(np.int32)
    histories = Histories(user, np.arange(num_users + 1) * events, item)
    targets = Histories(user, np.arange(num_users + 1), random.integers(NUM_SPECIALS, size, num_users).astype(np.int32))
    vocabulary = Vocabulary(np.arange(num_items), num_items)
    catalogue = Catalogue(Vocabulary(user, num_users), vocabulary, np.bincount(item, minlength=size))
    model = Vectors(num_users, catalogue)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = [], []
    for _ in range(REPEATS):
        started = time.perf_counter(), time.process_time()
        evaluate(model, histories, targets, catalogue, EvaluateConfig())
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "users": num_users,
        "items": num_items,
        "dim": DIM,
        "seconds": round(statistics.median(wall), 2),
        "seconds_range": [round(min(wall), 2), round(max(wall), 2)],
        "cpu_seconds": round(statistics.median(cpu), 2),
        "peak_mib_more": round(peak),
        "whole_matrix_mib": round(num_users * size * 4 / 2**20),
    }


def popularity(path: Path) -> Evaluation:
    pairs = pd.read_csv(path, sep=" ", header=None).to_numpy()
    users, user = np.unique(pairs[:, 0], return_inverse=True)
    items, item = np.unique(pairs[:, 1], return_inverse=True)
    order = np.argsort(user, kind="stable")
    events = Events(user[order].astype(np.int32), item[order].astype(np.int32))
    prepared = prepare(splits.leave_one_out(Dataset(events, Entities(users), Entities(items), clock="order")))
    return evaluate(Popular(prepared.catalogue), *prepared.cases("test"), prepared.catalogue, EvaluateConfig())


def main() -> None:
    results: dict[str, Any] = {"speed": []}
    print(f"{'users':>8}{'items':>9}{'seconds':>9}{'cpu':>9}{'peak MiB':>10}{'users × items MiB':>19}")
    for size in SIZES:
        row = speed(*size)
        results["speed"].append(row)
        print(
            f"{row['users']:>8,}{row['items']:>9,}{row['seconds']:>9.2f}{row['cpu_seconds']:>9.2f}"
            f"{row['peak_mib_more']:>10,}{row['whole_matrix_mib']:>19,}"
        )
    if len(sys.argv) > 1:
        metrics = popularity(Path(sys.argv[1])).metrics
        results["popularity_ml_1m"] = {name: round(metrics[name], 4) for name in ("hit_rate@10", "ndcg@10")}
        print(f"popularity on MovieLens-1M: {results['popularity_ml_1m']}, published anchor .0369 / .0180")
    print(write_record("evaluation", results, ("numpy", "keras")))


if __name__ == "__main__":
    main()
