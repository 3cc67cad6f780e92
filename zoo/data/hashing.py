"""Numbers that look like chance and are the same on every machine."""

from __future__ import annotations

import numpy as np


def splitmix64(bits: np.ndarray) -> np.ndarray:
    """(...) uint64 of uint64, one to one: every bit of the result depends on all (finaliser of SplitMix64, Steele et
    al. 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
