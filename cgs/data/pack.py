"""A prepared dataset as compact files, to take it where its source is not.

A pack is a zip archive of the prepared folder, compressed by LZMA and cut into parts of bounded size: the same bytes
come out, so a training there is the training that would have run here.
"""

from __future__ import annotations

import glob
import io
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cgs.bounds import TABLE, read_stream
from cgs.data.archive import checked_name
from cgs.errors import SuiteError, plain
from cgs.files import DAMAGED, atomic_path

PREPARED = ("audit.json", "cases.csv", "images.npy", "labels.npy", "manifest.csv")
WRITTEN_LAST = "source.json"
LARGEST = 64 * 1024**3
"""Bytes that a pack may hold after decompression."""


def pack(folder: Path, target: Path, megabytes: int) -> list[Path]:
    """Write the prepared dataset in `folder` as `<target>.000`, `.001` ...; returns the parts."""
    if not all((folder / name).is_file() for name in (*PREPARED, WRITTEN_LAST)):
        raise SuiteError(f"{folder} holds no complete dataset; run `python -m cgs prepare` for it.")
    cases = [f"cases/{file.name}" for file in sorted((folder / "cases").glob("[!.]*.npz"))]
    names = [*PREPARED, *cases, WRITTEN_LAST]  # Nothing that an attempt to prepare left there.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for name in names:
            # A fixed time: the same folder gives the same bytes.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, (folder / name).read_bytes())
    data, size = buffer.getbuffer(), megabytes * 10**6
    parts = []
    for number, start in enumerate(range(0, len(data), size)):
        part = target.with_name(f"{target.name}.{number:03d}")
        with atomic_path(part) as temporary:
            temporary.write_bytes(data[start : start + size])
        parts.append(part)
    for old in target.parent.glob(f"{glob.escape(target.name)}.[0-9][0-9][0-9]"):
        if old not in parts:  # Of a larger pack of that name.
            old.unlink()
    return parts


def unpack(parts: Sequence[Path], folder: Path) -> None:
    """Put the prepared dataset of `parts`, in order, into `folder`, unless it is there.

    Raises SuiteError with one sentence when a part is missing or damaged.
    """
    if (folder / WRITTEN_LAST).is_file():
        return
    with opened(parts) as archive:
        entries = archive.infolist()  # In the order of packing: source.json last.
        if not entries or entries[-1].filename != WRITTEN_LAST:
            raise zipfile.BadZipFile(f"{WRITTEN_LAST} is not its last file")
        names = [checked_name(parts[0], entry.orig_filename) for entry in entries]
        shutil.rmtree(folder, ignore_errors=True)
        for name, entry in zip(names, entries, strict=True):
            with (
                atomic_path(folder / name) as temporary,
                archive.open(entry) as source,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(source, file)


def described(parts: Sequence[Path], known: Sequence[str]) -> dict[str, Any]:
    """The source.json of a pack; its `dataset` names what the pack holds. Raises SuiteError unless it is in `known`."""
    with opened(parts) as archive:
        with archive.open(WRITTEN_LAST) as file:
            values = json.loads(read_stream(file, TABLE))
        if not isinstance(values, dict) or not isinstance(values.get("dataset"), str):
            raise ValueError(f"{WRITTEN_LAST} names no dataset")
    name = values["dataset"]
    if name not in known:
        raise SuiteError(
            f"{parts[0]} holds {plain(name[:99])}, but the config has {', '.join(known)}; give another pack."
        )
    return values


@contextmanager
def opened(parts: Sequence[Path]) -> Iterator[zipfile.ZipFile]:
    """The archive that the parts are. Raises SuiteError for damage, also for what is found while it is open."""
    try:
        with zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > LARGEST:
                raise ValueError(f"it holds more than the {LARGEST:,} bytes that are allowed")
            if any(e.compress_type != zipfile.ZIP_LZMA or e.flag_bits & 1 or e.is_dir() for e in entries):
                raise zipfile.BadZipFile("not packed as `python -m cgs pack` does it")
            yield archive
    except FileNotFoundError as error:
        raise SuiteError(f"{error.filename} does not exist; give every part of the pack, in order.") from None
    except DAMAGED as error:
        raise SuiteError(
            f"{parts[0]} and its further parts are no whole pack ({plain(error)}); copy them again."
        ) from None
