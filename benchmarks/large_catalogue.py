"""Time and memory of a training step where the catalogue is large: exact cross-entropy and its approximations.

    OMP_NUM_THREADS=2 KERAS_BACKEND=… python -m benchmarks.large_catalogue [ITEMS] [DIM]

SASRec over ITEMS (default 450,000) items x DIM (128) dimensions, batches of 128 sequences of 50 events. Each loss runs
in a process of its own. `above` is the peak of resident memory less what stood when the model was built and less Adam's
two moments: what the step itself needs, the gradients included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np

STEPS, BATCH, LENGTH = 5, 128, 50
LOSSES = {
    "softmax": "",
    "sampled_softmax, 1,000 shared": "loss=sampled_softmax,num_negatives=1000",
    "sce": "loss=sce",
}


def child(items: int, dim: int, overrides: str) -> None:
    import keras

    from config import RunConfig, TrainConfig, override
    from zoo import artifacts, backends
    from zoo.data import splits
    from zoo.data.catalogue import prepare
    from zoo.data.dataset import Dataset, Entities, Events
    from zoo.data.loaders.sequences import NextItemLoader
    from zoo.models.sasrec import SASRecConfig

    knobs = {"embedding_dim": dim, "max_length": LENGTH}
    config = RunConfig(model=SASRecConfig(**knobs), train=TrainConfig(batch_size=BATCH))
    config = override(config, [overrides] if overrides else [])
    backends.configure(config.train)
    rng = np.random.default_rng(0)
    users = -(-items // (LENGTH + 1))
    item = np.concatenate([rng.permutation(items), rng.integers(0, items, users * (LENGTH + 1) - items)])
    log = Dataset(
        Events(np.repeat(np.arange(users, dtype=np.int32), LENGTH + 1), item.astype(np.int32)),
        Entities(np.arange(users)),
        Entities(np.arange(items)),
        clock="order",
    )
    prepared = prepare(splits.everything(log))
    loader = NextItemLoader(prepared.train, prepared.catalogue, config)
    loader.set_epoch(0)
    model = artifacts.build("sasrec", config, prepared.catalogue)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    before = resident()
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    seconds = []
    for step in range(STEPS):
        batch = keras.tree.map_structure(keras.ops.convert_to_tensor, loader[step])
        start = time.perf_counter()
        model.train_on_batch(*batch)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "step_seconds": round(float(np.median(seconds[2:])), 3),
                "parameters_gib": round(parameters * 4 / 2**30, 3),
                "above_gib": round((peak - before - 8 * parameters) / 2**30, 2),
                "peak_gib": round(peak / 2**30, 2),
            }
        )
    )


def resident() -> int:
    """Bytes of this process that lie in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    from benchmarks.record import write_record
    from zoo import backends

    items, dim = [*map(int, sys.argv[1:]), *(450_000, 128)[len(sys.argv) - 1 :]]
    rows = {}
    for name, overrides in LOSSES.items():
        command = [sys.executable, "-m", "benchmarks.large_catalogue", "--child", str(items), str(dim), overrides]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows[name] = row = json.loads(output.splitlines()[-1])
        row["times_faster"] = round(rows["softmax"]["step_seconds"] / row["step_seconds"], 1)
        print(f"{name:<32}" + "  ".join(f"{key} {value:,}" for key, value in row.items()), flush=True)
    results = {"items": items, "dim": dim, "batch": BATCH, "length": LENGTH, "rows": rows}
    print(write_record(f"large_catalogue_{backends.name()}", results, ("numpy", "keras", backends.name())))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
