"""Time and memory of a training step where the catalogue is large: exact cross-entropy and its approximations.

    OMP_NUM_THREADS=2 KERAS_BACKEND=… python -m benchmarks.large_catalogue [ITEMS] [DIM]

SASRec over ITEMS (default 450,000) items x DIM (128) dimensions, batches of 128 sequences of 50 events. Each loss runs
in a process of its own. `above` is the peak of resident memory less what stood when the model was built and less Adam's
two moments: what the step itself needs, the gradients included.
"""

from __future__ import annotations

import json
import resource
import time

import numpy as np

STEPS, BATCH, LENGTH = 6, 128, 50
LOSSES = {
    "softmax": "",
    "sampled_softmax, 1,000 shared": "loss=sampled_softmax,num_negatives=1000",
    "sampled_softmax, 1,000 shared, touched rows": "loss=sampled_softmax,num_negatives=1000",
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
    events = BATCH * (LENGTH + 1)
    user = np.repeat(np.arange(BATCH, dtype=np.int32), LENGTH + 1)
    log = Dataset(
        Events(user, rng.integers(0, items, events).astype(np.int32)),
        Entities(np.arange(BATCH)),
        Entities(np.arange(items)),
        clock="order",
    )
    prepared = prepare(splits.everything(log), all_items=True)
    loader = NextItemLoader(prepared.train, prepared.catalogue, config)
    model = artifacts.build("sasrec", config, prepared.catalogue)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    before = resident()
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    seconds = []
    for step in range(STEPS):
        loader.set_epoch(step)
        batch = keras.tree.map_structure(keras.ops.convert_to_tensor, loader[0])
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
