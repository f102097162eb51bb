"""SegTHOR from its official archive, unpacked: thoracic CT of 40 patients with four targets.

Lambert et al., IPTA 2020. Each patient is a folder `Patient_XX` with `Patient_XX.nii.gz` and `GT.nii.gz` (1 esophagus,
2 heart, 3 trachea, 4 aorta). The split of the paper's release ships as `splits/segthor.csv`; its order is the order of
labelling. Training slices are those with a target. The paper gives no HU window; ours is in the config.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.config import SegthorConfig
from cgs.data.nifti import read_nifti, windowed
from cgs.data.source import Source, TrainingSlice, Volume
from cgs.errors import SuiteError

SPLIT = Path(__file__).parent / "splits" / "segthor.csv"


class Segthor(Source):
    """Reader of a folder of patients. Raises SuiteError with one sentence for anything amiss."""

    targets = ("esophagus", "heart", "trachea", "aorta")
    modality = "thoracic CT"

    def __init__(self, name: str, config: SegthorConfig) -> None:
        if config.path is None:
            raise SuiteError(
                f"The dataset {name} has no path; register at the SegTHOR challenge, unpack its training archive, and "
                f"say where, as --config {name}=PATH or datasets.{name}.path."
            )
        self.window = config.window
        table = pd.read_csv(SPLIT)
        self.split = dict(zip(table["patient"].astype(str), table["split"].astype(str), strict=True))
        places = {patient: self._place(config.path, patient) for patient in self.split}
        missing = [patient for patient, place in places.items() if place is None]
        if missing:
            raise SuiteError(
                f"{config.path} lacks {len(missing)} of the {len(places)} patients, first {missing[0]}; give the "
                "folder that holds the folders Patient_01 to Patient_40."
            )
        self.places = {patient: place for patient, place in places.items() if place is not None}

    @staticmethod
    def _place(folder: Path, patient: str) -> Path | None:
        """Where a patient's folder is: in the folder itself, or in `train` as the archive has it."""
        found = [p for p in (folder / patient, folder / "train" / patient) if p.is_dir()]
        return found[0] if found else None

    def _of(self, *splits: str) -> list[str]:
        return [patient for patient, split in self.split.items() if split in splits]

    def _read(self, patient: str) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
        """Image as stored, label uint8, spacing."""
        place = self.places[patient]
        image, spacing = read_nifti(place / f"{patient}.nii.gz")
        label, _ = read_nifti(place / "GT.nii.gz")
        if image.shape != label.shape:
            raise SuiteError(
                f"{place}: image {image.shape} and label {label.shape} must have the same size; fetch them again."
            )
        marks = label.clip(0, len(self.targets)).astype(np.uint8)
        wrong = np.flatnonzero(marks.ravel() != label.ravel())
        if len(wrong):
            raise SuiteError(
                f"{place / 'GT.nii.gz'}: the label {label.ravel()[wrong[0]]} is not among 0 to {len(self.targets)}; "
                "fetch it again."
            )
        return image, marks, spacing

    def training_items(self) -> Sequence[str]:
        return self._of("train")

    def read_training(self, item: str) -> list[TrainingSlice]:
        image, label, _ = self._read(item)
        return [
            TrainingSlice(f"{item}_slice{z:03d}", item, item, windowed(image[z], self.window), label[z])
            for z in np.flatnonzero(label.reshape(len(label), -1).any(1)).tolist()
        ]

    def volume_items(self) -> Sequence[str]:
        return self._of("val", "test")

    def read_volume(self, item: str) -> Volume:
        image, label, spacing = self._read(item)
        return Volume(item, item, self.split[item], windowed(image, self.window), label, spacing)

    def facts(self) -> dict[str, Any]:
        files = [place / name for p, place in self.places.items() for name in (f"{p}.nii.gz", "GT.nii.gz")]
        return {"layout": "official", "files": len(files), "bytes": sum(f.stat().st_size for f in files)}
