"""From a source to the prepared folder: slices at the working size, whole cases, manifest, audit."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from cgs.config import AcdcConfig, PhantomConfig
from cgs.data.acdc import Acdc
from cgs.data.audit import audit
from cgs.data.phantom import Phantom
from cgs.data.source import Source
from cgs.data.store import SCALE, resize_nearest
from cgs.files import atomic_path, write_json


def open_source(name: str, dataset: AcdcConfig | PhantomConfig) -> Source:
    """The reader for a dataset entry."""
    return Acdc(name, dataset) if isinstance(dataset, AcdcConfig) else Phantom(dataset)


def prepare(name: str, dataset: AcdcConfig | PhantomConfig, folder: Path) -> None:
    """Read, check and write a dataset to `folder`.

    The folder is made anew; `source.json` is written last, so that a folder without it is not whole. Raises
    SuiteError with one sentence when the source is amiss.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        (folder / "source.json").unlink()
    source = open_source(name, dataset)
    if (folder / "cases").is_dir():
        shutil.rmtree(folder / "cases")  # Cases of an older list must not stay.
    write_slices(source, dataset.size, folder)
    write_cases(source, folder)
    write_json(folder / "audit.json", audit(folder, source.targets))
    parameters = dataset.model_dump(mode="json", exclude={"labelled", "path"})
    write_json(
        folder / "source.json",
        {
            "dataset": name,
            "kind": dataset.kind,
            "modality": source.modality,
            "targets": list(source.targets),
            "size": dataset.size,
            "parameters": parameters,
            **source.facts(),
        },
    )


def write_slices(source: Source, size: int, folder: Path) -> None:
    """Write images.npy, labels.npy and manifest.csv, in the order of the source's list."""
    images, labels, rows = [], [], []
    ranks: dict[str, int] = {}
    for index, item in enumerate(source.training_slices()):
        image = resize_nearest(item.image, (size, size)).astype(np.float64).clip(0, 1)
        images.append(np.round(image * SCALE).astype(np.uint16))
        labels.append(resize_nearest(item.label, (size, size)).astype(np.uint8))
        rank = ranks.setdefault(item.patient, len(ranks) + 1)
        rows.append((item.name, item.case, item.patient, index, "train", rank))
    for file, arrays in (("images.npy", images), ("labels.npy", labels)):
        with atomic_path(folder / file) as temporary:
            np.save(temporary, np.stack(arrays))
    columns = ["slice", "case", "patient", "index", "split", "labelled_rank"]
    with atomic_path(folder / "manifest.csv") as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)


def write_cases(source: Source, folder: Path) -> None:
    """Write cases/<case>.npz and cases.csv."""
    rows = []
    for volume in source.volumes():
        spacing = np.full(3, np.nan) if volume.spacing is None else np.array(volume.spacing, dtype=np.float64)
        with atomic_path(folder / "cases" / f"{volume.name}.npz") as temporary:
            np.savez(
                temporary,
                image=volume.image.astype(np.float32),
                label=volume.label.astype(np.uint8),
                spacing=spacing,
            )
        rows.append((volume.name, volume.patient, volume.split, *volume.image.shape, *spacing))
    columns = ["case", "patient", "split", "slices", "height", "width", "spacing_z", "spacing_y", "spacing_x"]
    with atomic_path(folder / "cases.csv") as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
