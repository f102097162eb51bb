"""How much a file may hold, and reading that takes no more memory than that (docs/design.md, Bounds)."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np

LARGEST = 4 * 1024**3
"""Bytes of one array, and of a file of one volume after decompression: 1,024 x 1,024 x 1,024 voxels of 32 bits."""

TABLE = 10**9
"""Bytes of a table or a JSON file of the suite's own, after decompression."""

LIST = 10**7
"""Bytes of a list, a split.csv or a config: what people write."""

RATIO = 1200
"""Deflate packs at most 1,032 bytes into one: an .npz that claims to hold more than this lies."""

CHUNK = 2**22


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes: ...


def read_bounded(path: Path | str, most: int) -> bytes:
    """The content of a file. Raises ValueError where it has more than `most` bytes."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"it holds more than the {most:,} bytes that are allowed")
        return file.read(size) if size else read_stream(file, most)  # A pipe has no size.


def read_stream(file: Readable, most: int) -> bytes:
    """What is left of a stream. Raises ValueError where that is more than `most` bytes."""
    chunks, left = [], most
    while chunk := file.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            raise ValueError(f"it holds more than the {most:,} bytes that are allowed")
        chunks.append(chunk)
    return b"".join(chunks)


def check_claim(shape: Sequence[int], itemsize: int, most: int) -> int:
    """Bytes of an array that a header announces. Raises ValueError for a shape that cannot be or is too large."""
    size = math.prod(map(int, shape)) * int(itemsize)
    if size > most or min(shape, default=0) < 0:
        text = " x ".join(str(n) for n in shape)
        raise ValueError(f"its header claims {text} values, which it cannot hold or nobody could read")
    return size


def load_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name: all, or those of `names` that it holds. Nothing is unpickled.

    Raises one of `cgs.files.DAMAGED`: ValueError for an array of more than LARGEST bytes, or of more than its file can
    hold, before that memory is taken.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or (names is not None and name not in names):
                continue
            most = min(LARGEST, entry.file_size, RATIO * path.stat().st_size)
            with archive.open(entry) as member:
                _check_npy(member, most)
            with archive.open(entry) as member:
                found[name] = np.lib.format.read_array(member, allow_pickle=False)
                if member.read(1):  # Only the end of a member compares its checksum.
                    raise ValueError(f"{name} is longer than its header says")
    return found


def _check_npy(file: IO[bytes], most: int) -> None:
    """Hold the header of an .npy to `most` bytes. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"it is of the unknown version {version}")
    check_claim(shape, dtype.itemsize, most)
