"""Comparison: models against each other and against popularity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from config import ConfigError
from eda import style
from eda.style import ACCENT, GREY, USERS


def model_comparison(
    result: Mapping[str, Any], metrics: Sequence[str] | None = None, reference: str = "most_popular"
) -> Figure:
    """Models by their metrics, best first, with their 95% intervals and the reference as a line.

    Args:
        result: `{"rows": {model: {metric: value}}, "intervals": {model: {metric: [low, high]}}}`, as in
            `comparison.json`; a model or metric without an interval is drawn without one.
        metrics: a panel each; the first one orders the models. None: `result["metric"]`, the one that is tested, and
            the hit rate of the same cut.
        reference: the model that the others have to beat; no line where it is not among them.

    Raises:
        ConfigError: no model, or none that has one of the metrics.
    """
    rows, intervals = result["rows"], result.get("intervals") or {}
    if metrics is None:
        metric = result.get("metric", "ndcg@10")
        metrics = (metric, f"hit_rate@{metric.partition('@')[2]}")
    shown = [metric for metric in metrics if any(metric in row for row in rows.values())]
    if not shown:
        known = sorted({metric for row in rows.values() for metric in row})
        raise ConfigError(f"no model has {' or '.join(metrics)}; there are {', '.join(known) or 'no metrics'}")
    models = sorted(rows, key=lambda model: (-rows[model].get(shown[0], -np.inf), model))
    figure, axes = style.canvas(
        _finding(rows, intervals, models, shown[0], reference), "", *[""] * len(shown), height=1.5 + 0.42 * len(models),
        columns=True,
    )  # fmt: skip
    for ax, metric in zip(axes, shown, strict=True):
        for place, model in enumerate(models):
            if metric not in rows[model]:
                continue
            value, color = rows[model][metric], GREY if model == reference else USERS
            low, high = (intervals.get(model) or {}).get(metric) or (value, value)
            ax.plot((low, high), (place, place), color=color, linewidth=3, alpha=0.45, solid_capstyle="round")
            ax.plot(value, place, "o", color=color, markersize=6.5)
            ax.annotate(
                f"{value:.4f}",
                (value, place),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=GREY,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
        if metric in rows.get(reference, {}):
            ax.axvline(rows[reference][metric], color=ACCENT, linestyle="--", linewidth=1.1, label=reference)
        measured = any(metric in own for own in intervals.values())
        ax.set_xlabel(f"{metric} (95% interval)" if measured else metric, fontsize=9.5)
        ax.set_xlim(0, 1.1 * ax.dataLim.xmax if ax.dataLim.xmax > 0 else 1)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.5, -0.8)
        ax.tick_params(axis="y", length=0, labelcolor=style.INK)
    if reference in rows:
        style.legend(axes[0])
    return figure


def _finding(rows, intervals, models: list[str], metric: str, reference: str) -> str:
    """Which model leads, and by how much."""
    best = models[0]
    text = f"Best is {best} with {metric} {rows[best][metric]:.4f}"
    base = rows.get(reference, {}).get(metric)
    if base and best != reference:
        text += f", {rows[best][metric] / base:.1f} times {reference}"
    if len(models) > 1 and metric in rows[models[1]]:
        first, second = ((intervals.get(model) or {}).get(metric) or (rows[model][metric],) * 2 for model in models[:2])
        if first[0] <= second[1]:
            text += f"; the interval of {models[1]} overlaps with its own"
    return text
