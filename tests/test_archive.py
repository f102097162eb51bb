"""Archives from elsewhere: what is wanted comes out whole, and nothing else happens, whatever they hold."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgs.data import archive as module
from cgs.data.archive import unpack
from cgs.errors import SuiteError

FILES = {"a.txt": b"first", "b/c.bin": bytes(range(256)) * 16, "b/empty": b""}
KINDS = ("zip", "tar", "tar.gz")
SYMLINK = 0o120777 << 16
Entry = tuple[str, bytes]


def everything(_: str) -> bool:
    return True


def zipped(path: Path, entries: list[Entry], **changes: Any) -> Path:
    """A zip of `entries`, with `changes` to the header of each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return path


def tarred(path: Path, entries: list[Entry], mode: str = "w", **changes: Any) -> Path:
    """A tar of `entries`, with `changes` to the header of each."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def packed(path: Path, kind: str, entries: list[Entry]) -> Path:
    if kind == "zip":
        return zipped(path, entries)
    return tarred(path, entries, "w:gz" if kind == "tar.gz" else "w")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(path: Path, sentence: str, **options: Any) -> None:
    """`path` is refused with one sentence, and leaves nothing behind."""
    before = contents(path.parent)
    with pytest.raises(SuiteError, match=sentence) as caught:
        unpack(path, path.parent / "out", options.pop("wanted", everything), **options)
    assert str(caught.value).count(". ") == 0 and "\n" not in str(caught.value)
    assert contents(path.parent) == before
    assert not (path.parent / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wanted_comes_out(tmp_path: Path, kind: str) -> None:
    """By content: the name says nothing. Parents are made, `./` is no part of a path."""
    path = packed(tmp_path / "archive", kind, [(f"./{name}", data) for name, data in FILES.items()])
    folder = tmp_path / "deep" / "out"
    asked = []
    found = unpack(path, folder, lambda name: bool(asked.append(name)) or name.startswith("b/"))
    assert asked == list(FILES)
    assert found == [folder / "b/c.bin", folder / "b/empty"]
    assert contents(folder) == {name: data for name, data in FILES.items() if name.startswith("b/")}
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


def test_folders_and_large_members(tmp_path: Path) -> None:
    """Members of more than one chunk, of sizes that do and do not fill the blocks of tar, and entries of folders."""
    sizes = (module.CHUNK * 2, module.CHUNK + 1, 511, 512, 513)
    files = {f"d/{size}": bytes([size % 251]) * size for size in sizes}
    plain = tmp_path / "plain"
    for name, data in files.items():
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_bytes(data)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.add(plain, ".")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("d")
        for name in files:
            archive.write(plain / name, name)
    for name in ("a.tgz", "a.zip"):
        unpack(tmp_path / name, tmp_path / "out", everything)
        assert contents(tmp_path / "out") == files


def test_a_zip_at_the_end_of_a_tar_is_a_file_of_it(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", [("x", b"y")]).read_bytes()
    unpack(tarred(tmp_path / "a", [("inner.zip", inner)]), tmp_path / "out", everything)
    assert contents(tmp_path / "out") == {"inner.zip": inner}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_of_zip(tmp_path: Path, method: int) -> None:
    data = bytes(range(256)) * 2000
    unpack(zipped(tmp_path / "a", [("x", data)], compress_type=method), tmp_path / "out", everything)
    assert contents(tmp_path / "out") == {"x": data}


def test_what_was_there_is_replaced_at_the_end_alone(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "old").mkdir(parents=True)
    (folder / "old" / "file").write_bytes(b"old")
    path = zipped(tmp_path / "a.zip", list(FILES.items()))
    with pytest.raises(SuiteError, match="more than the 10 bytes"):
        unpack(path, folder, everything, limit=10)
    assert contents(folder) == {"old/file": b"old"}
    unpack(path, folder, everything)
    assert contents(folder) == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]


def test_a_link_to_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    found = unpack(zipped(tmp_path / "a.zip", list(FILES.items())), tmp_path / "out", everything)
    assert (tmp_path / "out").is_symlink() and contents(tmp_path / "disk") == FILES
    assert found[0] == tmp_path / "out" / "a.txt"


def test_a_rename_that_fails_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(b"old")
    path = zipped(tmp_path / "a.zip", list(FILES.items()))
    rename = module.os.rename

    def failing(source: Path, target: Path) -> None:
        if source.suffix == ".tmp":
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", failing)
    with pytest.raises(OSError, match="broken"):
        unpack(path, tmp_path / "out", everything)
    assert contents(tmp_path / "out") == {"file": b"old"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "in" / "a.zip", [("x", b"")])
    with pytest.raises(SuiteError, match=r"lies in .*, which would be replaced"):
        unpack(path, tmp_path, everything)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SuiteError, match="is a file; delete it"):
        unpack(path, tmp_path / "file", everything)
    with pytest.raises(SuiteError, match="does not exist or is no file"):
        unpack(tmp_path / "none.zip", tmp_path / "out", everything)
    assert path.is_file()


UNSAFE = ("/etc/x", "../x", "a/../../x", "a/..", "C:x", "C:/x", "a/d:/x", "a\\..\\x", "//host/x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    """Though the file is not wanted."""
    path = packed(tmp_path / "a", kind, [("good", b"x"), (name, b"evil")])
    refused(path, "names a file in an unsafe way")
    refused(path, "names a file in an unsafe way", wanted=lambda name: name == "good")


def test_names_that_no_disk_takes_are_refused(tmp_path: Path) -> None:
    raw = zipped(tmp_path / "a", [("a_b", b"x")]).read_bytes()
    (tmp_path / "a").write_bytes(raw.replace(b"a_b", b"a\0b"))
    refused(tmp_path / "a", "in an unsafe way")
    refused(tarred(tmp_path / "a", [("x", b"")], pax_headers={"path": "a\0b"}), "in an unsafe way")
    refused(tarred(tmp_path / "a", [("x" * 256, b"")]), "a name that is too long")
    refused(tarred(tmp_path / "a", [("x/" * 600, b"")]), "a name that is too long")
    refused(tarred(tmp_path / "a", [(".", b"")]), "is a link, a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "./a"), ("B/a", "b/A"), ("\u00e9", "e\u0301"), ("a", "a/b"), ("a/b", "A")],
)
def test_a_name_twice_is_refused(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    path = packed(tmp_path / "a", kind, [(name, b"x") for name in names])
    refused(path, "twice, or with different case, or as a file and a folder")


LINKS = {
    "symbolic": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "disk": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "unknown": b"Z",
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_of_tar_are_refused(tmp_path: Path, kind: str) -> None:
    path = tarred(tmp_path / "a", [("x", b"")], type=LINKS[kind], linkname="/etc/passwd")
    refused(path, "'x' is a link, a device")
    refused(path, "none of the files that are wanted", wanted=lambda _: False)


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140777])
def test_links_and_devices_of_zip_are_refused(tmp_path: Path, mode: int) -> None:
    refused(
        zipped(tmp_path / "a", [("x", b"/etc/passwd")], external_attr=mode << 16), "'x' is a link, a device"
    )


def test_a_link_to_a_folder_does_not_lead_out(tmp_path: Path) -> None:
    """A link that is not wanted is not made, so a file 'through' it stays within."""
    (tmp_path / "outside").mkdir()
    with tarfile.open(tmp_path / "a", "w") as archive:
        link = tarfile.TarInfo("d")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("d/x"))
    unpack(tmp_path / "a", tmp_path / "out", lambda name: name == "d/x")
    assert contents(tmp_path / "out") == {"d/x": b""} and not list((tmp_path / "outside").iterdir())


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    """A few bytes of header would be any number of zeros."""
    path = tarred(
        tmp_path / "a", [("x", b"")], pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12)}
    )
    refused(path, "a sparse file")


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_counts_what_is_written(tmp_path: Path, kind: str) -> None:
    path = packed(tmp_path / "a", kind, [("a", b"x" * 600), ("b", b"x" * 400), ("c", b"x" * 1000)])
    refused(path, "more than the 999 bytes", wanted=lambda name: name != "c", limit=999)
    assert len(unpack(path, tmp_path / "ok", lambda name: name != "c", 1000)) == 2


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bombs_are_refused(tmp_path: Path, kind: str) -> None:
    """Deflate alone packs at most 1,032 to 1, so the bound is lowered to see it work."""
    path = packed(tmp_path / "a", kind, [("zeros", bytes(4 * 10**6))])
    unpack(path, tmp_path / "fine", everything)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RATIO", 500)
        refused(path, "to more than 500 times its size")


def test_a_bomb_of_a_stronger_method_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a", [("zeros", bytes(10**7))], compress_type=zipfile.ZIP_BZIP2)
    refused(path, "to more than 1,200 times its size")


def test_a_bomb_that_is_not_wanted_is_refused_in_tar(tmp_path: Path) -> None:
    """Every member of .tar.gz is unpacked on the way to the next."""
    path = packed(tmp_path / "a", "tar.gz", [("zeros", bytes(4 * 10**6)), ("x", b"")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RATIO", 500)
        refused(path, "to more than 500 times its size", wanted=lambda name: name == "x")


def test_sizes_that_lie_are_damage(tmp_path: Path) -> None:
    """What a zip says of its sizes neither cuts a file nor loosens a bound."""
    data = b"0123456789" * 100
    raw = zipped(tmp_path / "a", [("x", data)]).read_bytes()
    at = raw.rindex(b"PK\x01\x02")
    for said in (10, 10**6):
        (tmp_path / "a").write_bytes(raw[: at + 24] + said.to_bytes(4, "little") + raw[at + 28 :])
        refused(tmp_path / "a", "is damaged")
    bomb = zipped(tmp_path / "a", [("x", bytes(4 * 10**6))]).read_bytes()
    at = bomb.rindex(b"PK\x01\x02")
    (tmp_path / "a").write_bytes(bomb[: at + 20] + (10**8).to_bytes(4, "little") + bomb[at + 24 :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RATIO", 500)
        refused(tmp_path / "a", "to more than 500 times its size|is damaged")


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_members_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMBERS", 3)
    entries = [(f"{number}", b"") for number in range(4)]
    assert len(unpack(packed(tmp_path / "a", kind, entries[:3]), tmp_path / "ok", everything)) == 3
    refused(packed(tmp_path / "a", kind, entries), "more than 3 members", wanted=lambda _: False)


def test_encrypted_zips_are_refused(tmp_path: Path) -> None:
    raw = bytearray(zipped(tmp_path / "a", [("x", b"secret")]).read_bytes())
    raw[raw.index(b"PK\x03\x04") + 6] |= 1
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a").write_bytes(raw)
    refused(tmp_path / "a", "is encrypted")


def test_an_unknown_method_is_not_called_damage(tmp_path: Path) -> None:
    raw = bytearray(zipped(tmp_path / "a", [("x", b"data")]).read_bytes())
    raw[raw.index(b"PK\x03\x04") + 8] = 9  # Deflate64, which Windows uses for large archives.
    raw[raw.rindex(b"PK\x01\x02") + 10] = 9
    (tmp_path / "a").write_bytes(raw)
    refused(tmp_path / "a", "packed in a way that is not known here")


@pytest.mark.parametrize(
    "data",
    [b"", b"text " * 500, b"\x1f\x8b junk", gzip.compress(b"text" * 500)],
    ids=["empty", "text", "junk", "gzip"],  # Ids of their own: the bytes of a gzip hold the time.
)
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", r"neither \.zip nor \.tar nor \.tar\.gz")


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    raw = tarred(tmp_path / "a", [("x", b"")]).read_bytes()
    (tmp_path / "a").write_bytes(bz2.compress(raw))
    refused(tmp_path / "a", r"neither \.zip nor \.tar nor \.tar\.gz")


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_wanted(tmp_path: Path, kind: str) -> None:
    refused(packed(tmp_path / "a", kind, [("x", b"")]), "none of the files", wanted=lambda _: False)
    refused(packed(tmp_path / "a", kind, []), "none of the files")


def test_an_error_of_wanted_leaves_nothing(tmp_path: Path) -> None:
    path = packed(tmp_path / "a", "tar.gz", list(FILES.items()))
    with pytest.raises(ZeroDivisionError):
        unpack(path, tmp_path / "out", lambda name: bool(name == "a.txt" or 1 / 0))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_an_oserror(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a", kind, list(FILES.items()))
    opened: Callable[..., Any] = Path.open

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda p, mode="r": Full() if "x" in mode else opened(p, mode))
    with pytest.raises(OSError, match="No space left") as caught:
        unpack(path, tmp_path / "out", everything)
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_cut_archive_is_damage(tmp_path: Path) -> None:
    """Wherever it is cut: between members too, where tarfile sees nothing amiss."""
    noise = random.Random(0).randbytes(900)
    for kind in KINDS:
        raw = packed(tmp_path / "a", kind, [("x", noise), ("y", noise)]).read_bytes()
        end = 3584 if kind == "tar" else len(raw)  # Behind it only zeros.
        for length in range(0, end, 97 if kind == "tar" else 31):
            (tmp_path / "a").write_bytes(raw[:length])
            refused(tmp_path / "a", "damaged")
    raw = tarred(tmp_path / "a", [("x", noise), ("y", noise)]).read_bytes()
    (tmp_path / "a").write_bytes(raw[:1536])  # The first member alone.
    refused(tmp_path / "a", "ends too early")


def test_a_changed_header_does_not_end_a_tar(tmp_path: Path) -> None:
    raw = bytearray(tarred(tmp_path / "a", [("x", b"1"), ("y", b"2")]).read_bytes())
    raw[1024] ^= 1  # The name of the second member, so its checksum is wrong.
    (tmp_path / "a").write_bytes(raw)
    refused(tmp_path / "a", "damaged .*bad header")


def test_a_bad_checksum_at_the_end_is_damage(tmp_path: Path) -> None:
    """That of .gz stands behind what tarfile reads; that of zip behind the last byte of a member."""
    large = [("x", random.Random(0).randbytes(2 * 10**6))]
    raw = bytearray(packed(tmp_path / "a", "tar.gz", large).read_bytes())
    raw[-6] ^= 1
    (tmp_path / "a").write_bytes(raw)
    refused(tmp_path / "a", "damaged .*CRC")
    raw = bytearray(zipped(tmp_path / "a", large).read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 16] ^= 1
    (tmp_path / "a").write_bytes(raw)
    refused(tmp_path / "a", "damaged .*CRC")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_header_does_not_fill_the_memory(tmp_path: Path, kind: str) -> None:
    for number in (0, 1):  # The first header, and a later one.
        entries = [("first", b"x")][:number]
        huge = {"comment": "x" * (2 * module.CHUNK)}
        with tarfile.open(tmp_path / "a", "w:gz" if kind == "tar.gz" else "w") as archive:
            for name, _ in entries:
                archive.addfile(tarfile.TarInfo(name))
            info = tarfile.TarInfo("second")
            info.pax_headers = huge
            archive.addfile(info)
        refused(tmp_path / "a", "damaged")


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_byte_is_a_sentence_or_nothing(tmp_path: Path, kind: str) -> None:
    """Where the archive is still unpacked, all is within the folder."""
    raw = packed(tmp_path / "a", kind, [("d/x", b"data" * 9), ("y", b"")]).read_bytes()
    raw = raw[:2560]
    for place in range(0, len(raw), 1 if kind != "tar" else 13):
        changed = bytearray(raw)
        changed[place] ^= 0xFF if place % 2 else 0x01
        (tmp_path / "a").write_bytes(changed)
        try:
            unpack(tmp_path / "a", tmp_path / "out", everything)
        except SuiteError as error:
            assert "\n" not in str(error)
        assert {p.name for p in tmp_path.iterdir()} <= {"a", "out"}


NAMES = st.lists(
    st.one_of(
        st.text(min_size=1, max_size=12),
        st.text("ab./\\:C\0 ", min_size=1, max_size=10),
        st.lists(st.sampled_from(["..", ".", "", "a", "A", "b", "C:", "~"]), min_size=1, max_size=5).map(
            "/".join
        ),
    ).filter(lambda name: name.isprintable() or "\0" in name),
    min_size=1,
    max_size=5,
)


def stays_within(kind: str, names: list[str]) -> None:
    """Whatever the names are, files are within the folder, or one sentence says why there is none."""
    with tempfile.TemporaryDirectory() as place:
        outer = Path(place) / "1" / "2" / "3"
        outer.mkdir(parents=True)
        path = packed(outer / "archive", kind, [(name, name.encode()) for name in names])
        before = set(Path(place).rglob("*"))
        try:
            found = unpack(path, outer / "out", everything)
        except SuiteError as error:
            assert "\n" not in str(error)
            assert set(Path(place).rglob("*")) == before
        else:
            assert found and all(file.resolve().is_relative_to(outer.resolve() / "out") for file in found)
            assert sorted(found) == sorted(p for p in (outer / "out").rglob("*") if p.is_file())
            within = {outer / "out", *(outer / "out").rglob("*")}
            assert set(Path(place).rglob("*")) - within == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=60, deadline=None)
@given(NAMES)
def test_random_names_in_zip_stay_within(names: list[str]) -> None:
    stays_within("zip", names)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=60, deadline=None)
@given(NAMES, st.sampled_from(["tar", "tar.gz"]))
def test_random_names_in_tar_stay_within(names: list[str], kind: str) -> None:
    stays_within(kind, names)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("abcdef/", min_size=1, max_size=8).map(lambda n: f"r{n}e"), st.binary(max_size=2000)
    )
)
def test_what_was_packed_comes_out(files: dict[str, bytes]) -> None:
    """The three kinds give the same files, or the same sentence."""
    with tempfile.TemporaryDirectory() as place:
        results = []
        for kind in KINDS:
            path = packed(Path(place) / "a", kind, list(files.items()))
            try:
                unpack(path, Path(place) / kind, everything)
                results.append(contents(Path(place) / kind))
            except SuiteError as error:
                results.append({str(error): b""})
        assert results[0] == results[1] == results[2]
        if "twice" not in str(results[0]) and files:
            assert sorted(results[0].values()) == sorted(files.values())
