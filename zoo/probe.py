"""Probe: the network with which the RecSys Challenge 2025 asks vectors of clients what those will do.

Legend: B batch, n clients, D width of the vectors, W width of the probe, T labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from config import JudgeConfig
from zoo import backends, checkpoints

WIDTHS = {"thin": 128, "full": 2048}
NUM_BLOCKS = 3
EPSILON = 1e-5  # of the layer norms; Keras has another default
PREDICTED = 1024  # clients that are predicted at once


class Probe(keras.Model):
    """Linear, LayerNorm, three blocks x + MLP(LayerNorm(x)), LayerNorm, Linear: logits (B, T) of vectors (B, D).

    One probe serves any vectors of up to D numbers and any tasks of up to T labels, one after the other: each begins
    with fresh weights and a fresh optimizer, and nothing is compiled again. Narrower vectors are filled with zeros,
    whose weights are zero and stay so; labels that are not asked for weigh nothing. Weights are drawn by NumPy as the
    original's framework draws them, uniform within ±1/√fan-in, biases too, so that the three backends start alike.

    Source: https://github.com/Synerise/recsys2025: AdamW, learning rate .001, weight decay .01 of every weight, batches
    in the order of the clients, binary cross-entropy averaged over clients and labels. Deviations: the last batch is
    filled with clients of weight 0, and AdamW adds its 1e-8 before it corrects the second moment, not after.

    Args:
        dim: D, of the widest vectors.
        num_labels: T, of the task with most.
        config: width and epochs.
    """

    def __init__(self, dim: int, num_labels: int, config: JudgeConfig, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim, self.num_labels, self.config = dim, num_labels, config
        width = WIDTHS[config.probe]
        self.project = keras.layers.Dense(width, name="project")
        self.norms = [keras.layers.LayerNormalization(epsilon=EPSILON, name=f"norm_{i}") for i in range(NUM_BLOCKS + 2)]
        self.expand = [keras.layers.Dense(2 * width, name=f"expand_{i}") for i in range(NUM_BLOCKS)]
        self.contract = [keras.layers.Dense(width, name=f"contract_{i}") for i in range(NUM_BLOCKS)]
        self.output_layer = keras.layers.Dense(num_labels, name="output")
        self.asked = self.add_weight(shape=(num_labels,), initializer="ones", trainable=False, name="asked")
        self.built = True  # the layers build themselves when they are called
        self({"embedding": np.zeros((1, dim), np.float32)})
        # The scale that the original trains with; the arguments of Keras mean the same but for where epsilon stands.
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01, epsilon=1e-8)
        optimizer.build(self.trainable_variables)
        self.compile(optimizer=optimizer)
        self._fresh = checkpoints.values(optimizer.variables)
        self._logits = backends.compiled(self.call, self)

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """(B, T) logits."""
        x = self.norms[0](self.project(inputs["embedding"]))
        for norm, expand, contract in zip(self.norms[1:], self.expand, self.contract, strict=False):
            x = x + contract(ops.gelu(expand(norm(x)), approximate=False))
        return self.output_layer(self.norms[-1](x))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        losses = ops.binary_crossentropy(y, y_pred, from_logits=True)  # (B, T)
        weights = sample_weight[:, None] * self.asked
        return ops.sum(losses * weights) / ops.maximum(ops.sum(weights), 1.0)

    def restart(self, seed: int, dim: int, num_labels: int) -> None:
        """Fresh weights, drawn by the seed, and a fresh optimizer, for vectors of that width and that many labels."""
        rng = np.random.default_rng([seed, 0x9A0BE])
        for dense in (self.project, *self.expand, *self.contract, self.output_layer):
            rows, width = dense.kernel.shape
            used = dim if dense is self.project else rows
            drawn = (2 * rng.random((used + 1, width), np.float32) - 1) * np.float32(used**-0.5)
            dense.kernel.assign(np.concatenate([drawn[:-1], np.zeros((rows - used, width), np.float32)]))
            dense.bias.assign(drawn[-1])
        for norm in self.norms:
            norm.gamma.assign(np.ones(norm.gamma.shape, np.float32))
            norm.beta.assign(np.zeros(norm.beta.shape, np.float32))
        self.asked.assign((np.arange(self.num_labels) < num_labels).astype(np.float32))
        checkpoints.assign(self.optimizer.variables, self._fresh)

    def learn(self, vectors: np.ndarray, labels: np.ndarray, seed: int, after: Callable[[np.ndarray], None]) -> None:
        """Trains anew on one task; after each epoch, `after` gets the logits (n, T) of the same clients.

        Args:
            vectors: (n, up to D) float16 or float32, of n > 0 clients.
            labels: (n, up to T) 0 or 1.
            seed: of the first weights.
        """
        count = labels.shape[1]
        self.restart(seed, vectors.shape[1], count)
        self.fit(
            _InOrder(vectors, labels, self),
            epochs=self.config.probe_epochs,
            shuffle=False,
            verbose=0,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: after(self.logits(vectors)[:, :count])),
            ],
        )

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """(n, T) float32 logits of vectors (n, up to D)."""
        result = np.empty((len(vectors), self.num_labels), np.float32)
        for start in range(0, len(vectors), PREDICTED):
            rows = np.minimum(np.arange(start, start + PREDICTED), len(vectors) - 1)  # repeats fill the last batch
            found = ops.convert_to_numpy(self._logits({"embedding": _filled(vectors[rows], self.dim)}))
            result[start : start + PREDICTED] = found[: len(vectors) - start]
        return result


class _InOrder(keras.utils.PyDataset):
    """Batches of clients in their order: {"embedding": (B, D)}, labels (B, T) and weights (B,)."""

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, probe: Probe):
        super().__init__()
        self.vectors, self.labels, self.size = vectors, labels, probe.config.probe_batch
        self.dim, self.num_labels = probe.dim, probe.num_labels

    def __len__(self) -> int:
        return -(-len(self.vectors) // self.size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        rows = np.arange(index * self.size, (index + 1) * self.size)
        real = rows < len(self.vectors)
        rows = np.where(real, rows, 0)
        inputs = {"embedding": _filled(self.vectors[rows], self.dim)}
        return inputs, _filled(self.labels[rows], self.num_labels), real.astype(np.float32)


def _filled(array: np.ndarray, width: int) -> np.ndarray:
    """(B, width) float32 of an array (B, up to width): zeros behind its columns."""
    result = np.zeros((len(array), width), np.float32)
    result[:, : array.shape[1]] = array
    return result
