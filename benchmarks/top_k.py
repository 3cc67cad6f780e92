"""Exact top-k of inner products: the zoo's against faiss (IndexFlatIP) and implicit, on the same random matrices.

    OMP_NUM_THREADS=2 python -m benchmarks.top_k [USERS] [ITEMS] [ROUNDS]

faiss and implicit stand beside the zoo in one environment: `pip install '.[peers]'`.
Defaults: 200,000 users, 100,000 items, 64 dimensions, lists of 100, 3 rounds. Each library runs in a process of its
own, in turns; wall time and processor time of the search alone. `same` is the share of users whose list of items equals
the exact one by (-score, token); faiss and implicit break near-ties by float32 rounding.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record

LIBRARIES = ("zoo", "faiss", "implicit")
DIM, K, CHECKED = 64, 100, 200


def search(library: str, queries: np.ndarray, items: np.ndarray, threads: int) -> tuple[np.ndarray, float, float]:
    """(rows of items of each query's list, wall seconds, processor seconds)."""
    if library == "zoo":
        from zoo.topk import top_k

        table = np.concatenate([np.zeros((3, DIM), np.float32), items])  # special tokens come first
        run = lambda: top_k(queries, table, K)[0] - 3  # noqa: E731
    elif library == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        index = faiss.IndexFlatIP(DIM)
        index.add(items)
        run = lambda: index.search(queries, K)[1]  # noqa: E731
    else:
        from implicit.cpu.topk import topk

        run = lambda: topk(items, queries, K, num_threads=threads)[0]  # noqa: E731
    wall, processor = time.perf_counter(), time.process_time()
    found = run()
    return found, time.perf_counter() - wall, time.process_time() - processor


def child(library: str, users: int, num_items: int) -> None:
    random = np.random.default_rng(0)
    queries = random.standard_normal((users, DIM), np.float32)
    items = random.standard_normal((num_items, DIM), np.float32)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    found, wall, processor = search(library, queries, items, threads)
    exact = (queries[:CHECKED].astype(np.float64) @ items.astype(np.float64).T).astype(np.float32)
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :K]
    same = float((found[:CHECKED] == expected).all(axis=1).mean())
    print(json.dumps({"wall": wall, "processor": processor, "same": same}))


def main() -> None:
    users, items, num_rounds = [*map(int, sys.argv[1:]), *(200_000, 100_000, 3)[len(sys.argv) - 1 :]]
    rounds: dict[str, list[dict[str, float]]] = {library: [] for library in LIBRARIES}
    for _ in range(num_rounds):
        for library in LIBRARIES:
            rounds[library].append(measured("top_k", "--child", library, users, items))
    print(f"{users:,} users x {items:,} items x {DIM}, top {K}, median of {num_rounds}")
    print(f"{'library':<10}{'wall s':>9}{'processor s':>13}{'same':>7}")
    results = {"users": users, "items": items, "dim": DIM, "k": K, "rounds": rounds}
    for library, rows in rounds.items():
        median = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
        results[library] = median
        print(f"{library:<10}{median['wall']:>9.2f}{median['processor']:>13.2f}{median['same']:>7.2f}")
    print(write_record("top_k", results, ("numpy", "faiss", "implicit")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
