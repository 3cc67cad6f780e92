"""The one file that asks which backend runs. Everything else speaks `keras.ops`.

Each backend is imported where it is used: a run loads one of jax, tensorflow and torch and never the other two.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import platform
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from config import TrainConfig
from zoo import memory

_PACKAGES = {"jax": ("jax", "jaxlib"), "tensorflow": ("tensorflow",), "torch": ("torch",)}


def name() -> str:
    """`jax`, `tensorflow` or `torch`."""
    return keras.config.backend()


def versions() -> dict[str, str]:
    """Versions of what the numbers of a run depend on, for its record."""
    packages = ("keras", "numpy", *_PACKAGES[name()])
    return {"python": platform.python_version()} | {
        package: importlib.import_module(package).__version__ for package in packages
    }


def device() -> str:
    """The device that computes, in words: `cpu` with its thread count, or the name of the accelerator."""
    backend = name()
    if backend == "jax":
        import jax

        accelerator = None if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    elif backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        accelerator = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else None
    else:
        import torch

        accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return accelerator or f"cpu, {len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count()} cores"


def seed(value: int) -> None:
    """Seeds what a model created after it draws its initial weights from, and its dropout.

    Keras draws the seeds of both from Python's `random`; on PyTorch, a dropout layer draws from PyTorch's own state.
    `keras.utils.set_random_seed` does as much, but imports TensorFlow on every backend.
    """
    random.seed(value)
    if name() == "torch":
        import torch

        torch.manual_seed(value)


def configure(config: TrainConfig) -> None:
    """Sets threads, numeric precision, determinism and the compilation cache. To be called before the first tensor.

    On a CPU, the same run gives the same bits: one that was killed and resumed ends like one that was not. On a GPU,
    TensorFlow and PyTorch are asked for the same; JAX has to be, with XLA_FLAGS=--xla_gpu_deterministic_ops=true.
    """
    memory.keep_freed(name())
    keras.config.set_dtype_policy(config.precision)
    {"jax": _configure_jax, "tensorflow": _configure_tensorflow, "torch": _configure_torch}[name()](config.threads)


def _configure_jax(threads: int | None) -> None:
    import jax

    from zoo.data.sources import cache

    if threads is not None:
        os.environ["NPROC"] = str(threads)  # XLA's CPU client reads it when it starts; it has no other setting
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache.directory() / "jax"))


def _configure_tensorflow(threads: int | None) -> None:
    import tensorflow as tf

    # A context that already runs keeps its threads and its memory: TensorFlow refuses to change them.
    with contextlib.suppress(RuntimeError):
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()


def _configure_torch(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in any order
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and changes no result
    _prefer_onednn()


def _prefer_onednn() -> None:
    """Has oneDNN multiply float32 matrices on a CPU, where it keeps them float32.

    PyTorch leaves them to MKL, which is two to three times slower on processors not of its maker. Allowing bfloat16
    is the only way to ask for oneDNN; it makes use of that only where a processor multiplies bfloat16 tiles.
    """
    import torch

    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    fine = torch.full((256, 256), 1 + 2.0**-12)  # is 1 in bfloat16
    if (fine @ fine)[0, 0] < 256 * (1 + 2.0**-12):
        torch.backends.mkldnn.matmul.fp32_precision = "none"


# ---------------------------------------------------------------------------------------------------- training


def feed(loader: keras.utils.PyDataset) -> Any:
    """What `keras.Model.fit` is to read the batches of a loader from; all batches have the same shapes.

    On TensorFlow Keras would make a `tf.data.Dataset` that tunes itself: at the end of an epoch it waits for the tuner,
    who sleeps for twice as long each time, up to a minute. This one has nothing to tune.
    """
    if name() != "tensorflow" or loader.workers > 1:  # Keras' own threads do without the tuner
        return loader
    import tensorflow as tf

    def batches():
        memory.keep_freed(name())  # TensorFlow's generators give it back
        for i in range(len(loader)):
            yield loader[i]

    signature = keras.tree.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), loader[0])
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(loader))).prefetch(2).with_options(options)


# --------------------------------------------------------------------------------------------------- inference


def build(function: Callable[[Any], Any], inputs: Any) -> None:
    """Calls `function`, whose layers make their weights; on JAX, which compiles each operation, for its shapes alone:
    what a layer assigns to a weight is lost there, its start is what its initializer makes."""
    if name() == "jax":
        import jax

        with keras.StatelessScope():
            jax.eval_shape(function, inputs)
    else:
        function(inputs)


def compiled(
    function: Callable[[dict[str, Any]], Any], model: keras.Model, small: bool = False
) -> Callable[[dict[str, np.ndarray]], Any]:
    """A fast form of `function` for inference: no gradients, one compilation per shape of its input.

    Later changes of the model's weights are seen. The first call builds the model, if it is not built yet.

    Args:
        function: maps a dict of arrays, or of such dicts, to a tensor (or a structure of tensors), using the variables
            of `model`.
        small: it is called often and computes so little that the time between the operations counts: PyTorch then
            records them, as the others always do, and replays them; TensorFlow makes one of them all, by XLA.
    """
    if name() == "torch":
        return _recorded_torch(function, model) if small else _compiled_torch(function, model)
    return _compiled_jax(function, model) if name() == "jax" else _compiled_tensorflow(function, model, small)


def _compiled_jax(function: Callable, model: keras.Model) -> Callable:
    import jax

    variables: list[keras.Variable] = []

    @jax.jit
    def stateless(values: list[Any], inputs: dict[str, Any]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(inputs)

    def call(inputs: dict[str, np.ndarray]) -> Any:
        if not variables:
            if not model.built:
                build(function, inputs)  # a weight must not be made while tracing
            variables.extend(model.variables)
        return stateless([variable.value for variable in variables], inputs)

    return call


def _compiled_tensorflow(function: Callable, model: keras.Model, small: bool) -> Callable:
    import tensorflow as tf

    graph = tf.function(function, jit_compile=small or None)

    def call(inputs: dict[str, np.ndarray]) -> Any:
        if not (model.built or graph.experimental_get_tracing_count()):
            function(inputs)  # creates the weights, which must not happen while tracing
        return graph(keras.tree.map_structure(tf.convert_to_tensor, inputs))

    return call


def _compiled_torch(function: Callable, model: keras.Model) -> Callable:
    import torch

    def call(inputs: dict[str, np.ndarray]) -> Any:
        model.eval()
        with torch.no_grad():
            return function(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs))

    return call


def _recorded_torch(function: Callable, model: keras.Model) -> Callable:
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.passes.dialect.common.cse_pass import CSEPass, get_CSE_banned_ops

    once = CSEPass(banned_ops=get_CSE_banned_ops())  # what each block works out from the same inputs
    programs: dict[Any, Callable] = {}

    def call(inputs: dict[str, np.ndarray]) -> Any:
        given = [keras.ops.convert_to_tensor(array) for array in keras.tree.flatten(inputs)]
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in given)
        with torch.no_grad():
            if shapes not in programs:
                model.eval()

                def packed(*flat: Any) -> Any:
                    return function(keras.tree.pack_sequence_as(inputs, flat))

                packed(*given)  # builds what is not built yet, which must not happen while recording
                programs[shapes] = once(make_fx(packed)(*given)).graph_module
            return programs[shapes](*given)

    return call


# -------------------------------------------------------------------------------------------------- operations


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors, element by element and sums of a few, as one loop where TensorFlow compiles what it is in.

    By itself it goes through memory for each operation, which two cores do no faster than one; JAX does not.
    """
    if name() != "tensorflow":
        return function
    import tensorflow as tf

    loop = tf.function(function, jit_compile=True)
    return lambda *tensors: loop(*map(tf.convert_to_tensor, tensors)) if tf.inside_function() else function(*tensors)


def fused_gradient(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`keras.ops.custom_gradient`; on PyTorch, whose kernels go back in fewer passes, the result of `forward` alone."""
    if name() == "torch":
        return lambda *tensors: forward(*tensors)[0]
    return keras.ops.custom_gradient(forward)


def random_bytes(shape: Sequence[Any], seed: Any) -> Any:
    """Uniform uint8 numbers, the cheapest each backend has: good enough for dropout, not for cryptography.

    On JAX and TensorFlow a hash of place and seed, worked out where it is needed; Threefry takes forty times as long.

    Args:
        shape: of the result; sizes may be tensors where a backend traces with unknown ones.
        seed: (2,) integers of a `keras.random.SeedGenerator`. PyTorch draws from its own state instead.
    """
    if name() == "torch":
        import torch

        size = math.prod(shape)
        words = torch.empty((size + 7) // 8, dtype=torch.int64, device=seed.device)
        return words.random_(-(2**63), None).view(torch.uint8)[:size].view(tuple(shape))
    ops = keras.ops

    def folded(bits: Any, by: int) -> Any:
        return ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, np.uint32(by)))

    def mixed(bits: Any, between: Any) -> Any:  # "lowbias32" (Wellons 2018)
        bits = folded(bits, 16) * np.uint32(0x7FEB352D)
        return folded((folded(bits, 15) + between) * np.uint32(0x846CA68B), 16)

    # Seeds of consecutive steps differ by one: what is near must be far apart before it meets the places.
    low, high = (ops.cast(seed[i], "uint32") for i in range(2))
    first = mixed(low, mixed(high, low))
    place = ops.cast(ops.reshape(ops.arange(math.prod(shape), dtype="int32"), shape), "uint32")
    return ops.cast(ops.bitwise_right_shift(mixed(place + first, mixed(high, first)), np.uint32(24)), "uint8")


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, chunks: Any, dtype: str) -> tuple[Any, Any]:
    """`keras.ops.scan`, one step after the other: results need not be shaped as what is carried.

    TensorFlow's in Keras 3.15 wants that, and works on ten steps at once, whose memory adds up.

    Args:
        step: (carry, chunk) -> (carry, result), a tensor.
        carry: tensors of constant shapes.
        chunks: tensors (n, ...), of which each step sees one row.
        dtype: of the results.

    Returns:
        The last carry, and the results (n, ...).
    """
    if name() != "tensorflow":
        return keras.ops.scan(step, carry, chunks)
    import tensorflow as tf

    count = tf.shape(keras.tree.flatten(chunks)[0])[0]

    def body(i, carry, results):
        carry, result = step(carry, keras.tree.map_structure(lambda chunk: chunk[i], chunks))
        return i + 1, carry, results.write(i, result)

    start = (0, carry, tf.TensorArray(dtype, size=count, infer_shape=False))
    loop = tf.while_loop(lambda i, *_: i < count, body, start, parallel_iterations=1)
    return loop[1], loop[2].stack()


def softmax(logits: Any) -> Any:
    """Softmax over the last axis, in the type of `logits`; its sums are float32 whatever that is.

    TensorFlow and PyTorch have kernels for this, which spare two passes over all logits; JAX adds up in the given type.
    """
    if name() != "jax":
        return keras.ops.softmax(logits, axis=-1)
    return keras.ops.cast(keras.ops.softmax(keras.ops.cast(logits, "float32"), axis=-1), logits.dtype)


def dense_gradient(table: Any) -> Any:
    """The variable or tensor `table` (V, D) as a tensor; on TensorFlow its gradient becomes dense.

    There the gradient of a gather is a list of rows in which an item may occur twice, and Adam squares each occurrence
    before summing them: repeated items take larger steps than on the other backends, whose gradients are dense.
    """
    if name() != "tensorflow":
        return keras.ops.convert_to_tensor(table)
    import tensorflow as tf

    @tf.custom_gradient
    def dense(x):
        def gradient(upstream):
            if isinstance(upstream, tf.IndexedSlices):
                return tf.math.unsorted_segment_sum(upstream.values, upstream.indices, tf.shape(x)[0])
            return upstream

        return tf.identity(x), gradient

    return dense(tf.convert_to_tensor(table))


def read_rows(table: keras.Variable, index: Any) -> Any:
    """(U, D) rows of the table (V, D) at `index` (U,), without a gradient.

    TensorFlow's `take` reads the whole table first, which `write_rows` would then have to copy.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        return tf.stop_gradient(table.value.sparse_read(index))
    return keras.ops.stop_gradient(keras.ops.take(table, index, axis=0))


def write_rows(table: keras.Variable, index: Any, rows: Any) -> None:
    """Writes `rows` (U, D) to the table (V, D) at `index` (U,), in place: what is not written is not copied either.

    An index may occur more than once with the same row.
    """
    backend = name()
    if backend == "jax":
        table.assign(table.value.at[index].set(rows))  # in place where a compiled step gives the old table away
    elif backend == "tensorflow":
        import tensorflow as tf

        table.value.scatter_update(tf.IndexedSlices(rows, index))
    else:
        table.value.detach().index_copy_(0, index.long(), rows)
