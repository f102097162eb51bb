"""What a dataset reader gives to `prepare`, and the checks that every dataset passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cgs.bounds import LARGEST, check_claim
from cgs.errors import SuiteError, plain

SPLITS = Path(__file__).parent / "splits"
"""Splits that ship with the suite: patients in the order of labelling."""


@dataclass(frozen=True)
class TrainingSlice:
    """One training slice at its native size: image (H, W), float in [0, 1] or uint16, and label (H, W) in 0..K.

    The label is None where nobody drew one: such a patient is never labelled.
    """

    name: str
    case: str
    patient: str
    image: np.ndarray
    label: np.ndarray | None


@dataclass(frozen=True)
class Volume:
    """One validation or test case: image and label (D, H, W) as above, spacing (z, y, x) in mm or None."""

    name: str
    patient: str
    split: str
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float] | None


class Source(ABC):
    """A dataset as `prepare` reads it: items that are named at once, and read one by one, in any process."""

    targets: tuple[str, ...]
    modality: str

    @abstractmethod
    def training_items(self) -> Sequence[str]:
        """What `read_training` takes, in list order: the first patients to appear are labelled first."""

    @abstractmethod
    def read_training(self, item: str) -> list[TrainingSlice]:
        """The training slices of an item: a patient, a case, or a single slice, as the source is stored."""

    @abstractmethod
    def volume_items(self) -> Sequence[str]:
        """The validation and test cases."""

    @abstractmethod
    def read_volume(self, item: str) -> Volume:
        """One validation or test case."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Where the data came from: number of files, bytes, checksums, version."""


def root_of(folder: Path, holds: Callable[[Path], bool], depth: int = 3) -> Path | None:
    """The folder at or below `folder` that `holds` what is looked for: archives put one or more folders around it.

    Breadth first and by name, at most `depth` levels down; None where there is none.
    """
    level = [folder]
    for _ in range(depth + 1):
        found = next(filter(holds, level), None)
        if found is not None:
            return found
        level = sorted(p for place in level if place.is_dir() for p in place.iterdir() if p.is_dir())
    return None


def read_h5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The datasets `image` and `label` of an HDF5 file. Raises SuiteError with one sentence."""
    try:
        with h5py.File(path, "r") as file:
            return _h5_array(file, "image"), _h5_array(file, "label")
    except KeyError as error:
        raise SuiteError(
            f"{path} has no dataset 'image' or 'label' ({plain(error.args[0])}); fetch the file again."
        ) from None
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # h5py raises any of them.
        raise SuiteError(f"{path} is damaged or no HDF5 file ({plain(error)}); fetch it again.") from None


def _h5_array(file: h5py.File, name: str) -> np.ndarray:
    """A dataset of an HDF5 file. Raises KeyError, TypeError or ValueError; too large a one before memory is taken."""
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise ValueError(f"{name} lies in another file")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"{name} is no dataset")
    if found.is_virtual or found.external:  # Values of other files, or zeros where those are missing.
        raise ValueError(f"{name} keeps its values in other files")
    check_claim(found.shape or (), found.dtype.itemsize, LARGEST)
    return np.asarray(found)


def check_pair(image: np.ndarray, label: np.ndarray, dimensions: int, targets: int, where: str) -> None:
    """Hold an image and its label to what the suite expects. Raises SuiteError with one sentence."""
    if image.ndim != dimensions or image.shape != label.shape:
        raise SuiteError(
            f"{where}: image {image.shape} and label {label.shape} must have the same {dimensions} dimensions; "
            "repeat the preprocessing of this file."
        )
    if not image.size:
        raise SuiteError(f"{where}: the image is empty; fetch this file again.")
    if image.dtype.kind not in "biuf" or label.dtype.kind not in "biuf":
        raise SuiteError(
            f"{where}: image ({image.dtype}) and label ({label.dtype}) must hold real numbers; fetch this file again."
        )
    if not np.isfinite(image).all():
        raise SuiteError(f"{where}: the image holds NaN or infinite intensities; repeat its preprocessing.")
    if image.min() < -1e-5 or image.max() > 1 + 1e-5:  # No more than rounding of float32.
        raise SuiteError(
            f"{where}: intensities lie in [{image.min():.4g}, {image.max():.4g}] but must be scaled to [0, 1] per "
            "volume; repeat its preprocessing."
        )
    values = np.unique(label)
    wrong = values[~np.isin(values, np.arange(targets + 1))]
    if wrong.size:
        raise SuiteError(
            f"{where}: label values {wrong[:5].tolist()} are not among 0 to {targets}; check that the file is of "
            "this dataset."
        )
