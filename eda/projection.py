"""Projection: where items lie on a map, so that those with similar vectors lie together.

Legend: n items, m fitted items, D width, k neighbours.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.spatial import cKDTree

from config import ConfigError
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.topk import top_k

NEIGHBOURS = 15  # that are to stay neighbours
MIN_ITEMS = 5

Method = Literal["umap", "tsne"]


@dataclass(frozen=True)
class Projection:
    """Places of n items.

    Attributes:
        flat, solid: (n, 2) and (n, 3) float32, within [-1, 1].
        fitted: (m,) rows of the items that the projection was fitted on, ascending.
        nearest: (m, k) rows of the fitted items nearest to each of them by cosine, the nearest first.
    """

    flat: np.ndarray
    solid: np.ndarray
    fitted: np.ndarray
    nearest: np.ndarray


def project(vectors: np.ndarray, method: Method, fit_items: int, seed: int) -> Projection:
    """Projects vectors by the cosines between them; the same seed gives the same places.

    Of more than `fit_items` items so many are drawn and fitted; every other one is placed beside the fitted item
    nearest to it, about as far from it as the next one fitted.

    Args:
        vectors: (n, D) float32, none of them zero.

    Raises:
        ConfigError: the package that does it is not installed.
        DataError: too few items, or a vector that is not finite.
    """
    count = len(vectors)
    if count < MIN_ITEMS:
        raise DataError(f"{count} items with a vector are too few for a map; at least {MIN_ITEMS} are needed")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    fitted = np.arange(count)
    if count > fit_items:
        fitted = np.sort(np.random.default_rng(seed).choice(count, fit_items, replace=False))
    sample = unit[fitted]
    nearest, cosines = _nearest(sample, sample, min(NEIGHBOURS, len(fitted) - 1), itself=False)
    rest = np.setdiff1d(np.arange(count), fitted, assume_unique=True)
    guide = _nearest(unit[rest], sample, 1)[0][:, 0]
    places = []
    for dims in (2, 3):
        fit = _umap if method == "umap" else _tsne
        with warnings.catch_warnings():  # on how the packages do it; what they give is looked at
            warnings.simplefilter("ignore")
            found = fit(sample, nearest, cosines, dims, seed)
        whole = np.empty((count, dims), np.float32)
        whole[fitted] = found
        whole[rest] = _beside(found, guide, seed)
        whole = _within(whole)
        places.append(whole)
    return Projection(places[0], places[1], fitted, fitted[nearest])


def _beside(places: np.ndarray, guide: np.ndarray, seed: int) -> np.ndarray:
    """(n - m, dims) a place near that of each item's `guide`, in the measure of what lies near this one."""
    spacing = cKDTree(places).query(places, k=2)[0][:, 1]
    apart = np.random.default_rng(seed).normal(size=(len(guide), places.shape[1]))
    return places[guide] + apart * spacing[guide, None]


def _nearest(queries: np.ndarray, items: np.ndarray, k: int, itself: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) rows of the items with the largest inner products, and these; `itself=False`: query i is item i."""
    table = np.concatenate([np.zeros((NUM_SPECIALS, items.shape[1]), np.float32), items])
    own = None
    if not itself:
        tokens = np.arange(NUM_SPECIALS, len(table), dtype=np.int32)
        own = Histories(tokens, np.arange(len(tokens) + 1), tokens)
    tokens, products = top_k(queries, table, k, exclude=own)
    return tokens - NUM_SPECIALS, products


def _umap(sample: np.ndarray, nearest: np.ndarray, cosines: np.ndarray, dims: int, seed: int) -> np.ndarray:
    """(m, dims) by UMAP (McInnes et al. 2018), from exact neighbours."""
    itself = np.arange(len(sample))[:, None]
    index = np.concatenate([itself, nearest], axis=1).astype(np.int32)  # it counts an item as its first neighbour
    distance = np.concatenate([np.ones_like(cosines[:, :1]), cosines], axis=1)
    distance = np.sqrt(np.maximum(2 - 2 * distance, 0)).astype(np.float32)
    umap = _package("umap", "umap-learn")
    model = umap.UMAP(
        n_components=dims,
        n_neighbors=index.shape[1],
        init="spectral" if len(sample) > 10 * dims else "random",  # a handful has no spectrum to speak of
        random_state=seed,
        n_jobs=1,  # the only number that a seed allows
        precomputed_knn=(index, distance),
    )
    return model.fit_transform(sample)


def _tsne(sample: np.ndarray, _nearest: np.ndarray, _cosines: np.ndarray, dims: int, seed: int) -> np.ndarray:
    """(m, dims) by t-SNE (van der Maaten & Hinton 2008); it looks for neighbours itself."""
    manifold = _package("sklearn.manifold", "scikit-learn")
    centred = sample - sample.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    # Never twice the same place: scikit-learn crashes on equal ones.
    start = 0.01 * np.random.default_rng(seed).normal(size=(len(sample), dims))
    start[:, : len(axes)] += (centred @ axes[:, ::-1])[:, :dims] / max(float(centred.std()), 1e-9)
    perplexity = min(30.0, (len(sample) - 1) / 3)
    model = manifold.TSNE(dims, perplexity=perplexity, init=1e-4 * start.astype(np.float32), random_state=seed)
    return model.fit_transform(sample)


def _package(module: str, package: str) -> Any:
    import importlib

    # UMAP's other form, a network, would bring TensorFlow and PyTorch along: half a minute for nothing.
    network = "umap.parametric_umap"
    absent = network not in sys.modules
    if absent:
        sys.modules[network] = None  # type: ignore[assignment]  # Python's sign for a module not to be had
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"the map needs {package}, which is not installed; pip install '.[atlas]'") from None
    finally:
        if absent:
            del sys.modules[network]


def _within(places: np.ndarray) -> np.ndarray:
    """Places moved and scaled, all axes alike, into [-1, 1]."""
    if not np.isfinite(places).all():
        raise DataError("the map has places that are not finite; use the other atlas.projection")
    low, high = places.min(axis=0), places.max(axis=0)
    return np.clip((places - (low + high) / 2) * (2 / max(float((high - low).max()), 1e-9)), -1, 1).astype(np.float32)
