"""Atlas: a map of a model's items or clients, as two figures and as a page to walk about in.

Legend: n things on the map, D width.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from config import AtlasConfig, ConfigError
from eda import atlas_page, style
from eda.atlas_subjects import POPULARITY, Subject
from eda.files import save
from eda.projection import Projection, project

COLOURING = ("category", "categories", "genre", "genres", "subcategory", "department", "domain", "type")
MAX_GROUPS = 18  # colours that can be told apart; the rest is one group
NUMBER_GROUPS = 8  # of a number: as many items in each
LOOKED_AT = 5  # nearest items whose colour is compared
FIT_ITEMS = {"umap": 20_000, "tsne": 5_000}  # what takes a few minutes at most
UNKNOWN_COLOR = "#c7cdd4"
MAP_WIDTH = 8.4  # inches of a figure's map
DRAWN = 100_000  # points of a figure: more are too small to see


@dataclass(frozen=True)
class Atlas:
    """A map of n things, in an order drawn at random: the first ones of it are a fair sample.

    Attributes:
        title: of the map.
        notes: what one has to know to read it, a sentence each.
        ids: (n,) external ids.
        flat, solid: (n, 2) and (n, 3) places within [-1, 1].
        columns: what is known of each, by name: (n,) float64 with NaN, or object of str with None.
        color_by: the column that colours.
        group: (n,) the colour of each, a place in `groups`.
        groups: their names, the largest first; of a number from low to high.
        colors: of the groups, as #rrggbb.
    """

    title: str
    notes: tuple[str, ...]
    ids: np.ndarray
    flat: np.ndarray
    solid: np.ndarray
    columns: dict[str, np.ndarray]
    color_by: str
    group: np.ndarray
    groups: tuple[str, ...]
    colors: tuple[str, ...]


def draw(subject: Subject, model: str, config: AtlasConfig, seed: int, directory: Path) -> Path:
    """Writes item_atlas.html, item_atlas_2d.png and item_atlas_3d.png (or client_...); returns the path of the page.

    Args:
        subject: what the map is of.
        model: the name of whose vectors they are.
        seed: of the projection.

    Raises:
        ConfigError: no such column to colour by, a package is missing, or the directory cannot be written.
        DataError: fewer things than make a map, or vectors that are not finite.
    """
    atlas = chart(subject, model, config, seed)
    path = directory / f"{subject.kind}_atlas.html"
    save(figure_2d(atlas), directory / f"{subject.kind}_atlas_2d.png")
    save(figure_3d(atlas), directory / f"{subject.kind}_atlas_3d.png")
    save(atlas_page.render(atlas), path)
    return path


def chart(subject: Subject, model: str, config: AtlasConfig, seed: int) -> Atlas:
    """Where the things lie, what is known of them, and how they are coloured. Arguments as in `draw`."""
    subject = subject.take(np.random.default_rng(seed).permutation(len(subject.ids)))
    columns, kinds = subject.columns, f"{subject.kind}s"
    color_by = _color_by(subject, config.color_by)
    group, groups, colors = _grouped(subject.first_labels.get(color_by, columns[color_by]))
    fit_items = config.fit_items or FIT_ITEMS[config.projection]
    projection = project(subject.vectors, config.projection, fit_items, seed)
    method = {"umap": "UMAP", "tsne": "t-SNE"}[config.projection]
    notes = [
        f"{kinds.capitalize()} with similar vectors in {model} lie together ({method}); how far groups lie apart says "
        "little.",
        *_thinned(projection, len(subject.ids), method, kinds),
        *subject.notes,
    ]
    if columns[color_by].dtype == object:
        notes.insert(0, _purity(projection, group, groups, color_by, kinds))
    if told := _told(projection, columns):
        notes.insert(0, f"What the {told[0]} nearest {kinds} tell (rank correlation): {told[1]}.")
    title = f"{subject.data}: {len(subject.ids):,} {kinds}, coloured by {color_by}"
    return Atlas(
        title, tuple(notes), subject.ids, projection.flat, projection.solid, columns, color_by, group, groups, colors
    )


def _color_by(subject: Subject, wanted: str | None) -> str:
    """The column that colours: the wanted one; or the one named like a category; or the text with the fewest values."""
    columns = subject.columns
    if wanted is not None:
        if wanted not in columns:
            close = difflib.get_close_matches(wanted, columns, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "there are " + ", ".join(repr(name) for name in columns)
            raise ConfigError(f"atlas.color_by={wanted}: {subject.kind}s have no such column; {hint}")
        return wanted
    if subject.color_by is not None:
        return subject.color_by
    texts = {name: pd.Series(values).nunique() for name, values in columns.items() if values.dtype == object}
    named = sorted(
        (name for name in texts if name.lower() in COLOURING), key=lambda name: COLOURING.index(name.lower())
    )
    few = sorted((name for name in texts if 2 <= texts[name] <= len(columns[name]) / 4), key=lambda name: texts[name])
    return next(iter([*named, *few]), POPULARITY)


def _grouped(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """(n,) uint8 group of each value, the groups' names, and their colours."""
    if values.dtype != object:
        return _grouped_numbers(values)
    code, names = pd.factorize(values)
    counts = np.bincount(code[code >= 0], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    kept = order[:MAX_GROUPS]
    group_of = np.full(len(names) + 1, len(kept))  # the last one is that of a missing value, code -1
    group_of[kept] = np.arange(len(kept))
    groups = [str(names[code]) for code in kept]
    colors = [to_hex(colormaps["tab20"](place)) for place in _told_apart(len(kept))]
    others = len(names) - len(kept)
    if others:
        groups.append(f"{others:,} others")
        colors.append(style.MUTED)
    if (code < 0).any():
        group_of[-1] = len(groups)
        groups.append("unknown")
        colors.append(UNKNOWN_COLOR)
    return group_of[code].astype(np.uint8), tuple(groups), tuple(colors)


def _told_apart(count: int) -> list[int]:
    """Places in `tab20`: its strong colours first, then their pale twins, but no greys, which are for the others."""
    return [place for place in (*range(0, 20, 2), *range(1, 20, 2)) if place // 2 != 7][:count]


def _grouped_numbers(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    known = np.isfinite(values)
    distinct = np.unique(values[known])
    if len(distinct) <= NUMBER_GROUPS:
        lows, groups = distinct, [f"{value:.6g}" for value in distinct]
    else:
        cuts = np.unique(np.quantile(values[known], np.linspace(0, 1, NUMBER_GROUPS + 1)))
        step = 0.0
        if (distinct == np.rint(distinct)).all():  # of whole numbers, the next group begins one above
            cuts, step = np.unique(np.ceil(cuts)), 1.0
        ends = np.append(cuts[1:-1] - step, cuts[-1])
        pairs = zip(cuts[:-1], ends, strict=True)
        lows, groups = cuts[:-1], [f"{low:.6g} – {end:.6g}" if end > low else f"{low:.6g}" for low, end in pairs]
    group = np.where(known, np.searchsorted(lows[1:], np.where(known, values, 0), "right"), len(groups))
    colors = [to_hex(colormaps["viridis"](share)) for share in np.linspace(0, 0.95, len(groups))]
    if not known.all():
        groups.append("unknown")
        colors.append(UNKNOWN_COLOR)
    return group.astype(np.uint8), tuple(groups), tuple(colors)


def _purity(projection: Projection, group: np.ndarray, groups: tuple[str, ...], color_by: str, kinds: str) -> str:
    """How much of what lies near a thing shares its colour, counted among the vectors, not on the map."""
    mine = group[projection.fitted]
    nearest = projection.nearest[:, :LOOKED_AT]
    share = float((group[nearest] == mine[:, None]).mean())
    sizes = np.bincount(mine, minlength=len(groups))
    chance = float((sizes * (sizes - 1)).sum() / max(len(mine) * (len(mine) - 1), 1))
    return f"Of the {nearest.shape[1]} nearest {kinds} {share:.0%} share the {color_by}; by chance {chance:.0%} would."


def _told(projection: Projection, columns: dict[str, np.ndarray]) -> tuple[int, str] | None:
    """How well the mean of a thing's nearest tells its own number, of each column of numbers; None: there is none."""
    nearest = projection.nearest[:, :LOOKED_AT]
    found = []
    for name, values in columns.items():
        if values.dtype == object:
            continue
        rank = pd.Series(values).rank().to_numpy()
        mine, around = rank[projection.fitted], pd.Series(rank[nearest].mean(axis=1)).rank().to_numpy()
        known = np.isfinite(mine) & np.isfinite(around)
        if known.any() and np.ptp(mine[known]) and np.ptp(around[known]):
            found.append(f"{name} {np.corrcoef(mine[known], around[known])[0, 1]:.2f}")
    return (nearest.shape[1], ", ".join(found)) if found else None


def _thinned(projection: Projection, count: int, method: str, kinds: str) -> list[str]:
    fitted = len(projection.fitted)
    if fitted == count:
        return []
    return [
        f"{method} was fitted on {fitted:,} {kinds} drawn at random; each other lies beside the fitted one nearest to "
        "it."
    ]


# ------------------------------------------------------------------------------------------------------ figures


def figure_2d(atlas: Atlas) -> Figure:
    """The map in two dimensions."""
    places = atlas.flat[:DRAWN]
    if np.ptp(places[:, 1]) > np.ptp(places[:, 0]):  # lies better on its side, which on a map says nothing
        places = places[:, ::-1]
    ratio = float(np.ptp(places[:, 1]) / max(np.ptp(places[:, 0]), 1e-9))
    figure, ax = _canvas(atlas, height=float(np.clip(MAP_WIDTH * ratio, 4.0, MAP_WIDTH)))
    size, colors = _points(atlas)
    ax.scatter(places[:, 0], places[:, 1], size, colors, alpha=0.85, linewidths=0)
    ax.set_aspect("equal", anchor="N")
    ax.axis("off")
    return figure


def figure_3d(atlas: Atlas) -> Figure:
    """The map in three dimensions, from one side."""
    figure, ax = _canvas(atlas, 7.6, "3d")
    size, colors = _points(atlas)
    solid: Any = ax  # of its own type, which knows a third axis
    solid.scatter(*atlas.solid[:DRAWN].T, s=size, c=colors, alpha=0.85, linewidths=0, depthshade=False)
    for axis in (solid.xaxis, solid.yaxis, solid.zaxis):
        axis.set_pane_color("white")
        axis.line.set_color(style.MUTED)
        axis.set_ticklabels([])
        axis._axinfo["grid"]["color"] = style.GRID  # matplotlib has no other way to say it
        axis._axinfo["tick"] |= {"inward_factor": 0.0, "outward_factor": 0.0}
    solid.set_box_aspect((1, 1, 1), zoom=1.05)
    return figure


def _canvas(
    atlas: Atlas, height: float, projection: Literal["rectilinear", "3d"] = "rectilinear"
) -> tuple[Figure, Axes]:
    """A figure with title, notes and legend around a map of MAP_WIDTH x `height` inches."""
    drawn = f" {DRAWN:,} of them are drawn." if len(atlas.ids) > DRAWN else ""
    notes = textwrap.wrap(style.plain(" ".join(atlas.notes) + drawn), 165)
    head = 0.5 + 0.17 * len(notes)  # inches of title and notes
    width, total = MAP_WIDTH + 2.6, head + height + 0.1
    figure = Figure(figsize=(width, total), dpi=style.DPI, facecolor="white")
    figure.text(
        0.015, 1 - 0.12 / total, style.plain(atlas.title), va="top", fontsize=13, fontweight="bold", color=style.INK
    )
    figure.text(0.015, 1 - 0.41 / total, "\n".join(notes), va="top", fontsize=8.5, color=style.GREY, linespacing=1.35)
    ax = figure.add_axes((0.015, 0.05 / total, MAP_WIDTH / width, height / total), projection=projection)
    sizes = np.bincount(atlas.group, minlength=len(atlas.groups))
    marks = [
        Line2D([], [], marker="o", linestyle="", color=color, label=style.plain(f"{_short(name)} ({size:,})"))
        for name, color, size in zip(atlas.groups, atlas.colors, sizes.tolist(), strict=True)
    ]
    place = (MAP_WIDTH / width + 0.015, 1 - head / total)
    figure.legend(
        handles=marks, loc="upper left", bbox_to_anchor=place, frameon=False, fontsize=8.5, labelcolor=style.INK
    )
    return figure, ax


def _points(atlas: Atlas) -> tuple[float, np.ndarray]:
    """Size and colours of the points that are drawn."""
    colors = np.array(atlas.colors)[atlas.group[:DRAWN]]
    return float(np.clip(30_000 / len(colors), 0.4, 30)), colors


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
