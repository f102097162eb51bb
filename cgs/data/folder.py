"""Your own dataset: a folder of NIfTI images and labels, and a list that says what each of them is for.

`split.csv` has a row per case (a volume) with the columns

- `case`: its name; the image is `images/<case>.nii.gz` and the label `labels/<case>.nii.gz`, unless the columns
  `image` and `label` give other paths, relative to the folder;
- `split`: train, val or test;
- `patient` (optional, default: the case): cases of one patient stay together and are one unit of the statistics;
- `labelled` (optional): "no" for a training case that nobody has labelled; it has no label file.

Training patients are labelled in the order of the list. Everything else is in the config, docs/adding-a-dataset.md.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.bounds import LIST, read_bounded
from cgs.data.nifti import Spacing, read_nifti, read_pair, scaled, windowed
from cgs.data.source import Source, TrainingSlice, Volume
from cgs.dataset_config import FolderConfig, is_safe
from cgs.errors import SuiteError, plain


class Folder(Source):
    """Reader of a folder with split.csv. Raises SuiteError with one sentence for anything amiss."""

    def __init__(self, root: Path, config: FolderConfig) -> None:
        self.root, self.config = root, config
        self.targets = tuple(config.targets)
        self.modality = config.modality
        self.table = read_split(root / "split.csv")
        for case, file in self._files():
            if not (root / file).is_file():
                raise SuiteError(
                    f"{root / 'split.csv'} needs {file} for the case {case}, but it does not exist; add it or mend the "
                    "list."
                )

    @staticmethod
    def holds(folder: Path) -> bool:
        """Whether a folder looks like the root of this layout."""
        return (folder / "split.csv").is_file()

    def _files(self) -> list[tuple[str, str]]:
        """Case and path of every file."""
        columns = (self.table[name].tolist() for name in ("case", "image", "label"))
        return [(case, f) for case, *files in zip(*columns, strict=True) for f in files if f]

    def _row(self, case: str) -> pd.Series:
        return self.table[self.table["case"] == case].iloc[0]

    def _read(self, case: str) -> tuple[np.ndarray, np.ndarray | None, Spacing]:
        """Image float32 in [0, 1] or uint16, label uint8 or None, spacing."""
        row, config = self._row(case), self.config
        path, label = self.root / row["image"], None
        if row["labelled"]:
            values = {value: k for k, value in enumerate(config.targets.values(), start=1)}
            image, label, spacing = read_pair(
                path,
                self.root / row["label"],
                values,
                others=config.other_labels == "background",
                straighten=config.straighten,
                origins=True,
            )
        else:
            image, spacing, _ = read_nifti(path, config.straighten)
        shares = windowed(image, config.window) if config.window else scaled(image, str(path))
        return shares, label, spacing

    def training_items(self) -> Sequence[str]:
        return self.table.loc[self.table["split"] == "train", "case"].tolist()

    def read_training(self, item: str) -> list[TrainingSlice]:
        image, label, _ = self._read(item)
        patient = str(self._row(item)["patient"])
        if label is None:
            return [
                TrainingSlice(f"{item}_slice{z:03d}", item, patient, i, None) for z, i in enumerate(image)
            ]
        chosen = list(range(len(image)))
        if self.config.slices == "with targets":
            chosen = np.flatnonzero(label.reshape(len(label), -1).any(1)).tolist()
        return [TrainingSlice(f"{item}_slice{z:03d}", item, patient, image[z], label[z]) for z in chosen]

    def volume_items(self) -> Sequence[str]:
        return [case for s in ("val", "test") for case in self.table.loc[self.table["split"] == s, "case"]]

    def read_volume(self, item: str) -> Volume:
        row = self._row(item)
        image, label, spacing = self._read(item)
        assert label is not None  # read_split refuses a test case without one.
        return Volume(item, str(row["patient"]), str(row["split"]), image, label, spacing)

    def facts(self) -> dict[str, Any]:
        files = [self.root / file for _, file in self._files()]
        return {"layout": "folder", "files": len(files), "bytes": sum(f.stat().st_size for f in files)}


def read_split(path: Path) -> pd.DataFrame:
    """split.csv with every column filled. Raises SuiteError with one sentence for a list that makes no sense."""
    try:
        content = io.BytesIO(read_bounded(path, LIST))
        table = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise SuiteError(f"{path} does not exist; write it, docs/adding-a-dataset.md says how.") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise SuiteError(f"{path} is no readable CSV ({plain(error)}); save it again as CSV.") from None
    if not {"case", "split"} <= set(table.columns) or table.empty:
        raise SuiteError(f"{path} needs the columns case and split, and a row per volume.")
    table = table.fillna("").apply(lambda column: column.str.strip())  # A short row has nothing there.
    for name, default in (("patient", table["case"]), ("labelled", "yes"), ("image", ""), ("label", "")):
        table[name] = table.get(name, default)
    table["patient"] = table["patient"].where(table["patient"] != "", table["case"])
    table["labelled"] = table["labelled"].str.lower() != "no"
    table["image"] = table["image"].where(table["image"] != "", "images/" + table["case"] + ".nii.gz")
    table["label"] = table["label"].where(table["label"] != "", "labels/" + table["case"] + ".nii.gz")
    table["label"] = table["label"].where(table["labelled"], "")
    check_split(path, table)
    return table


def check_split(path: Path, table: pd.DataFrame) -> None:
    """The sentences of `read_split`."""

    def refuse(rows: pd.Series, sentence: str) -> None:
        if rows.any():
            number = int(np.flatnonzero(rows.to_numpy())[0])
            said = sentence.format(**{str(k): v for k, v in table.iloc[number].items()})
            raise SuiteError(f"{path}, line {number + 2}: {said}")

    outside = (
        table[["image", "label"]]
        .map(lambda p: Path(p).is_absolute() or ".." in Path(p).parts or not p.isprintable() or len(p) > 999)
        .any(axis=1)
    )
    refuse(
        ~table["case"].map(is_safe),
        "the case {case!r} must be letters, digits, dots, _ and - only, at most 100, and no word for a missing value.",
    )
    refuse(
        ~table["patient"].map(is_safe),
        "the patient {patient!r} must be letters, digits, dots, _ and - only, at most 100, and no word for a missing "
        "value.",
    )
    refuse(table["case"].duplicated(), "the case {case} stands there twice; remove one.")
    refuse(~table["split"].isin(["train", "val", "test"]), "split is {split!r}; say train, val or test.")
    refuse(outside, "image and label are paths within the folder, without `..` and control characters.")
    refuse(~table["labelled"] & (table["split"] != "train"), "the {split} case {case} needs a label.")
    splits = table.groupby("patient")["split"].transform("nunique")
    refuse(splits > 1, "the patient {patient} is in more than one split; keep a patient's cases together.")
    marks = table.groupby("patient")["labelled"].transform("nunique")
    refuse(marks > 1, "the patient {patient} is labelled in part; label all cases of a patient or none.")
    train = table[table["split"] == "train"]
    if not train["labelled"].any() or not (table["split"] == "test").any():
        raise SuiteError(f"{path} needs at least one labelled train case and one test case.")
