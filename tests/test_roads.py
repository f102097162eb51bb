"""Every road from a source to slices, on made files of the true structure: layouts, archives, downloads, damage."""

from __future__ import annotations

import gzip
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

from cgs.data.nifti import read_nifti
from cgs.data.pack import pack
from cgs.data.prepare import prepare
from cgs.data.source import SPLITS
from cgs.data.store import UNLABELLED, list_cases, load_case, load_slices
from cgs.data.synapse import TARGETS, VALUES
from cgs.dataset_config import AcdcConfig, FolderConfig, SegthorConfig, SynapseConfig
from cgs.discovery import ROOT
from cgs.errors import SuiteError
from cgs.files import read_json

SHAPE = (3, 20, 24)
SHORT_AXIS = np.array([[0.9, 0.9, 2.0, 0], [-1.1, 0.7, 4.0, 0], [0.4, -0.8, 9.0, 0], [0, 0, 0, 1]])
"""An oblique affine, as that of a heart's short axis."""
SUPINE = np.diag([-0.7, -0.8, 3.0, 1.0])


def splits(name: str) -> dict[str, str]:
    table = pd.read_csv(SPLITS / f"{name}.csv")
    return dict(zip(table["patient"], table["split"], strict=True))


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.T, affine), path)


def made(seed: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 900, SHAPE).astype(np.int16), rng.integers(0, values + 1, SHAPE).astype(np.uint8)


def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# --- ACDC ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def acdc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same hundred patients as the official archive and as SSL4MIS converts it: (official, ssl4mis)."""
    official, other = (tmp_path_factory.mktemp(name) for name in ("official", "ssl4mis"))
    (other / "data" / "slices").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for patient, split in splits("acdc").items():
        number = int(patient[-3:])
        place = official / "training" / patient
        early, late = (4, 11) if number == 90 else (1, 7 + number % 9)
        place.mkdir(parents=True)
        # Patient 90's diastole is the later of its two frames.
        (place / "Info.cfg").write_text(
            f"ED: {late if number == 90 else early}\nES: {early if number == 90 else late}\nGroup: NOR\n"
        )
        for frame, time in enumerate((early, late), start=1):
            image, label = made(1000 * frame + number, 3)
            save(place / f"{patient}_frame{time:02d}.nii.gz", image, SHORT_AXIS)
            save(place / f"{patient}_frame{time:02d}_gt.nii.gz", label, SHORT_AXIS)
            shares = ((image - image.min()) / (image.max() - image.min())).astype(np.float32)
            case = f"{patient}_frame{frame:02d}"
            slices = [f"{case}_slice_{z}" for z in range(len(image))]
            lists[split] += [case] if split != "train" else slices
            if split != "train":
                with h5py.File(other / "data" / f"{case}.h5", "w") as file:
                    file["image"], file["label"] = shares, label
            for z, name in enumerate(slices if split == "train" else []):
                with h5py.File(other / "data" / "slices" / f"{name}.h5", "w") as file:
                    file["image"], file["label"] = shares[z], label[z]
    for split, name in (("train", "train_slices"), ("val", "val"), ("test", "test")):
        (other / f"{name}.list").write_text("\n".join(lists[split]))
    (official / "testing" / "patient101").mkdir(parents=True)  # The benchmark does not use it.
    return official, other


def test_both_layouts_of_acdc_are_the_same_slices(acdc: tuple[Path, Path], tmp_path: Path) -> None:
    for name, folder in zip(("official", "ssl4mis"), acdc, strict=True):
        prepare("acdc", AcdcConfig(path=folder, size=32), tmp_path / name, 1)
    for file in ("images.npy", "labels.npy", "manifest.csv"):
        assert (tmp_path / "official" / file).read_bytes() == (tmp_path / "ssl4mis" / file).read_bytes()
    slices = load_slices(tmp_path / "official")
    assert len(slices.images) == 140 * SHAPE[0]
    assert slices.manifest["patient"].drop_duplicates()[:3].tolist() == [
        "patient099",
        "patient038",
        "patient050",
    ]
    cases = [c for split in ("val", "test") for c in list_cases(tmp_path / "official", split)]
    assert cases == [c for split in ("val", "test") for c in list_cases(tmp_path / "ssl4mis", split)]
    assert len(cases) == 60
    for case in cases[::7]:
        one, two = (load_case(tmp_path / name, case) for name in ("official", "ssl4mis"))
        assert np.array_equal(one.label, two.label) and np.array_equal(one.image, two.image)
        assert two.spacing is None and one.spacing == pytest.approx(
            np.linalg.norm(SHORT_AXIS[:3, :3], axis=0)[::-1], rel=1e-6
        )


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_read_as_it_is(acdc: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in acdc[1].rglob("*"):
                file.write(path, Path("ACDC") / path.relative_to(acdc[1]))
    else:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(acdc[0], "database")
    prepare("acdc", AcdcConfig(path=archive, size=32), tmp_path / "packed", 1)
    prepare("acdc", AcdcConfig(path=acdc[0], size=32), tmp_path / "plain", 1)
    assert (tmp_path / "packed" / "images.npy").read_bytes() == (
        tmp_path / "plain" / "images.npy"
    ).read_bytes()
    assert not (tmp_path / "packed" / "unpacked").exists()
    assert archive.is_file()


def change(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.write_bytes(how(path.read_bytes()))


def swap_info(place: Path) -> None:
    (place / "Info.cfg").write_text("ED: 1\nES: 30\n")


ACDC_DAMAGE: dict[str, Callable[[Path], object]] = {
    "lacks 1 of the 100 patients, first patient038": shutil.rmtree,
    r"holds 1 labels patient038_frameXX_gt.nii.gz, but two": lambda p: next(p.glob("*_gt*")).unlink(),
    r"names the frames \[1, 30\] as ED and ES": swap_info,
    "is damaged or no NIfTI file": lambda p: change(next(p.glob("*_gt*")), lambda b: b[: len(b) // 2]),
    "is damaged or no NIfTI": lambda p: change(next(p.glob("*_gt*")), lambda b: b[:-8] + b"\0" * 8),
    "the label 4 is not among 0 to 3": lambda p: save(
        next(p.glob("*_gt*")), made(1, 3)[1] + np.uint8(1), SHORT_AXIS
    ),
    r"the label 0\.5 is not among": lambda p: save(
        next(p.glob("*_gt*")), made(1, 1)[1] * np.float32(0.5), SHORT_AXIS
    ),
    "lie differently in space": lambda p: save(next(p.glob("*_gt*")), made(1, 3)[1], SUPINE),
    "all intensities are 7": lambda p: [
        save(f, np.full(SHAPE, 7, np.int16), SHORT_AXIS) for f in p.glob("*frame??.nii.gz")
    ],
    "but one volume of three dimensions": lambda p: [
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 5), np.int16), SHORT_AXIS), f)
        for f in p.glob("*frame??.nii.gz")
    ],
}


@pytest.mark.parametrize("sentence", ACDC_DAMAGE)
def test_damage_to_official_acdc_is_one_sentence(
    acdc: tuple[Path, Path], tmp_path: Path, sentence: str
) -> None:
    for patient in (acdc[0] / "training").iterdir():
        (tmp_path / patient.name).symlink_to(patient)
    (tmp_path / "patient038").unlink()
    shutil.copytree(acdc[0] / "training" / "patient038", tmp_path / "patient038")
    ACDC_DAMAGE[sentence](tmp_path / "patient038")
    with pytest.raises(SuiteError, match=sentence) as caught:
        prepare("acdc", AcdcConfig(path=tmp_path, size=32), tmp_path / "out", 1)
    assert str(caught.value).count(". ") == 0
    assert not (tmp_path / "out" / "source.json").exists()


def test_what_a_user_without_files_is_told(tmp_path: Path) -> None:
    for config in (AcdcConfig(), SegthorConfig(), SynapseConfig(), AcdcConfig(path=tmp_path / "nowhere")):
        with pytest.raises(SuiteError) as caught:
            prepare("x", config, tmp_path / "out")
        assert "x" in str(caught.value)
    with pytest.raises(SuiteError, match=r"neither train_slices\.list"):
        prepare("x", AcdcConfig(path=tmp_path), tmp_path / "out")
    with pytest.raises(SuiteError, match=r"neither img/ and label/"):
        prepare("x", SynapseConfig(path=tmp_path), tmp_path / "out")


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgs.data.nifti.LARGEST", 10_000)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(SuiteError, match="more than the 10,000 bytes"):
        read_nifti(tmp_path / "a.nii.gz")


# --- Synapse ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same thirty patients as the official archive and as TransUNet's files: (official, transunet)."""
    official, other = (tmp_path_factory.mktemp(name) for name in ("btcv", "transunet"))
    (other / "train_npz").mkdir()
    (other / "test_vol_h5").mkdir()
    lut = np.array([VALUES.get(v, 0) for v in range(14)], np.uint8)
    for patient, split in splits("synapse").items():
        number = int(patient[-4:])
        image, label = made(number, 13)
        image = (image * 2 - 900).astype(np.int16)
        for kind, array in (("img", image), ("label", label)):
            save(
                official / "RawData" / "Training" / kind / f"{kind}{number:04d}.nii.gz",
                array[:, ::-1],
                SUPINE * [1, -1, 1, 1],
            )
        shares = ((image.clip(-125, 275) + 125) / 400).astype(np.float32)
        if split == "test":
            with h5py.File(other / "test_vol_h5" / f"{patient}.npy.h5", "w") as file:
                file["image"], file["label"] = shares, lut[label].astype(np.float32)
        for z in range(SHAPE[0] if split == "train" else 0):
            np.savez(
                other / "train_npz" / f"{patient}_slice{z:03d}.npz",
                image=shares[z],
                label=lut[label[z]].astype(np.float32),
            )
    (official / "RawData" / "Testing" / "img").mkdir(parents=True)
    return official, other


def test_both_layouts_of_synapse(synapse: tuple[Path, Path], tmp_path: Path) -> None:
    """A flipped axis of the NIfTI files is undone; both layouts then give the same slices."""
    for name, folder in zip(("official", "transunet"), synapse, strict=True):
        prepare("synapse", SynapseConfig(path=folder, size=32), tmp_path / name, 1)
    one, two = (load_slices(tmp_path / name) for name in ("official", "transunet"))
    assert one.manifest.equals(two.manifest) and len(one.images) == 18 * SHAPE[0]
    assert np.array_equal(one.labels, two.labels)
    assert np.abs(one.images.astype(int) - two.images.astype(int)).max() <= 1  # They store float32.
    assert one.targets == TARGETS and len(TARGETS) == 8 and one.labels.max() == 8
    assert one.manifest["case"].drop_duplicates()[:3].tolist() == ["case0031", "case0007", "case0009"]
    assert list_cases(tmp_path / "official", "val") == []
    case = list_cases(tmp_path / "official", "test")[0]
    assert case == "case0008"
    first, second = (load_case(tmp_path / name, case) for name in ("official", "transunet"))
    assert np.array_equal(first.label, second.label)
    assert first.spacing == pytest.approx((3.0, 0.8, 0.7)) and second.spacing is None
    _, label = made(8, 13)
    assert np.array_equal(first.label == 1, label == 8), "the aorta is 8 in the official files and 1 here"
    assert not first.label[np.isin(label, (5, 9, 10, 12, 13))].any()


@pytest.mark.parametrize("layout", ["official", "transunet"])
def test_cases_of_synapse_that_no_list_names_are_left_out(
    synapse: tuple[Path, Path], tmp_path: Path, layout: str
) -> None:
    """The archive's own test patients have no label; TransUNet's copies may come with more than its lists name."""
    folder = synapse[layout == "transunet"]
    more = tmp_path / "more"
    shutil.copytree(folder, more)
    if layout == "official":
        image, label = made(61, 13)
        save(more / "RawData/Testing/img/img0061.nii.gz", image, SUPINE)
        save(more / "RawData/Training/img/img0041.nii.gz", image, SUPINE)
        save(more / "RawData/Training/label/label0041.nii.gz", label, SUPINE)
    else:
        shutil.copy(more / "train_npz/case0007_slice000.npz", more / "train_npz/case0041_slice000.npz")
        shutil.copy(more / "test_vol_h5/case0008.npy.h5", more / "test_vol_h5/case0041.npy.h5")
    for name, place in (("plain", folder), ("extra", more)):
        prepare("synapse", SynapseConfig(path=place, size=32), tmp_path / name, 1)
    for name in ("images.npy", "labels.npy", "manifest.csv", "cases.csv", "audit.json", "source.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "extra" / name).read_bytes(), name


SYNAPSE_DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "lacks 1 of 60 files, first label/label0007.nii.gz": lambda o, t: (
        o / "RawData/Training/label/label0007.nii.gz"
    ).unlink(),
    "the label 14 is not among 0 to 13": lambda o, t: save(
        o / "RawData/Training/label/label0007.nii.gz", np.full(SHAPE, 14, np.uint8), SUPINE * [1, -1, 1, 1]
    ),
    "lacks slice 1 of case0007": lambda o, t: (t / "train_npz/case0007_slice001.npz").unlink(),
    "holds no slices case0007_sliceXXX.npz": lambda o, t: [
        f.unlink() for f in (t / "train_npz").glob("case0007*")
    ],
    "is damaged or no npz file": lambda o, t: change(
        t / "train_npz/case0007_slice001.npz", lambda b: b[: len(b) // 2]
    ),
    "has no array 'image' or 'label'": lambda o, t: np.savez(
        t / "train_npz/case0007_slice001.npz", image=np.zeros((4, 4))
    ),
    r"label values \[9\] are not among 0 to 8": lambda o, t: np.savez(
        t / "train_npz/case0007_slice001.npz", image=np.zeros((4, 4)), label=np.full((4, 4), 9)
    ),
    "must be scaled to": lambda o, t: np.savez(
        t / "train_npz/case0007_slice001.npz", image=np.full((4, 4), 40.0), label=np.zeros((4, 4))
    ),
    "is damaged or no npz": lambda o, t: np.savez(
        t / "train_npz/case0007_slice001.npz", image=np.array([{}], object), label=np.zeros((4, 4))
    ),
    "lacks 1 of 12 files, first test_vol_h5/case0008.npy.h5": lambda o, t: (
        t / "test_vol_h5/case0008.npy.h5"
    ).unlink(),
    "is damaged or no HDF5 file": lambda o, t: (t / "test_vol_h5/case0008.npy.h5").write_bytes(b"junk"),
}


@pytest.mark.parametrize("sentence", SYNAPSE_DAMAGE)
def test_damage_to_synapse_is_one_sentence(synapse: tuple[Path, Path], tmp_path: Path, sentence: str) -> None:
    copies = [shutil.copytree(folder, tmp_path / name) for name, folder in zip("ot", synapse, strict=True)]
    SYNAPSE_DAMAGE[sentence](*copies)
    with pytest.raises(SuiteError, match=sentence):
        for folder in copies:
            prepare("synapse", SynapseConfig(path=folder, size=32), tmp_path / "out", 1)


def test_a_token_without_the_client_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "secret")
    monkeypatch.setitem(sys.modules, "synapseclient", None)
    with pytest.raises(SuiteError, match="synapseclient is not installed"):
        prepare("synapse", SynapseConfig(), tmp_path / "out", 1, tmp_path / "downloads")


def test_the_client_fetches_the_archive(
    synapse: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for synapseclient with the calls that are used; the real one needs an account."""
    archive = tmp_path / "RawData.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in synapse[0].rglob("*"):
            file.write(path, path.relative_to(synapse[0]))
    stand_in = tmp_path / "modules" / "synapseclient"
    (stand_in / "core").mkdir(parents=True)
    (stand_in / "core" / "__init__.py").touch()
    (stand_in / "core" / "exceptions.py").write_text("class SynapseError(Exception): pass\n")
    (stand_in / "__init__.py").write_text(
        "import shutil, types\n"
        "from synapseclient.core.exceptions import SynapseError\n"
        "class Synapse:\n"
        "    def __init__(self, silent): pass\n"
        "    def login(self, authToken, silent):\n"
        "        if authToken != 'right': raise SynapseError(f'no entry with {authToken}')\n"
        "    def get(self, entity, downloadLocation, ifcollision):\n"
        "        assert entity == 'syn3379050'\n"
        f"        shutil.copy({str(archive)!r}, downloadLocation)\n"
        "        return types.SimpleNamespace(path=downloadLocation + '/RawData.zip')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "wrong")
    with pytest.raises(SuiteError, match=r"no entry with \*\*\*"):
        prepare("synapse", SynapseConfig(size=32), tmp_path / "out", 1, tmp_path / "downloads")
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "right")
    prepare("synapse", SynapseConfig(size=32), tmp_path / "out", 1, tmp_path / "downloads")
    assert len(load_slices(tmp_path / "out").images) == 18 * SHAPE[0]


# --- Your own folder -------------------------------------------------------------------------------------


def own_folder(folder: Path, rows: list[str], header: str = "case,split,patient,labelled") -> FolderConfig:
    """Every case that is named gets an image and a label with the values 0, 3 and 7."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "split.csv").write_text("\n".join([header, *rows]))
    for number, case in enumerate(row.split(",")[0] for row in rows):
        image, label = made(number, 2)
        save(folder / "images" / f"{case}.nii.gz", image, SUPINE)
        save(folder / "labels" / f"{case}.nii.gz", np.array([0, 3, 7], np.uint8)[label], SUPINE)
    return FolderConfig(path=folder, targets={"duct": 7, "cyst": 3}, size=32, labelled=(1,))


ROWS = ["a1,train,a,", "a2,train,a,", "b,train,,no", "c,train,,yes", "d,test,,"]


def test_own_folder(tmp_path: Path) -> None:
    config = own_folder(tmp_path / "own", ROWS)
    (tmp_path / "own" / "labels" / "b.nii.gz").unlink()
    prepare("own", config, tmp_path / "out", 2)
    slices = load_slices(tmp_path / "out")
    assert slices.targets == ("duct", "cyst")
    assert slices.manifest.groupby("patient")["labelled_rank"].first().to_dict() == pytest.approx(
        {"a": 1, "b": np.nan, "c": 2}, nan_ok=True
    )
    assert len(slices.labelled_indices(1)) == 2 * SHAPE[0] and len(slices.labelled_indices("all")) == 9
    assert len(slices.unlabelled_indices(1)) == 2 * SHAPE[0]
    unlabelled = slices.labels[slices.manifest["patient"] == "b"]
    assert (unlabelled == UNLABELLED).all()
    with pytest.raises(SuiteError, match="3 labelled patients are asked for but the dataset has 2"):
        slices.labelled_indices(3)
    image, label = made(0, 2)
    assert np.array_equal(slices.labels[0] == 1, nearest(label[0] == 2))
    low, high = int(image.min()), int(image.max())
    assert slices.images[0] == pytest.approx(
        nearest(np.round((image[0] - low) / (high - low) * 65535)), abs=1
    )
    audit = read_json(tmp_path / "out" / "audit.json")
    assert any("3 training slices have no label" in f["sentence"] for f in audit["findings"])


def nearest(array: np.ndarray) -> np.ndarray:
    from cgs.data.store import resize_nearest

    return resize_nearest(array, (32, 32))


def test_a_label_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    """Of the same size and directions: every slice would get the label of another one."""
    config = own_folder(tmp_path / "own", ROWS)
    _, label = made(0, 2)
    moved = SUPINE.copy()
    for shift, sentence in ((0.1, None), (12.0, r"begin \(0\.0, 0\.0, -12\.0\) mm apart in space")):
        moved[2, 3] = SUPINE[2, 3] + shift
        save(tmp_path / "own/labels/a1.nii.gz", np.array([0, 3, 7], np.uint8)[label], moved)
        with pytest.raises(SuiteError, match=sentence) if sentence else nullcontext():
            prepare("own", config, tmp_path / "out", 1)


def test_other_content_of_the_same_size_is_another_dataset(tmp_path: Path) -> None:
    """A training that took it for the same would keep its weights and be scored against other labels."""
    config = own_folder(tmp_path / "own", ROWS)

    def source() -> dict[str, Any]:
        prepare("own", config, tmp_path / "out", 1)
        return dict(read_json(tmp_path / "out" / "source.json"))

    first = source()
    assert source() == first, "the same files give the same"
    swapped = FolderConfig(**config.model_dump() | {"targets": {"duct": 3, "cyst": 7}})
    prepare("own", swapped, tmp_path / "swapped", 1)
    second = read_json(tmp_path / "swapped" / "source.json")
    assert second["sizes"] == first["sizes"]
    assert {k for k, v in first["digests"].items() if second["digests"][k] != v} == {"labels.npy", "cases"}
    image, _ = made(4, 2)
    save(tmp_path / "own/images/d.nii.gz", image[::-1].copy(), SUPINE)
    third = source()
    assert {k for k, v in first["digests"].items() if third["digests"][k] != v} == {"cases"}


def test_what_a_killed_attempt_left_is_removed_and_not_packed(tmp_path: Path) -> None:
    config, out = own_folder(tmp_path / "own", ROWS), tmp_path / "out"

    def leave() -> None:
        (out / ".unpacked.123.tmp" / "deep").mkdir(parents=True)
        (out / ".unpacked.123.tmp" / "deep" / "volume.nii").write_bytes(b"raw")
        (out / "unpacked").mkdir(exist_ok=True)
        (out / ".images.123.tmp.npy").write_bytes(b"half")

    leave()
    prepare("own", config, out, 1)
    assert sorted(p.name for p in out.iterdir()) == [
        *("audit.json", "cases", "cases.csv", "images.npy", "labels.npy", "manifest.csv", "source.json"),
    ]
    (tmp_path / "own.pack.001").write_bytes(b"of a larger one")
    whole = [part.read_bytes() for part in pack(out, tmp_path / "own.pack", 60)]
    leave()
    assert [part.read_bytes() for part in pack(out, tmp_path / "own.pack", 60)] == whole
    assert [p.name for p in tmp_path.glob("own.pack.*")] == ["own.pack.000"]


def test_other_labels_and_slices_with_targets(tmp_path: Path) -> None:
    config = own_folder(tmp_path / "own", ["a,train,,", "d,test,,"])
    _, label = made(0, 2)
    label[0] = 0
    label[1] = 2
    save(tmp_path / "own/labels/a.nii.gz", np.array([0, 3, 900], np.int16)[label], SUPINE)
    with pytest.raises(SuiteError, match="the label 900 is not among 0, 3, 7"):
        prepare("own", config, tmp_path / "out", 1)
    values = config.model_dump() | {"other_labels": "background", "slices": "with targets"}
    prepare("own", FolderConfig(**values), tmp_path / "out", 1)
    slices = load_slices(tmp_path / "out")
    assert slices.manifest["slice"].tolist() == ["a_slice002"]
    assert np.array_equal(slices.labels[0], nearest((label[2] == 1) * 2))


@pytest.mark.parametrize(
    "rows, sentence",
    [
        (["../a,train,,", "d,test,,"], r"line 2: the case '\.\./a' must be letters"),
        (["a,train,,", "a,test,,"], "the case a stands there twice"),
        (["a,training,,", "d,test,,"], "line 2: split is 'training'"),
        (["a,train,,", "d,test,,no"], "the test case d needs a label"),
        (["a,train,p,", "d,test,p,"], "the patient p is in more than one split"),
        (["a,train,p,", "b,train,p,no", "d,test,,"], "the patient p is labelled in part"),
        (["a,train,,no", "d,test,,"], "at least one labelled train case"),
        (["a,train,,"], "one test case"),
        ([], "needs the columns case and split"),
    ],
)
def test_a_list_that_makes_no_sense_is_one_sentence(tmp_path: Path, rows: list[str], sentence: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "split.csv").write_text("\n".join(["case,split,patient,labelled", *rows]))
    config = FolderConfig(path=folder, targets={"duct": 7}, size=32)
    with pytest.raises(SuiteError, match=sentence):
        prepare("own", config, tmp_path / "out", 1)


def test_files_of_a_list_must_lie_within_the_folder(tmp_path: Path) -> None:
    config = own_folder(tmp_path / "own", ["a,train,,", "d,test,,"])
    (tmp_path / "own/split.csv").write_text("case,split,image\na,train,/etc/passwd\nd,test,\n")
    with pytest.raises(SuiteError, match="paths within the folder"):
        prepare("own", config, tmp_path / "out", 1)
    (tmp_path / "own/split.csv").write_text("case,split\na,train\ne,test\n")
    with pytest.raises(SuiteError, match=r"needs images/e\.nii\.gz for the case e"):
        prepare("own", config, tmp_path / "out", 1)


# --- From an address to the report -----------------------------------------------------------------------


def test_from_download_to_report(synapse: tuple[Path, Path], tmp_path: Path) -> None:
    """SegTHOR and Synapse from a server: downloaded, checked, unpacked, trained, scored, rendered."""
    server = tmp_path / "server"
    server.mkdir()
    for patient in splits("segthor"):
        image, label = made(int(patient[-2:]), 4)
        save(server / "train" / patient / f"{patient}.nii.gz", image, SUPINE)
        save(server / "train" / patient / "GT.nii.gz", label, SUPINE)
    with tarfile.open(server / "segthor.tar.gz", "w:gz") as tar:
        tar.add(server / "train", "train")
    with zipfile.ZipFile(server / "synapse.zip", "w") as file:
        for path in synapse[0].rglob("*"):
            file.write(path, path.relative_to(synapse[0]))
    for address in served(server):
        config = {
            "name": "roads",
            "datasets": {
                "segthor": {"kind": "segthor", "size": 32, "url": f"{address}/segthor.tar.gz"},
                "synapse": {"kind": "synapse", "size": 32, "url": f"{address}/synapse.zip"},
            },
            "methods": ["cgs", "labelled-only"],
            "seeds": [0],
            "network": {"width": 4},
            "training": {
                "iterations": 6,
                "labelled_batch": 2,
                "unlabelled_batch": 2,
                "validate_every": 3,
                "device": "cpu",
            },
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "-s", str(ROOT / "Snakefile")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--configfile", "config.yaml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    main = pd.read_csv(tmp_path / "results/roads/tables/main.csv")
    assert set(main["dataset"]) == {"segthor", "synapse"} and (main["failed"] == 0).all()
    for name in ("segthor/segthor.tar.gz", "synapse/synapse.zip"):
        file = tmp_path / "results/downloads" / name
        assert file.name in read_json(file.with_name("checksums.json")), "recorded on first use"
    report = (tmp_path / "reports/roads/index.html").read_text()
    assert "gallbladder" in report and "esophagus" in report
