"""Probes, which ask vectors of clients what those will do: the RecSys Challenge 2025's network; logistic regression.

Legend: B batch, n clients, D width of the vectors, W width of the probe, T labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import optimize
from scipy.special import expit

from config import JudgeConfig
from zoo import backends, checkpoints

WIDTHS = {"thin": 128, "full": 2048}
NUM_BLOCKS = 3
EPSILON = 1e-5  # of the layer norms; Keras has another default
PREDICTED = 1024  # clients that are predicted at once
PENALTIES = (100_000.0, 30_000.0, 10_000.0, 3_000.0, 1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)  # of the linear probe
WORSE = 1.05  # how much its loss may rise before it falls again; laxer ridges take longest, and overfit wide vectors
ITERATIONS = 200  # of its optimizer, at most


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


class LinearProbe:
    """Logistic regression of each label on the vectors, with one ridge for a task: logits (n, T) of vectors (n, D).

    Columns are standardised, the constant is free, and the ridge is that of `PENALTIES` whose fit to four fifths of
    the clients loses least on the others. With a few thousand clients or fewer the challenge's network, whose three
    epochs are then some hundred steps, measures how fast it learns from the vectors rather than what they say.
    """

    def learn(self, vectors: np.ndarray, labels: np.ndarray, seed: int, after: Callable[[np.ndarray], None]) -> None:
        """Fits one task; `after` gets the logits of the same clients, once. Arguments as of `Probe.learn`."""
        x, y = vectors.astype(np.float32), labels.astype(np.float32)
        deviation = x.std(axis=0)
        x = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
        held = np.random.default_rng([seed, 0x11EA]).permutation(len(x)) < -(-len(x) // 5)
        learned = x[~held], y[~held]
        weights = best = np.zeros((x.shape[1] + 1, y.shape[1]))
        least, chosen = np.inf, PENALTIES[0]
        for penalty in PENALTIES:  # from the strictest, each from where the last one ended
            weights = _logistic(*learned, penalty, weights)
            loss = _logistic_loss(weights, x[held], y[held])[0]
            if loss < least:
                least, chosen, best = loss, penalty, weights
            elif loss > WORSE * least:
                break
        after(_linear(x, _logistic(x, y, chosen, best)))


def _logistic(x: np.ndarray, y: np.ndarray, penalty: float, start: np.ndarray) -> np.ndarray:
    """(D + 1, T) weights, the constants last, that minimise the loss and penalty / 2 * their squares."""

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape)
        loss, gradient = _logistic_loss(weights, x, y)
        loss += penalty / 2 * float(np.square(weights[:-1]).sum())
        gradient[:-1] += penalty * weights[:-1]
        return loss, gradient.ravel()

    found = optimize.minimize(value, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    return found.x.reshape(start.shape)


def _logistic_loss(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Summed cross-entropy over clients and labels, and its gradient."""
    logits = _linear(x, weights)
    loss = float((np.logaddexp(0, logits) - y * logits).sum(dtype=np.float64))
    rest = expit(logits) - y
    return loss, np.concatenate([x.T @ rest, rest.sum(axis=0, keepdims=True)]).astype(np.float64)


def _linear(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return x @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)


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
