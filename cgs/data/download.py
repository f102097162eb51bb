"""Fetching a file over http or https: a cut download goes on where it ended, and a digest is always checked."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import pooch  # type: ignore[import-untyped]
import requests
import urllib3
from requests import exceptions
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cgs.errors import SuiteError
from cgs.files import read_json, write_json

# Its notes would print addresses with their passwords.
pooch.get_logger().setLevel(logging.WARNING)

CHECKSUMS = "checksums.json"
ADDRESSES = "addresses.json"
TIMEOUT = (30.0, 60.0)
"""Seconds to connect and to wait for the next bytes."""

PAUSES = (1.0, 3.0)
"""Seconds between the attempts; there is one attempt more than pauses."""

CHUNK = 2**16
LONGEST = 200
"""Characters of a name that are kept: `.part.json` must still fit behind it."""

SHA256 = re.compile(r"[0-9a-f]{64}")


class Again(Exception):
    """An attempt failed for a reason that may pass."""


def download(url: str, folder: Path, sha256: str | None) -> Path:
    """Fetch `url` into `folder` under the last part of its path, unless the right file is there; returns the file.

    What has arrived of a download that failed is kept as `<name>.part`, and the next call goes on from there. Without
    `sha256` the digest found first is written to `checksums.json` beside the file and asked for afterwards; a file of
    another address (`addresses.json`) gives way. Raises
    SuiteError with one sentence for an address that is not http or https or names no file, for a server that cannot be
    reached, refuses or stops sending, for a folder that cannot be written, and for a file of another digest, which is
    deleted.
    """
    address = _address(url)
    name = _name(address, url)
    if sha256 is not None and not SHA256.fullmatch(sha256.lower()):
        raise SuiteError(f"The SHA-256 {sha256!r} of {address} must be 64 hexadecimal digits; mend it.")
    before = _addresses(folder).get(name)
    if sha256 is None and before not in (None, address):
        (folder / name).unlink(missing_ok=True)
        write_json(folder / CHECKSUMS, {n: d for n, d in _recorded(folder).items() if n != name})
    recorded = _recorded(folder).get(name)
    known = sha256.lower() if sha256 else recorded
    downloader = _Downloader(folder / f"{name}.part", address)
    try:
        pooch.retrieve(url, known and f"sha256:{known}", name, folder.resolve(), downloader=downloader)
    except OSError as error:
        raise SuiteError(
            f"Cannot write {folder / name}: {error.strerror or error}. Check that the folder is writable and the disk "
            "is not full."
        ) from error
    except ValueError:
        if not downloader.found:
            raise
        (folder / name).unlink(missing_ok=True)  # An older one, which was no better.
        source = "asked for" if sha256 else f"recorded in {folder / CHECKSUMS}"
        raise SuiteError(
            f"{address} gave a file of SHA-256 {downloader.found}, but {known} is {source}; check the address."
        ) from None
    if known is None:
        found = downloader.found or pooch.file_hash(folder / name)
        write_json(folder / CHECKSUMS, {**_recorded(folder), name: found})
    if before != address:
        write_json(folder / ADDRESSES, {**_addresses(folder), name: address})
    return folder / name


def _split(url: str) -> SplitResult:
    """The parts of an http or https address; raises SuiteError, which does not repeat it, for anything else."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise SuiteError("The address of a download must start with http:// or https:// and a host; mend it.")
    return parts


def _address(url: str) -> str:
    """`url` as it may be printed: without user, password and query, which may hold a key."""
    parts = _split(url)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _name(address: str, url: str) -> str:
    """The file's name: the last part of the path in safe characters. Raises SuiteError where nothing is left."""
    last = unquote(_split(url).path.rpartition("/")[2])
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", last)[-LONGEST:].strip(".")
    if not name.strip("._-"):
        raise SuiteError(f"{address} does not end in the name of a file; give the address of a file.")
    if name.lower() in (CHECKSUMS, ADDRESSES) or name.lower().endswith((".part", ".part.json")):
        raise SuiteError(
            f"{address} ends in a name that is kept for notes on downloads; give another address."
        )
    return name


def _recorded(folder: Path) -> dict[str, str]:
    """Digests that were found first, by name. Raises SuiteError when the record is damaged."""
    return _noted(folder / CHECKSUMS, "a SHA-256", SHA256)


def _noted(path: Path, what: str, pattern: re.Pattern[str]) -> dict[str, str]:
    """Texts of a pattern by names; none where there is no such file. Raises SuiteError when it is damaged."""
    values = read_json(path) if path.exists() else {}
    if not isinstance(values, dict) or not all(pattern.fullmatch(str(v)) for v in values.values()):
        raise SuiteError(f"{path} must hold {what} for each name; mend or delete it.")
    return values


def _addresses(folder: Path) -> dict[str, str]:
    """The addresses that files came from, by name. Raises SuiteError when the record is damaged."""
    return _noted(folder / ADDRESSES, "an address", re.compile(r"https?://.+"))


class _Part:
    """What has arrived of a file, and beside it what the server said of it."""

    def __init__(self, path: Path, address: str) -> None:
        self.path, self.address = path, address
        self.note = path.with_name(f"{path.name}.json")

    def state(self) -> tuple[int, dict[str, Any]]:
        """Bytes that may be kept, and the note on them; 0 where it is not sure what they are."""
        try:
            note = read_json(self.note)
            size = self.path.stat().st_size
        except (SuiteError, OSError):
            return 0, {}
        if not isinstance(note, dict) or note.get("address") != self.address:
            return 0, {}
        return (size, note) if isinstance(note.get("validator"), str) else (0, {})

    def begin(self, validator: str | None, size: int | None) -> None:
        """Start anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")  # First: the note must never stand beside older bytes.
        write_json(self.note, {"address": self.address, "validator": validator, "size": size})

    def delete(self) -> None:
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class _Downloader:
    """What pooch calls to fetch a file; `found` is the SHA-256 of what it fetched."""

    def __init__(self, part: Path, address: str) -> None:
        self.part, self.address = _Part(part, address), address
        self.found: str | None = None

    def __call__(self, url: str, output: str, _: object) -> None:
        """Fetch `url` to `output`, in three attempts. Raises SuiteError with one sentence, and keeps the part."""
        for pause in (*PAUSES, None):
            try:
                self._attempt(url)
                break
            except Again as reason:
                if pause is None:
                    raise SuiteError(
                        f"{self.address} {reason}, {len(PAUSES) + 1} times; check the address and try again later."
                    ) from None
                time.sleep(pause)
        self.found = pooch.file_hash(str(self.part.path))
        os.replace(self.part.path, output)
        self.part.delete()

    def _attempt(self, url: str) -> None:
        """Fetch what is missing of the part."""
        start, note = self.part.state()
        # Byte for byte as it is stored: a packed transfer has other lengths and ranges.
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": note["validator"]}
        with self._request(url, headers) as response:
            status = response.status_code
            if start and status in (206, 416):
                if not _continues(response, start, note):
                    self.part.delete()
                    raise Again("sent another range than was asked for")
                if status == 416:  # Nothing is missing.
                    return
                self._receive(response, start, note.get("size"))
            elif status == 200:  # All of it, from a server that knows no ranges or has another file now.
                size = _length(response)
                self.part.begin(_validator(response), size)
                self._receive(response, 0, size)
            elif status >= 500:
                raise Again(f"answered with status {status}")
            else:
                raise SuiteError(
                    f"{self.address} answered with status {status}; check the address, and whether it needs a login."
                )

    def _request(self, url: str, headers: dict[str, str]) -> requests.Response:
        """The answer of the server, redirects followed. The texts of errors may hold passwords and are left out."""
        try:
            return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
        except exceptions.InvalidSchema:
            raise SuiteError(
                f"{self.address} leads to an address that is neither http nor https; check the address."
            ) from None
        except exceptions.SSLError:
            raise SuiteError(
                f"{self.address} has no valid certificate; check the address and this machine's clock."
            ) from None
        except exceptions.Timeout:
            raise Again("did not answer in time") from None
        except (exceptions.ConnectionError, exceptions.ChunkedEncodingError):
            raise Again("could not be reached") from None
        except (exceptions.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise SuiteError(
                f"{self.address} cannot be fetched ({type(error).__name__}); check the address."
            ) from None

    def _receive(self, response: requests.Response, start: int, size: int | None) -> None:
        """Append the body to the part. Raises SuiteError where less arrives than was promised."""
        try:
            with self.part.path.open("ab") as file, _progress(self.part.path.stem, start, size) as advance:
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    advance(len(chunk))
        except urllib3.exceptions.HTTPError:
            self._cut(size)
        if size is not None and self.part.path.stat().st_size != size:
            self._cut(size)

    def _cut(self, size: int | None) -> NoReturn:
        arrived = self.part.path.stat().st_size
        whole = "an unknown number of" if size is None else f"{size:,}"
        raise SuiteError(
            f"{self.address} stopped after {arrived:,} of {whole} bytes; repeat the command to go on from there."
        ) from None


def _length(response: requests.Response) -> int | None:
    """Bytes of the body, where they are promised."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and "Transfer-Encoding" not in response.headers else None


def _validator(response: requests.Response) -> str | None:
    """What names this version of the file: its ETag, unless that is a weak one, or its Last-Modified."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _continues(response: requests.Response, start: int, note: dict[str, Any]) -> bool:
    """Whether an answer to a range is the rest of the part, or says that there is none."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
    if not found or _validator(response) not in (None, note["validator"]):
        return False
    first, whole = found.groups()
    if note.get("size") not in (None, int(whole)):
        return False
    return int(whole) == start if response.status_code == 416 else first is not None and int(first) == start


@contextmanager
def _progress(name: str, start: int, size: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with every number of bytes that arrived; a bar where someone looks."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as live:
        task = live.add_task(name, total=size, completed=start)
        yield lambda arrived: live.advance(task, arrived)
