"""Small data sets for property tests."""

import numpy as np
from hypothesis import strategies as st

from zoo.data.dataset import Dataset, Entities, Events


def objects(values: list) -> np.ndarray:
    """An object array of any values, lists included."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def dataset_of(events: list[tuple[int, int, int]], users: int, items: int, features: bool = False, **fields) -> Dataset:
    """A data set of (user row, item row, milliseconds); user ids are 10, 20, ..., item ids `i0`, `i1`, ..."""
    events = sorted(events, key=lambda event: (event[0], event[2]))  # a stable sort, as the readers make
    user, item, time = (np.array([event[k] for event in events], kind) for k, kind in enumerate(("i4", "i4", "i8")))
    columns = {"position": np.arange(len(events), dtype=np.int32)}
    kinds = {"kind": objects([f"kind {row % 2}" for row in range(items)])} if features else {}
    return Dataset(
        Events(user, item, time, columns),
        Entities(10 * (1 + np.arange(users))),
        Entities(objects([f"i{row}" for row in range(items)]), kinds),
        **fields,
    )


@st.composite
def datasets(draw, min_events: int = 0, max_users: int = 6, max_items: int = 8) -> Dataset:
    """Few users and items, many ties, sometimes features."""
    users, items = draw(st.integers(1, max_users)), draw(st.integers(1, max_items))
    event = st.tuples(st.integers(0, users - 1), st.integers(0, items - 1), st.integers(0, 12))
    events = draw(st.lists(event, min_size=min_events, max_size=60))
    return dataset_of(events, users, items, features=draw(st.booleans()))
