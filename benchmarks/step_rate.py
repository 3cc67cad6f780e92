"""What share of the machine's matrix-product rate a training step reaches, on each backend.

    OMP_NUM_THREADS=2 python -m benchmarks.step_rate FILE MODEL[,MODEL...] [BACKEND,...] [LAYOUT] [K=V,...]

The models are as in `benchmarks.peers`: 64 dimensions, two blocks, histories of 200, batches of 128 users, dropout .1,
full cross-entropy. The products of a step are counted by PyTorch as it runs them, forward and backward; other backends
run the same ones. The rate is that of float32 matrices of 2,048 x 2,048, the best of NumPy and PyTorch and of the whole
run. Products with padding, of which packed rows have next to none, and those that the causal mask hides afterwards
count as work.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record

KNOBS: dict[str, str] = {
    "sasrec": "block=original,relative_bias=false,num_heads=1,dropout=0.1,attention_dropout=0.1",
    "bert4rec": "relative_bias=false,dropout=0.1,attention_dropout=0.1,transform=false,item_bias=false,last_share=0,"
    "mask_share=0.2",
    "hstu": "dropout=0.1,use_time=false",
    "gru4rec": "dropout=0.1,embedding_dropout=0",
}
COMMON = "batch_size=128,embedding_dim=64,max_length=200,all_events=false,learning_rate=0.001"
STEPS = 12


def matrix_rate() -> float:
    """Float32 operations a second of large matrix products: the best of several, in two libraries."""
    import torch

    size, best = 2048, float("inf")
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    b = torch.from_numpy(a)
    for product in (lambda: a @ a, lambda: b @ b):
        for _ in range(6):
            begin = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def child(file: str, name: str, layout: str, knobs: str, count: bool) -> dict[str, Any]:
    """Seconds of a step and, where asked for, its operations."""
    from zoo import memory

    memory.keep_freed(os.environ["KERAS_BACKEND"])  # as main.py does, before the backend's threads begin
    import keras

    from config import DataConfig, RunConfig, TrainConfig, override
    from zoo import artifacts, backends, registry
    from zoo.data import sources, splits
    from zoo.data.catalogue import prepare

    spec = registry.get(name)
    config = override(RunConfig(model=spec.preset("base").model, train=TrainConfig()), [COMMON])
    config = override(config, [option for option in (KNOBS.get(name, ""), knobs) if option])
    backends.configure(config.train)
    dataset = sources.load(DataConfig(path=file, layout=layout), config.sample, 0)
    prepared = prepare(splits.split(dataset, config.split, 0))
    model = artifacts.build(name, config, prepared.catalogue)
    loader = spec.stages[-1].loader(prepared.train, prepared.catalogue, config)
    loader.set_epoch(0)
    batches = [keras.tree.map_structure(keras.ops.convert_to_tensor, loader[i]) for i in range(STEPS)]
    model.compile(optimizer=keras.optimizers.Adam(config.train.learning_rate))
    tokens = int(np.count_nonzero(keras.ops.convert_to_numpy(batches[1][0]["segment"])))
    seconds = []
    for batch in batches:
        begin = time.perf_counter()
        loss = model.train_on_batch(*batch)
        seconds.append(time.perf_counter() - begin)
    assert np.isfinite(loss)
    row: dict[str, Any] = {"step_ms": round(1e3 * statistics.median(seconds[2:]), 1), "tokens": tokens}
    if count:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            model.train_on_batch(*batches[1])
        row["operations"] = counter.get_total_flops()
    return row


def main() -> None:
    if not 3 <= len(sys.argv) <= 6:
        raise SystemExit(__doc__)
    file, models, *given = sys.argv[1:]
    backends, layout, knobs = (*given, *("tensorflow,jax,torch", "pairs", "")[len(given) :])
    results: dict[str, Any] = {}
    rates = []
    for model in models.split(","):
        options = ("--child", file, model, layout, knobs)
        operations = measured("step_rate", *options, "count", backend="torch")["operations"]
        for backend in backends.split(","):
            rates.append(matrix_rate())
            results.setdefault(model, {})[backend] = measured("step_rate", *options, backend=backend) | {
                "operations": operations,
                "rate": round(rates[-1]),
            }
    print(f"{'model':<10}{'backend':<12}{'step ms':>9}{'tokens / s':>12}{'Gop / step':>12}{'Gop / s':>9}{'share':>8}")
    for model, rows in results.items():
        for backend, row in rows.items():
            speed = row["operations"] / row["step_ms"] * 1e3
            row["share"] = round(speed / max(rates), 3)  # other users of the machine may slow down a measurement
            print(
                f"{model:<10}{backend:<12}{row['step_ms']:>9.0f}{row['tokens'] / row['step_ms'] * 1e3:>12,.0f}"
                f"{row['operations'] / 1e9:>12.1f}{speed / 1e9:>9.1f}{row['share']:>8.2f}"
            )
    print(write_record("step_rate", results, ("numpy", "keras", "jax", "tensorflow", "torch")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:6], count=sys.argv[6:7] == ["count"])))  # type: ignore[misc]
    else:
        main()
