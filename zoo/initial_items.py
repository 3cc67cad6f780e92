"""Initial items: another run's item vectors as the start of a model's item tables (`train.initial_items`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from keras import ops

from config import ConfigError
from zoo import artifacts
from zoo.data.catalogue import Prepared
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN
from zoo.layers.embedding import IdEmbedding
from zoo.recommender import UserEncoder


def start_from(directory: Path, model: UserEncoder, prepared: Prepared) -> None:
    """Starts the item tables of `model`, its layers `item_tables`, with the item vectors of a run; says how many items.

    Items are the same where their external ids are. Those without a vector there keep their random start. The vectors
    are scaled, all by one factor, to the length of the random start on average: which way they point is what they
    know, how long they are is part of the recipe of the model.

    Args:
        directory: of the run. A training on everything takes the production model in it, where there is one.
        prepared: what the model will be trained on.

    Raises:
        ConfigError: there is no run, it has no item vectors, none of these items, or saw what will be tested; the
            model has no item table, or one of another width.
    """
    knob = f"train.initial_items={directory}"
    everything = prepared.split.strategy == "everything"
    if everything and artifacts.exists(directory / "production"):
        directory = directory / "production"
    if not artifacts.exists(directory):
        raise ConfigError(f"{knob}: no finished run there; train it first")
    run = artifacts.load(directory)
    if run.trained_on_everything and not everything:
        raise ConfigError(f"{knob}: trained on everything, the test part included; give its validation run")
    if not everything and run.info["split_sha256"] != prepared.split.sha256:
        print(f"warning: {knob}: trained on another split than this; what is tested here may lie in its training data")
    layers = [getattr(model, name, None) for name in getattr(model, "item_tables", ())]
    tables = {id(layer): layer for layer in layers if isinstance(layer, IdEmbedding)}  # one may have two names
    if not tables:
        raise ConfigError(f"{knob}: {type(model).__name__} has no item table that could start with it")
    vectors = run.item_vectors()
    for layer in tables.values():
        if vectors.shape[1] != layer.dim:
            raise ConfigError(
                f"{knob}: its item vectors have width {vectors.shape[1]}, the item table of {type(model).__name__} has "
                f"{layer.dim}; make them equal (model.embedding_dim)"
            )
    items = model.catalogue.items
    start = run.catalogue.items.encode(items.ids[: items.num_trained])
    vectors = vectors[start]
    learned = (start != UNKNOWN) & vectors.any(axis=1)
    if not learned.any():
        raise ConfigError(f"{knob}: it has a vector of none of the {items.num_trained:,} items here; give another run")
    for layer in tables.values():
        table = ops.convert_to_numpy(layer.table).copy()
        random = table[NUM_SPECIALS:]
        scale = _mean_square(random) / _mean_square(vectors[learned])
        random[learned] = vectors[learned] * scale**0.5
        layer.table.assign(table)
    count = np.count_nonzero(learned)
    print(f"{count:,} of {items.num_trained:,} items start with the vectors of {run.name} of {directory}")


def _mean_square(vectors: np.ndarray) -> float:
    return float(np.square(vectors, dtype=np.float64).mean())
