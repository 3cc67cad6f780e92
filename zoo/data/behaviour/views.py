"""Two views of a client for contrastive learning: subsets of his events, and parts of him hidden.

Legend: n clients, m events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.data.behaviour.profiles import PARTS, Profiles


@dataclass(frozen=True)
class View:
    """What `Profiles.seen` shows.

    Attributes:
        kept: (m,) bool events.
        cut: (n,) int64 milliseconds: the cut-off of each client.
        blank: (n, len(PARTS)) bool parts that are hidden.
    """

    kept: np.ndarray
    cut: np.ndarray
    blank: np.ndarray


def two_views(profiles: Profiles, config: Any, rng: np.random.Generator) -> tuple[View, View]:
    """Two views of each client, a function of `rng` alone. With all knobs at 0 both show everything.

    Args:
        config: of a model, with the knobs
            `time_crop`: share of the clients whose history is cut at one of their events: one view ends just before
                it, its cut-off is that moment; the other begins with it. Which of the two is older is drawn, too;
            `event_dropout`: share of the events of each view that is dropped, but one always stays;
            `modality_dropout`: chance of each part to be hidden in a view, but never all of `parts`.
    """
    n, owner = profiles.n, profiles.owner
    looked_at = [list(PARTS).index(part) for part in config.parts]
    everything = np.ones(len(owner), bool)
    newer, older, cut = _cropped(profiles, config.time_crop, rng)
    swapped = rng.random(n) < 0.5
    views = []
    for is_older in (swapped, ~swapped):
        shown = np.where(is_older[owner], older, newer) if config.time_crop else everything
        kept = _dropped(shown, owner, n, config.event_dropout, rng)
        blank = rng.random((n, len(PARTS))) < config.modality_dropout
        blank[blank[:, looked_at].all(axis=1)] = False
        views.append(View(kept, np.where(is_older, cut, profiles.cut), blank))
    return views[0], views[1]


def _cropped(profiles: Profiles, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events of the newer views (m,) and of the older ones (m,), and the cut-off of the older ones (n,)."""
    lengths, owner = profiles.lengths, profiles.owner
    first = np.cumsum(lengths) - lengths
    wanted = (rng.random(profiles.n) < share) & (lengths > 1)
    at = 1 + (rng.random(profiles.n) * (lengths - 1)).astype(np.int64)  # the first event of the newer part
    cut = profiles.cut.copy()
    cut[wanted] = profiles.time[(first + at)[wanted]]
    # Where all events up to that one are of one moment, there is no older part.
    wanted[wanted] = profiles.time[first[wanted]] < cut[wanted]
    cut = np.where(wanted, cut, profiles.cut)
    older = profiles.time < cut[owner]
    return ~(wanted[owner] & older), older, cut


def _dropped(shown: np.ndarray, owner: np.ndarray, n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """(m,) bool: the events shown without a share of them, but one of each client at least."""
    luck = np.where(shown, rng.random(len(owner)), -1.0)
    best = np.full(n, -1.0)
    np.maximum.at(best, owner, luck)
    return shown & ((luck >= rate) | (luck == best[owner]))
