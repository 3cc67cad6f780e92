"""A small log of two domains, of which the second is aimed at."""

import dataclasses

import numpy as np

from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary

ITEMS, LENGTH = 20, 9
TARGET = 2  # kitchen, the second domain: items of odd number


def catalogue(**changes):
    token = np.arange(NUM_SPECIALS + ITEMS)
    domain = np.where(token < NUM_SPECIALS, 0, 1 + token % 2).astype(np.int16)
    known = Catalogue(
        Vocabulary(np.arange(9), 9),
        Vocabulary(np.arange(ITEMS), ITEMS),
        (token >= NUM_SPECIALS).astype(np.int64),
        labels={"domain": ("food", "kitchen"), "target_domains": ("kitchen",)},
        candidates=domain == TARGET,
        item_domain=domain,
    )
    return dataclasses.replace(known, **changes)


def histories(lengths, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = rng.integers(NUM_SPECIALS, NUM_SPECIALS + ITEMS, offsets[-1]).astype(np.int32)
    return Histories(np.full(len(lengths), UNKNOWN, np.int32), offsets, item)
