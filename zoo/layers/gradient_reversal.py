"""Gradient reversal: what lies before learns the opposite of what lies after (Ganin & Lempitsky 2015)."""

from __future__ import annotations

from typing import Any

from keras import ops


def reverse_gradient(x: Any, strength: Any = 1.0) -> Any:
    """`x` itself, whose gradient is multiplied by -`strength`."""
    return (1.0 + strength) * ops.stop_gradient(x) - strength * x
