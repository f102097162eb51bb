"""The dataset entries of a config: what each kind of dataset needs to be found and read."""

from __future__ import annotations

import csv
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = r"^[a-z0-9][a-z0-9-]*$"
MISSING = frozenset(("", "#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"))
"""Words that a reader of CSV takes for a missing value, of those that begin like a name: no name may be one."""
SPLITS = Path(__file__).parent / "data" / "splits"
Patients = Annotated[int, Field(ge=1)]
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names of cases and patients: they become names of files and cells of tables."""

LABELLED = "Numbers of labelled training patients to train with."


def is_safe(name: str) -> bool:
    """Whether a name from a list may be that of a case or a patient."""
    return SAFE.fullmatch(name) is not None and name not in MISSING


def check_target(name: str) -> str:
    """A name that tables, figures and spreadsheets show as it is. Raises ValueError."""
    if not name.isprintable() or not name[:1].isalnum() or name != name.strip() or len(name) > 60:
        raise ValueError("a target's name must begin with a letter or a digit and have at most 60 characters")
    if name in MISSING or name == "background":
        raise ValueError("a target's name must be no word for a missing value or for the background")
    return name


def no_repeats(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list whose entries differ: what is named twice would be counted or shown twice. Raises ValueError."""
    repeated = sorted({str(v) for v in value if value.count(v) > 1})
    if repeated:
        raise ValueError(f"named more than once: {', '.join(repeated)}")
    return value


def no_missing(name: str) -> str:
    """A name that the tables can hold. Raises ValueError."""
    if name in MISSING:
        raise ValueError("it is a word for a missing value; choose another name")
    return name


Name = Annotated[str, Field(pattern=NAME, max_length=80), AfterValidator(no_missing)]
"""A name of folders and of cells of tables."""


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetBase(Strict):
    """What every dataset has."""

    size: int = Field(
        224, ge=32, le=1024, multiple_of=16, description="Working image size in pixels (square)."
    )
    labelled: tuple[Patients, ...] = Field((3, 7), min_length=1, description=LABELLED)
    main_table: bool = Field(
        True, description="Train all of `methods` on it; false: only experiments that name it use it."
    )
    _labelled = field_validator("labelled")(no_repeats)


class FilesBase(DatasetBase):
    """A dataset of files: a folder or an archive that is there, or the address of an archive."""

    how: ClassVar[str]
    """Where the files come from, as the message for a user who has none says it."""

    path: Path | None = Field(None, description="Folder, or archive of it (.zip, .tar, .tar.gz).")
    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Address of an archive to download, of a mirror of yours for example, where there is no path.",
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Digest of the downloaded archive; without one, that of the first download is kept to.",
    )
    files_of: str | None = Field(
        None,
        description="Name of another entry whose path or url this one uses, at another size for example.",
    )

    @property
    def found(self) -> bool:
        """Whether there is something to read, or an address to fetch it from."""
        return self.url is not None if self.path is None else self.path.exists()


def _rises(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not 0 < value[1] - value[0] < float("inf"):
        raise ValueError("the first value must be the smaller one")
    return value


class AcdcConfig(FilesBase):
    """Cardiac cine MR, targets RV, myocardium and LV: the SSL4MIS HDF5 files or the official NIfTI files."""

    how = (
        "the SSL4MIS HDF5 files (see data/ACDC of its repository), or the training archive of the ACDC challenge "
        "after registration"
    )
    kind: Literal["acdc"] = Field("acdc", description="Reader of the dataset.")
    path: Path | None = Field(
        None,
        description="Folder or archive with train_slices.list, val.list, test.list and data/ (SSL4MIS layout), or with "
        "the folders patient001 to patient100 (official layout).",
    )


class SegthorConfig(FilesBase):
    """Thoracic CT, targets esophagus, heart, trachea and aorta, as the official NIfTI files."""

    how = "the training archive of the SegTHOR challenge after registration"
    kind: Literal["segthor"] = Field("segthor", description="Reader of the dataset.")
    labelled: tuple[Patients, ...] = Field((3, 6), min_length=1, description=LABELLED)
    path: Path | None = Field(
        None,
        description="Folder or archive with a folder Patient_XX (Patient_XX.nii.gz, GT.nii.gz) for each patient.",
    )
    window: tuple[float, float] = Field(
        (-1000.0, 400.0),
        description="Hounsfield units that become 0 and 1; what lies beyond is clipped. The paper gives none: this one "
        "keeps the air of the trachea and the contrast of soft tissue.",
    )
    _window = field_validator("window")(_rises)


class SynapseConfig(FilesBase):
    """Abdominal CT (BTCV), eight targets as TransUNet's: official NIfTI files, or TransUNet's npz and h5 files."""

    how = (
        "Abdomen/RawData.zip of syn3193805 after registration at synapse.org (or set SYNAPSE_AUTH_TOKEN and "
        "`pip install synapseclient`), or TransUNet's preprocessed files from its authors"
    )
    kind: Literal["synapse"] = Field("synapse", description="Reader of the dataset.")
    labelled: tuple[Patients, ...] = Field((3,), min_length=1, description=LABELLED)
    path: Path | None = Field(
        None,
        description="Folder or archive with img/ and label/ (official layout), or with train_npz/ and test_vol_h5/ "
        "(TransUNet layout).",
    )
    window: tuple[float, float] = Field(
        (-125.0, 275.0),
        description="Hounsfield units that become 0 and 1 (official layout; TransUNet's files are scaled already).",
    )
    _window = field_validator("window")(_rises)

    @property
    def found(self) -> bool:
        return super().found or (self.path is None and bool(os.environ.get("SYNAPSE_AUTH_TOKEN")))


class FolderConfig(FilesBase):
    """Your own dataset: NIfTI images and labels and a list of them, docs/adding-a-dataset.md."""

    how = "a folder with split.csv, images/ and labels/ (docs/adding-a-dataset.md)"
    kind: Literal["folder"] = Field("folder", description="Reader of the dataset.")
    path: Path | None = Field(None, description="Folder or archive with split.csv, images/ and labels/.")
    targets: dict[Annotated[str, AfterValidator(check_target)], Annotated[int, Field(ge=1, le=60000)]] = (
        Field(
            min_length=1, max_length=64, description="Name of every target and its value in the label files."
        )
    )
    other_labels: Literal["refuse", "background"] = Field(
        "refuse", description="What values that are not among `targets` are: an error, or background."
    )
    modality: str = Field(
        "images", min_length=1, description="As the report names it: abdominal CT, cine MR ..."
    )
    window: tuple[float, float] | None = Field(
        None,
        description="Intensities that become 0 and 1 (CT: Hounsfield units); none: the range of each volume.",
    )
    slices: Literal["all", "with targets"] = Field(
        "all", description="Which slices of the labelled training volumes are used."
    )
    straighten: bool = Field(
        True,
        description="Turn volumes by their header to the patient's axes; false: slices are the third axis as stored "
        "(for oblique acquisitions such as short-axis hearts).",
    )
    _window = field_validator("window")(_rises)

    @model_validator(mode="after")
    def _values_differ(self) -> FolderConfig:
        if len(set(self.targets.values())) < len(self.targets):
            raise ValueError("targets: two names have the same value")
        return self


class PhantomConfig(DatasetBase):
    """Procedural 3D anatomies with four targets; nothing to download, the same bits per seed."""

    kind: Literal["phantom"] = Field("phantom", description="Reader of the dataset.")
    size: int = Field(64, ge=32, le=512, multiple_of=16, description="Working image size in pixels (square).")
    labelled: tuple[Patients, ...] = Field((2, 4), min_length=1, description=LABELLED)
    train_patients: int = Field(20, ge=2, le=1000, description="Training patients.")
    val_patients: int = Field(4, ge=1, le=1000, description="Validation patients.")
    test_patients: int = Field(8, ge=1, le=1000, description="Test patients.")
    slices: int = Field(16, ge=8, le=256, description="Slices of a volume.")
    seed: int = Field(0, ge=0, description="Seed of the anatomies, noise and bias fields.")


KINDS: dict[str, type[DatasetBase]] = {
    "acdc": AcdcConfig,
    "segthor": SegthorConfig,
    "synapse": SynapseConfig,
    "folder": FolderConfig,
    "phantom": PhantomConfig,
}
DatasetConfig = Annotated[
    AcdcConfig | SegthorConfig | SynapseConfig | FolderConfig | PhantomConfig, Field(discriminator="kind")
]


def training_patients(dataset: DatasetConfig) -> int | None:
    """Number of training patients with a label, or None while the dataset's files are not there to count."""
    if isinstance(dataset, PhantomConfig):
        return dataset.train_patients
    if isinstance(dataset, FolderConfig):
        return _listed(dataset.path / "split.csv") if dataset.path else None
    if isinstance(dataset, AcdcConfig) and dataset.path is not None:
        with suppress(OSError, ValueError):  # No list, or none that can be read: `prepare` says why.
            text = (dataset.path / "train_slices.list").read_text(encoding="utf-8")
            return len({line.split("_")[0] for line in text.split()})
    return {"acdc": 70, "segthor": 28, "synapse": 18}[dataset.kind]


def _listed(path: Path) -> int | None:
    """Training patients with a label in a split.csv; None where it cannot be read: `prepare` says why."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [{str(k): str(v or "").strip() for k, v in r.items()} for r in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return None
    train = [r for r in rows if r.get("split") == "train" and r.get("labelled", "").lower() != "no"]
    return len({r.get("patient") or r.get("case") for r in train}) or None
