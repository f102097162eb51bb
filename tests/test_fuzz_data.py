"""Readers of data against arbitrary damage: a sentence of ours or a valid volume, never a traceback, never wild."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from fuzzing import AWKWARD, JSON, damages, fuzzed, said
from hypothesis import given
from hypothesis import strategies as st
from test_archive import contents, packed

from cgs.data.acdc import Acdc
from cgs.data.archive import unpack
from cgs.data.folder import Folder, read_split
from cgs.data.nifti import classes, read_nifti, scaled, windowed
from cgs.data.pack import PREPARED as PACKED
from cgs.data.pack import described, pack
from cgs.data.pack import unpack as unpack_pack
from cgs.data.source import TrainingSlice, Volume
from cgs.data.store import list_cases, load_case, load_slices
from cgs.data.synapse import SynapseTransUNet, split
from cgs.dataset_config import FolderConfig

SHAPE = (3, 5, 4)


def image_and_label(shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(shape))
    return rng.random(shape).astype(np.float32), rng.integers(0, 4, shape).astype(np.uint8)


def h5_bytes(image: Any, label: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("image", data=image, **options)
        file.create_dataset("label", data=label, **options)
    return buffer.getvalue()


def check_arrays(image: np.ndarray, label: np.ndarray, dimensions: int, targets: int) -> None:
    """What every reader promises of an image in [0, 1], or as uint16, and its label."""
    assert image.ndim == dimensions and image.shape == label.shape and image.size
    assert label.dtype == np.uint8 and label.max() <= targets
    assert image.dtype.kind == "f" and np.isfinite(image).all()
    assert image.min() >= -1e-5 and image.max() <= 1 + 1e-5


# --- HDF5 as SSL4MIS has it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def acdc(tmp_path_factory: pytest.TempPathFactory) -> Acdc:
    """A reader of one training slice and two volumes, whose files are damaged in place."""
    folder = tmp_path_factory.mktemp("acdc")
    (folder / "data" / "slices").mkdir(parents=True)
    (folder / "data" / "slices" / "p1_frame01_slice_1.h5").write_bytes(h5_bytes(*image_and_label(SHAPE[1:])))
    for name in ("p2_frame01", "p3_frame01"):
        (folder / "data" / f"{name}.h5").write_bytes(h5_bytes(*image_and_label()))
    for name, text in (
        ("train_slices", "p1_frame01_slice_1"),
        ("val", "p2_frame01"),
        ("test", "p3_frame01"),
    ):
        (folder / f"{name}.list").write_text(text)
    return Acdc(folder)


def read_acdc(reader: Acdc, volume: bool, data: bytes) -> list[str]:
    """Read `data` as a slice or a volume; returns the sentence, if there was one."""
    item = "p3_frame01" if volume else "p1_frame01_slice_1"
    reader.files["test" if volume else "train"][item].write_bytes(data)
    with said() as sentences:
        if volume:
            found: Volume | TrainingSlice = reader.read_volume(item)
        else:
            (found,) = reader.read_training(item)
        assert found.label is not None
        check_arrays(found.image, found.label, 3 if volume else 2, 3)
    return sentences


@fuzzed(60)
@given(volume=st.booleans(), packed=st.booleans(), damage=damages())
def test_damaged_hdf5(acdc: Acdc, volume: bool, packed: bool, damage: Any) -> None:
    options = {"chunks": True, "compression": "gzip", "fletcher32": True} if packed else {}
    data = h5_bytes(*image_and_label(SHAPE if volume else SHAPE[1:]), **options)
    read_acdc(acdc, volume, damage(data))


DTYPES = st.sampled_from(
    [
        "f2",
        "f4",
        "f8",
        ">f4",
        "g",
        "u1",
        "u2",
        "u4",
        "u8",
        "i1",
        "i2",
        ">i2",
        "i8",
        "?",
        "c8",
        "S3",
        "V4",
        "O",
    ]
)
SHAPES = st.one_of(st.just(SHAPE), st.just(SHAPE[1:]), st.lists(st.integers(0, 4), max_size=5).map(tuple))
VALUES = st.sampled_from([0, 1, 2, 3, 4, 255, 0.5, -1, 1e-6, 1 + 1e-6, 65535, np.nan, np.inf, -np.inf, 1e300])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array of any type, rank and shape, of few values."""
    shape, dtype = draw(SHAPES), draw(DTYPES)
    values = draw(st.lists(VALUES, min_size=1, max_size=3))
    with np.errstate(all="ignore"):
        base = np.resize(np.array(values, dtype=np.float64), shape)
        return (
            base.astype("f4").view("V4")
            if dtype == "V4" and base.ndim
            else base.astype(dtype if dtype != "V4" else "f4")
        )


@fuzzed(120)
@given(volume=st.booleans(), image=arrays(), label=arrays())
def test_hdf5_of_any_shape_and_type(acdc: Acdc, volume: bool, image: np.ndarray, label: np.ndarray) -> None:
    try:
        data = h5_bytes(image, label)
    except (TypeError, ValueError):  # HDF5 has no such type.
        return
    sentences = read_acdc(acdc, volume, data)
    shape_fits = image.shape == label.shape and image.ndim == (3 if volume else 2) and image.size
    if not shape_fits:
        assert sentences


def test_a_whole_number_image_is_no_stored_one(acdc: Acdc) -> None:
    """0 and 1 as uint16 are black and white, not 0 and 1 of 65,535."""
    image, label = image_and_label(SHAPE)
    data = h5_bytes((image > 0.5).astype(np.uint16), label)
    acdc.files["test"]["p3_frame01"].write_bytes(data)
    found = acdc.read_volume("p3_frame01").image
    assert found.dtype == np.float32 and set(np.unique(found)) == {0.0, 1.0}


# --- lists -------------------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from(
        ["p1_frame01_slice_1", "p2_frame01", "../../x", "/etc/passwd", "=1+1", "a\0b", "x" * 300, "\ufeffp"]
    ),
    st.text(max_size=10),
)


@fuzzed(80)
@given(listing=st.lists(NAMES, max_size=4).map("\n".join), damage=st.none() | damages())
def test_any_list(listing: str, damage: Any) -> None:
    """A name of a list names a file in the folder of the data, or is refused: it becomes a file name of ours."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "deep" / "acdc"
        (folder / "data").mkdir(parents=True)
        (Path(place) / "x.h5").write_bytes(b"")
        (Path(place) / "deep" / "x.h5").write_bytes(b"")
        (folder / "val.list").write_text("p2_frame01")
        (folder / "test.list").write_text("p3_frame01")
        for name in ("p1_frame01_slice_1", "p2_frame01", "p3_frame01"):
            (folder / "data" / f"{name}.h5").write_bytes(b"")
        data = listing.encode("utf-8", "replace")
        (folder / "train_slices.list").write_bytes(damage(data) if damage else data)
        with said():
            reader = Acdc(folder)
            assert reader.training_items()
            for path in reader.files["train"].values():
                assert path.resolve().is_relative_to(folder / "data")


# --- split.csv ---------------------------------------------------------------------------------------------

GOOD_SPLIT = "case,split,patient,labelled,image,label\np1,train,a,yes,,\np2,train,b,no,,\np3,test,c,yes,,\n"
CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            "p1",
            "p2",
            "train",
            "val",
            "test",
            "yes",
            "no",
            "NA",
            "nan",
            "a/b.nii",
            "../x",
            "/x",
            "=1",
            '"',
            "a\nb",
            "a\0b",
        ]
    ),
    st.text(max_size=6),
)
ROWS = st.lists(st.lists(CELLS, max_size=7).map(",".join), max_size=6).map("\n".join)


def read_folder(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "split.csv").write_bytes(data)
        with said():
            table = read_split(Path(place) / "split.csv")
            assert (table.loc[table["split"] != "train", "label"] != "").all()
            assert (
                table["case"].is_unique
                and not table[["case", "patient", "split", "image"]].isna().any().any()
            )
            written = table[["case", "patient"]].to_csv(index=False)
            again = pd.read_csv(io.StringIO(written), dtype=str)
            assert again.equals(table[["case", "patient"]].astype(again.dtypes.to_dict()))
        with said() as sentences:
            Folder(Path(place), FolderConfig(targets={"a": 1}))
        assert sentences  # There are no images.


@fuzzed(150)
@given(damage=damages())
def test_damaged_split(damage: Any) -> None:
    read_folder(damage(GOOD_SPLIT.encode()))


@fuzzed(150)
@given(
    head=st.sampled_from(
        ["case,split", "case,split,patient,labelled,image,label", "", "case,case,split,image,x"]
    ),
    rows=ROWS,
)
def test_any_split(head: str, rows: str) -> None:
    read_folder(f"{head}\n{rows}".encode("utf-8", "replace"))


# --- NIfTI -------------------------------------------------------------------------------------------------

HEADER = nibabel.Nifti1Header()
AFFINE = np.diag([-0.7, -0.8, 3.0, 1.0])


def nifti_bytes(array: np.ndarray, affine: np.ndarray = AFFINE, extension: bytes = b"") -> bytes:
    image = nibabel.Nifti1Image(array.T, affine)
    if extension:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", extension))
    return image.to_bytes()


def read_volume_bytes(data: bytes, *, straighten: bool, name: str = "a.nii") -> list[str]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / name
        path.write_bytes(data)
        with said() as sentences, np.errstate(all="ignore"):
            voxels, spacing, affine = read_nifti(path, straighten)
            assert voxels.ndim == 3 and voxels.size and len(spacing) == 3
            assert all(np.isfinite(s) and s > 0 for s in spacing) and np.isfinite(affine).all()
            assert voxels.dtype.kind in "iuf" and np.isfinite(voxels).all()
            shares = windowed(voxels, (-100.0, 300.0))
            assert shares.dtype == np.uint16
            with said():
                found = classes(voxels, {1: 1, 2: 2, 5: 3}, path)
                assert found.dtype == np.uint8 and found.max() <= 3
            shares = scaled(voxels, str(path))
            assert shares.dtype == np.float32 and shares.min() == 0 and shares.max() == 1
    return sentences


VOXELS = (np.arange(60).reshape(SHAPE) % 3).astype(np.int16)


@fuzzed(80)
@given(
    damage=damages(),
    packed=st.sampled_from(["plain", "inside", "outside"]),
    extension=st.booleans(),
    straighten=st.booleans(),
    kind=st.sampled_from(["i2", "u1", "f4", "f8"]),
)
def test_damaged_nifti(damage: Any, packed: str, extension: bool, straighten: bool, kind: str) -> None:
    data = nifti_bytes(VOXELS.astype(kind), extension=b"hello" * 9 if extension else b"")
    if packed == "plain":
        data = damage(data)
    elif packed == "inside":
        data = gzip.compress(damage(data), mtime=0)
    else:
        data = damage(gzip.compress(data, mtime=0))
    read_volume_bytes(data, straighten=straighten)


FIELDS = sorted(HEADER.template_dtype.fields)
WILD = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -1,
            2,
            3,
            7,
            127,
            -128,
            32767,
            -32768,
            2**31 - 1,
            1e38,
            -1e38,
            1e-38,
            0.5,
            np.nan,
            np.inf,
            -np.inf,
        ]
    ),
    st.integers(-(2**15), 2**15 - 1),
    st.floats(width=32),
)


@fuzzed(200)
@given(
    changes=st.lists(st.tuples(st.sampled_from(FIELDS), st.integers(0, 7), WILD), min_size=1, max_size=4),
    straighten=st.booleans(),
    kind=st.sampled_from(["i2", "u1", "f4", "f8"]),
)
def test_any_nifti_header(changes: list[tuple[str, int, float]], straighten: bool, kind: str) -> None:
    """A field of the header that holds anything: dimensions, type, spacing, scale, affine, offset."""
    data = bytearray(nifti_bytes(VOXELS.astype(kind)))
    header = np.frombuffer(data, HEADER.template_dtype, 1)
    for field, place, value in changes:
        dtype, size = header.dtype[field].base, max(int(np.prod(header.dtype[field].shape)), 1)
        if dtype.kind == "S":
            continue
        with np.errstate(all="ignore"):
            number = np.float64(value)
            cast = number.astype(dtype) if np.isfinite(number) or dtype.kind == "f" else dtype.type(0)
        header[field].reshape(-1)[place % size] = cast
    read_volume_bytes(bytes(data), straighten=straighten)


# --- npz as TransUNet has it -------------------------------------------------------------------------------


def npz_bytes(**members: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def transunet(tmp_path_factory: pytest.TempPathFactory) -> SynapseTransUNet:
    folder = tmp_path_factory.mktemp("transunet")
    (folder / "train_npz").mkdir()
    (folder / "test_vol_h5").mkdir()
    for patient, part in split().items():
        if part == "train":
            (folder / "train_npz" / f"{patient}_slice000.npz").write_bytes(b"")
        else:
            (folder / "test_vol_h5" / f"{patient}.npy.h5").write_bytes(b"")
    return SynapseTransUNet(folder)


def read_transunet(reader: SynapseTransUNet, data: bytes) -> list[str]:
    item = reader.training_items()[0]
    reader.slices[item][0].write_bytes(data)
    with said() as sentences:
        (found,) = reader.read_training(item)
        assert found.label is not None
        check_arrays(found.image, found.label, 2, 8)
    return sentences


@fuzzed(100)
@given(damage=damages(), squeezed=st.booleans())
def test_damaged_npz(transunet: SynapseTransUNet, damage: Any, squeezed: bool) -> None:
    """A changed byte of the data is found by the checksum, so that what is read is what was written."""
    image, label = image_and_label(SHAPE[1:])
    buffer = io.BytesIO()
    (np.savez_compressed if squeezed else np.savez)(buffer, image=image, label=label)
    item = transunet.training_items()[0]
    if not read_transunet(transunet, damage(buffer.getvalue())):
        (found,) = transunet.read_training(item)
        assert np.array_equal(found.image, image) and np.array_equal(found.label, label)


@fuzzed(120)
@given(image=arrays(), label=arrays())
def test_npz_of_any_shape_and_type(transunet: SynapseTransUNet, image: np.ndarray, label: np.ndarray) -> None:
    read_transunet(transunet, npz_bytes(image=image, label=label))


# --- archives and packs ------------------------------------------------------------------------------------

FILES = {"a/x.nii": b"data" * 99, "a/y.list": b"p1\np2\n", "z.h5": bytes(range(256)) * 3}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@fuzzed(120)
@given(kind=st.sampled_from(["zip", "tar", "tar.gz"]), damage=damages())
def test_damaged_archives(kind: str, damage: Any) -> None:
    """What comes out has the bytes that went in, where the kind has checksums, and lies within the folder."""
    with tempfile.TemporaryDirectory() as place:
        outer = Path(place) / "deep"
        outer.mkdir()
        path = packed(outer / "a", kind, list(FILES.items()))
        path.write_bytes(damage(path.read_bytes()))
        with said():
            unpack(path, outer / "out", lambda _: True)
            found = contents(outer / "out")
            assert found and len(found) <= 2 * len(FILES)
            if kind != "tar":
                assert set(found.values()) <= set(FILES.values())
        assert {p.name for p in outer.iterdir()} <= {"a", "out"} and list(Path(place).iterdir()) == [outer]


@pytest.fixture(scope="module")
def parts(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A small prepared dataset as a pack of two parts."""
    folder = tmp_path_factory.mktemp("pack")
    for name in (*PACKED, "source.json"):
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / name).write_bytes((phantom / name).read_bytes())
    (whole,) = pack(folder / "data", folder / "p", 1)
    data = whole.read_bytes()
    return [data[: len(data) // 2], data[len(data) // 2 :]]


@fuzzed(120)
@given(damage=damages(), which=st.integers(0, 1))
def test_damaged_packs(parts: list[bytes], phantom: Path, damage: Any, which: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        paths = []
        for number, part in enumerate(parts):
            paths.append(Path(place) / f"p.{number:03d}")
            paths[-1].write_bytes(damage(part) if number == which else part)
        with said():
            assert described(paths, ["phantom"])["dataset"] == "phantom"
        with said():
            unpack_pack(paths, Path(place) / "deep" / "out")
            for name, data in contents(Path(place) / "deep" / "out").items():
                assert data == (phantom / name).read_bytes()
        assert {p.name for p in Path(place).iterdir()} <= {"p.000", "p.001", "deep"}


@fuzzed(80)
@given(
    names=st.lists(
        st.sampled_from(
            [
                "source.json",
                "images.npy",
                "../x",
                "/x",
                "a/../../x",
                "a\\x",
                "cases",
                "cases/x",
                "",
                ".",
                "x" * 300,
            ]
        )
        | st.text(max_size=6),
        max_size=4,
        unique=True,
    ),
    value=JSON,
)
def test_packs_of_any_names(names: list[str], value: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "1" / "2" / "p.000"
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                info = zipfile.ZipInfo("x")
                info.filename = name.encode("utf-8", "replace").decode()
                archive.writestr(info, json.dumps(value))
        with said():
            described([path], ["phantom"])
        with said():
            unpack_pack([path], path.parent / "out")
        assert {p.name for p in path.parent.iterdir()} <= {"p.000", "out"}
        assert [p.name for p in Path(place).rglob("*")][:2] == ["1", "2"]


# --- prepared datasets -------------------------------------------------------------------------------------

PREPARED = ("images.npy", "labels.npy", "manifest.csv", "cases.csv", "source.json", "cases/test000.npz")


def check_prepared(folder: Path) -> None:
    """Whatever is in the folder, its readers give what they promise or say a sentence."""
    with said(), np.errstate(all="ignore"):
        slices = load_slices(folder)
        assert slices.images.dtype == np.uint16 and slices.labels.dtype == np.uint8
        assert slices.images.ndim == 3 and slices.images.shape == slices.labels.shape and slices.images.size
        assert all(isinstance(t, str) for t in slices.targets)
        labels = slices.labels[slices.labels != 255]
        assert labels.max(initial=0) < slices.classes
        found = [slices.labelled_indices(1), slices.unlabelled_indices(1)]
        assert sum(map(len, found)) == len(slices.images)
        assert not (slices.labels[found[0]] == 255).any()
    with said():
        for case in (*list_cases(folder, "test"), *list_cases(folder, "val")):
            assert isinstance(case, str)
            known = load_case(folder, case)
            assert known.image.ndim == 3 and known.image.shape == known.label.shape
            assert known.image.dtype == np.float32 and known.label.dtype == np.uint8
            assert np.isfinite(known.image).all() and known.image.min() >= 0 and known.image.max() <= 1
            assert known.spacing is None or all(0 < s < np.inf for s in known.spacing)


@contextmanager
def changed(folder: Path, name: str, data: bytes) -> Iterator[None]:
    before = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(data)
        yield
    finally:
        (folder / name).write_bytes(before)


@pytest.fixture(scope="module")
def prepared(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the prepared phantom with small files, to damage in place."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "cases").mkdir()
    for name in ("source.json", "manifest.csv", "cases.csv"):
        (folder / name).write_bytes((phantom / name).read_bytes())
    for name in ("images.npy", "labels.npy"):
        np.save(folder / name, np.load(phantom / name)[:, ::8, ::8])
    for path in (phantom / "cases").iterdir():
        with np.load(path) as file:
            np.savez(
                folder / "cases" / path.name,
                image=file["image"][:2, ::16, ::16],
                label=file["label"][:2, ::16, ::16],
                spacing=file["spacing"],
            )
    source = json.loads((folder / "source.json").read_text())
    source.pop("sizes", None)
    (folder / "source.json").write_text(json.dumps(source))
    check_prepared(folder)
    assert len(load_slices(folder).images) == 48 and list_cases(folder, "test") == ["test000"]
    return folder


@fuzzed(120)
@given(name=st.sampled_from(PREPARED), damage=damages())
def test_damaged_prepared_files(prepared: Path, name: str, damage: Any) -> None:
    with changed(prepared, name, damage((prepared / name).read_bytes())):
        check_prepared(prepared)


@fuzzed(120)
@given(name=st.sampled_from(["images.npy", "labels.npy"]), array=arrays())
def test_stacks_of_any_type(prepared: Path, name: str, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    with changed(prepared, name, buffer.getvalue()):
        check_prepared(prepared)


@fuzzed(120)
@given(image=arrays(), label=arrays(), spacing=arrays(), lost=st.sampled_from(["", "", "image", "spacing"]))
def test_cases_of_any_type(
    prepared: Path, image: np.ndarray, label: np.ndarray, spacing: np.ndarray, lost: str
) -> None:
    members = {"image": image, "label": label, "spacing": spacing}
    members.pop(lost, None)
    with changed(prepared, "cases/test000.npz", npz_bytes(**members)):
        check_prepared(prepared)


@fuzzed(100)
@given(value=JSON, key=st.sampled_from(["", "targets", "sizes", "size"]))
def test_source_of_any_shape(prepared: Path, value: Any, key: str) -> None:
    whole = json.loads((prepared / "source.json").read_text())
    text = json.dumps({**whole, key: value} if key else value)
    with changed(prepared, "source.json", text.encode()):
        check_prepared(prepared)


@fuzzed(100)
@given(
    name=st.sampled_from(["manifest.csv", "cases.csv"]),
    row=st.integers(0, 60),
    column=st.integers(0, 9),
    value=AWKWARD,
)
def test_tables_with_any_value(prepared: Path, name: str, row: int, column: int, value: Any) -> None:
    table = pd.read_csv(prepared / name, dtype=object, keep_default_na=False)
    table.iloc[row % len(table), column % len(table.columns)] = str(value).encode("utf-8", "replace").decode()
    with changed(prepared, name, table.to_csv(index=False).encode()):
        check_prepared(prepared)
