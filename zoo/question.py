"""Question: when, and for which action, the next item is asked for. Only a model with `query_time` or `query_action` is
told; without these flags there is one question, what comes next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from config import ConfigError, ModelConfig, PredictConfig
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError, Dataset
from zoo.data.dates import to_milliseconds, to_text
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS


def told_time(model: ModelConfig) -> bool:
    """Whether the model is told when the next item is asked for."""
    return getattr(model, "query_time", False)


def told_action(model: ModelConfig) -> bool:
    """Whether the model is told which action is asked for."""
    return getattr(model, "query_action", False)


def ask(
    histories: Histories, dataset: Dataset, catalogue: Catalogue, model: ModelConfig, predict: PredictConfig
) -> Histories:
    """The histories with the question of `predict`, as far as the model is told it; says what is asked.

    Args:
        dataset: where the histories come from.
        catalogue: of the model.

    Raises:
        DataError: there are no times, or none that users have in common and a date.
        ConfigError: an action that the model does not know, or is not told, or none where the events have none.
    """
    if told_time(model):
        histories = _at(histories, dataset, predict.time)
    if told_action(model):
        return _for(histories, catalogue, predict.action)
    if predict.action is not None:
        raise ConfigError(
            f"predict.action={predict.action}: the model was trained with query_action=false; train one with it"
        )
    return histories


def _at(histories: Histories, dataset: Dataset, date: str | None) -> Histories:
    """Everybody asks at `date`; where it is None, at the time of the log's last event.

    Where each user has a clock of his own, everybody asks right after his last event.
    """
    if histories.timestamp is None:
        raise DataError(f"{dataset.name}: it has no timestamps, which a model with query_time=true needs")
    if dataset.clock != "global":
        if date is not None:
            raise DataError(f"{dataset.name}: its users have no clock in common; predict.time={date} has no meaning")
        print("asked right after the last event of each user")
        return histories
    asked = int(histories.timestamp.max()) if date is None else to_milliseconds(date, "predict.time")
    print(f"asked at {to_text(asked)}" + (", the end of the log; predict.time sets another" if date is None else ""))
    return replace(histories, query_time=np.full(len(histories), asked))


def _for(histories: Histories, catalogue: Catalogue, action: str | None) -> Histories:
    """Everybody is asked for `action`; where it is None, for what these people do most."""
    names = catalogue.actions.ids.tolist()
    if action not in (None, *names):
        raise ConfigError(f"predict.action={action}: no such action; the model knows {', '.join(names)}")
    note = ""
    if action is None:
        done = histories.columns.get("action", np.zeros(0, np.int16))
        counts = np.bincount(done, minlength=catalogue.actions.size)[NUM_SPECIALS:]
        if not counts.any():
            raise ConfigError(f"predict.action: these events have no known action; say which of {', '.join(names)}")
        action = names[int(counts.argmax())]
        note = f", the most frequent action; predict.action asks for another of {', '.join(names)}"
    print(f"asked for {action}{note}")
    token = NUM_SPECIALS + names.index(action)
    return replace(histories, query_action=np.full(len(histories), token, np.int16))
