"""The baselines on MovieLens-1M under the protocol of the literature, against the numbers measured elsewhere.

    python -m benchmarks.baselines FILE

FILE is the preprocessed MovieLens-1M of SASRec, "user item" lines in order (6,040 users, 3,416 items, 999,611 events).
Leave-one-out by the order of the file; the models are fitted on the training part (without validation and test events);
at the test the history is training and validation, its items are no candidates, all other items are; ties lose.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.record import write_record
from config import DataConfig
from zoo import evaluation, registry
from zoo.data import sources, splits
from zoo.data.catalogue import Prepared, prepare

ROWS = [  # model, preset, HR@10, NDCG@10, HR@50, NDCG@50, HR@200, NDCG@200 as measured by another implementation
    ("most_popular", "ml-1m", 0.0369, 0.0180, 0.1391, 0.0398, 0.3397, 0.0697),
    ("item_knn", "ml-1m", 0.0864, 0.0432, 0.2495, 0.0780, 0.5397, 0.1213),
    ("ease", "ml-1m", 0.1089, 0.0535, 0.3174, 0.0984, 0.5831, 0.1384),
    ("ease", "ml-1m-recency", 0.2303, 0.1284, 0.4545, 0.1777, 0.6424, 0.2062),
    ("seq_item_knn", "ml-1m", 0.2871, 0.1685, 0.5200, 0.2195, 0.7257, 0.2507),
]
NAMES = [f"{metric}@{k}" for k in (10, 50, 200) for metric in ("hit_rate", "ndcg")]


def measure(prepared: Prepared, name: str, preset: str, anchors: tuple[float, ...]) -> dict[str, Any]:
    spec = registry.get(name)
    config = spec.preset(preset)
    started = time.perf_counter()
    model = spec.model(config.model, prepared.catalogue)
    model.fit(prepared.train)
    fitted = time.perf_counter()
    options = config.evaluate.model_copy(update={"top_k": (10, 50, 200), "bootstrap": 0})
    metrics = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, options, config.seed).metrics
    done = time.perf_counter()
    values = {metric: round(metrics[metric], 4) for metric in NAMES}
    return {
        "model": name,
        "preset": preset,
        **values,
        "equal_to_anchor": list(values.values()) == list(anchors),
        "fit_seconds": round(fitted - started, 2),
        "evaluate_seconds": round(done - fitted, 2),
    }


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    data = sources.load(DataConfig(path=sys.argv[1], layout="pairs"), registry.get("ease").preset("base").sample, 0)
    split = splits.leave_one_out(data)
    prepared = prepare(split)
    print(f"{data.summary()}\n{split.summary()}")
    print(f"{'model':<14}{'preset':<15}" + "".join(f"{name:>14}" for name in NAMES) + f"{'fit s':>8}{'score s':>9}")
    rows = []
    for name, preset, *anchors in ROWS:
        row = measure(prepared, name, preset, tuple(anchors))
        rows.append(row)
        numbers = "".join(f"{row[metric]:>14.4f}" for metric in NAMES)
        seconds = f"{row['fit_seconds']:>8.1f}{row['evaluate_seconds']:>9.1f}"
        print(f"{name:<14}{preset:<15}{numbers}{seconds}  {'= anchor' if row['equal_to_anchor'] else 'DIFFERS'}")
    path = write_record("baselines_ml-1m", {"split_sha256": split.sha256, "rows": rows}, ("numpy", "scipy", "keras"))
    print(path)


if __name__ == "__main__":
    main()
