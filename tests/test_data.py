"""Datasets: SSL4MIS folders good and bad, the phantom, the audit, the prepared folder."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage
from test_goldens import golden

from cgs.data.audit import labelled_balance
from cgs.data.phantom import draw_patient
from cgs.data.prepare import by_number, prepare
from cgs.data.store import list_cases, load_case, load_slices, nearest_indices, resize_nearest
from cgs.dataset_config import AcdcConfig, PhantomConfig
from cgs.errors import SuiteError
from cgs.files import read_json

REAL = os.environ.get("CGS_ACDC")


def write_h5(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label


def made_slice(seed: int, shape: tuple[int, ...] = (40, 30)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return ndimage.gaussian_filter(rng.random(shape), 1).astype(np.float32), rng.integers(0, 4, shape).astype(
        np.uint8
    )


@pytest.fixture(params=["nested", "flat"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two training patients of three slices, one validation and one test volume, in either layout."""
    slices = tmp_path / "data" / "slices" if request.param == "nested" else tmp_path / "data"
    names = [f"patient{p:03d}_frame01_slice_{s}" for p in (2, 1) for s in (1, 2, 3)]
    for number, name in enumerate(names):
        write_h5(slices / f"{name}.h5", *made_slice(number))
    for number, name in enumerate(("patient003_frame01", "patient004_frame02"), start=50):
        write_h5(tmp_path / "data" / f"{name}.h5", *made_slice(number, (2, 20, 25)))
    (tmp_path / "train_slices.list").write_text("\n".join(names))
    (tmp_path / "val.list").write_text("patient003_frame01\n")
    (tmp_path / "test.list").write_text("patient004_frame02\n")
    return tmp_path


def prepared(folder: Path, out: Path) -> Path:
    prepare("acdc", AcdcConfig(path=folder, size=32, labelled=(1,)), out)
    return out


def test_the_order_of_slices_within_a_patient_is_their_own(folder: Path, tmp_path: Path) -> None:
    first = load_slices(prepared(folder, tmp_path / "first"))
    listing = folder / "train_slices.list"
    names = listing.read_text().split()
    listing.write_text("\n".join([*names[:3][::-1], *names[3:][::-1]]))
    second = load_slices(prepared(folder, tmp_path / "second"))
    assert first.manifest.equals(second.manifest)
    assert np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)
    assert sorted(["s_10", "s_2", "r_3"], key=by_number) == ["r_3", "s_2", "s_10"]


def slice_file(folder: Path, name: str = "patient002_frame01_slice_2") -> Path:
    return next(folder.rglob(f"{name}.h5"))


def test_both_layouts_are_read(folder: Path, tmp_path: Path) -> None:
    out = prepared(folder, tmp_path / "out")
    slices = load_slices(out)
    assert slices.images.shape == (6, 32, 32)
    assert slices.classes == 4
    assert slices.size == 32
    assert slices.manifest["labelled_rank"].tolist() == [1, 1, 1, 2, 2, 2]  # In list order, not by name.
    assert slices.labelled_indices(1).tolist() == [0, 1, 2]
    assert slices.unlabelled_indices(1).tolist() == [3, 4, 5]
    assert len(slices.labelled_indices("all")) == 6
    image, label = made_slice(1)
    np.testing.assert_allclose(slices.images[1] / 65535, resize_nearest(image, (32, 32)), atol=1e-5)
    assert np.array_equal(slices.labels[1], resize_nearest(label, (32, 32)))
    assert list_cases(out, "val") == ["patient003_frame01"]
    case = load_case(out, "patient004_frame02")
    assert np.array_equal(case.image, made_slice(51, (2, 20, 25))[0])
    assert case.spacing is None


def replace(folder: Path, image: np.ndarray | None = None, label: np.ndarray | None = None) -> None:
    file = slice_file(folder)
    good = made_slice(1)
    file.unlink()
    write_h5(file, good[0] if image is None else image, good[1] if label is None else label)


def spoil_truncated(folder: Path) -> None:
    file = slice_file(folder)
    file.write_bytes(file.read_bytes()[:900])


def spoil_key(folder: Path) -> None:
    with h5py.File(slice_file(folder), "a") as file:
        del file["label"]


BAD = {
    "names patient002_frame01_slice_2 but .* does not exist": lambda f: slice_file(f).unlink(),
    "is damaged or no HDF5 file": spoil_truncated,
    "has no dataset 'image' or 'label'": spoil_key,
    r"label values \[7\] are not among 0 to 3": lambda f: replace(f, label=np.full((40, 30), 7, np.uint8)),
    r"label values \[0.5\]": lambda f: replace(f, label=np.full((40, 30), 0.5)),
    r"label values \[-1\]": lambda f: replace(f, label=np.full((40, 30), -1)),
    "NaN or infinite": lambda f: replace(f, image=np.full((40, 30), np.nan, np.float32)),
    r"intensities lie in \[0, 300\]": lambda f: replace(f, image=np.linspace(0, 300, 1200).reshape(40, 30)),
    "must have the same 2 dimensions": lambda f: replace(f, label=np.zeros((40, 31), np.uint8)),
    "val.list does not exist": lambda f: (f / "val.list").unlink(),
    "test.list is empty": lambda f: (f / "test.list").write_text("\n"),
    "names patient004_frame02 more than once": lambda f: (f / "test.list").write_text(
        "patient004_frame02\n" * 2
    ),
    "patient003_frame01 is also in val.list": lambda f: (f / "test.list").write_text("patient003_frame01"),
}


@pytest.mark.parametrize("sentence", list(BAD))
def test_bad_input_is_one_sentence_and_leaves_no_dataset(folder: Path, tmp_path: Path, sentence: str) -> None:
    out = prepared(folder, tmp_path / "out")
    BAD[sentence](folder)
    with pytest.raises(SuiteError, match=sentence) as info:
        prepared(folder, out)
    assert "\n" not in str(info.value)
    with pytest.raises(SuiteError, match="holds no complete dataset"):
        load_slices(out)


def test_no_path_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="--config heart=PATH"):
        prepare("heart", AcdcConfig(), tmp_path)
    with pytest.raises(SuiteError, match=r"is not at .*nowhere"):
        prepare("heart", AcdcConfig(path=tmp_path / "nowhere"), tmp_path)


def test_an_unwritable_folder_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(SuiteError, match=r"Cannot write .* folder is writable"):
        prepared(folder, blocked / "data")


def test_resize_equals_scipy() -> None:
    assert nearest_indices(216, 256).tolist() == golden("zoom_order0_216_to_256_indices")
    rng = np.random.default_rng(0)
    for _ in range(30):
        n, m = rng.integers(2, 300, 2)
        image = rng.random((n, n))
        expected = ndimage.zoom(image, m / n, order=0)
        ours = resize_nearest(image, (m, m))
        # scipy fills a last row and column with 0 where rounding pushes them outside; ours keeps the pixel.
        assert np.array_equal(ours[:-1, :-1], expected[:-1, :-1])


def test_damaged_slices_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    out = prepared(folder, tmp_path / "out")
    data = (out / "images.npy").read_bytes()
    (out / "images.npy").write_bytes(data[:50])
    with pytest.raises(SuiteError, match="cannot be read"):
        load_slices(out)
    case = next((out / "cases").glob("*.npz"))
    case.write_bytes(case.read_bytes()[:100])
    with pytest.raises(SuiteError, match="cannot be read"):
        load_case(out, case.stem)


# --- Phantom and audit -----------------------------------------------------------------------------------


def test_phantom_is_deterministic_and_unmoved_by_more_patients() -> None:
    image, label = draw_patient(0, "train", 3, 16)
    again, label_again = draw_patient(0, "train", 3, 16)
    assert np.array_equal(image, again)
    assert np.array_equal(label, label_again)
    assert not np.array_equal(image, draw_patient(1, "train", 3, 16)[0])
    assert not np.array_equal(image, draw_patient(0, "test", 3, 16)[0])
    assert image.dtype == np.float32
    assert (image.min(), image.max()) == (0, 1)


def test_phantom_targets_span_two_orders_of_magnitude_and_touch() -> None:
    volumes = []
    for number in range(12):
        label = draw_patient(0, "train", number, 16)[1]
        volumes.append(np.bincount(label.ravel(), minlength=5)[1:])
        large = ndimage.binary_dilation(label == 1)
        assert (large & (label == 2)).any()
        assert (large & (label == 4)).any()
    means = np.mean(volumes, axis=0)
    assert (np.diff(means) < 0).all()
    assert 50 < means[0] / means[3] < 200
    assert np.min(volumes) > 0


def test_audit_finds_a_planted_duplicate_and_a_planted_leak(folder: Path, tmp_path: Path) -> None:
    image, label = made_slice(0)
    write_h5(slice_file(folder, "patient001_frame01_slice_2"), (0.9 * image + 0.02).astype(np.float32), label)
    write_h5(folder / "data" / "patient001_frame02.h5", *made_slice(60, (2, 20, 25)))
    (folder / "test.list").write_text("patient004_frame02\npatient001_frame02\n")
    audit = read_json(prepared(folder, tmp_path / "out") / "audit.json")
    assert [d["patients"] for d in audit["duplicates"]] == [["patient001", "patient002"]]
    assert audit["duplicates"][0]["slices"] == 1
    assert audit["duplicates"][0]["dice_between_labels"] == 1
    assert audit["leaks"] == [{"splits": ["train", "test"], "patients": ["patient001"]}]
    severities = [f["severity"] for f in audit["findings"]]
    assert severities == ["error", "warning", "note"]


def test_audit_finds_empty_and_flat_slices(folder: Path, tmp_path: Path) -> None:
    replace(folder, np.full((40, 30), 0.5, np.float32), np.zeros((40, 30), np.uint8))
    audit = read_json(prepared(folder, tmp_path / "out") / "audit.json")
    assert audit["empty_slices"] == {"count": 1, "of": 6, "examples": ["patient002_frame01_slice_2"]}
    assert audit["intensities"][0]["kind"] == "constant"


def test_balance_counts_by_hand(folder: Path, tmp_path: Path) -> None:
    out = prepared(folder, tmp_path / "out")
    slices = load_slices(out)
    row = labelled_balance(out, [1])[0]
    assert (row["group"], row["target"], row["all_slices"]) == ("labelled 1", "RV", 3)
    assert row["pixels"] == int((slices.labels[:3] == 1).sum())
    assert row["share_of_foreground"] == pytest.approx(
        row["pixels"] / (slices.labels[:3] > 0).sum(), abs=1e-5
    )


def test_phantom_is_clean(phantom: Path) -> None:
    audit = read_json(phantom / "audit.json")
    assert audit["leaks"] == []
    assert audit["duplicates"] == []
    assert load_case(phantom, "test000").spacing == (5.0, 1.5, 1.5)
    assert PhantomConfig().train_patients == 20


@pytest.mark.skipif(not REAL, reason="CGS_ACDC does not name the folder of the real ACDC")
def test_real_acdc(tmp_path: Path) -> None:
    prepare("acdc", AcdcConfig(path=Path(REAL or ""), size=64), tmp_path)
    slices = load_slices(tmp_path)
    assert len(slices.images) == 1312
    assert slices.manifest["patient"].nunique() == 70
    assert [len(slices.labelled_indices(n)) for n in (3, 7)] == [68, 136]
    first = slices.manifest[slices.manifest["labelled_rank"] <= 3]["patient"].unique().tolist()
    assert first == ["patient099", "patient038", "patient050"]
    assert (len(list_cases(tmp_path, "val")), len(list_cases(tmp_path, "test"))) == (20, 40)
    audit = read_json(tmp_path / "audit.json")
    assert [d["patients"] for d in audit["duplicates"]] == [["patient074", "patient076"]]
    assert audit["duplicates"][0]["splits"] == ["train"]
    assert 0.94 < audit["duplicates"][0]["dice_between_labels"] < 0.99
    assert audit["leaks"] == []
