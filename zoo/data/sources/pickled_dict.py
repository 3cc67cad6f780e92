"""Layout `pickled_dict`: a foreign pickle of {user: [item, ...]}, read without running anything that is in it."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
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
    users: list = []
    items: list = []
    for user, history in histories(path):
        users.extend([user] * len(history))
        items.extend(history)
    table = pa.table({"user": _ids(users, "user", name), "item": _ids(items, "item", name)})
    connection = connect(data.cache_dir)
    connection.register("histories", table)
    return collect(connection, "SELECT user, item FROM histories", name=name, clock="order")


def histories(path: str) -> Iterator[tuple[Any, list | tuple]]:
    """The users of a pickled dictionary and their items, as they stand there.

    Raises:
        DataError: as in `read`.
    """
    name = Path(path).name
    with opened(Path(path)) as file:
        try:
            found = _Unpickler(file, encoding="latin1").load()
        except _Refused as error:
            raise DataError(
                f"{name}: the pickle asks for {error}, which is refused; wanted plain containers and NumPy arrays"
            ) from None
        except (OSError, EOFError):  # `opened` explains them
            raise
        except Exception as error:  # a damaged or hostile pickle may fail in any way, but in no other than this line
            raise DataError(f"{name}: not a readable pickle ({type(error).__name__}: {error})") from None
    if not isinstance(found, dict) or not found:
        kind = "an empty dictionary" if isinstance(found, dict) else type(found).__name__
        raise DataError(f"{name}: the pickle holds {kind}; wanted a dictionary of user: [item, item, ...]")
    for user, history in found.items():
        history = history.values if isinstance(history, _Array) else history
        if not isinstance(history, list | tuple):
            raise DataError(
                f"{name}: user {user!r} has {type(history).__name__} {history!r:.60}; wanted a list of items"
            )
        yield user, history


def _ids(values: list, side: str, name: str) -> pa.Array:
    """Ids of one type: integers or text."""
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
    """What a pickle asked for and does not get."""


class _Dtype:
    """Stands in for `numpy.dtype`, which could be told lies about memory: plain numbers, text and objects only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[biufUSO]\d*", code):
            raise _Refused(f"arrays of the type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    def values(self, content: Any) -> list:
        """The content of an array: bytes, or a list of objects."""
        if self.code.startswith("O"):
            return list(content)
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)  # Python 2 wrote text
        return np.frombuffer(raw, np.dtype(self.order + self.code)).tolist()


class _Array:
    """Stands in for `numpy.ndarray`; holds a list."""

    def __init__(self) -> None:
        self.values: list = []

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, _, content = state
        self.values = _one_dimension(dtype.values(content), shape)


def _reconstruct(kind: type, *_: Any) -> _Array:
    """Stands in for `numpy.core.multiarray._reconstruct`: an array whose state follows."""
    if kind is not _Array:
        raise _Refused(f"an array of the class {kind.__name__}")
    return _Array()


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, *_: Any) -> _Array:
    """Stands in for `numpy.core.numeric._frombuffer`, as protocol 5 writes arrays."""
    array = _Array()
    array.values = _one_dimension(dtype.values(content), shape)
    return array


def _scalar(dtype: _Dtype, content: Any) -> Any:
    """Stands in for `numpy.core.multiarray.scalar`."""
    return dtype.values(content)[0]


def _one_dimension(values: list, shape: Any) -> list:
    if shape not in ((len(values),), len(values)):
        raise _Refused(f"an array of the shape {shape}")
    return values


def _latin1(text: str, *_: Any) -> bytes:
    """Stands in for `_codecs.encode`: bytes, as protocols below 3 write them."""
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset, list, dict)
    },
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", stand_in.__name__.removeprefix(prefix)): stand_in
        for core in ("core", "_core")
        for module, stand_in, prefix in (
            ("multiarray", _reconstruct, ""),
            ("multiarray", _scalar, "_"),
            ("numeric", _frombuffer, ""),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    """Knows plain containers and stand-ins for NumPy's arrays, and refuses every other name before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"the outside object {pid!r}")
