"""Masked items: some events of a sequence are hidden, to be predicted from what is left and right of them.

Legend: R rows, L slots of a row, T masked slots of a batch, n histories, E events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.sequences import SequenceLoader, cut
from zoo.data.vocabulary import MASK, NUM_SPECIALS


class MaskedItemLoader(SequenceLoader):
    """The cloze task of BERT4Rec (Sun et al. 2019, section 3.5), drawn anew in every epoch.

    Of each sequence, `model.mask_share` of the events are masked, at least one; but of `model.last_share` of the
    sequences the last event alone, as in serving. Events of unknown items or of weight 0 stay visible. A batch is

    x          of `sequences`: `item` and `action` are MASK where they are masked, `slot` (T,) are the masked slots, in
               order; `next_action` is the action of what is masked, PAD elsewhere
    y, weight  (T,) of `SequenceLoader.asked`, what is masked; T is the same for all batches, weight 0 fills up.
    """

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__(histories, catalogue, config)
        model: Any = config.model
        self._maskable = self.maskable()
        if self._weights is not None:
            self._maskable &= self._weights > 0
        before = np.concatenate([[0], np.cumsum(self._maskable)])
        maskable = before[self._begins + self.packing.lengths] - before[self._begins]
        wanted = np.maximum(np.rint(model.mask_share * maskable), 1)
        self._counts = np.minimum(wanted, maskable).astype(np.int64)  # (n,) masks of each sequence
        per_row = np.bincount(self.packing.row, self._counts, minlength=self.packing.num_rows)
        self.num_masks = max(int(np.sort(per_row)[-self.rows_per_batch :].sum()), 1)  # T: no batch has more

    def maskable(self) -> np.ndarray:
        """(E,) bool: events that may be masked."""
        return self.histories.item >= NUM_SPECIALS

    def windows(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        model: Any = self.config.model
        return cut(self.histories.offsets[:-1], self.histories.offsets[1:], max_length, model.all_events)

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        x, index, filled = self.rows(rows, real)
        index = index.reshape(-1)
        masked = self._masked(rows, x["segment"], np.flatnonzero(filled.reshape(-1) & self._maskable[index]), rng)
        for name in x.keys() & {"item", "action"}:
            x[name].reshape(-1)[masked] = MASK
        if "next_action" in x:
            _ask(x, masked, self.histories.columns["action"][index[masked]])
        x["slot"] = np.zeros(self.num_masks, np.int32)
        x["slot"][: len(masked)] = masked
        return self.asked(x, index[x["slot"]], np.arange(self.num_masks) < len(masked), rng)

    def _masked(self, rows: np.ndarray, segment: np.ndarray, slots: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The flat slots to mask, ascending, out of `slots`, ascending."""
        if not len(slots):
            return slots
        model: Any = self.config.model
        sequence = self.packing.sequences(rows, segment, slots)
        starts = np.flatnonzero(np.diff(sequence, prepend=-1))  # slots of a sequence follow each other
        sizes = np.diff(starts, append=len(slots))
        last = rng.random(len(starts)) < model.last_share
        counts = np.where(last, 1, self._counts[sequence[starts]])
        group = np.repeat(np.arange(len(starts)), sizes)
        rank = np.where(last[group], -slots, rng.random(len(slots)))  # the lowest are masked
        chosen = np.lexsort((rank, group))[np.arange(len(slots)) - starts[group] < counts[group]]
        return np.sort(slots[chosen])

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, np.ndarray]:
        """The last `max_length - 1` events and a MASK, which `slot` points at."""
        ends = histories.offsets[1:]
        masked = Histories(
            histories.user,
            histories.offsets + np.arange(len(histories) + 1),
            np.insert(histories.item, ends, MASK),
            query_action=histories.query_action,
        )
        if "action" in histories.columns:
            masked.columns["action"] = np.insert(histories.columns["action"], ends, MASK)
        x = SequenceLoader.inputs(masked, catalogue, model_config)
        if "next_action" in x:
            _ask(x, x["slot"], x["next_action"].reshape(-1)[x["slot"]])
        return x


def _ask(x: dict[str, np.ndarray], slots: np.ndarray, action: np.ndarray) -> None:
    """At the flat `slots`, and nowhere else, it is told which action is asked for."""
    x["next_action"] = np.zeros_like(x["next_action"])
    x["next_action"].reshape(-1)[slots] = action
