"""SegTHOR from made NIfTI files of the archive's structure, and reading in parallel."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from cgs.config import parse_config
from cgs.data.nifti import read_nifti, windowed
from cgs.data.prepare import prepare
from cgs.data.source import SPLITS
from cgs.data.store import load_case, load_slices, resize_nearest
from cgs.dataset_config import PhantomConfig, SegthorConfig
from cgs.errors import SuiteError
from cgs.files import read_json

SHAPE = (6, 20, 24)  # (D, H, W)
SPACING = (2.5, 0.9, 0.98)
LPS = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
"""Affine of an array (x, y, z) that runs to the left, to posterior, to superior."""


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units int16 and labels; the first and last slice have no target."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1024, 1500, SHAPE).astype(np.int16)
    label = rng.integers(0, 5, SHAPE).astype(np.uint8)
    label[[0, -1]] = 0
    return image, label


def write(path: Path, array: np.ndarray, affine: np.ndarray = LPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segthor")
    for number in range(1, 41):
        image, label = volume(number)
        place = folder / "train" / f"Patient_{number:02d}"
        write(place / f"Patient_{number:02d}.nii.gz", image)
        write(place / "GT.nii.gz", label)
    return folder


def config(path: Path, **values: object) -> SegthorConfig:
    return SegthorConfig(path=path, size=32, labelled=(3,), **values)


def test_the_split_is_the_papers() -> None:
    table = pd.read_csv(SPLITS / "segthor.csv")
    assert table["split"].value_counts().to_dict() == {"train": 28, "test": 8, "val": 4}
    assert table["patient"].is_unique
    assert table["patient"][:3].tolist() == ["Patient_01", "Patient_02", "Patient_03"]


def test_slices_and_cases(archive: Path, tmp_path: Path) -> None:
    prepare("segthor", config(archive), tmp_path, 1)
    slices = load_slices(tmp_path)
    assert len(slices.images) == 28 * (SHAPE[0] - 2), "training slices are those with a target"
    assert slices.targets == ("esophagus", "heart", "trachea", "aorta")
    image, label = volume(1)
    share = (np.clip(image[1].astype(float), -1000, 400) + 1000) / 1400
    assert np.array_equal(slices.images[0], resize_nearest(np.round(share * 65535), (32, 32)))
    assert np.array_equal(slices.labels[0], resize_nearest(label[1], (32, 32)))
    case = load_case(tmp_path, "Patient_07")
    image, label = volume(7)
    assert np.array_equal(case.label, label) and case.image.dtype == np.float32
    assert case.image == pytest.approx((np.clip(image, -1000.0, 400.0) + 1000) / 1400, abs=1e-5)
    assert case.spacing == pytest.approx(SPACING)
    assert read_json(tmp_path / "source.json")["files"] == 80


@pytest.mark.parametrize("kind", ["segthor", "phantom"])
def test_any_number_of_processes_writes_the_same_bytes(archive: Path, tmp_path: Path, kind: str) -> None:
    phantom = PhantomConfig(size=32, train_patients=3, val_patients=1, test_patients=2, slices=8)
    dataset = config(archive) if kind == "segthor" else phantom
    for processes in (1, 2):
        prepare(kind, dataset, tmp_path / str(processes), processes)
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "2") for p in (tmp_path / "2").rglob("*") if p.is_file())
    for name in files:
        if name.suffix != ".npz":  # A zip archive holds the time of writing.
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
        else:
            one, two = (np.load(tmp_path / n / name) for n in ("1", "2"))
            assert all(np.array_equal(one[k], two[k], equal_nan=True) for k in one.files)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_flips_and_permutations_are_undone(
    tmp_path: Path, axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    """The same body stored in another order is the same array, with the spacing of each axis."""
    image, _ = volume(0)
    stored = image.transpose(2, 1, 0).transpose(axes)
    affine = np.eye(4)
    affine[:3, :3] = LPS[:3, :3][:, axes] * flips
    stored = stored[tuple(slice(None, None, f) for f in flips)]
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "a.nii.gz")
    found, spacing, _ = read_nifti(tmp_path / "a.nii.gz")
    assert found.dtype == np.int16 and np.array_equal(found, image)
    assert spacing == pytest.approx(SPACING)


def test_scaled_and_floating_intensities(tmp_path: Path) -> None:
    image, _ = volume(0)
    scaled = nibabel.Nifti1Image(image.transpose(2, 1, 0), LPS)
    scaled.header.set_slope_inter(2.0, -10.0)
    nibabel.save(scaled, tmp_path / "scaled.nii")
    write(tmp_path / "float.nii.gz", image.astype(np.float32))
    assert np.array_equal(read_nifti(tmp_path / "scaled.nii")[0], image * 2.0 - 10)
    window = (-160.0, 240.0)
    plain = windowed(image, window)
    assert np.array_equal(windowed(read_nifti(tmp_path / "float.nii.gz")[0], window), plain)
    assert plain.min() == 0 and plain.max() == 65535


def tilted() -> np.ndarray:
    angle = np.radians(8)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ LPS


def damaged(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def no_spacing(path: Path) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[80:84] = np.float32(0).tobytes()  # pixdim[1]
    path.write_bytes(gzip.compress(bytes(raw)))


BAD: dict[str, Callable[[Path], object]] = {
    "is damaged or no NIfTI file": lambda p: damaged(p / "Patient_01.nii.gz", lambda b: b[: len(b) // 2]),
    r"Patient_01\.nii\.gz is damaged": lambda p: damaged(p / "Patient_01.nii.gz", lambda b: b"junk" * 200),
    "GT.nii.gz does not exist": lambda p: (p / "GT.nii.gz").unlink(),
    "lacks 1 of the 40 patients, first Patient_01": lambda p: p.rename(p.parent / "Patient_41"),
    r"the label 7 is not among 0 to 4": lambda p: write(p / "GT.nii.gz", volume(1)[1] + np.uint8(3)),
    r"the label 0\.5 is not among": lambda p: write(p / "GT.nii.gz", volume(1)[1] * np.float32(0.5)),
    "must have the same size": lambda p: write(p / "GT.nii.gz", volume(1)[1][:3]),
    r"8\.0 degrees off the patient's": lambda p: write(p / "Patient_01.nii.gz", volume(1)[0], tilted()),
    "must hold finite real numbers": lambda p: write(
        p / "Patient_01.nii.gz", np.where(volume(1)[1] > 3, np.nan, 1.0)
    ),
    "but one volume of three dimensions": lambda p: nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), LPS), p / "Patient_01.nii.gz"
    ),
    "mm is not positive; mend its header": lambda p: no_spacing(p / "Patient_01.nii.gz"),
}


@pytest.mark.parametrize("sentence", BAD)
def test_damage_is_one_sentence(archive: Path, tmp_path: Path, sentence: str) -> None:
    for patient in (archive / "train").iterdir():
        (tmp_path / patient.name).mkdir()
        for file in patient.iterdir():
            (tmp_path / patient.name / file.name).write_bytes(file.read_bytes())
    BAD[sentence](tmp_path / "Patient_01")
    with pytest.raises(SuiteError, match=sentence) as caught:
        prepare("segthor", config(tmp_path), tmp_path / "out", 1)
    assert str(caught.value).count(". ") == 0
    assert not (tmp_path / "out" / "source.json").exists()


def test_a_case_that_no_list_names_is_left_out(archive: Path, tmp_path: Path) -> None:
    """The archive holds the challenge's test patients too, without a label; a stray file changes nothing either."""
    prepare("segthor", config(archive), tmp_path / "plain", 1)
    folder = tmp_path / "more"
    folder.mkdir()
    for patient in (archive / "train").iterdir():
        (folder / patient.name).symlink_to(patient)
    image, label = volume(41)
    write(folder / "Patient_41" / "Patient_41.nii.gz", image)
    write(folder / "Patient_42" / "Patient_42.nii.gz", image)
    write(folder / "Patient_42" / "GT.nii.gz", label)
    (folder / "notes.txt").write_text("not a patient")
    prepare("segthor", config(folder), tmp_path / "extra", 1)
    for name in ("images.npy", "labels.npy", "manifest.csv", "cases.csv", "audit.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "extra" / name).read_bytes(), name
    assert read_json(tmp_path / "extra" / "source.json")["files"] == 80


def test_an_error_in_another_process_is_the_same_sentence(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="segthor is not given"):
        prepare("segthor", SegthorConfig(), tmp_path)
    with pytest.raises(SuiteError, match="lacks 40 of the 40 patients"):
        prepare("segthor", config(tmp_path), tmp_path, 2)


def test_a_window_must_rise() -> None:
    values = {"name": "x", "methods": ["cgs"], "datasets": {"s": {"kind": "segthor", "window": [10, -10]}}}
    with pytest.raises(SuiteError, match=r"datasets\.s\.window: the first value must be the smaller one"):
        parse_config(values)
