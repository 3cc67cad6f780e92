"""From a trained model to vectors in files."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from config import ConfigError, PredictConfig
from zoo import artifacts
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.recommender import Recommender, UserEncoder
from zoo.recommending import BATCH, naming


def export_embeddings(
    model: UserEncoder, histories: Histories, users: np.ndarray, directory: Path, config: PredictConfig
) -> None:
    """Writes the vectors of users and items, a row each: the inner product of `embeddings` and items is the score.

    Files: client_ids.npy and item_ids.npy (int64, float64 or fixed-width text; no pickle), embeddings.npy (n, D), one
    such file of each further view of the model, and item_embeddings.npy (V, D), of `config.embedding_dtype`. With
    `config.embedding_pickle`, VIEW.pkl holds {client id: list of numbers}, in plain Python.

    Raises:
        ConfigError: `config.embedding_views` names one that the model does not have.
        DataError: a value is not finite, or too large for float16.
        OSError: a file cannot be written.
    """
    dtype = np.dtype(config.embedding_dtype)
    known = list(model.views())
    views = known if config.embedding_views is None else config.embedding_views
    if unknown := [view for view in views if view not in known]:
        raise ConfigError(f"predict.embedding_views={unknown[0]}: this model has {', '.join(known)}")
    with naming(directory), contextlib.ExitStack() as files:  # all are whole before the first takes its place

        def place(name: str) -> Path:
            return files.enter_context(artifacts.replacing(directory / name))

        np.save(place("client_ids.npy"), _plain(users), allow_pickle=False)
        for view in views:
            path = place(f"{view}.npy")
            _save_vectors(path, len(users), (block for _, block in model.vector_batches(histories, BATCH, view)), dtype)
            if config.embedding_pickle:
                numbers = zip(users.tolist(), np.load(path).tolist(), strict=True)
                place(f"{view}.pkl").write_bytes(pickle.dumps(dict(numbers), protocol=4))
        if isinstance(model, Recommender):
            items = model.item_matrix()[NUM_SPECIALS:]
            np.save(place("item_ids.npy"), _plain(model.catalogue.items.ids), allow_pickle=False)
            _save_vectors(place("item_embeddings.npy"), len(items), [items], dtype)
    # What an earlier call wrote is of other rows or weights.
    for view in known:
        for suffix, wanted in ((".npy", view in views), (".pkl", view in views and config.embedding_pickle)):
            if not wanted:
                (directory / f"{view}{suffix}").unlink(missing_ok=True)


def save_entry(directory: Path, ids: np.ndarray, vectors: np.ndarray) -> None:
    """Writes client_ids.npy and embeddings.npy (n, D), as they are.

    Raises:
        OSError: a file cannot be written.
    """
    with naming(directory), contextlib.ExitStack() as files:
        for name, array in (("client_ids", _plain(ids)), ("embeddings", vectors)):
            np.save(files.enter_context(artifacts.replacing(directory / f"{name}.npy")), array, allow_pickle=False)


def _plain(ids: np.ndarray) -> np.ndarray:
    """Ids as an array without Python objects."""
    return ids.astype(np.str_) if ids.dtype == object else ids


def _save_vectors(path: Path, count: int, batches: Iterable[np.ndarray], dtype: np.dtype) -> None:
    """Writes (count, D) vectors, a batch at a time, as a .npy file."""
    limit = float(np.finfo(dtype).max)
    with open(path, "wb") as file:
        for number, batch in enumerate(batches):
            largest = float(np.abs(batch).max(initial=0.0))
            if not np.isfinite(largest):
                raise DataError("a vector is not finite; the model has diverged: train it again")
            if largest > limit:
                raise DataError(
                    f"a vector holds {largest:g}, more than {dtype} can ({limit:g}); "
                    "--override predict.embedding_dtype=float32"
                )
            if number == 0:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, batch.shape[1])})
            file.write(np.ascontiguousarray(batch, dtype))
