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

from cgs.data.nifti import Spacing, read_pair, windowed
from cgs.data.source import SPLITS, Source, TrainingSlice, Volume, root_of
from cgs.dataset_config import SegthorConfig
from cgs.errors import SuiteError


class Segthor(Source):
    """Reader of a folder of patients. Raises SuiteError with one sentence for anything amiss."""

    targets = ("esophagus", "heart", "trachea", "aorta")
    modality = "thoracic CT"

    def __init__(self, folder: Path, config: SegthorConfig) -> None:
        self.window = config.window
        table = pd.read_csv(SPLITS / "segthor.csv")
        self.split = dict(zip(table["patient"].astype(str), table["split"].astype(str), strict=True))
        root = root_of(folder, lambda place: next(place.glob("Patient_*"), None) is not None)
        missing = [patient for patient in self.split if root is None or not (root / patient).is_dir()]
        if root is None or missing:
            raise SuiteError(
                f"{folder} lacks {len(missing)} of the {len(self.split)} patients, first {missing[0]}; give the "
                "folder or archive that holds the folders Patient_01 to Patient_40."
            )
        self.places = {patient: root / patient for patient in self.split}

    def _of(self, *splits: str) -> list[str]:
        return [patient for patient, split in self.split.items() if split in splits]

    def _read(self, patient: str) -> tuple[np.ndarray, np.ndarray, Spacing]:
        """Image as stored, label uint8, spacing."""
        place = self.places[patient]
        values = {k: k for k in range(1, len(self.targets) + 1)}
        return read_pair(place / f"{patient}.nii.gz", place / "GT.nii.gz", values)

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
