"""Draws figures/benchmarks.png of what benchmarks/results holds: quality and seconds an epoch on MovieLens-1M.

    python -m benchmarks.figure

Quality is that of `benchmarks.quality`, beside the best number published under the same protocol; HSTU has none,
beside it stands RecTools' on all 3,706 items. Seconds are those of `benchmarks.peers`, of the zoo on its fastest
backend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.record import RESULTS
from eda import style

BEST = "best published"
PUBLISHED = {  # title, whose number stands beside it, NDCG@10
    "sasrec": ("SASRec", BEST, 0.1857),
    "hstu": ("HSTU, no time", "RecTools, 3,706 items", 0.1718),
    "gru4rec": ("GRU4Rec", BEST, 0.1648),
    "bert4rec": ("BERT4Rec", BEST, 0.1618),
}
MEASURED = {"sasrec": "SASRec", "hstu": "HSTU", "bert4rec": "BERT4Rec"}
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
PEERS = {"replay": "RePlay", "rectools": "RecTools"}
FILE = Path(__file__).parent.parent / "figures" / "benchmarks.png"


def results(name: str) -> dict[str, Any]:
    """What a benchmark found."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def quality() -> list[tuple[str, float, bool]]:
    """(label, NDCG@10, whether it is the zoo's) of each bar."""
    bars = []
    for model, (title, whose, published) in PUBLISHED.items():
        (mean, _) = results(f"quality_{model}_ml-1m")["mean and deviation"]["ndcg@10"]
        bars += [(title, mean, True), (whose, published, False)]
    return bars


def seconds() -> list[tuple[str, float, bool]]:
    """(label, seconds an epoch, whether it is the zoo's) of each bar."""
    bars = []
    for model, title in MEASURED.items():
        rows = results(f"peers_{model}")["rows"]
        own = {name.removeprefix("zoo "): row["seconds"] for name, row in rows.items() if name.startswith("zoo ")}
        backend = min(own, key=own.__getitem__)
        bars.append((f"{title}, {BACKENDS[backend]}", own[backend], True))
        bars += [(label, rows[peer]["seconds"], False) for peer, label in PEERS.items() if peer in rows]
    return bars


def draw(ax: Axes, bars: list[tuple[str, float, bool]], title: str, digits: int) -> None:
    """Horizontal bars, the zoo's in colour, a gap before each of them."""
    gaps = np.cumsum([own for _, _, own in bars]) * 0.45
    places = np.arange(len(bars)) + gaps
    values = [value for _, value, _ in bars]
    ax.barh(places, values, color=[style.USERS if own else style.MUTED for _, _, own in bars], height=0.8)
    ax.set_yticks(places, [label for label, _, _ in bars], fontsize=9)
    for label, (_, _, own) in zip(ax.get_yticklabels(), bars, strict=True):
        label.set_color(style.INK if own else style.GREY)
        label.set_fontweight("bold" if own else "normal")
    for place, value in zip(places, values, strict=True):
        ax.annotate(
            f"{value:.{digits}f}",
            (value, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=style.INK,
        )
    ax.set_title(title, fontsize=10, color=style.INK, loc="left")
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.set_xlim(0, 1.12 * max(values))
    ax.invert_yaxis()


def main() -> None:
    figure = Figure(figsize=(10, 4), dpi=style.DPI, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    draw(left, quality(), "MovieLens-1M: NDCG@10 (more is better)", 4)
    draw(right, seconds(), "seconds of an epoch, two cores (less is better)", 1)
    figure.savefig(FILE)
    print(FILE)


if __name__ == "__main__":
    main()
