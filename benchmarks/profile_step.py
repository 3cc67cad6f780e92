"""Where the time of a training step goes, by part and backend, against the least it could take.

    OMP_NUM_THREADS=2 python -m benchmarks.profile_step FILE [MODEL,...] [BACKEND,...] [LAYOUT] [K=V,...]

The models (sasrec, hstu, bert4rec, gru4rec) and the batch are those of `benchmarks.step_rate`. Parts, as the backend
compiles them, on one batch, in turns, medians:

    input       the loader makes a batch, and it becomes tensors
    forward     the states that the output layer is given, with dropout, nothing kept for a gradient
    output      the loss of given states, and its gradients by the states and the item table
    backward    all gradients, less `forward` and `output`: the way back through the network
    optimizer   the whole step less all gradients, which are written and used for nothing: Adam
    step        the whole, without input

The floor of products is their operations, which PyTorch counts, over the machine's rate of matrix products; that of
`input` and of Adam are the bytes that must be read and written (the batch twice; weights and two moments both ways, and
the gradients) over the rate at which large arrays are copied. Both rates are the best of NumPy and PyTorch and of the
whole run. `lost` is the time above the floor. A difference of two measurements may come out below its floor, or zero.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.process import measured
from benchmarks.record import write_record
from benchmarks.step_rate import built, matrix_rate, quickest

ROUNDS = 12  # the first two compile
COPIED = 2**28  # bytes; no cache holds as many


def copy_rate() -> float:
    """Bytes a second that are read and written where a large array is copied: the best of several, in two libraries."""
    import torch

    a = np.ones(COPIED // 4, np.float32)
    b = np.empty_like(a)
    source, target = torch.from_numpy(a), torch.from_numpy(b)
    return 2 * COPIED / quickest(lambda: np.copyto(b, a), lambda: target.copy_(source))


def measurable(file: str, name: str, layout: str, knobs: str) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """({what can be run}, {bytes that a part must read and write})."""
    config, model, _, loader = built(file, name, layout, knobs)
    import keras
    from keras import ops

    from zoo import artifacts, backends

    class Kept(keras.optimizers.Optimizer):
        """Writes the gradients, so that no compiler leaves them out, and moves nothing."""

        def build(self, variables: list[keras.Variable]) -> None:
            super().build(variables)
            self.kept = self.add_optimizer_variables(variables, "kept")

        def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
            self.assign(self.kept[self._get_variable_index(variable)], gradient)

    class Output(keras.Model):
        """The loss of the model, of states that are a weight."""

        def __init__(self, states: Any):
            super().__init__()
            self.states = self.add_weight(shape=states.shape, initializer="zeros", name="states")
            self.states.assign(states)
            self.items, self.loss_of, self.built = model.item_id, model.loss_of, True

        def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
            return ops.convert_to_tensor(self.states)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return self.loss_of(x, y, y_pred, sample_weight)

    def made() -> Any:
        return keras.tree.map_structure(ops.convert_to_tensor, loader[1])

    arrays, batch = keras.tree.flatten(loader[1]), made()
    forward = backends.compiled(lambda inputs: model(inputs, training=True), model)
    output = Output(ops.convert_to_numpy(forward(loader[1][0])))
    gradients = artifacts.build(name, config, model.catalogue)
    model.compile(optimizer=keras.optimizers.Adam(config.train.learning_rate))
    for each in (output, gradients):
        each.compile(optimizer=Kept(0.0))
    runs = {
        "input": made,
        "forward": lambda: ops.convert_to_numpy(forward(batch[0])),
        "output": lambda: output.train_on_batch(*batch),
        "gradients": lambda: gradients.train_on_batch(*batch),
        "step": lambda: model.train_on_batch(*batch),
    }
    weights = 4 * sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    return runs, {"input": 2 * sum(array.nbytes for array in arrays), "optimizer": 7 * weights}


def child(*job: str, count: bool) -> dict[str, Any]:
    """Milliseconds of the parts and the bytes of those that have any; or the operations of the parts."""
    runs, least = measurable(*job)
    if count:
        from torch.utils.flop_counter import FlopCounterMode

        found: dict[str, float] = {}
        for what, run in runs.items():
            run()
            with FlopCounterMode(display=False) as counter:
                run()
            found[what] = counter.get_total_flops()
        return parts(found)
    seconds: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(ROUNDS):
        for what, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[what].append(time.perf_counter() - begin)
    return {"ms": parts({what: 1e3 * statistics.median(taken[2:]) for what, taken in seconds.items()}), "bytes": least}


def parts(found: dict[str, float]) -> dict[str, float]:
    """What adds up to a step, of what was run."""
    every = {
        "input": found["input"],
        "forward": found["forward"],
        "output": found["output"],
        "backward": found["gradients"] - found["forward"] - found["output"],
        "optimizer": found["step"] - found["gradients"],
        "step": found["step"],
    }
    return {part: round(value, 2) for part, value in every.items()}


def main() -> None:
    if not 2 <= len(sys.argv) <= 6:
        raise SystemExit(__doc__)
    file, *given = sys.argv[1:]
    defaults = ("sasrec,hstu,bert4rec,gru4rec", "tensorflow,jax,torch", "pairs", "")
    models, backends, layout, knobs = (*given, *defaults[len(given) :])
    results: dict[str, Any] = {}
    products, copies = [], []
    for model in models.split(","):
        job = ("--child", file, model, layout, knobs)
        operations = measured("profile_step", *job, "count", backend="torch")
        for backend in backends.split(","):
            products.append(matrix_rate())
            copies.append(copy_rate())
            row = measured("profile_step", *job, backend=backend)
            results.setdefault(model, {})[backend] = row | {"operations": operations}
    print(f"{max(products) / 1e9:.0f} Gop / s, {max(copies) / 1e9:.1f} GB / s copied")
    print(f"{'model':<10}{'backend':<12}{'part':<10}{'ms':>9}{'floor ms':>10}{'share':>7}{'lost ms':>9}")
    for model, rows in results.items():
        for backend, row in rows.items():
            floor = {
                part: 1e3 * (row["operations"][part] / max(products) + row["bytes"].get(part, 0) / max(copies))
                for part in row["ms"]
            }
            floor["step"] += floor["optimizer"]
            row["floor_ms"] = {part: round(ms, 2) for part, ms in floor.items()}
            for part, ms in row["ms"].items():
                share = floor[part] / ms if ms > 0 else float("nan")
                print(
                    f"{model:<10}{backend:<12}{part:<10}{ms:>9.1f}{floor[part]:>10.1f}{share:>7.2f}"
                    f"{ms - floor[part]:>9.1f}"
                )
    rates = {"operations_per_second": round(max(products)), "bytes_per_second": round(max(copies))}
    title = "profile_step" + "".join(f"_{option}" for option in knobs.split(",") if option)
    print(write_record(title, rates | {"models": results}, ("numpy", "keras", "jax", "tensorflow", "torch")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:6], count=sys.argv[6:7] == ["count"])))
    else:
        main()
