"""Pairs of a user and an item, and negatives.

Legend: B batch, P positives of a batch, N negatives of a batch, L history, n histories, E events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.loader import Loader
from zoo.data.negatives import NegativeSampler, log_popularity
from zoo.data.vocabulary import NUM_SPECIALS, PAD


class PairLoader(Loader):
    """Pairs of a user and an item: every training event once an epoch, and negatives drawn for it.

    Of `train.batch_size` pairs, `model.negative_share` are negatives; negative j belongs to the user of positive
    j modulo P. A batch is

        x["user"]               (P,) int32 token
        x["history"], ["length"](P, L) int32 the events before the positive, right-padded, and how many; with
                                `model.max_length` only
        x["item"]               (P,) int32 the positive
        x["log_q"]              (P,) float32 log-probability of the positive under the sampler
        x["negatives"]          (N, C) int32, x["negatives_log_q"] (N, C) float32: C candidates for each negative, of
                                which the model takes the one it scores highest; PAD where the user has no negative
        x["known"]              (P, P) or (P, N) bool, with `model.mask_known` and a softmax over the batch's items or
                                over shared negatives: row b's user is known to like candidate c
        y                       (P,) float32 in [0, 1]: the event's scaled score, 1 where it has none
        weight                  (P,) float32: column `weight` of the events times 0.5^(events since / half-life)
    """

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__(histories, catalogue, config)
        model: Any = config.model
        self._num_negatives = round(config.train.batch_size * model.negative_share) if model.uses_negatives else 0
        self.rows_per_batch = max(config.train.batch_size - self._num_negatives, 1)
        # An event that is no trained item (unknown to the catalogue) is history, never a target.
        self._targets = np.flatnonzero(histories.item >= NUM_SPECIALS)
        self._history_of_event = histories.row_of_event
        self._scores = scaled_scores(histories, model.score_scaling)
        self._weights = event_weights(histories, model.half_life)
        self._in_batch = model.loss == "in_batch"
        self._shared = model.loss == "sampled_softmax"  # negatives of all rows, so drawn for nobody in particular
        self._masked = model.mask_known and (self._in_batch or self._shared)
        self._log_q = log_popularity(catalogue)  # of an item to be a positive of the batch
        if self._num_negatives or self._masked:
            self._sampler = NegativeSampler(histories, catalogue, model.popularity_power)
        if self._shared:
            self._log_q = self._sampler.log_p.astype(np.float32)

    @property
    def num_examples(self) -> int:
        return len(self._targets)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        model: Any = self.config.model
        events = self._targets[rows]
        owners = self._history_of_event[events]
        x = _pair_inputs(self.histories, owners, self.histories.offsets[owners], events, model)
        item = self.histories.item[events]
        x["item"], x["log_q"] = item, self._log_q[item]
        if self._num_negatives:
            owners = np.arange(self._num_negatives) % self.rows_per_batch
            users = np.full(self._num_negatives, PAD) if self._shared else x["user"][owners]
            x["negatives"], x["negatives_log_q"] = self._sampler.draw(users, model.hard_pool, rng)
        if self._masked:
            x["known"] = self._sampler.known.among(x["user"], item if self._in_batch else x["negatives"][:, 0])
        return x, self._scores[events], self._weights[events] * real

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, np.ndarray]:
        everything = np.arange(len(histories))
        return _pair_inputs(histories, everything, histories.offsets[:-1], histories.offsets[1:], model_config)


def _pair_inputs(histories: Histories, owners: np.ndarray, starts: np.ndarray, ends: np.ndarray, model: Any) -> dict:
    """What is known of the users `owners` from the events [starts, ends) of the flat arrays."""
    x = {"user": histories.user[owners].astype(np.int32)}
    if model.max_length:
        index, real = histories.windows(starts, ends, model.max_length)
        items = histories.item[index] if len(histories.item) else np.zeros(index.shape, np.int32)
        x["history"] = np.where(real, items, PAD).astype(np.int32)
        x["length"] = real.sum(axis=1, dtype=np.int32)
    return x


def scaled_scores(histories: Histories, scaling: str) -> np.ndarray:
    """(E,) float32 in [0, 1]: how much each event says that the user likes the item.

    Args:
        histories: the training histories; without a column `score` every event says 1, as does a missing score.
        scaling: `none` ignores scores; `minmax` maps the lowest training score to 0 and the highest to 1;
            `quantile` maps a score to the share of training scores that are not above it.
    """
    score = histories.columns.get("score")
    if score is None or scaling == "none":
        return np.ones(len(histories.item), np.float32)
    known = np.isfinite(score)
    result = np.ones(len(score), np.float32)
    if not known.any():
        return result
    values, inverse, counts = np.unique(score[known], return_inverse=True, return_counts=True)
    if scaling == "minmax":
        spread = values[-1] - values[0]
        scaled = (values - values[0]) / spread if spread > 0 else np.ones(len(values))
    else:
        scaled = np.cumsum(counts) / counts.sum()
    result[known] = scaled[inverse]
    return result


def event_weights(histories: Histories, half_life: float | None) -> np.ndarray:
    """(E,) float32: the column `weight`, halved for every `half_life` later events of the same user."""
    weights = np.asarray(histories.columns.get("weight", np.ones(len(histories.item))), np.float32)
    if half_life is None:
        return weights
    since = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.item))
    return (weights * 0.5 ** (since / half_life)).astype(np.float32)
