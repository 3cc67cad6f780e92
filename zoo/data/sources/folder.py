"""A data set of several files: a folder, a zip, or one of the files with the others beside it."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.data.dataset import DataError
from zoo.data.sources import cache


@contextmanager
def files(path: str, names: tuple[str, ...], cache_dir: str | None) -> Iterator[dict[str, Path]]:
    """{name: path} of those of `names` that are there, plain or gzip.

    A folder is searched with the folders in it; of a zip, the files are unpacked for as long as the context lasts;
    beside a file that bears none of the names, its folder's are found.

    Raises:
        DataError: nothing is there, or a damaged zip.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"{path}: no such file or folder")
    if place.suffix == ".zip":
        with _unpacked(place, names, cache_dir) as folder:
            yield _find(folder, names)
    else:
        yield _find(place if place.is_dir() else place.parent, names)


def listing(path: Path) -> list[str]:
    """Names of the files in a folder (and the folders in it) or a zip, without folders and without `.gz`."""
    if path.is_dir():
        found = [entry.name for pattern in ("*", "*/*") for entry in path.glob(pattern) if entry.is_file()]
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                found = [Path(member).name for member in archive.namelist()]
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path}: not a readable zip ({error}); copy or download it again") from None
    return [name.removesuffix(".gz") for name in found]


def _find(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for name in names:
        for place in (folder / name, folder / f"{name}.gz", *sorted(folder.glob(f"*/{name}"))):
            if place.is_file():
                found[name] = place
                break
    return found


@contextmanager
def _unpacked(archive_path: Path, names: tuple[str, ...], cache_dir: str | None) -> Iterator[Path]:
    """A temporary folder with those members of a zip, whatever folder they have in it."""
    place = cache.directory(cache_dir)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix="unpacked-") as folder:
            with zipfile.ZipFile(archive_path) as archive:
                for member in archive.namelist():
                    name = Path(member).name
                    if name in names:
                        with archive.open(member) as source, (Path(folder) / name).open("wb") as target:
                            shutil.copyfileobj(source, target, 1 << 20)
            yield Path(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive_path}: not a readable zip ({error}); copy or download it again") from None
    except OSError as error:
        raise DataError(f"{archive_path}: cannot be unpacked ({error.strerror or error}); see data.cache_dir") from None
