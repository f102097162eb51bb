"""Unpacking archives that others made: nothing leaves the folder, nothing grows without bound, nothing is run."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple, NoReturn, cast

from cgs.errors import SuiteError

RATIO = 1200  # Deflate packs at most 1,032 bytes into one.
ALLOWANCE = 10**6
"""Bytes that may come out beside `RATIO`: a small file packs better than its share of the headers says."""

MEMBERS = 10**6
CHUNK = 2**20
SMALL_CHUNK = 2**12
"""What is read at once by methods whose decompressors do not bound what one chunk gives."""

BLOCK = 512
"""Bytes of a block of tar."""

DRIVE = re.compile(r"(^|/)[A-Za-z]:")
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
"""What reading a damaged archive may raise."""


class Member(NamedTuple):
    """One entry of an archive; `chunks` reads it and must be used before the next member is asked for."""

    name: str
    kind: Literal["file", "folder", "other"]
    chunks: Callable[[], Generator[bytes, None, None]]


def unpack(
    archive: Path, folder: Path, wanted: Callable[[str], bool], limit: int = 200 * 10**9
) -> list[Path]:
    """Unpack the files of a .zip, .tar or .tar.gz whose POSIX path is `wanted` into `folder`, which is replaced.

    Returns them in the archive's order. `folder` is whole or as it was: files go to a folder beside it that is renamed
    at the end. Raises SuiteError with one sentence for an archive that is damaged, encrypted or of another kind; for a
    member, wanted or not, whose name leads elsewhere; for a wanted member that is a link, a device or there twice; for
    more than `limit` bytes and for what unpacks to more than its size allows; and where nothing is wanted. A disk that
    is full is the OSError that it is.
    """
    if not archive.is_file():
        raise SuiteError(f"{archive} does not exist or is no file; fetch it first.")
    place = folder.resolve()  # A link to a larger disk stays a link.
    if archive.resolve().is_relative_to(place):
        raise SuiteError(f"{archive} lies in {folder}, which would be replaced; give another folder.")
    if place.exists() and not place.is_dir():
        raise SuiteError(f"{folder} is a file; delete it or give another folder.")
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        names = _fill(temporary, archive, wanted, limit)
        _replace(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in names]


def check_opens(archive: Path) -> None:
    """Raise SuiteError unless `archive` is of a kind that is known and begins well; the rest is not read."""
    with closing(_members(archive)) as members:
        if next(members, None) is None:
            raise SuiteError(f"{archive} is empty; fetch it again.")


def _fill(folder: Path, archive: Path, wanted: Callable[[str], bool], limit: int) -> list[str]:
    """Write the wanted files into the empty `folder`; returns their paths in it."""
    names = _Names(archive)
    left = limit
    with closing(_members(archive)) as members:
        for number, member in enumerate(members, 1):
            if number > MEMBERS:
                raise SuiteError(
                    f"{archive} has more than {MEMBERS:,} members; check that it is the right file."
                )
            name = checked_name(archive, member.name)
            if member.kind == "folder" or not wanted(name):
                continue
            if member.kind == "other" or name == ".":
                raise SuiteError(
                    f"{archive}: {name!r} is a link, a device or a sparse file; fetch an archive of plain files."
                )
            names.claim(name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("xb") as file, closing(member.chunks()) as chunks:
                for chunk in chunks:
                    left -= len(chunk)
                    if left < 0:
                        raise SuiteError(
                            f"{archive} unpacks to more than the {limit:,} bytes that are allowed; check that it is "
                            "the right file."
                        )
                    file.write(chunk)
    if not names.files:
        raise SuiteError(
            f"{archive} holds none of the files that are wanted; check that it is the right file."
        )
    return list(names.files.values())


def _replace(temporary: Path, place: Path) -> None:
    """Rename `temporary` to `place`; what was there is put back when that fails."""
    if not place.exists():
        os.rename(temporary, place)
        return
    old = temporary.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(place, old)
    try:
        os.rename(temporary, place)
    except OSError:
        os.rename(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def checked_name(archive: Path, name: str) -> str:
    """`name` without `./` and doubled slashes; raises SuiteError where it would lead out of a folder."""
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name or DRIVE.search(name):
        raise SuiteError(
            f"{archive} names a file in an unsafe way ({name!r}); do not trust it, and fetch it from its origin."
        )
    if len(os.fsencode(name)) > 1000 or any(len(os.fsencode(part)) > 255 for part in name.split("/")):
        raise SuiteError(
            f"{archive} has a name that is too long ({name[:40]!r} ...); fetch it from its origin."
        )
    return PurePosixPath(name).as_posix()


class _Names:
    """The paths that are taken, as a file system that knows neither case nor forms of Unicode sees them."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.files: dict[str, str] = {}
        self.folders: set[str] = set()

    def claim(self, name: str) -> None:
        """Take `name`; raises SuiteError where it, or a folder of it, is a file already."""
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        folders = {parent.as_posix() for parent in PurePosixPath(key).parents}
        if key in self.files or key in self.folders or folders & self.files.keys():
            raise SuiteError(
                f"{self.archive} holds {name!r} twice, or with different case, or as a file and a folder; fetch it "
                "from its origin."
            )
        self.files[key] = name
        self.folders |= folders


def _members(archive: Path) -> Generator[Member, None, None]:
    """The members of an archive, recognised by its content."""
    # A tar may end in a zip that it holds, so it is asked for first.
    if _is_tar(archive):
        return _tar_members(archive)
    with _reading(archive):
        if zipfile.is_zipfile(archive):
            return _zip_members(archive)
    raise SuiteError(f"{archive} is damaged or neither .zip nor .tar nor .tar.gz; fetch it again.")


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn what a damaged archive raises into one sentence; what a failing disk raises goes through."""
    try:
        yield
    except NotImplementedError as error:
        raise SuiteError(
            f"{archive} is packed in a way that is not known here ({error}); pack it anew as a plain .zip or .tar.gz."
        ) from None
    except DAMAGED as error:
        # Decompressors raise OSError without a number, a seek to a senseless place EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise SuiteError(
            f"{archive} is damaged ({str(error) or type(error).__name__}); fetch it again."
        ) from None


def _bomb(archive: Path, name: str) -> NoReturn:
    raise SuiteError(
        f"{archive}: {name} unpacks to more than {RATIO:,} times its size; do not trust it, and fetch it anew."
    )


# zip ---------------------------------------------------------------------------------------------


def _zip_members(archive: Path) -> Generator[Member, None, None]:
    with _reading(archive), zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
        if any(entry.flag_bits & 0x1 for entry in entries):
            raise SuiteError(
                f"{archive} is encrypted; unpack it by hand and pack it anew without a password."
            )
        for entry in entries:
            # As it stands in the archive: zipfile cuts names at a NUL and turns backslashes on Windows.
            checked_name(archive, entry.orig_filename)
            yield Member(entry.filename, _zip_kind(entry), partial(_zip_chunks, archive, packed, entry))


def _zip_kind(entry: zipfile.ZipInfo) -> Literal["file", "folder", "other"]:
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 from programs that do not know of links.
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "other"
    return "folder" if entry.is_dir() or kind == stat.S_IFDIR else "file"


def _zip_chunks(
    archive: Path, packed: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> Generator[bytes, None, None]:
    """What a member unpacks to. Raises SuiteError for a bomb and for damage."""
    # A packed size beyond the archive is a lie, which must not loosen the bound.
    bound = RATIO * min(entry.compress_size, archive.stat().st_size) + ALLOWANCE
    size = CHUNK if entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else SMALL_CHUNK
    done = 0
    with _reading(archive), packed.open(entry) as source:
        while chunk := source.read(size):
            done += len(chunk)
            if done > bound:
                _bomb(archive, repr(entry.filename))
            yield chunk
        if done != entry.file_size:
            raise EOFError(f"{entry.filename!r} ends too early")


# tar ---------------------------------------------------------------------------------------------


class _Stream:
    """What tarfile reads from: it only goes forwards, no read is large, and every byte is counted.

    tarfile alone would take a header of any size into memory, unpack .gz anew to step back by one byte, and take a
    damaged header for the end of the archive, hence `last`.
    """

    def __init__(self, raw: IO[bytes], archive: Path) -> None:
        self.raw, self.archive, self.position, self.last = raw, archive, 0, b""
        self.bound = RATIO * archive.stat().st_size + ALLOWANCE

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises SuiteError for a bomb."""
        if not 0 <= size <= CHUNK:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self.raw.read(size)
        self.position += len(self.last)
        if self.position > self.bound:
            _bomb(self.archive, "what it holds")
        return self.last

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if position < self.position:
            raise tarfile.ReadError("sizes that lead backwards")
        while self.position < position:
            if not self.read(min(position - self.position, CHUNK)):
                raise tarfile.ReadError("it ends too early")


@contextmanager
def _unzipped(archive: Path) -> Iterator[IO[bytes]]:
    """The bytes of `archive`, those within where it is a .gz."""
    with archive.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw


def _is_tar(archive: Path) -> bool:
    """Whether a tar starts here, within .gz or not.

    tarfile.is_tarfile would try more compressions, and unpack a first header of any size into memory.
    """
    try:
        with _unzipped(archive) as raw:
            tarfile.open(fileobj=io.BytesIO(raw.read(CHUNK)), mode="r:").close()
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return False
    return True


def _tar_members(archive: Path) -> Generator[Member, None, None]:
    with _reading(archive), _unzipped(archive) as raw:
        stream = _Stream(raw, archive)
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
            while (member := tar.next()) is not None:
                # It would keep a million headers in memory.
                tar.members.clear()  # type: ignore[attr-defined]
                yield Member(member.name, _tar_kind(member), partial(_tar_chunks, archive, stream, member))
        if stream.last != bytes(BLOCK):
            raise tarfile.ReadError("it ends too early or within a bad header")
        while stream.read(CHUNK):  # The checksum of .gz stands at the end.
            pass


def _tar_kind(member: tarfile.TarInfo) -> Literal["file", "folder", "other"]:
    if member.isdir():
        return "folder"
    return "file" if member.isreg() and not member.issparse() else "other"


def _tar_chunks(archive: Path, stream: _Stream, member: tarfile.TarInfo) -> Generator[bytes, None, None]:
    """What a member holds. Raises SuiteError for a bomb and for damage."""
    with _reading(archive):
        stream.seek(member.offset_data)
        left = member.size
        while left > 0:
            chunk = stream.read(min(left, CHUNK))
            if not chunk:
                raise EOFError(f"{member.name!r} ends too early")
            left -= len(chunk)
            yield chunk
