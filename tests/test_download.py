"""The download, against a real server on this machine that misbehaves in the ways servers do."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import resource
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config import DataConfig
from zoo.data.dataset import DataError
from zoo.data.sources import download as module
from zoo.data.sources import known, load
from zoo.data.sources.download import download

CONTENT = bytes(range(256)) * 5_000  # 1.28 MB: more than one chunk
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` and keeps a log of (path, Range); `cuts` are bytes after which a response of a path breaks off."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": CONTENT}
        self.cuts: dict[str, list[int]] = {}
        self.ranges = True
        self.etag: str | None = '"one"'
        self.log: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.log.append((self.path, asked))
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = 0
        same = self.headers.get("If-Range") == self.server.etag
        if asked and self.server.ranges and same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = self.server.cuts.get(self.path, [])
        end = start + cuts.pop(0) if cuts else len(content)
        self.wfile.write(content[start:end])
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "TIMEOUT", 5.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"data.bin", "data.bin.sha256", "data.bin.lock"}


def test_once_and_recorded(server, tmp_path):
    path = tmp_path / "deep" / "data.bin"
    assert download(f"{server.url}/data.bin", path) == path
    assert path.read_bytes() == CONTENT
    assert (tmp_path / "deep" / "data.bin.sha256").read_text() == f"{SHA256}  data.bin\n"
    assert not leftovers(path.parent)
    download(f"{server.url}/data.bin", path)
    assert len(server.log) == 1  # the second time without a request


@pytest.mark.parametrize("form", ["MD5 (data.bin) = {}\n", "{}  data.bin\n", "{}"])
def test_checksum_of_the_owner(server, tmp_path, form):
    server.files["/data.bin.md5"] = form.format(MD5.upper()).encode()
    download(f"{server.url}/data.bin", tmp_path / "data.bin", f"{server.url}/data.bin.md5")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_wrong_checksum(server, tmp_path):
    server.files["/data.bin.md5"] = b"0" * 32
    with pytest.raises(DataError) as caught:
        download(f"{server.url}/data.bin", tmp_path / "data.bin", f"{server.url}/data.bin.md5")
    assert MD5 in str(caught.value)
    assert str(tmp_path / "data.bin") in str(caught.value)
    assert not (tmp_path / "data.bin").exists()
    assert not list(tmp_path.glob("*.part"))
    server.files["/data.bin.md5"] = MD5.encode()  # and the next try is a clean one
    download(f"{server.url}/data.bin", tmp_path / "data.bin", f"{server.url}/data.bin.md5")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_checksum_file_without_a_checksum(server, tmp_path):
    server.files["/data.bin.md5"] = b"<html>moved</html>"
    with pytest.raises(DataError, match="holds no MD5"):
        download(f"{server.url}/data.bin", tmp_path / "data.bin", f"{server.url}/data.bin.md5")
    with pytest.raises(DataError, match=r"checksum .* HTTP 404"):
        download(f"{server.url}/data.bin", tmp_path / "data.bin", f"{server.url}/missing.md5")


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cuts["/data.bin"] = [500_000, 300_000]
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.log] == [None, "bytes=500000-", "bytes=800000-"]


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
def test_without_ranges_it_starts_anew(server, tmp_path, etag):
    server.ranges, server.etag = False, etag
    server.cuts["/data.bin"] = [500_000, 700_000]
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_resumed_by_the_next_process_but_never_mixed_with_another_version(server, tmp_path):
    server.cuts["/data.bin"] = [400_000, 0, 0, 0, 0]
    with pytest.raises(DataError, match="the connection was cut"):
        download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert not (tmp_path / "data.bin").exists()
    assert (tmp_path / "data.bin.part").stat().st_size == 400_000
    new = CONTENT[::-1]
    server.files["/data.bin"], server.etag = new, '"two"'
    server.cuts["/data.bin"] = []
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == new
    assert not leftovers(tmp_path)


def test_a_rotten_part_is_thrown_away(server, tmp_path):
    server.files["/data.bin.md5"] = MD5.encode()
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1_000)
    (tmp_path / "data.bin.part.version").write_text('"one"')
    download(f"{server.url}/data.bin", tmp_path / "data.bin", f"{server.url}/data.bin.md5")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    (tmp_path / "data.bin").unlink()
    (tmp_path / "data.bin.part").write_bytes(b"x" * (len(CONTENT) + 5))  # longer than the file: no such range
    (tmp_path / "data.bin.part.version").write_text('"one"')
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_404_and_no_server(server, tmp_path):
    with pytest.raises(DataError, match="HTTP 404") as caught:
        download(f"{server.url}/other.bin", tmp_path / "other.bin")
    assert str(tmp_path / "other.bin") in str(caught.value)
    assert len(server.log) == 1  # not asked again
    closed = Server()
    closed.server_close()
    with pytest.raises(DataError, match=r"cannot download .* \(Connection refused\)") as caught:
        download(f"{closed.url}/data.bin", tmp_path / "data.bin")
    assert f"put it at {tmp_path / 'data.bin'}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_put_by_hand_is_recorded_and_then_verified(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    assert download("http://127.0.0.1:9/data.bin", path) == path  # no request is made
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="sha256 is no longer"):
        download("http://127.0.0.1:9/data.bin", path)


def test_a_disk_that_refuses(server, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # no file may grow beyond: a disk nearly full
    try:
        with pytest.raises(DataError, match=r"cannot be read or written \(File too large\)"):
            download(f"{server.url}/data.bin", tmp_path / "data.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "data.bin").exists()
    assert len(server.log) == 1  # a full disk is no matter of trying again
    download(f"{server.url}/data.bin", tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be read or written .*data\.cache_dir"):
        download(f"{server.url}/data.bin", tmp_path / "file" / "data.bin")


def test_two_at_once_fetch_it_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download(f"{server.url}/data.bin", tmp_path / "data.bin"), range(4)))
    assert set(paths) == {tmp_path / "data.bin"}
    assert len(server.log) == 1
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


# ------------------------------------------------------------------------------------------- known names


def test_a_known_name_is_downloaded_and_read(server, tmp_path, monkeypatch):
    archive = tmp_path / "ml-tiny.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            "ml-tiny/ratings.csv", "userId,movieId,rating,timestamp\n1,5,4.0,1000000000\n2,6,3.5,1000000001\n"
        )
        file.writestr("ml-tiny/movies.csv", 'movieId,title,genres\n5,"X, The (1990)",Drama|War\n6,Y (1991),War\n')
    server.files["/ml-tiny.zip"] = archive.read_bytes()
    server.files["/ml-tiny.zip.md5"] = hashlib.md5(archive.read_bytes()).hexdigest().encode()
    data_set = known.Known((f"{server.url}/ml-tiny.zip",), "movielens", "for this test", md5=True)
    monkeypatch.setitem(known.KNOWN, "ml-tiny", data_set)
    for _ in range(2):
        dataset = load(DataConfig(path="ml-tiny", cache_dir=str(tmp_path / "cache")))
        assert len(dataset.events) == 2
        assert dataset.name == "ml-tiny"
        assert dataset.items.columns["title"][0] == "X, The (1990)"
    assert [path for path, _ in server.log] == ["/ml-tiny.zip.md5", "/ml-tiny.zip"]


def test_several_files_and_a_table(server, tmp_path, monkeypatch):
    server.files["/a/ratings.dat"] = b"1::0104257::7::1365029107\n2::1853728::8::1366576639\n"
    server.files["/a/movies.dat"] = b"0104257::A Few Good Men (1992)::Crime|Drama\n"
    urls = (f"{server.url}/a/ratings.dat", f"{server.url}/a/movies.dat")
    monkeypatch.setitem(known.KNOWN, "tweets", known.Known(urls, "movielens", ""))
    dataset = load(DataConfig(path="tweets", cache_dir=str(tmp_path)))
    assert dataset.items.ids.tolist() == ["0104257", "1853728"]
    assert dataset.items.columns["title"].tolist() == ["A Few Good Men (1992)", None]

    csv = "user_id,parent_asin,rating,timestamp\nAGK,B006,3.0,1452647382000\nAGL,B007,4.0,1454675785000\n"
    server.files["/Books.csv.gz"] = gzip.compress(csv.encode())
    monkeypatch.setitem(known.KNOWN, "books", known.Known((f"{server.url}/Books.csv.gz",), "table", ""))
    dataset = load(DataConfig(path="books", cache_dir=str(tmp_path)))
    assert dataset.items.ids.tolist() == ["B006", "B007"]
    assert dataset.events.timestamp.tolist() == [1_452_647_382_000, 1_454_675_785_000]


def test_every_known_data_set_states_where_from_how_and_under_which_terms():
    for name, data_set in known.KNOWN.items():
        assert name == name.lower()
        assert data_set.licence
        assert all(url.startswith("https://") for url in data_set.urls)
    assert {"ml-100k", "ml-1m", "ml-20m", "ml-32m", "online-retail", "movietweetings"} <= known.KNOWN.keys()
    assert sum(name.startswith("amazon-2023-") for name in known.KNOWN) == 33
    assert known.nearest("ML-1M") == "ml-1m"
    assert known.nearest("amazon-2023-book") == "amazon-2023-books"
    assert known.nearest("my_own_log.csv") is None
