"""ACDC as the SSL4MIS benchmark distributes it: HDF5 slices and volumes, and three lists.

Bernard et al., IEEE TMI 2018: cine MR of 100 patients at end-diastole and end-systole, targets right ventricle
(RV), myocardium (Myo), left ventricle (LV). Intensities are min-max scaled to [0, 1] per volume. The files
hold no voxel spacing. Slices lie in `data/slices/` or, flat, in `data/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cgs.bounds import LIST, read_bounded
from cgs.data.source import Source, TrainingSlice, Volume, check_pair, read_h5
from cgs.dataset_config import is_safe
from cgs.errors import SuiteError, plain

LISTS = {"train": "train_slices.list", "val": "val.list", "test": "test.list"}


TARGETS = ("RV", "Myo", "LV")


class Acdc(Source):
    """Reader of an SSL4MIS-layout folder. Raises SuiteError with one sentence for anything amiss."""

    targets = TARGETS
    modality = "cine MR"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lists = {split: self._list(split) for split in LISTS}
        seen: dict[str, str] = {}
        for split, names in self.lists.items():
            for case in dict.fromkeys(name.split("_slice")[0] for name in names):
                if case in seen:
                    raise SuiteError(
                        f"{self.folder / LISTS[split]}: {case} is also in {LISTS[seen[case]]}; remove one."
                    )
                seen[case] = split
        self.files = {
            split: {name: self._file(name, split) for name in names} for split, names in self.lists.items()
        }

    @staticmethod
    def holds(folder: Path) -> bool:
        """Whether a folder looks like the root of this layout."""
        return any((folder / name).is_file() for name in LISTS.values())

    def _list(self, split: str) -> list[str]:
        path = self.folder / LISTS[split]
        try:
            names = read_bounded(path, LIST).decode("utf-8").split()
        except FileNotFoundError:
            raise SuiteError(f"{path} does not exist; copy the list of the SSL4MIS release there.") from None
        except (OSError, ValueError) as error:
            raise SuiteError(
                f"{path} cannot be read ({plain(error)}); copy the list of the SSL4MIS release again."
            ) from None
        if not names:
            raise SuiteError(f"{path} is empty; copy the list of the SSL4MIS release again.")
        unsafe = [n for n in names if not all(map(is_safe, (n, n.split("_slice")[0], n.split("_")[0])))]
        if unsafe:
            raise SuiteError(
                f"{path} names {unsafe[0][:99]!r}, but names must be letters, digits, dots, _ and - only; copy the "
                "list of the SSL4MIS release again."
            )
        repeated = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
        if repeated:
            raise SuiteError(f"{path} names {repeated[0]} more than once; remove the repetition.")
        return names

    def _file(self, name: str, split: str) -> Path:
        data = self.folder / "data"
        nested = data / "slices" / f"{name}.h5"
        path = nested if split == "train" and nested.is_file() else data / f"{name}.h5"
        if not path.is_file():
            raise SuiteError(
                f"{self.folder / LISTS[split]} names {name} but {path} does not exist; fetch that file."
            )
        return path

    def _read(self, path: Path, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = read_h5(path)
        check_pair(image, label, dimensions, len(self.targets), str(path))
        # uint16 would count as stored intensities, of which 65,535 is white.
        return image if image.dtype.kind == "f" else image.astype(np.float32), label.astype(np.uint8)

    def training_items(self) -> Sequence[str]:
        return self.lists["train"]

    def read_training(self, item: str) -> list[TrainingSlice]:
        image, label = self._read(self.files["train"][item], 2)
        return [TrainingSlice(item, item.split("_slice")[0], item.split("_")[0], image, label)]

    def volume_items(self) -> Sequence[str]:
        return [*self.lists["val"], *self.lists["test"]]

    def read_volume(self, item: str) -> Volume:
        split = "val" if item in self.files["val"] else "test"
        image, label = self._read(self.files[split][item], 3)
        return Volume(item, item.split("_")[0], split, image, label, None)

    def facts(self) -> dict[str, Any]:
        files = [path for paths in self.files.values() for path in paths.values()]
        return {
            "layout": "SSL4MIS",
            "files": len(files),
            "bytes": sum(path.stat().st_size for path in files),
            "sha256": {n: hashlib.sha256((self.folder / n).read_bytes()).hexdigest() for n in LISTS.values()},
        }
