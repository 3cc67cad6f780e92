"""Learning rates over a training. Registered with Keras; steps are the batches that the optimizer has seen."""

from __future__ import annotations

import abc
import math
from typing import Any

import keras
from keras import ops


class Schedule(keras.optimizers.schedules.LearningRateSchedule, abc.ABC):
    """A rise over the warm-up, then a fall over the rest.

    Args:
        peak: the learning rate at the end of the warm-up.
        warmup_steps: batches of the rise; 0: none.
        total_steps: batches of the whole training.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int):
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    @abc.abstractmethod
    def rise(self, progress: Any) -> Any:
        """Share of the peak at `progress` in [0, 1] of the warm-up."""

    @abc.abstractmethod
    def fall(self, progress: Any) -> Any:
        """Share of the peak at `progress` in [0, 1] of what follows the warm-up."""

    def __call__(self, step: Any) -> Any:
        """Learning rate of the batch number `step`, counted from 0."""
        step = ops.cast(step, "float32")
        rise = self.rise(ops.minimum((step + 1) / max(self.warmup_steps, 1), 1.0))
        fall = self.fall(ops.clip((step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1), 0.0, 1.0))
        return self.peak * ops.where(step < self.warmup_steps, rise, fall)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


@keras.saving.register_keras_serializable("recommender_zoo")
class Constant(Schedule):
    """A linear warm-up, then the peak."""

    def rise(self, progress: Any) -> Any:
        return progress

    def fall(self, progress: Any) -> Any:
        return ops.ones_like(progress)


@keras.saving.register_keras_serializable("recommender_zoo")
class Linear(Schedule):
    """A linear warm-up, then a straight line to 0 (BERT, https://arxiv.org/abs/1810.04805)."""

    def rise(self, progress: Any) -> Any:
        return progress

    def fall(self, progress: Any) -> Any:
        return 1 - progress


@keras.saving.register_keras_serializable("recommender_zoo")
class Cosine(Schedule):
    """A linear warm-up, then half a cosine to 0 (SGDR without restarts, https://arxiv.org/abs/1608.03983)."""

    def rise(self, progress: Any) -> Any:
        return progress

    def fall(self, progress: Any) -> Any:
        return (1 + ops.cos(math.pi * progress)) / 2


@keras.saving.register_keras_serializable("recommender_zoo")
class OneCycle(Schedule):
    """Half a cosine from 1/25 of the peak up, and one down to 1/250,000 of it.

    The two-phase form of the 1cycle policy (https://arxiv.org/abs/1708.07120), momentum left alone.
    """

    START = 1 / 25
    END = 1 / 250_000

    def rise(self, progress: Any) -> Any:
        return self.START + (1 - self.START) * (1 - ops.cos(math.pi * progress)) / 2

    def fall(self, progress: Any) -> Any:
        return self.END + (1 - self.END) * (1 + ops.cos(math.pi * progress)) / 2


SCHEDULES = {"constant": Constant, "linear": Linear, "cosine": Cosine, "one_cycle": OneCycle}
