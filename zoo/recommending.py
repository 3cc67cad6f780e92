"""From scores to recommendations."""

from __future__ import annotations

from zoo.topk import top_of_scores

__all__ = ["top_of_scores"]
