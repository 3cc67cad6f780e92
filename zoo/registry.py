"""Finds models by file name. Importing this module imports neither Keras nor any model."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from config import ConfigError, RunConfig


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One keras fit.

    Attributes:
        name: what progress and files call it.
        loader: makes the objective's batches of (histories, catalogue, config): a `zoo.data.loaders.loader.Loader`
            class, or a function that chooses one.
        frozen: names of the model's layers that this stage does not train, by the configuration of the model.
        epochs: of a stage that makes no recommendations yet, by the configuration: it is not evaluated and trains to
            its end. None: `train.epochs`, evaluated after each and stopped as `train` says.
        prepare: of (model, histories), the histories that the loader is given: with what the earlier stages' weights,
            frozen now, have to say of them. None: they are as they are.
        begin: called with (model, loader) before the first step. None: the weights are as they are.
    """

    name: str
    loader: Callable[..., Any]
    frozen: Callable[[Any], tuple[str, ...]] = lambda _: ()
    epochs: Callable[[RunConfig], int] | None = None
    prepare: Callable[[Any, Any], Any] | None = None
    begin: Callable[[Any, Any], None] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model file says of itself, as its last statement `MODEL = ModelSpec(...)`.

    Attributes:
        model: the class, a `Baseline` or a `Recommender`.
        stages: its fits in order; empty for a baseline, which is counted instead.
        presets: complete recipes by name; `tiny` (for tests) and `base` always exist.
        paper: source, for tables.
        causal: whether the past must not see the future in `call`.
        log: what it learns from: interactions of users with items, or behaviour of clients of several kinds.
    """

    model: type
    stages: tuple[Stage, ...] = ()
    presets: Mapping[str, RunConfig]
    paper: str = ""
    causal: bool = True
    log: Literal["interactions", "behaviour"] = "interactions"

    def preset(self, name: str) -> RunConfig:
        """The recipe of this name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self.presets:
            raise ConfigError(f"--preset {name}: unknown; this model has {', '.join(self.presets)}")
        return self.presets[name]


def list_models() -> list[str]:
    """Names of all models: the files of `zoo/models`."""
    return sorted(path.stem for path in (Path(__file__).parent / "models").glob("*.py") if path.stem != "__init__")


def check(name: str | None) -> None:
    """Nothing, if there is a model of this name, or none was given.

    Raises:
        ConfigError: no such model (with the nearest name).
    """
    known = list_models()
    if name is not None and name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise ConfigError(f"--model {name}: unknown; {hint}")


def get(name: str) -> ModelSpec:
    """The specification of a model; imports its file, and with it Keras.

    Raises:
        ConfigError: no such model (with the nearest name).
    """
    check(name)
    module: Any = importlib.import_module(f"zoo.models.{name}")
    return module.MODEL
