"""Style: how every figure looks. No global state of matplotlib is touched, no window is opened.

The colours are those of Okabe and Ito, told apart with every kind of colour vision and in grey.
"""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eda import units

USERS, ITEMS, EVENTS, MUTED, ACCENT = "#0072B2", "#D98200", "#00835F", "#9AA3AB", "#C1440E"
INK, GREY, GRID = "#1F2933", "#5F6B76", "#E4E8EC"
DPI = 160


def canvas(title: str, xlabel: str, ylabel: str, columns: int = 1, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure with one row of axes, titled with its finding.

    Returns:
        the figure and its axes, from left to right; `xlabel` and `ylabel` are written on the first.
    """
    figure = Figure(figsize=(7.2, height), dpi=DPI, layout="constrained", facecolor="white")
    figure.suptitle(
        "\n".join(textwrap.wrap(title, 76)), x=0.015, ha="left", fontsize=11.5, fontweight="bold", color=INK
    )
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(MUTED)
        ax.tick_params(colors=GREY, labelsize=8.5, which="both")
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
    axes[0].set_xlabel(xlabel, fontsize=9.5, color=INK)
    axes[0].set_ylabel(ylabel, fontsize=9.5, color=INK)
    return figure, axes


def legend(ax: Axes, **options) -> None:
    """A legend without a box, in the ink of the labels."""
    ax.legend(frameon=False, fontsize=8.5, labelcolor=INK, **options)


def percent_axis(axis) -> None:
    """Ticks of a share as whole percents."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def count_axis(axis) -> None:
    """Ticks of a count as 1k, 2M ..., and only where it is whole."""
    axis.set_major_formatter(lambda value, _: units.compact(value) if value == round(value) else "")


def bars(ax: Axes, labels: list[str], heights: np.ndarray, color: str, share: bool = False) -> None:
    """Vertical bars next to each other, each with its value on top; an empty one has none."""
    places = np.arange(len(labels))
    ax.bar(places, heights, width=0.86, color=color)
    size = 8 if len(labels) <= 14 else 6.5
    for place, height in zip(places.tolist(), heights.tolist(), strict=True):
        if height > 0:
            text = short_percent(height) if share else units.compact(height)
            ax.annotate(
                text, (place, height), (0, 2), textcoords="offset points", ha="center", fontsize=size, color=GREY
            )
    label_places(ax, labels)
    ax.margins(y=0.1)
    (percent_axis if share else count_axis)(ax.yaxis)


def label_places(ax: Axes, labels: list[str]) -> None:
    """Writes `labels` at 0, 1, 2 ... of the x axis, turned where they would run into each other."""
    crowded = sum(len(label) + 1 for label in labels) > 84
    ax.set_xticks(np.arange(len(labels)), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False, axis="x")


def short_percent(share: float) -> str:
    """At most two digits: `12%`, `3.4%`, `<0.1%`."""
    value = 100 * share
    return "<0.1%" if value < 0.1 else f"{value:.1f}%" if value < 9.95 else f"{value:.0f}%"


def ranges(counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Groups whole numbers from 1 by ranges that grow with them: (labels such as `5–9`, how many in each)."""
    low, high = int(counts.min()), int(counts.max())
    edges = np.arange(low, high + 2)
    if len(edges) > 16:
        for steps in ((10, 20, 50), (10, 15, 20, 30, 50, 70), (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)):
            powers = 10.0 ** np.arange(-1, np.ceil(np.log10(high)) + 1)
            series = np.unique((np.array(steps)[None, :] * powers[:, None]).astype(np.int64))
            inside = series[(series > low) & (series <= high)]
            edges = np.concatenate([[series[series <= low].max()], inside, [series[series > high].min()]])
            if len(edges) > 9:
                break
    sizes = np.histogram(counts, np.append(edges[:-1], edges[-1]))[0]
    labels = [
        f"{a}" if b == a + 1 else f"{units.compact(a)}–{units.compact(b - 1)}" if b < 10_000 else f"{units.compact(a)}+"
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return labels, sizes
