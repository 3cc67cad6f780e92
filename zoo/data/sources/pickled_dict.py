"""Layout `pickled_dict`: a foreign pickle of {user: [item, ...]}, read without running anything that is in it."""

from __future__ import annotations

import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from config import DataConfig
from zoo.data.dataset import DataError, Dataset
from zoo.data.sources.engine import collect, connect
from zoo.data.sources.lines import opened


def read(path: str, data: DataConfig) -> Dataset:
    """The events of a dictionary of users' items, oldest first.

    Raises:
        DataError: anything but a dictionary of lists of ids in the file; above all whatever a pickle could run.
    """
    name = Path(path).name
    with opened(Path(path)) as file:
        try:
            histories = _Unpickler(file, encoding="latin1").load()
        except _Refused as error:
            raise DataError(
                f"{name}: the pickle asks for {error}, which is refused; wanted plain containers and NumPy arrays"
            ) from None
        except (OSError, EOFError):  # `opened` explains them
            raise
        except Exception as error:  # a damaged or hostile pickle may fail in any way, but in no other than this line
            raise DataError(f"{name}: not a readable pickle ({type(error).__name__}: {error})") from None
    if not isinstance(histories, dict) or not histories:
        found = "an empty dictionary" if isinstance(histories, dict) else type(histories).__name__
        raise DataError(f"{name}: the pickle holds {found}; wanted a dictionary of user: [item, item, ...]")
    users: list = []
    items: list = []
    for user, history in histories.items():
        history = history.tolist() if isinstance(history, np.ndarray) else history
        if not isinstance(history, list | tuple):
            raise DataError(
                f"{name}: user {user!r} has {type(history).__name__} {history!r:.60}; wanted a list of items"
            )
        users.extend([user] * len(history))
        items.extend(history)
    table = pa.table({"user": _ids(users, "user", name), "item": _ids(items, "item", name)})
    connection = connect(data.cache_dir)
    connection.register("histories", table)
    return collect(connection, "SELECT user, item FROM histories", name=name, clock="order")


def _ids(values: list, side: str, name: str) -> pa.Array:
    """Ids of one type: integers or text."""
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    kind = str if values and isinstance(values[0], str) else int
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            met = f"{value!r:.60} ({type(value).__name__})"
            raise DataError(
                f"{name}: {side} {met}; wanted {'text like the others' if kind is str else 'integers or text'}"
            )
    try:
        return pa.array(values, pa.string() if kind is str else pa.int64())
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError) as error:
        raise DataError(f"{name}: {side} ids: {error}; wanted int64 or text") from None


# ---------------------------------------------------------------------------------------------- unpickling


class _Refused(Exception):
    """A name that the pickle asked for."""


def _empty_array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """What `numpy.core.multiarray._reconstruct` makes: the pickle sets its content afterwards."""
    if kind is not np.ndarray:
        raise _Refused(f"an array of the class {kind!r}")
    return np.empty(0, np.int8)


def _array_of(buffer: Any, dtype: np.dtype, shape: tuple, order: str, axis_order: Any = None) -> np.ndarray:
    """What `numpy.core.numeric._frombuffer` makes."""
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar_of(dtype: np.dtype, content: bytes) -> Any:
    """What `numpy.core.multiarray.scalar` makes."""
    if dtype.hasobject:
        raise _Refused("a NumPy scalar that holds an object")
    return np.frombuffer(content, dtype)[0]


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What `_codecs.encode` makes: bytes, as protocol 2 writes them."""
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset, list, dict)
    },
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar_of),
            ("numeric", "_frombuffer", _array_of),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    """Knows plain containers and NumPy arrays, and refuses every other name before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"the outside object {pid!r}")
