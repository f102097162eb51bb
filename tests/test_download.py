"""Downloads from a server on this machine that cuts, lies, moves and fails as told."""

from __future__ import annotations

import hashlib
import logging
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cgs.data import download as module
from cgs.data.download import download
from cgs.errors import SuiteError
from cgs.files import read_json, write_json

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
CUT = 200_000


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Site:
    """What the server does, and the headers of what it was asked."""

    body: bytes = BODY
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    cut: int | None = None
    length: int | None = None
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    stall: float = 0
    address: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)

    def url(self, path: str = "/data.bin") -> str:
        return self.address + path


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        for name, value in {**headers, **self.site.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        site = self.site = self.server.site  # type: ignore[attr-defined]
        site.asked.append({"path": self.path, **self.headers})
        if site.statuses:
            self.answer(site.statuses.pop(0), {"Content-Length": "0"})
            return
        names = {"ETag": site.etag, "Last-Modified": site.modified}
        asked, known = self.headers.get("Range"), self.headers.get("If-Range")
        start = 0
        if asked and site.ranges and (not site.if_range or known in (site.etag, site.modified)):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            whole = len(site.body)
            if start >= whole:
                self.answer(416, {"Content-Range": f"bytes */{whole}", "Content-Length": "0", **names})
                return
            names["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        body = site.body[start:]
        length = len(body) if site.length is None else site.length
        self.answer(206 if start else 200, {"Content-Length": str(length), **names})
        time.sleep(site.stall)
        self.wfile.write(body if site.cut is None else body[: site.cut])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = Site(address=f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.site  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def fails(site: Site, folder: Path, sentence: str, sha256: str | None = None, path: str = "/data.bin") -> str:
    """The download fails with one sentence."""
    with pytest.raises(SuiteError, match=sentence) as caught:
        download(site.url(path), folder, sha256)
    assert str(caught.value).count(". ") == 0 and "\n" not in str(caught.value)
    return str(caught.value)


def cut(site: Site, folder: Path, **changes: Any) -> bytes:
    """What is kept of a download that is cut; the site then does as `changes` say."""
    site.cut = CUT
    fails(site, folder, r"stopped after [\d,]+ of 300,000 bytes; repeat the command to go on from there")
    part = (folder / "data.bin.part").read_bytes()
    assert 0 < len(part) <= CUT and site.body.startswith(part)
    site.cut = None
    for name, value in changes.items():
        setattr(site, name, value)
    site.asked.clear()
    return part


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "addresses.json")


def test_a_download_and_its_record(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    path = download(site.url(), folder, None)
    assert path == folder / "data.bin" and path.read_bytes() == BODY
    assert read_json(folder / "checksums.json") == {"data.bin": digest(BODY)}
    assert names(folder) == ["checksums.json", "data.bin"]
    assert site.asked[0]["Accept-Encoding"] == "identity" and "Range" not in site.asked[0]


@pytest.mark.parametrize("sha256", [None, digest(BODY), digest(BODY).upper()])
def test_the_right_file_is_not_fetched_again(site: Site, tmp_path: Path, sha256: str | None) -> None:
    download(site.url(), tmp_path, sha256)
    download(site.url(), tmp_path, sha256)
    assert len(site.asked) == 1
    assert ("checksums.json" in names(tmp_path)) == (sha256 is None)


def test_a_file_put_there_by_hand_is_recorded(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(OTHER)
    download(site.url(), tmp_path, None)
    assert not site.asked and read_json(tmp_path / "checksums.json") == {"data.bin": digest(OTHER)}


def test_another_address_is_fetched_although_the_name_is_the_same(site: Site, tmp_path: Path) -> None:
    download(site.url("/v1/data.bin"), tmp_path, None)
    site.body = OTHER
    assert download(site.url("/v1/data.bin"), tmp_path, None).read_bytes() == BODY
    assert download(site.url("/v2/data.bin"), tmp_path, None).read_bytes() == OTHER
    assert [a["path"] for a in site.asked] == ["/v1/data.bin", "/v2/data.bin"]
    assert read_json(tmp_path / "checksums.json") == {"data.bin": digest(OTHER)}
    assert read_json(tmp_path / "addresses.json") == {"data.bin": site.url("/v2/data.bin")}
    assert download(site.url("/v3/data.bin"), tmp_path, digest(OTHER)).read_bytes() == OTHER, (
        "known by digest"
    )
    assert len(site.asked) == 2


@pytest.mark.parametrize("sha256", [None, digest(BODY)])
def test_a_file_that_was_changed_is_fetched_again(site: Site, tmp_path: Path, sha256: str | None) -> None:
    path = download(site.url(), tmp_path, sha256)
    path.write_bytes(b"damage")
    assert download(site.url(), tmp_path, sha256).read_bytes() == BODY
    assert len(site.asked) == 2


def test_another_digest_than_the_known_one(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"old and wrong")
    text = fails(site, tmp_path, "is asked for; check the address", digest(OTHER))
    assert digest(BODY) in text and digest(OTHER) in text
    assert names(tmp_path) == []


def test_another_digest_than_the_recorded_one(site: Site, tmp_path: Path) -> None:
    download(site.url(), tmp_path, None).unlink()
    site.body = OTHER
    text = fails(site, tmp_path, r"is recorded in .*checksums\.json; check the address")
    assert digest(BODY) in text and digest(OTHER) in text
    assert names(tmp_path) == ["checksums.json"]
    assert read_json(tmp_path / "checksums.json") == {"data.bin": digest(BODY)}


def test_a_mismatch_of_a_resumed_download_deletes_its_part(site: Site, tmp_path: Path) -> None:
    cut(site, tmp_path)
    fails(site, tmp_path, "is asked for", digest(OTHER))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("etag", "modified", "sent"),
    [
        ('"one"', None, '"one"'),
        (None, "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ('W/"weak"', "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ],
)
def test_a_cut_download_goes_on(
    site: Site, tmp_path: Path, etag: str | None, modified: str | None, sent: str
) -> None:
    site.etag, site.modified = etag, modified
    part = cut(site, tmp_path)
    assert download(site.url(), tmp_path, None).read_bytes() == BODY
    assert [(a["Range"], a["If-Range"]) for a in site.asked] == [(f"bytes={len(part)}-", sent)]
    assert names(tmp_path) == ["checksums.json", "data.bin"]


def test_a_download_cut_twice_goes_on_from_the_second_cut(site: Site, tmp_path: Path) -> None:
    first = cut(site, tmp_path, cut=70_000)
    fails(site, tmp_path, "stopped after")
    second = (tmp_path / "data.bin.part").read_bytes()
    assert len(second) > len(first) and BODY.startswith(second)
    site.cut = None
    assert download(site.url(), tmp_path, None).read_bytes() == BODY


def test_a_part_that_is_whole_is_taken(site: Site, tmp_path: Path) -> None:
    """A stop just before the renaming."""
    cut(site, tmp_path)
    (tmp_path / "data.bin.part").write_bytes(BODY)
    assert download(site.url(), tmp_path, None).read_bytes() == BODY
    assert [a["Range"] for a in site.asked] == ["bytes=300000-"]


def test_a_server_without_ranges_starts_anew(site: Site, tmp_path: Path) -> None:
    cut(site, tmp_path, ranges=False)
    assert download(site.url(), tmp_path, None).read_bytes() == BODY
    assert len(site.asked) == 1


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_meanwhile_starts_anew(site: Site, tmp_path: Path, if_range: bool) -> None:
    """Whether or not the server heeds If-Range."""
    cut(site, tmp_path, body=OTHER, etag='"two"', if_range=if_range)
    assert download(site.url(), tmp_path, None).read_bytes() == OTHER
    assert len(site.asked) == (1 if if_range else 2)


def test_a_file_of_another_size_starts_anew(site: Site, tmp_path: Path) -> None:
    """Though its ETag stayed: a longer one, and one that is shorter than what is there."""
    for body in (BODY + OTHER, BODY[:1000]):
        cut(site, tmp_path, body=body)
        assert download(site.url(), tmp_path / ".", digest(body)).read_bytes() == body
        (tmp_path / "data.bin").unlink()
        site.body = BODY


@pytest.mark.parametrize("note", ["no JSON", "[]", '{"address": "http://elsewhere/data.bin"}', None])
def test_a_part_of_unknown_origin_starts_anew(site: Site, tmp_path: Path, note: str | None) -> None:
    cut(site, tmp_path)
    (tmp_path / "data.bin.part.json").unlink()
    if note:
        (tmp_path / "data.bin.part.json").write_text(note)
    assert download(site.url(), tmp_path, None).read_bytes() == BODY
    assert "Range" not in site.asked[0]


def test_a_part_without_a_name_for_its_version_starts_anew(site: Site, tmp_path: Path) -> None:
    site.etag = None
    cut(site, tmp_path)
    assert download(site.url(), tmp_path, None).read_bytes() == BODY
    assert "Range" not in site.asked[0]


def test_a_wrong_length_keeps_the_part(site: Site, tmp_path: Path) -> None:
    """Every time: the whole of what is there is less than was promised."""
    site.length = 400_000
    for _ in range(2):
        fails(site, tmp_path, "stopped after 300,000 of 400,000 bytes")
        assert (tmp_path / "data.bin.part").read_bytes() == BODY
        assert "data.bin" not in names(tmp_path)


def test_a_length_that_is_too_short_is_a_wrong_digest(site: Site, tmp_path: Path) -> None:
    site.length = 1000
    fails(site, tmp_path, digest(BODY[:1000]), digest(BODY))


def test_bytes_are_kept_as_they_are_sent(site: Site, tmp_path: Path) -> None:
    """A server that calls a .gz packed for transfer must not have it unpacked."""
    site.headers = {"Content-Encoding": "gzip"}
    assert download(site.url(), tmp_path, None).read_bytes() == BODY


def test_errors_of_the_server_pass(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 503]
    assert download(site.url(), tmp_path, None).read_bytes() == BODY
    assert len(site.asked) == 3


def test_errors_of_the_server_that_stay(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module, "PAUSES", (1.0, 3.0))
    monkeypatch.setattr(module.time, "sleep", slept.append)
    site.statuses = [503, 500, 502, 503]
    fails(site, tmp_path, "answered with status 502, 3 times; check the address and try again later")
    assert len(site.asked) == 3 and slept == [1.0, 3.0]


def test_an_error_of_the_server_keeps_the_part(site: Site, tmp_path: Path) -> None:
    part = cut(site, tmp_path, statuses=[503, 503, 503])
    fails(site, tmp_path, "answered with status 503")
    assert (tmp_path / "data.bin.part").read_bytes() == part
    assert download(site.url(), tmp_path, None).read_bytes() == BODY
    assert site.asked[-1]["Range"] == f"bytes={len(part)}-"


@pytest.mark.parametrize("status", [404, 401, 204])
def test_other_answers_are_not_asked_for_again(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status]
    fails(site, tmp_path, f"answered with status {status}; check the address, and whether it needs a login")
    assert len(site.asked) == 1 and names(tmp_path) == []


def test_a_server_that_is_not_there(site: Site, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        site.address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        fails(site, tmp_path, "could not be reached, 3 times")


def test_a_server_that_stalls(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.TIMEOUT == (30, 60)
    monkeypatch.setattr(module, "TIMEOUT", (5.0, 0.1))
    site.stall = 0.3
    fails(site, tmp_path, "stopped after 0 of 300,000 bytes")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site.address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        fails(site, tmp_path, "did not answer in time, 3 times")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x"])
def test_redirects_to_other_schemes_are_refused(site: Site, tmp_path: Path, target: str) -> None:
    site.statuses, site.headers = [302], {"Location": target}
    fails(site, tmp_path, "leads to an address that is neither http nor https")
    assert len(site.asked) == 1 and names(tmp_path) == []


def test_redirects_are_followed_and_the_name_stays(site: Site, tmp_path: Path) -> None:
    site.headers, site.statuses = {"Location": "/elsewhere"}, [302]
    assert download(site.url(), tmp_path, None).name == "data.bin"
    assert [a["path"] for a in site.asked] == ["/data.bin", "/elsewhere"]


def test_redirects_without_end(site: Site, tmp_path: Path) -> None:
    site.headers, site.statuses = {"Location": "/x"}, [302] * 40
    fails(site, tmp_path, r"cannot be fetched \(TooManyRedirects\)")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://u:secret@h/x",
        "data.bin",
        "http:///x",
        "http://[u:secret/x",
        "http://h:secret/x",
        "",
    ],
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SuiteError, match=r"must start with http:// or https:// and a host") as caught:
        download(url, tmp_path, None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.tar.gz?download=1#x", "b.tar.gz"),
        ("/my%20file%2F..%2Fx;y.zip", "my_file_.._x_y.zip"),
        ("/%2e%2e.hidden", "hidden"),
        ("/d\u00e9j\u00e0%20vu.zip", "d_j_vu.zip"),
        ("/" + "x" * 300 + ".zip", "x" * 196 + ".zip"),
    ],
)
def test_names(site: Site, tmp_path: Path, path: str, name: str) -> None:
    assert download(site.url(path), tmp_path / "out", None) == tmp_path / "out" / name
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == sorted(["checksums.json", name])


@pytest.mark.parametrize("path", ["", "/", "/folder/", "/..%2f", "/%2e", "/%20", "/?file=x.zip"])
def test_an_address_without_a_name_is_refused(site: Site, tmp_path: Path, path: str) -> None:
    fails(site, tmp_path, "does not end in the name of a file", path=path)


@pytest.mark.parametrize("path", ["/checksums.json", "/x.part", "/x.PART.json"])
def test_names_of_notes_are_refused(site: Site, tmp_path: Path, path: str) -> None:
    fails(site, tmp_path, "a name that is kept for notes", path=path)
    assert not site.asked


def test_passwords_are_not_printed(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in messages nor in logs nor in notes; the server gets them."""
    plain = site.address
    site.address = plain.replace("http://", "http://user:secret@")
    texts = []
    with caplog.at_level(logging.INFO):
        site.cut = CUT
        texts += [fails(site, tmp_path, "stopped after", path="/data.bin?token=secret")]
        texts += [(tmp_path / "data.bin.part.json").read_text()]
        site.cut = None
        texts += [fails(site, tmp_path, "is asked for", digest(OTHER))]
        for statuses in ([404], [500, 500, 500], [302]):
            site.statuses, site.headers = statuses, {"Location": "file://user:secret@h/x"}
            texts += [fails(site, tmp_path, plain)]
        site.headers = {}
        texts += [fails(site, tmp_path, "does not end", path="/")]
        download(site.url(), tmp_path, None)
        texts += [(tmp_path / "checksums.json").read_text()]
        site.address = "http://user:secret@127.0.0.1:1"
        (tmp_path / "data.bin").unlink()
        texts += [fails(site, tmp_path, "could not be reached")]
    assert "Authorization" in site.asked[0]
    assert not [text for text in texts if "secret" in text or "user" in text]
    assert "secret" not in caplog.text and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sha256", ["", "abc", "x" * 64])
def test_a_digest_that_is_none_is_refused(site: Site, tmp_path: Path, sha256: str) -> None:
    fails(site, tmp_path, "must be 64 hexadecimal digits", sha256)


@pytest.mark.parametrize("record", ["{", "[]", '{"data.bin": 1}'])
def test_a_damaged_record_is_a_sentence(site: Site, tmp_path: Path, record: str) -> None:
    (tmp_path / "checksums.json").write_text(record)
    with pytest.raises(SuiteError, match=r"checksums\.json (cannot be read|must hold a SHA-256)"):
        download(site.url(), tmp_path, None)


def test_records_of_other_files_stay(site: Site, tmp_path: Path) -> None:
    write_json(tmp_path / "checksums.json", {"a": digest(b"a")})
    download(site.url(), tmp_path, None)
    assert read_json(tmp_path / "checksums.json") == {"a": digest(b"a"), "data.bin": digest(BODY)}


def test_a_place_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        SuiteError, match=r"Cannot write .*file/data\.bin: .* Check that the folder is writable"
    ):
        download(site.url(), tmp_path / "file", None)


def test_progress_is_for_terminals(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    download(site.url(), tmp_path / "1", None)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download(site.url(), tmp_path / "2", None)
    out, err = capfd.readouterr()
    assert out == "" and "data.bin" in err and "kB" in err
