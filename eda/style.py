"""Style: how every figure looks. No global state of matplotlib is touched, no window is opened.

The colours are those of Okabe and Ito, a little darkened: told apart with every kind of colour vision and in grey.
"""

from __future__ import annotations

import textwrap
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from eda import units

USERS, ITEMS, EVENTS, MUTED, ACCENT = "#0072B2", "#D98200", "#00835F", "#9AA3AB", "#C1440E"
INK, GREY, GRID = "#1F2933", "#5F6B76", "#E4E8EC"
WIDTH, DPI = 7.2, 160  # inches, dots per inch


def canvas(
    title: str, xlabel: str, *ylabels: str, height: float = 4.0, columns: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure titled with its finding, with one axes for each of `ylabels`.

    They lie below each other over one x axis, or side by side if `columns`.
    """
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    text = "\n".join(textwrap.wrap(plain(title[:1].upper() + title[1:]), 70))
    figure.suptitle(text, x=0.015, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    shape = (1, len(ylabels)) if columns else (len(ylabels), 1)
    axes = list(figure.subplots(*shape, squeeze=False, sharex=not columns, sharey=columns).flat)
    for ax, ylabel in zip(axes, ylabels, strict=True):
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(MUTED)
        ax.tick_params(colors=GREY, labelsize=8.5, which="both")
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.set_ylabel(ylabel, fontsize=9.5, color=INK)
    axes[-1].set_xlabel(xlabel, fontsize=9.5, color=INK)
    return figure, axes


def legend(ax: Axes) -> None:
    """A legend in one row above the axes, where it covers nothing."""
    ax.legend(
        frameon=False, fontsize=8.5, labelcolor=INK, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.2
    )


def percent_axis(axis) -> None:
    """Ticks of a share in percent."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def count_axis(axis) -> None:
    """Ticks of a count at whole numbers, as 1k, 2M ..."""
    axis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axis.set_major_formatter(lambda value, _: units.compact(value))


def log_count_axes(ax: Axes) -> None:
    """Both axes logarithmic, with ticks of counts."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_formatter(lambda value, _: units.compact(value))
        crowded = high > 10 * low  # the powers of ten are enough
        axis.set_minor_formatter(NullFormatter() if crowded else (lambda value, _: units.compact(value)))


def calendar_axis(axis) -> None:
    """Ticks of dates, as short as they can be."""
    locator = AutoDateLocator(maxticks=8)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator))


def bars(ax: Axes, labels: list[str], heights: np.ndarray, color: str, share: bool = False) -> None:
    """Vertical bars next to each other, each with its value on top; an empty one has none."""
    ax.bar(np.arange(len(labels)), heights, width=0.86, color=color)
    size = 8 if len(labels) <= 14 else 6.5
    for place, height in enumerate(heights.tolist()):
        if height > 0:
            text = short_percent(height) if share else units.compact(height)
            ax.annotate(
                text, (place, height), (0, 2), textcoords="offset points", ha="center", fontsize=size, color=GREY
            )
    (percent_axis if share else count_axis)(ax.yaxis)
    places(ax, labels)


def places(ax: Axes, labels: list[str]) -> None:
    """Writes `labels` at 0, 1, 2 ... of the x axis: turned where they would touch, in the middle where they are few."""
    widths = [max(map(len, label.split("\n"))) for label in labels]
    widest = max((a + b for a, b in pairwise(widths)), default=0) / 2
    crowded = widest + 0.5 > 87 / len(labels)  # 87 characters fill the axis
    ax.set_xticks(np.arange(len(labels)), labels, rotation=40 * crowded, ha="right" if crowded else "center")
    if crowded:
        for label in ax.get_xticklabels():
            label.set_rotation_mode("anchor")
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False, axis="x")
    margin = max(0.6, (6 - len(labels)) / 2)
    ax.set_xlim(-margin, len(labels) - 1 + margin)
    ax.set_ylim(0, 1.08 * ax.dataLim.ymax)


def rows(ax: Axes, labels: list[str], sizes: np.ndarray, colors: list[str], notes: list[str]) -> None:
    """Horizontal bars from top to bottom, each with its note: inside a long bar, behind a short one."""
    ax.barh(np.arange(len(labels)), sizes, color=colors, height=0.72)
    ax.set_yticks(np.arange(len(labels)), [plain(label if len(label) <= 34 else label[:33] + "…") for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(visible=False, axis="y")
    count_axis(ax.xaxis)
    for place, (size, note) in enumerate(zip(sizes.tolist(), notes, strict=True)):
        inside = size > 0.6 * sizes.max()
        ax.annotate(
            note,
            (size, place),
            (-5 if inside else 5, 0),
            textcoords="offset points",
            va="center",
            ha="right" if inside else "left",
            fontsize=8.5,
            color="white" if inside else GREY,
        )


def plain(text: str) -> str:
    """A text of the log for a figure: on one line, and a dollar is a dollar, not mathematics."""
    return " ".join(text.split()).replace("$", r"\$")


def short_percent(share: float) -> str:
    """At most two digits: `12%`, `3.4%`, `<0.1%`; `0%` only for nothing at all."""
    value = 100 * share
    return "0%" if value == 0 else "<0.1%" if value < 0.1 else f"{value:.1f}%" if value < 9.95 else f"{value:.0f}%"


def ranges(counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Groups whole numbers from 1, singly where they are few, otherwise by ranges that grow with them.

    Returns:
        labels such as `7` or `50–99`, and how many of `counts` fall in each.
    """
    low, high = int(counts.min()), int(counts.max())
    edges = np.arange(low, high + 2)
    if len(edges) > 16:
        powers = 10.0 ** np.arange(-1, np.ceil(np.log10(high)) + 1)
        for steps in ((10, 20, 50), (10, 15, 20, 30, 50, 70), (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)):
            series = np.unique(np.outer(powers, steps).astype(np.int64))
            edges = series[np.searchsorted(series, low, "right") - 1 : np.searchsorted(series, high, "right") + 1]
            if len(edges) > 9:
                break
    return range_labels(edges), np.bincount(np.searchsorted(edges, counts, "right") - 1, minlength=len(edges) - 1)


def range_labels(edges: np.ndarray) -> list[str]:
    """Labels of [edge, next edge): `7`, `50–99`, `1k–2k`."""
    labels = []
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        last = end - 1 if end <= 1000 else end
        labels.append(f"{start}" if end == start + 1 else f"{units.compact(start)}–{units.compact(last)}")
    return labels


def range_note(labels: list[str]) -> str:
    """What to add to the name of an axis whose places are `labels`."""
    return " (ranges grow with the count: a logarithmic scale)" if any("–" in label for label in labels) else ""
