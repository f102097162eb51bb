"""Reading a prepared dataset: training slices as arrays, test cases as volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.bounds import load_npz
from cgs.dataset_config import check_target, is_safe
from cgs.errors import SuiteError, plain
from cgs.files import DAMAGED, read_csv, read_json

SCALE = 65535
"""Stored intensities are 16-bit integers; divided by this they lie in [0, 1]."""

UNLABELLED = 255
"""Stands for the label of a slice that nobody labelled."""


@dataclass(frozen=True)
class Slices:
    """Training slices at the working size.

    images (N, S, S) uint16, labels (N, S, S) uint8, manifest with a row per slice, names of targets 1..K. A slice
    without a label holds UNLABELLED and has no rank in the manifest.
    """

    images: np.ndarray
    labels: np.ndarray
    manifest: pd.DataFrame
    targets: tuple[str, ...]

    @property
    def classes(self) -> int:
        """C, background included."""
        return len(self.targets) + 1

    @property
    def size(self) -> int:
        return int(self.images.shape[-1])

    def _labelled(self, patients: int | str) -> np.ndarray:
        if patients == "all":
            return self.manifest["labelled_rank"].notna().to_numpy()
        most = int(self.manifest["labelled_rank"].max())
        if not 1 <= int(patients) <= most:
            raise SuiteError(
                f"{patients} labelled patients are asked for but the dataset has {most}; give 1 to {most}."
            )
        return self.manifest["labelled_rank"].to_numpy() <= int(patients)

    def labelled_indices(self, patients: int | str) -> np.ndarray:
        """Rows of the slices of the first `patients` patients of the list, or of "all"."""
        return np.flatnonzero(self._labelled(patients))

    def unlabelled_indices(self, patients: int | str) -> np.ndarray:
        """Rows of all other slices."""
        return np.flatnonzero(~self._labelled(patients))


@dataclass(frozen=True)
class Case:
    """A volume at its native size: image (D, H, W) float32 in [0, 1], label (D, H, W) uint8, spacing in mm."""

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float] | None


def nearest_indices(n_in: int, n_out: int) -> np.ndarray:
    """Source index of each of `n_out` samples: round(i (n_in - 1) / (n_out - 1)), end points aligned."""
    if n_out == 1:
        return np.zeros(1, dtype=np.int64)
    return np.floor(np.arange(n_out) * ((n_in - 1) / (n_out - 1)) + 0.5).astype(np.int64).clip(0, n_in - 1)


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize the last two axes by nearest neighbour with aligned end points.

    As scipy's zoom of order 0, but for the last row and column, which that fills with zeros at some pairs of sizes.
    """
    rows, columns = (nearest_indices(n, m) for n, m in zip(array.shape[-2:], size, strict=True))
    return array[..., rows[:, None], columns]


def _complete(folder: Path) -> dict[str, Any]:
    """source.json, which is written last: without it the folder is not whole."""
    if not (folder / "source.json").is_file():
        raise SuiteError(f"{folder} holds no complete dataset; run `python -m cgs prepare` for it.")
    values = read_json(folder / "source.json")
    try:
        names = [check_target(name) for name in values["targets"]]
        if not isinstance(values, dict) or not 0 < len(set(names)) == len(names) < UNLABELLED:
            raise ValueError("none, too many, or one of them twice")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise SuiteError(
            f"{folder / 'source.json'} does not name the targets ({plain(error)}); delete the folder and prepare again."
        ) from None
    if not isinstance(values.setdefault("sizes", {}), dict):
        raise SuiteError(f"{folder / 'source.json'} notes no sizes; delete the folder and prepare again.")
    return values


def targets_of(folder: Path) -> list[str]:
    """Names of the targets 1..K of a prepared dataset."""
    targets: list[str] = _complete(folder)["targets"]
    return targets


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the tables and stacks of a prepared dataset, by name."""
    names = ("images.npy", "labels.npy", "manifest.csv", "cases.csv")
    return {name: (folder / name).stat().st_size for name in names}


def check_sizes(folder: Path, source: dict[str, Any], *names: str) -> None:
    """Raise ValueError where a file has not the size that source.json notes: it was cut off, or is another's."""
    for name in names:
        noted, found = source["sizes"].get(name), (folder / name).stat().st_size
        if noted is not None and found != noted:
            raise ValueError(f"{name} has {found} bytes instead of {noted}")


def load_slices(folder: Path) -> Slices:
    """The training slices of a prepared dataset, memory-mapped."""
    source = _complete(folder)
    try:
        # Copied on write: torch takes no array that cannot be written.
        images = np.load(folder / "images.npy", mmap_mode="c")
        labels = np.load(folder / "labels.npy", mmap_mode="c")
        check_sizes(folder, source, "images.npy", "labels.npy", "manifest.csv")
        manifest = read_csv(folder / "manifest.csv", dtype={"patient": str, "case": str, "slice": str})
        check_slices(images, labels, manifest, len(source["targets"]))
    except DAMAGED as error:
        raise SuiteError(
            f"The slices in {folder} cannot be read ({plain(error)}); delete the folder and prepare again."
        ) from None
    if images.shape != labels.shape or len(images) != len(manifest):
        raise SuiteError(
            f"The slices in {folder} do not fit its manifest; delete the folder and prepare again."
        )
    return Slices(images, labels, manifest, tuple(source["targets"]))


def check_slices(images: np.ndarray, labels: np.ndarray, manifest: pd.DataFrame, targets: int) -> None:
    """Raise ValueError where the files of the slices are not as `prepare` writes them."""
    if images.dtype != np.uint16 or labels.dtype != np.uint8 or images.ndim != 3 or not images.size:
        raise ValueError("images.npy or labels.npy is no stack of slices")
    if not {"case", "patient", "index", "labelled_rank"} <= set(manifest) or not np.array_equal(
        manifest["index"], np.arange(len(manifest))
    ):
        raise ValueError("manifest.csv lacks columns or rows")
    rank = manifest["labelled_rank"]
    if rank.dtype.kind not in "if" or manifest["patient"].isna().any() or not (rank.dropna() >= 1).all():
        raise ValueError("manifest.csv names patients in another way")
    if images.shape != labels.shape or len(images) != len(manifest):
        return  # A sentence of its own.
    none = labels == UNLABELLED
    if (labels[~none] > targets).any() or not np.array_equal(none.all((1, 2)), rank.isna()):
        raise ValueError("labels.npy holds other labels than source.json and manifest.csv say")
    if (none.any((1, 2)) != none.all((1, 2))).any():
        raise ValueError("labels.npy holds slices that are labelled in part")


def read_cases(folder: Path) -> pd.DataFrame:
    """Case, patient and split of every case, in the order of the list."""
    source = _complete(folder)
    try:
        check_sizes(folder, source, "cases.csv")
        table = read_csv(folder / "cases.csv", dtype=str, usecols=["case", "patient", "split"])
        if table.isna().any(axis=None) or not table[["case", "patient"]].map(is_safe).all(axis=None):
            raise ValueError("a name is missing, or is none that `prepare` writes")
        if table["case"].duplicated().any():
            raise ValueError("a case stands there twice")
        if not table["split"].isin(["val", "test"]).all():
            raise ValueError("a split is neither val nor test")
    except (OSError, ValueError) as error:
        raise SuiteError(
            f"The cases in {folder} cannot be read ({plain(error)}); delete the folder and prepare again."
        ) from None
    return table


def list_cases(folder: Path, split: str) -> list[str]:
    """Names of the cases of a split ("val" or "test"), in the order of the list."""
    table = read_cases(folder)
    return table.loc[table["split"] == split, "case"].tolist()


def load_case(folder: Path, case: str) -> Case:
    """One whole volume of a prepared dataset."""
    _complete(folder)
    return read_case(folder / "cases", case)


def read_case(cases: Path, case: str) -> Case:
    """One whole volume from the folder of the cases."""
    image, label, spacing = read_arrays(cases, case, "image", "label", "spacing")
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / SCALE
    if not (
        image.ndim == 3
        and image.size
        and image.shape == label.shape
        and image.dtype == np.float32
        and label.dtype == np.uint8
        and spacing.dtype == np.float64
        and image.min() > -1e-4
        and image.max() < 1 + 1e-4  # False for NaN too.
        and spacing.shape == (3,)
        and (np.isnan(spacing).all() or ((spacing > 0) & np.isfinite(spacing)).all())
    ):
        raise SuiteError(
            f"{cases / case}.npz is no case as `prepare` writes it; delete the folder of the dataset and prepare again."
        )
    z, y, x = spacing.tolist()
    return Case(image, label, None if np.isnan(z) else (z, y, x))


def read_arrays(cases: Path, case: str, *names: str) -> list[np.ndarray]:
    """Those of a case's arrays image, label and spacing, as they are stored."""
    path = cases / f"{case}.npz"
    try:
        arrays = load_npz(path, names)
        return [arrays[name] for name in names]
    except DAMAGED as error:
        raise SuiteError(
            f"{path} cannot be read ({plain(error)}); delete it and prepare the dataset again."
        ) from None
