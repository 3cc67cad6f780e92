"""Time and memory of a training step where the catalogue is large: exact cross-entropy and its approximations.

    OMP_NUM_THREADS=2 KERAS_BACKEND=… python -m benchmarks.large_catalogue [ITEMS] [DIM] [LOSS;LOSS...]

SASRec over ITEMS (default 450,000) items x DIM (128) dimensions, batches of 128 sequences of 50 events. Each loss runs
in a process of its own. `above` is the peak of resident memory less what stood when the model was built and less Adam's
two moments: what the step itself needs, the gradients included. `top_10_seconds` is the search of the ten best items
for 1,024 users among all.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

STEPS, BATCH, LENGTH, USERS = 5, 128, 50, 1024
LOSSES = {
    "softmax": "",
    "sampled_softmax, 1,000 shared": "loss=sampled_softmax,num_negatives=1000",
    "sampled_softmax, touched items": "loss=sampled_softmax,num_negatives=1000,touched_items=true",
    "sce": "loss=sce",
}


def child(items: int, dim: int, overrides: str) -> None:
    from zoo import memory

    # As main.py does, before the backend's threads begin.
    memory.keep_freed(os.environ.get("KERAS_BACKEND", "tensorflow"))
    import keras

    from benchmarks.scaling import prepared_log
    from config import RunConfig, TrainConfig, override
    from zoo import artifacts, backends, training
    from zoo.data.loaders.sequences import NextItemLoader
    from zoo.layers.embedding import RowEmbedding
    from zoo.models.sasrec import SASRecConfig
    from zoo.topk import InnerProductIndex

    knobs = {"embedding_dim": dim, "max_length": LENGTH}
    config = RunConfig(model=SASRecConfig(**knobs), train=TrainConfig(batch_size=BATCH))
    config = override(config, [overrides] if overrides else [])
    backends.configure(config.train)
    prepared = prepared_log(max(STEPS * BATCH, USERS), LENGTH, items)
    loader = NextItemLoader(prepared.train, prepared.catalogue, config)
    loader.set_epoch(0)
    model = artifacts.build("sasrec", config, prepared.catalogue)
    model(keras.tree.map_structure(keras.ops.convert_to_tensor, loader[0])[0])
    rows = [layer for layer in model.layers if isinstance(layer, RowEmbedding)]
    model.compile(optimizer=training.make_optimizer(config.train, 1e-3, model.trainable_variables, rows))
    before = resident()
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    seconds = []
    for step in range(STEPS):
        batch = keras.tree.map_structure(keras.ops.convert_to_tensor, loader[step])
        start = time.perf_counter()
        model.train_on_batch(*batch)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    users_vectors = model.vectors(prepared.train.take(np.arange(USERS)))
    start = time.perf_counter()
    InnerProductIndex(model.item_matrix(), None).search(users_vectors, 10, None)
    searched = time.perf_counter() - start
    print(
        json.dumps(
            {
                "step_seconds": round(float(np.median(seconds[2:])), 3),
                "parameters_gib": round(parameters * 4 / 2**30, 3),
                "above_gib": round((peak - before - 8 * parameters) / 2**30, 2),
                "peak_gib": round(peak / 2**30, 2),
                "top_10_seconds": round(searched, 2),
            }
        )
    )


def resident() -> int:
    """Bytes of this process that lie in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    from benchmarks.process import measured
    from benchmarks.record import write_record
    from zoo import backends

    given = sys.argv[1:]
    items, dim, asked = (*given, *("450000", "128", ";".join(LOSSES))[len(given) :])
    rows: dict[str, Any] = {}
    for name in asked.split(";"):
        overrides = LOSSES[name]
        rows[name] = row = measured("large_catalogue", "--child", items, dim, overrides)
        row["times_faster"] = round(next(iter(rows.values()))["step_seconds"] / row["step_seconds"], 1)
        print(f"{name:<32}" + "  ".join(f"{key} {value:,}" for key, value in row.items()), flush=True)
    results = {"items": int(items), "dim": int(dim), "batch": BATCH, "length": LENGTH, "rows": rows}
    print(
        write_record(f"large_catalogue_{items}_{dim}_{backends.name()}", results, ("numpy", "keras", backends.name()))
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
