"""Writing files so that a reader never sees half of one: temporary name first, then rename."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from cgs.bounds import TABLE, read_bounded, read_stream
from cgs.errors import CannotWrite, SuiteError, plain

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    KeyError,
    tokenize.TokenError,
)
"""What reading a damaged .npy or .npz was seen to raise, over every change of every byte of one."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure.

    The file is on the disk before it gets its name, so that a power cut leaves the old one or the new one. Parent
    folders are made. Raises CannotWrite with one sentence when the place cannot be written.
    """
    path = Path(path)
    # The suffix is kept, because numpy and pandas choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # Nothing was left where the folder cannot even be reached.
            temporary.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """The sentence about a file that could not be written."""
    return CannotWrite(
        f"Cannot write {path}: {error.strerror or error}. Check that the folder is writable and the disk is not full; "
        "the same command then goes on."
    )


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON; raise SuiteError with one sentence when the file is missing or damaged."""
    try:
        return json.loads(read_bounded(path, TABLE).decode("utf-8"))
    except FileNotFoundError as error:
        raise SuiteError(f"{path} does not exist. Run the step that writes it first.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SuiteError(
            f"{path} cannot be read ({plain(error)}). Delete it and repeat the step that writes it."
        ) from error


def read_csv(path: Path | str, **options: Any) -> pd.DataFrame:
    """A table that this suite wrote, by `pandas.read_csv`.

    Raises ValueError where its last line has no end: a file that was cut there would give wrong numbers; and where it
    is damaged or holds more than TABLE bytes.
    """
    data = read_bounded(path, TABLE)
    if str(path).endswith(".gz"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = read_stream(file, TABLE)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(str(error)) from None
    if not data.endswith(b"\n"):
        raise ValueError("it is cut off")
    return pd.read_csv(io.BytesIO(data), **options)
