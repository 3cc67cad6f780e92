"""Foreign pickles of plain containers and NumPy's arrays, read without running anything that is in them."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict, defaultdict
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.dataset import DataError


def load(file: BufferedIOBase, name: str) -> Any:
    """What the pickle in a file holds; arrays are `Array`.

    Raises:
        DataError: it is damaged, or asks for anything but plain containers and arrays; the message starts with `name`.
        OSError, EOFError: of the file itself.
    """
    try:
        return _Unpickler(file, encoding="latin1").load()
    except _Refused as error:
        raise DataError(
            f"{name}: the pickle asks for {error}, which is refused; wanted plain containers and NumPy arrays"
        ) from None
    except (OSError, EOFError):
        raise
    except Exception as error:  # a damaged or hostile pickle may fail in any way, but in no other than this line
        raise DataError(f"{name}: not a readable pickle ({type(error).__name__}: {error})") from None


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file; one of Python objects comes as numbers or text.

    Raises:
        DataError: it is damaged, or its objects are neither all numbers nor all text.
    """
    try:
        with path.open("rb") as file:
            layout = np.lib.format
            if layout.read_magic(file) != (1, 0) or not layout.read_array_header_1_0(file)[2].hasobject:
                return np.load(path, allow_pickle=False)
            found = load(file, str(path))
    except DataError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a plain .npy file ({error}); save it with allow_pickle=False") from None
    values = found.values if isinstance(found, Array) else [found]
    types = {type(value) for value in values}
    if not (types <= {int, float} or types == {str}) or (array := np.array(values)).dtype == object:
        met = ", ".join(sorted(kind.__name__ for kind in types))
        raise DataError(f"{path}: objects of the type {met}; wanted numbers of 64 bits alone, or text alone")
    return array


# ------------------------------------------------------------------------------------------- what pickles may ask for


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


class Array:
    """Stands in for `numpy.ndarray`; holds a list."""

    def __init__(self) -> None:
        self.values: list = []

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, _, content = state
        self.values = _one_dimension(dtype.values(content), shape)


def _reconstruct(kind: type, *_: Any) -> Array:
    """Stands in for `numpy.core.multiarray._reconstruct`: an array whose state follows."""
    if kind is not Array:
        raise _Refused(f"an array of the class {kind.__name__}")
    return Array()


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, *_: Any) -> Array:
    """Stands in for `numpy.core.numeric._frombuffer`, as protocol 5 writes arrays."""
    array = Array()
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
    ("numpy", "ndarray"): Array,
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
