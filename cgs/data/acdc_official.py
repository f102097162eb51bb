"""ACDC from its official archive: NIfTI files of 150 patients, of which the benchmark uses the first 100.

Bernard et al., IEEE TMI 2018. Each patient is a folder `patientXXX` with `Info.cfg`, the whole sequence
(`_4d.nii.gz`, not used) and two annotated frames, end-diastole and end-systole: `patientXXX_frameYY.nii.gz` and
`patientXXX_frameYY_gt.nii.gz` (1 RV, 2 Myo, 3 LV). The split of SSL4MIS ships as `splits/acdc.csv`.

The slices are those of the SSL4MIS files: axes as stored (the header does not turn a short-axis heart), intensities
min-max scaled per volume, the earlier annotated frame called frame01 and the later one frame02. Unlike those files,
these tell the voxel spacing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.data.acdc import TARGETS
from cgs.data.nifti import Spacing, read_pair, scaled
from cgs.data.source import SPLITS, Source, TrainingSlice, Volume
from cgs.errors import SuiteError


class AcdcOfficial(Source):
    """Reader of a folder with the folders of patients, or with training/ and testing/ that hold them."""

    targets = TARGETS
    modality = "cine MR"

    def __init__(self, root: Path) -> None:
        table = pd.read_csv(SPLITS / "acdc.csv")
        self.split = dict(zip(table["patient"].astype(str), table["split"].astype(str), strict=True))
        places = {patient: self._place(root, patient) for patient in self.split}
        missing = [patient for patient, place in places.items() if place is None]
        if missing:
            raise SuiteError(
                f"{root} lacks {len(missing)} of the {len(places)} patients, first {missing[0]}; give the folder or "
                "archive that holds the folders patient001 to patient100."
            )
        self.frames = {
            f"{patient}_frame{number:02d}": frame
            for patient, place in places.items()
            if place is not None
            for number, frame in enumerate(annotated_frames(place), start=1)
        }

    @staticmethod
    def holds(folder: Path) -> bool:
        """Whether a folder looks like the root of this layout."""
        return any((folder / part / "patient001").is_dir() for part in ("", "training"))

    @staticmethod
    def _place(root: Path, patient: str) -> Path | None:
        parts = (root / patient, root / "training" / patient, root / "testing" / patient)
        return next((place for place in parts if place.is_dir()), None)

    def _read(self, case: str) -> tuple[np.ndarray, np.ndarray, Spacing]:
        """Image float32 in [0, 1], label uint8, spacing."""
        frame = self.frames[case]
        image, label, spacing = read_pair(frame, ground_truth(frame), {1: 1, 2: 2, 3: 3}, straighten=False)
        return scaled(image, str(frame)), label, spacing

    def _cases(self, *splits: str) -> list[str]:
        return [case for case in self.frames if self.split[case.split("_")[0]] in splits]

    def training_items(self) -> Sequence[str]:
        return self._cases("train")

    def read_training(self, item: str) -> list[TrainingSlice]:
        image, label, _ = self._read(item)
        patient = item.split("_")[0]
        return [
            TrainingSlice(f"{item}_slice_{z}", item, patient, image[z], label[z]) for z in range(len(image))
        ]

    def volume_items(self) -> Sequence[str]:
        return [*self._cases("val"), *self._cases("test")]

    def read_volume(self, item: str) -> Volume:
        patient = item.split("_")[0]
        image, label, spacing = self._read(item)
        return Volume(item, patient, self.split[patient], image, label, spacing)

    def facts(self) -> dict[str, Any]:
        files = [file for frame in self.frames.values() for file in (frame, ground_truth(frame))]
        return {"layout": "official", "files": len(files), "bytes": sum(f.stat().st_size for f in files)}


def ground_truth(frame: Path) -> Path:
    """The label file of a frame."""
    return frame.with_name(frame.name.replace(".nii", "_gt.nii"))


def annotated_frames(place: Path) -> list[Path]:
    """The images of the two annotated frames of a patient, the earlier one first.

    Raises SuiteError unless there are two, and where `Info.cfg` is there, those that it names as ED and ES.
    """
    pattern = re.compile(re.escape(place.name) + r"_frame(\d+)_gt\.nii(\.gz)?")
    found = {int(m[1]): p for p in place.iterdir() if (m := pattern.fullmatch(p.name))}
    if len(found) != 2:
        raise SuiteError(
            f"{place} holds {len(found)} labels {place.name}_frameXX_gt.nii.gz, but two are needed; unpack it again."
        )
    info = place / "Info.cfg"
    if info.is_file():
        text = info.read_text(encoding="utf-8", errors="replace")
        said = {int(n) for n in re.findall(r"^(?:ED|ES)\s*:\s*(\d+)\s*$", text, re.MULTILINE)}
        if said != set(found):
            raise SuiteError(
                f"{info} names the frames {sorted(said)} as ED and ES, but the labels are of {sorted(found)}; unpack "
                "it again."
            )
    frames = [found[n].with_name(found[n].name.replace("_gt.nii", ".nii")) for n in sorted(found)]
    for frame in frames:
        if not frame.is_file():
            raise SuiteError(f"{frame} does not exist; unpack the archive again.")
    return frames
