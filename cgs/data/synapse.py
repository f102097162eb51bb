"""Synapse (BTCV): abdominal CT of 30 patients, eight of its thirteen organs, in two layouts.

Landman et al., MICCAI 2015 workshop "Beyond the cranial vault". Split, organs and window are those of TransUNet (Chen
et al., arXiv 2102.04306), whose list order, the order of labelling, ships as `splits/synapse.csv`. There are no
validation patients: the last checkpoint is the one that is tested.

- official: `img/imgXXXX.nii.gz` and `label/labelXXXX.nii.gz`; the spacing is known.
- TransUNet: `train_npz/caseXXXX_sliceYYY.npz` and `test_vol_h5/caseXXXX.npy.h5`, clipped and scaled to [0, 1], labels
  1 to 8 already; the spacing is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.bounds import load_npz
from cgs.data.source import SPLITS, Source, TrainingSlice, Volume, check_pair, read_h5
from cgs.dataset_config import SynapseConfig
from cgs.errors import SuiteError, plain
from cgs.files import DAMAGED

TARGETS = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
VALUES = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8} | dict.fromkeys((5, 9, 10, 12, 13), 0)
"""Class of each label of the official files; esophagus, veins and adrenal glands are background, as in TransUNet."""


def split() -> dict[str, str]:
    """Patient to "train" or "test", in the order of labelling."""
    table = pd.read_csv(SPLITS / "synapse.csv")
    return dict(zip(table["patient"].astype(str), table["split"].astype(str), strict=True))


def missing_files(folder: Path, files: list[Path]) -> None:
    """Raise SuiteError if some are not there."""
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise SuiteError(
            f"{folder} lacks {len(missing)} of {len(files)} files, first {missing[0].relative_to(folder)}; unpack it "
            "again."
        )


class SynapseOfficial(Source):
    """Reader of a folder with img/ and label/."""

    targets = TARGETS
    modality = "abdominal CT"

    def __init__(self, root: Path, config: SynapseConfig) -> None:
        self.root, self.window, self.split = root, config.window, split()
        missing_files(root, [file for patient in self.split for file in self._files(patient)])

    @staticmethod
    def holds(folder: Path) -> bool:
        """Whether a folder looks like the root of this layout."""
        return (folder / "img").is_dir() and (folder / "label").is_dir()

    def _files(self, patient: str) -> tuple[Path, Path]:
        number = patient.removeprefix("case")
        return (
            self.root / "img" / f"img{number}.nii.gz",
            self.root / "label" / f"label{number}.nii.gz",
        )

    def training_items(self) -> Sequence[str]:
        return [patient for patient, part in self.split.items() if part == "train"]

    def volume_items(self) -> Sequence[str]:
        return [patient for patient, part in self.split.items() if part == "test"]

    def read_volume(self, item: str) -> Volume:
        from cgs.data.nifti import read_pair, windowed  # Its packages are needed for this layout alone.

        image, label, spacing = read_pair(*self._files(item), VALUES)
        return Volume(item, item, self.split[item], windowed(image, self.window), label, spacing)

    def read_training(self, item: str) -> list[TrainingSlice]:
        volume = self.read_volume(item)
        return [
            TrainingSlice(f"{item}_slice{z:03d}", item, item, image, label)
            for z, (image, label) in enumerate(zip(volume.image, volume.label, strict=True))
        ]

    def facts(self) -> dict[str, Any]:
        files = [file for patient in self.split for file in self._files(patient)]
        return {"layout": "official", "files": len(files), "bytes": sum(f.stat().st_size for f in files)}


class SynapseTransUNet(Source):
    """Reader of a folder with train_npz/ and test_vol_h5/."""

    targets = TARGETS
    modality = "abdominal CT"

    def __init__(self, root: Path) -> None:
        self.root, self.split = root, split()
        self.slices: dict[str, list[Path]] = {p: [] for p, part in self.split.items() if part == "train"}
        for path in sorted((root / "train_npz").iterdir()):
            found = re.fullmatch(r"(case\d{4})_slice\d+\.npz", path.name)
            if found and found[1] in self.slices:
                self.slices[found[1]].append(path)
        empty = [patient for patient, files in self.slices.items() if not files]
        if empty:
            raise SuiteError(
                f"{root / 'train_npz'} holds no slices {empty[0]}_sliceXXX.npz; {len(self.slices)} training patients "
                "are needed, unpack it again."
            )
        self._check_numbers()
        missing_files(root, [self._volume(p) for p, part in self.split.items() if part == "test"])

    def _check_numbers(self) -> None:
        """A volume's slices are numbered without a gap: one that is missing would go unnoticed."""
        for patient, files in self.slices.items():
            numbers = [int(path.stem.split("_slice")[1]) for path in files]
            absent = set(range(max(numbers) + 1)) - set(numbers)
            if absent:
                raise SuiteError(
                    f"{self.root / 'train_npz'} lacks slice {min(absent)} of {patient}; unpack it again."
                )

    @staticmethod
    def holds(folder: Path) -> bool:
        """Whether a folder looks like the root of this layout."""
        return (folder / "train_npz").is_dir() and (folder / "test_vol_h5").is_dir()

    def _volume(self, patient: str) -> Path:
        return self.root / "test_vol_h5" / f"{patient}.npy.h5"

    def _checked(
        self, path: Path, image: np.ndarray, label: np.ndarray, dimensions: int
    ) -> tuple[np.ndarray, np.ndarray]:
        check_pair(image, label, dimensions, len(TARGETS), str(path))
        return image.astype(np.float32).clip(0, 1), label.astype(np.uint8)

    def training_items(self) -> Sequence[str]:
        return list(self.slices)

    def read_training(self, item: str) -> list[TrainingSlice]:
        slices = []
        for path in self.slices[item]:
            try:
                arrays = load_npz(path, ("image", "label"))
            except DAMAGED as error:
                raise SuiteError(
                    f"{path} is damaged or no npz file ({plain(error)}); unpack it again."
                ) from None
            if len(arrays) < 2:
                raise SuiteError(f"{path} has no array 'image' or 'label'; unpack it again.")
            image, label = self._checked(path, arrays["image"], arrays["label"], 2)
            slices.append(TrainingSlice(path.stem, item, item, image, label))
        return slices

    def volume_items(self) -> Sequence[str]:
        return [patient for patient, part in self.split.items() if part == "test"]

    def read_volume(self, item: str) -> Volume:
        path = self._volume(item)
        image, label = read_h5(path)
        return Volume(item, item, "test", *self._checked(path, image, label, 3), None)

    def facts(self) -> dict[str, Any]:
        files = [path for paths in self.slices.values() for path in paths]
        files += [self._volume(p) for p in self.volume_items()]
        return {"layout": "TransUNet", "files": len(files), "bytes": sum(f.stat().st_size for f in files)}
