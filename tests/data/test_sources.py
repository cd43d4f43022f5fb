"""Fetching, against a server on the loopback that also misbehaves."""

import concurrent.futures
import hashlib
import http.server
import threading

import pytest

from jaxnets.data import SOURCES, RemoteFile, Source, fetch

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT` with ranges; what the server's `faults` holds befalls one request each, in order."""

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "missing":
            return self.send_error(404)
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in self.headers else 0
        if fault == "no ranges":
            start = 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            first = start + 5 if fault == "another range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if fault == "encoded":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def shared_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(shared_server, cache):
    shared_server.ranges, shared_server.faults = [], []
    return shared_server


@pytest.fixture
def cache(tmp_path, monkeypatch, no_data):
    """An empty cache, and no proxies or pauses on the way to the server."""
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return tmp_path / "cache" / "toy"


def toy(port, sha256=SHA256, **options):
    return Source("toy", {"file.bin": RemoteFile((sha256,), f"http://127.0.0.1:{port}/file.bin")}, licence="none")


def test_downloads_once(server, cache):
    source = toy(server.server_port)
    path = fetch(source, "file.bin")
    assert path == cache / "file.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(source, "file.bin") == path
    assert server.ranges == [None]
    assert {p.name for p in cache.iterdir()} == {"file.bin", ".file.bin.lock"}


def test_goes_on_where_a_broken_connection_stopped(server, cache):
    server.faults = ["cut", "cut"]
    assert fetch(toy(server.server_port), "file.bin").read_bytes() == CONTENT
    first, second, third = server.ranges
    assert first is None
    assert 0 < int(second[6:-1]) < int(third[6:-1]) < len(CONTENT)


def test_goes_on_from_the_part_of_an_earlier_process(server, cache):
    cache.mkdir(parents=True)
    (cache / ".file.bin.part").write_bytes(CONTENT[:1234])
    assert fetch(toy(server.server_port), "file.bin").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1234-"]
    assert not (cache / ".file.bin.part").exists()


def test_an_interrupted_download_keeps_its_part(server, cache):
    server.faults = ["cut"] * 4
    with pytest.raises(ConnectionError, match="JAXNETS_DATA"):
        fetch(toy(server.server_port), "file.bin")
    assert not (cache / "file.bin").exists()
    part = (cache / ".file.bin.part").read_bytes()
    assert part
    assert CONTENT.startswith(part)


@pytest.mark.parametrize("fault", ["no ranges", "another range", "encoded"])
def test_a_server_that_answers_a_range_oddly(server, cache, fault):
    cache.mkdir(parents=True)
    (cache / ".file.bin.part").write_bytes(CONTENT[:1234])
    server.faults = [fault]
    assert fetch(toy(server.server_port), "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"of another version", CONTENT, CONTENT + b"more"], ids=["other", "whole", "longer"])
def test_a_part_that_does_not_fit_is_dropped(server, cache, part):
    cache.mkdir(parents=True)
    (cache / ".file.bin.part").write_bytes(part)
    assert fetch(toy(server.server_port), "file.bin").read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_a_wrong_checksum_leaves_nothing(server, cache):
    with pytest.raises(ValueError, match="does not have the sha256 0000") as caught:
        fetch(toy(server.server_port, sha256="0" * 64), "file.bin")
    assert "\n" not in str(caught.value)
    assert {p.name for p in cache.iterdir()} == {".file.bin.lock"}


def test_a_damaged_file_in_the_cache_is_replaced(server, cache):
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(b"damaged")
    assert fetch(toy(server.server_port), "file.bin").read_bytes() == CONTENT


def test_an_accepted_copy_in_the_cache_is_kept(server, cache):
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(b"copy")
    file = RemoteFile((SHA256, hashlib.sha256(b"copy").hexdigest()), f"http://127.0.0.1:{server.server_port}/file.bin")
    assert fetch(Source("toy", {"file.bin": file}, licence="none"), "file.bin").read_bytes() == b"copy"
    assert server.ranges == []


def test_what_the_server_refuses_is_not_asked_again(server, cache):
    server.faults = ["missing"]
    with pytest.raises(ConnectionError, match="404"):
        fetch(toy(server.server_port), "file.bin")
    assert len(server.ranges) == 1


def test_offline(cache):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(ConnectionError) as caught:
        fetch(toy(port), "file.bin")
    message = str(caught.value)
    assert f"http://127.0.0.1:{port}/file.bin" in message
    assert "JAXNETS_DATA" in message
    assert "toy/file.bin" in message
    assert "refused" in message
    assert "\n" not in message
    assert len(message) < 250


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "a file" / "cache"))
    with pytest.raises(OSError, match="set JAXNETS_CACHE to a writable folder"):
        fetch(toy(server.server_port), "file.bin")


def test_two_at_a_time_share_one_download(server, cache):
    source = toy(server.server_port)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        paths = list(pool.map(lambda _: fetch(source, "file.bin"), range(3)))
    assert [path.read_bytes() == CONTENT for path in paths] == [True] * 3
    assert server.ranges == [None]


def test_local_data(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    (tmp_path / "toy").mkdir()
    with pytest.raises(FileNotFoundError, match=r"toy/file\.bin is missing: put file\.bin of toy there \(from http"):
        fetch(toy(1), "file.bin")
    path = tmp_path / "toy" / "file.bin"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"file\.bin has sha256 .* but toy wants .*: the file is damaged"):
        fetch(toy(1), "file.bin")
    path.write_bytes(CONTENT)
    assert fetch(toy(1), "file.bin") == path


def test_a_file_without_an_address(no_data):
    with pytest.raises(FileNotFoundError, match=r"set JAXNETS_DATA to the folder that holds toy/file\.bin"):
        fetch(Source("toy", {"file.bin": RemoteFile((SHA256,))}, licence="none"), "file.bin")


def test_an_unknown_file():
    with pytest.raises(ValueError, match=r"toy has no file 'other', only file\.bin"):
        fetch(toy(1), "other")


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_sources_are_well_formed(source):
    for name, file in source.files.items():
        assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in file.sha256)
        assert file.url is None or file.url.endswith(f"/{name}")


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_real_files(source, real_data):
    if not (real_data / source.name).is_dir():
        pytest.skip(f"JAXNETS_DATA has no {source.name}")
    folder = real_data / source.name
    # Of a file that has several forms, one will do.
    present = [name for name in source.files if (folder / name).exists()]
    assert present
    for name in present:
        assert fetch(source, name) == folder / name
