"""A prepared dataset as compact files, to take it where its source is not.

A pack is a zip archive of the prepared folder, compressed by LZMA and cut into parts of bounded size: the same bytes
come out, so a training there is the training that would have run here.
"""

from __future__ import annotations

import io
import json
import lzma
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cgs.errors import SuiteError
from cgs.files import atomic_path

WRITTEN_LAST = "source.json"


def pack(folder: Path, target: Path, megabytes: int) -> list[Path]:
    """Write the prepared dataset in `folder` as `<target>.000`, `.001` ...; returns the parts."""
    if not (folder / WRITTEN_LAST).is_file():
        raise SuiteError(f"{folder} holds no complete dataset; run `python -m cgs prepare` for it.")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names.sort(key=lambda name: name == WRITTEN_LAST)
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
    return parts


def unpack(parts: Sequence[Path], folder: Path) -> None:
    """Put the prepared dataset of `parts`, in order, into `folder`, unless it is there.

    Raises SuiteError with one sentence when a part is missing or damaged.
    """
    if (folder / WRITTEN_LAST).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with opened(parts) as archive:
        for name in archive.namelist():  # In the order of packing: source.json last.
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise SuiteError(
                    f"{parts[0]} names a file outside its folder ({name}); pack the dataset again."
                )
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(archive.read(name))


def dataset_name(parts: Sequence[Path], known: Sequence[str]) -> str:
    """The dataset that a pack holds. Raises SuiteError unless it is one of `known`."""
    with opened(parts) as archive:
        name = str(json.loads(archive.read(WRITTEN_LAST))["dataset"])
    if name not in known:
        raise SuiteError(
            f"{parts[0]} holds {name}, but the config has {', '.join(known)}; give another pack."
        )
    return name


@contextmanager
def opened(parts: Sequence[Path]) -> Iterator[zipfile.ZipFile]:
    """The archive that the parts are."""
    try:
        with zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
            yield archive
    except FileNotFoundError as error:
        raise SuiteError(f"{error.filename} does not exist; give every part of the pack, in order.") from None
    except (zipfile.BadZipFile, lzma.LZMAError, EOFError, ValueError, KeyError) as error:
        raise SuiteError(
            f"{parts[0]} and its further parts are no whole pack ({error}); copy them again."
        ) from None
