"""One download: resumed where the server can, verified, and in place only when it is whole."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from zoo.data.dataset import DataError

TIMEOUT = 30.0  # seconds without a byte
TRIES = 4  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second try; twice, three times as long before the next
CHUNK = 1 << 20


def download(url: str, path: Path, md5_url: str | None = None) -> Path:
    """`path`, holding the file of `url`: fetched once, verified at every use.

    A file that is there is checked against the sha256 recorded beside it (recorded now, if somebody put the file
    there by hand). Two processes that want the same file fetch it once.

    Args:
        md5_url: where the owner publishes the MD5 of the file, if he does.

    Raises:
        DataError: no network, no such file, a wrong checksum, a disk that is full; it says which file to put where.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if path.exists():
                _verify(path)
            else:
                _fetch(url, path, md5_url)
    except OSError as error:  # of the network are already told apart; this is the disk
        raise DataError(
            f"{path}: cannot be read or written ({error.strerror or error}); make room or set data.cache_dir"
        ) from None
    return path


def _fetch(url: str, path: Path, md5_url: str | None) -> None:
    part = path.with_name(path.name + ".part")
    wanted = _published_md5(md5_url, url, path) if md5_url else None
    resumed = part.exists()
    _transfer(url, path, part)
    if wanted is not None and _digest(part, "md5") != wanted:
        found = _digest(part, "md5")
        part.unlink()
        if resumed:  # what an earlier run left may be at fault: once more, from the start
            return _fetch(url, path, md5_url)
        raise DataError(
            f"{url}: the download has MD5 {found}, its owner says {wanted}; it was dropped: try again, "
            f"or fetch it otherwise and put it at {path}"
        )
    _record(path, _digest(part, "sha256"))
    os.replace(part, path)
    _tag_file(part).unlink(missing_ok=True)
    return None


def _transfer(url: str, path: Path, part: Path) -> None:
    """Receives into `part` until it is whole; a cut connection is taken up where it broke."""
    fruitless = 0
    while True:
        before = _size(part)
        try:
            if _receive(url, part):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # no such range: the part is not of this file
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise _unreachable(url, path, reason) from None
        except (_NetworkError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == TRIES:
            raise _unreachable(url, path, reason)
        time.sleep(PAUSE * fruitless)


def _receive(url: str, part: Path) -> bool:
    """One request; True where the file is whole afterwards.

    What is there already is asked for only together with the version that it belongs to (`If-Range`): a server
    whose file has changed, or that knows no ranges, sends all of it and the part starts anew.
    """
    tag_file = _tag_file(part)
    have = _size(part) if tag_file.exists() else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "recommender-zoo"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()}
    with _open(url, headers) as response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            return False
        if response.status != 206:
            have = 0
            part.unlink(missing_ok=True)
            tag_file.unlink(missing_ok=True)
            etag = response.headers.get("ETag", "W/")
            tag = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
            if tag:
                tag_file.write_text(tag)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            part.open("ab") as file,
            tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, leave=False) as bar,
        ):
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or _size(part) == total


class _NetworkError(Exception):
    """What the network did; a disk's OSError stays one."""


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise _NetworkError(getattr(error.reason, "strerror", None) or str(error.reason)) from None
    except OSError as error:
        raise _NetworkError(error.strerror or str(error)) from None


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as error:
        raise _NetworkError(error.strerror or str(error)) from None


def _published_md5(md5_url: str, url: str, path: Path) -> str:
    """The MD5 that the owner publishes, in either of the forms `MD5 (file) = digest` and `digest  file`."""
    try:
        with _open(md5_url, {"User-Agent": "recommender-zoo"}) as response:
            text = _read(response).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        raise _unreachable(url, path, f"its checksum {md5_url}: HTTP {error.code} {error.reason}") from None
    except (_NetworkError, http.client.HTTPException) as error:
        raise _unreachable(url, path, str(error) or type(error).__name__) from None
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if found is None:
        raise _unreachable(url, path, f"{md5_url} holds no MD5")
    return found.group().lower()


def _unreachable(url: str, path: Path, reason: str) -> DataError:
    return DataError(f"cannot download {url} ({reason}); fetch it on a machine that can and put it at {path}")


def _verify(path: Path) -> None:
    """Compares the file with the sha256 beside it, or records it there."""
    record = _record_file(path)
    found = _digest(path, "sha256")
    if not record.exists():
        _record(path, found)
    elif record.read_text().split()[:1] != [found]:
        raise DataError(
            f"{path}: its sha256 is no longer the one in {record.name}; delete both files to download it again, "
            f"or {record.name} alone to accept the file"
        )


def _record(path: Path, digest: str) -> None:
    """Writes `digest` beside the file, as sha256sum does."""
    beside = path.with_name(path.name + ".sha256.part")
    beside.write_text(f"{digest}  {path.name}\n")
    os.replace(beside, _record_file(path))


def _record_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _tag_file(part: Path) -> Path:
    """Names the version (ETag or date) that a part belongs to."""
    return part.with_name(part.name + ".version")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process downloads `path`."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
