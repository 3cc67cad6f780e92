"""The matrix products of a training step alone, at their shapes: what each backend's library makes of them.

    OMP_NUM_THREADS=2 python -m benchmarks.products FILE [MODEL,...] [BACKEND,...] [LAYOUT] [K=V,...]

The models and the batch are those of `benchmarks.step_rate`. PyTorch notes each product of a step, forward and
backward, with its sizes and which operand is transposed; each backend then multiplies random matrices of these sizes
and does nothing else, all in one compiled function, medians. `share` is what they reach of the machine's rate of matrix
products, and so the most that a step could that spent no time between them. `slowest` are those that lose the most to
that rate, all of one kind by themselves, with the milliseconds and Gop/s they take in a step.
"""

from __future__ import annotations

import collections
import json
import math
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record
from benchmarks.step_rate import built, matrix_rate

ROUNDS = 12  # the first two compile
Operand = tuple[tuple[int, ...], bool]  # sizes as they lie in memory, and whether the last two change places


def products(file: str, name: str, layout: str, knobs: str) -> list[tuple[Operand, Operand, int]]:
    """[(left, right, how often)] of a training step on PyTorch."""
    config, model, stage, loader = built(file, name, layout, knobs)
    import keras
    from torch.utils._python_dispatch import TorchDispatchMode

    from zoo import training

    found: collections.Counter[tuple[Operand, Operand]] = collections.Counter()

    def operand(tensor: Any) -> Operand:
        turned = tensor.stride(-1) != 1 and tensor.shape[-1] > 1
        return tuple(tensor.mT.shape if turned else tensor.shape), turned

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kind = function.overloadpacket.__name__
            if kind in ("mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_"):
                found[tuple(map(operand, args[-2:]))] += 1  # type: ignore[index]
            return function(*args, **(kwargs or {}))

    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, loader[1])
    with training.frozen(model, stage):
        model.compile(optimizer=keras.optimizers.Adam(config.train.learning_rate))
        model.train_on_batch(*batch)
        with Noted():
            model.train_on_batch(*batch)
    return [(*pair, count) for pair, count in found.items()]


def timed(noted: list[tuple[Operand, Operand, int]]) -> dict[str, Any]:
    """Milliseconds of all products, and of each kind by itself, on this process's backend."""
    from zoo import memory

    memory.keep_freed(os.environ["KERAS_BACKEND"])  # as main.py does, before the backend's threads begin
    import keras

    from config import TrainConfig
    from zoo import backends

    backends.configure(TrainConfig())
    compiled: Any = lambda function: function  # noqa: E731
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function

    rng = np.random.default_rng(0)
    pairs = [
        [keras.ops.convert_to_tensor(rng.standard_normal(size, np.float32)) for size, _ in pair] for *pair, _ in noted
    ]

    def product(left: Any, right: Any, which: int) -> Any:
        """Row `which` of those that were noted."""
        turned = (noted[which][0][1], noted[which][1][1])
        left, right = (
            keras.ops.swapaxes(one, -1, -2) if turn else one for one, turn in zip((left, right), turned, strict=True)
        )
        return keras.ops.matmul(left, right)

    # A compiler that is given the same arrays twice, as two, multiplies them twice.
    groups = [[i] * count for i, (*_, count) in enumerate(noted)]
    runs = []
    for which in (list(chain(*groups)), *groups):
        made = partial(lambda which, *given: [product(*pair, i) for pair, i in zip(given, which, strict=True)], which)
        runs.append((compiled(made), which))
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for (run, which), one in zip(runs, seconds, strict=True):
            begin = time.perf_counter()
            result = run(*(pairs[i] for i in which))
            for one_result in result if hasattr(result[0], "block_until_ready") else ():
                one_result.block_until_ready()  # JAX; the others are done
            one.append(time.perf_counter() - begin)
    whole, *each = [1e3 * statistics.median(one[2:]) for one in seconds]
    return {"ms": whole, "each": each}


def operations(left: Operand, right: Operand) -> int:
    columns = right[0][-2] if right[1] else right[0][-1]
    return 2 * math.prod(left[0]) * columns


def main() -> None:
    if not 2 <= len(sys.argv) <= 6:
        raise SystemExit(__doc__)
    file, *given = sys.argv[1:]
    models, backends, layout, knobs = (
        *given,
        *("sasrec,hstu,bert4rec", "tensorflow,jax,torch", "pairs", "")[len(given) :],
    )
    results: dict[str, Any] = {}
    rates = []
    for model in models.split(","):
        noted = measured("products", "--note", file, model, layout, knobs, backend="torch")
        counts = [count * operations(left, right) for left, right, count in noted]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "products.json"
            path.write_text(json.dumps(noted))
            for backend in backends.split(","):
                rates.append(matrix_rate())
                found = measured("products", "--time", path, backend=backend)
                order = sorted(range(len(noted)), key=lambda i: counts[i] / max(rates) - found["each"][i] / 1e3)
                slowest = [
                    {
                        "product": noted[i],
                        "ms": round(found["each"][i], 2),
                        "gops": round(counts[i] / found["each"][i] / 1e6),
                    }
                    for i in order[:3]
                ]
                row = {"ms": round(found["ms"], 1), "operations": sum(counts), "slowest": slowest}
                results.setdefault(model, {})[backend] = row
    print(f"{'model':<10}{'backend':<12}{'ms':>8}{'Gop / step':>12}{'share':>8}  slowest")
    for model, rows in results.items():
        for backend, row in rows.items():
            row["share"] = round(row["operations"] / row["ms"] * 1e3 / max(rates), 3)
            slow = "; ".join(f"{turn(*one['product'][:2])} {one['ms']} ms, {one['gops']}" for one in row["slowest"])
            shown = f"{row['ms']:>8.1f}{row['operations'] / 1e9:>12.1f}{row['share']:>8.2f}"
            print(f"{model:<10}{backend:<12}{shown}  {slow}")
    results["rate"] = round(max(rates))
    title = "products" + "".join(f"_{option}" for option in knobs.split(",") if option)
    print(write_record(title, results, ("numpy", "keras", "jax", "tensorflow", "torch")))


def turn(*operands: Operand) -> str:
    """As `70x200x32 @ (70x200x32)T`."""
    sizes = (("({})T" if turned else "{}").format("x".join(map(str, size))) for size, turned in operands)
    return " @ ".join(sizes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--note"]:
        print(json.dumps(products(*sys.argv[2:6])))
    elif sys.argv[1:2] == ["--time"]:
        print(json.dumps(timed(json.loads(Path(sys.argv[2]).read_text()))))
    else:
        main()
