"""What share of the machine's matrix-product rate a training step reaches, on each backend.

    OMP_NUM_THREADS=2 python -m benchmarks.step_rate FILE MODEL[,MODEL...] [BACKEND,...] [LAYOUT] [K=V,...]

The models are as in `benchmarks.peers`: 64 dimensions, two blocks, histories of 200, batches of 128 users, dropout .1,
full cross-entropy. two_tower and item2vec have batches of 1,024 pairs, which count as tokens, and two_tower histories
of 50. Of cross_domain the second stage is timed; it needs a log of several domains, in a call of its own (LAYOUT
`auto`, K=V `target_domains=NAME`).

The products of a step are counted by PyTorch as it runs them, forward and backward; other backends run the same ones.
The rate is that of float32 matrices of 2,048 x 2,048, the best of NumPy and PyTorch (as the zoo sets it up: oneDNN
where that is exact) and of the whole run. Products with padding, of which packed rows have next to none, and those that
the causal mask hides afterwards count as work. Peak memory is that of the process, imports, data and compilation
included.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record

KNOBS: dict[str, str] = {
    "sasrec": "all_events=false,block=original,relative_bias=false,num_heads=1,dropout=0.1,attention_dropout=0.1",
    "bert4rec": "all_events=false,relative_bias=false,dropout=0.1,attention_dropout=0.1,transform=false,"
    "item_bias=false,last_share=0,mask_share=0.2",
    "hstu": "all_events=false,dropout=0.1,use_time=false",
    "gru4rec": "all_events=false,dropout=0.1,embedding_dropout=0",
    "two_tower": "batch_size=1024,max_length=50",
    "item2vec": "batch_size=1024",
    "cross_domain": "all_events=false,dropout=0.1",
}
COMMON = "batch_size=128,embedding_dim=64,max_length=200,learning_rate=0.001"
STEPS = 30


def quickest(*runs: Callable[[], Any]) -> float:
    """Seconds of the quickest run, each of them several times."""
    best = float("inf")
    for run in runs:
        for _ in range(6):
            begin = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - begin)
    return best


def matrix_rate() -> float:
    """Float32 operations a second of large matrix products, in a process of its own: the best of several, in two
    libraries, of which PyTorch is set up as the zoo sets it up."""
    return measured("step_rate", "--rate", backend="torch")


def quickest_products() -> float:
    """`matrix_rate` of this process."""
    import torch

    from config import TrainConfig
    from zoo import backends

    backends.configure(TrainConfig())
    size = 2048
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    b = torch.from_numpy(a)
    return 2 * size**3 / quickest(lambda: a @ a, lambda: b @ b)


def built(file: str, name: str, layout: str, knobs: str) -> tuple[Any, ...]:
    """(configuration, model, its last stage, the stage's loader)."""
    from zoo import memory

    memory.keep_freed(os.environ["KERAS_BACKEND"])  # as main.py does, before the backend's threads begin
    from config import DataConfig, RunConfig, TrainConfig, override
    from zoo import artifacts, backends, registry
    from zoo.data import sources, splits
    from zoo.data.catalogue import prepare

    spec = registry.get(name)
    config = RunConfig(model=spec.preset("base").model, train=TrainConfig())
    config = override(config, [option for option in (COMMON, KNOBS[name], knobs) if option])
    backends.configure(config.train)
    dataset = sources.load(DataConfig(path=file, layout=layout), config.sample, 0)
    prepared = prepare(splits.split(dataset, config.split, 0))
    model: Any = artifacts.build(name, config, prepared.catalogue)
    stage = spec.stages[-1]
    train = prepared.train if stage.prepare is None else stage.prepare(model, prepared.train)
    loader = stage.loader(train, prepared.catalogue, config)
    loader.set_epoch(0)
    return config, model, stage, loader


def child(file: str, name: str, layout: str, knobs: str, count: bool) -> dict[str, Any]:
    """Seconds of a step and, where asked for, its operations."""
    config, model, stage, loader = built(file, name, layout, knobs)
    import keras

    from zoo import training

    batches = [keras.tree.map_structure(keras.ops.convert_to_tensor, loader[i % len(loader)]) for i in range(STEPS)]
    inputs, labels, _ = batches[1]
    tokens = np.count_nonzero(keras.ops.convert_to_numpy(inputs["segment"])) if "segment" in inputs else len(labels)
    with training.frozen(model, stage):
        model.compile(optimizer=keras.optimizers.Adam(config.train.learning_rate))
        seconds = []
        for batch in batches:
            begin = time.perf_counter()
            loss = model.train_on_batch(*batch)
            seconds.append(time.perf_counter() - begin)
        assert np.isfinite(loss)
        row: dict[str, Any] = {
            "step_ms": round(1e3 * statistics.median(seconds[2:]), 1),
            "tokens": int(tokens),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
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
    print(
        f"{'model':<14}{'backend':<12}{'step ms':>9}{'tokens / s':>12}{'Gop / step':>12}{'Gop / s':>9}{'share':>8}"
        f"{'peak GiB':>10}"
    )
    for model, rows in results.items():
        for backend, row in rows.items():
            speed = row["operations"] / row["step_ms"] * 1e3
            row["share"] = round(speed / max(rates), 3)  # other users of the machine may slow down a measurement
            print(
                f"{model:<14}{backend:<12}{row['step_ms']:>9.0f}{row['tokens'] / row['step_ms'] * 1e3:>12,.0f}"
                f"{row['operations'] / 1e9:>12.1f}{speed / 1e9:>9.1f}{row['share']:>8.2f}{row['peak_gib']:>10.2f}"
            )
    title = "step_rate" + "".join(f"_{option}" for option in knobs.split(",") if option)
    print(write_record(title, results, ("numpy", "keras", "jax", "tensorflow", "torch")))


if __name__ == "__main__":
    if sys.argv[1:] == ["--rate"]:
        print(quickest_products())
    elif sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:6], count=sys.argv[6:7] == ["count"])))  # type: ignore[misc]
    else:
        main()
