"""From a source to the prepared folder: slices at the working size, whole cases, manifest, audit."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.data.audit import audit
from cgs.data.phantom import Phantom
from cgs.data.source import Source, root_of
from cgs.data.store import SCALE, UNLABELLED, read_arrays, resize_nearest, sizes
from cgs.dataset_config import (
    AcdcConfig,
    DatasetConfig,
    FilesBase,
    PhantomConfig,
    SegthorConfig,
    SynapseConfig,
)
from cgs.errors import SuiteError
from cgs.files import atomic_path, read_csv, write_json


def open_source(name: str, dataset: DatasetConfig, place: Path | None = None) -> Source:
    """The reader for a dataset entry whose files lie at `place`.

    The readers of NIfTI are imported where they are needed: a machine that only trains has no such packages.
    """
    if isinstance(dataset, PhantomConfig):
        return Phantom(dataset)
    if place is None or not place.is_dir():
        raise SuiteError(f"The dataset {name} is not at {place}; it needs {dataset.how}.")
    if isinstance(dataset, SegthorConfig):
        from cgs.data.segthor import Segthor

        return Segthor(place, dataset)
    if isinstance(dataset, AcdcConfig):
        from cgs.data.acdc import Acdc

        if (root := root_of(place, Acdc.holds)) is not None:
            return Acdc(root)
        from cgs.data.acdc_official import AcdcOfficial

        if (root := root_of(place, AcdcOfficial.holds)) is not None:
            return AcdcOfficial(root)
        raise SuiteError(
            f"{place} holds neither train_slices.list (SSL4MIS layout) nor patient001 (official layout); give the "
            f"folder or archive that does."
        )
    if isinstance(dataset, SynapseConfig):
        from cgs.data.synapse import SynapseOfficial, SynapseTransUNet

        if (root := root_of(place, SynapseTransUNet.holds)) is not None:
            return SynapseTransUNet(root)
        if (root := root_of(place, SynapseOfficial.holds)) is not None:
            return SynapseOfficial(root, dataset)
        raise SuiteError(
            f"{place} holds neither img/ and label/ (official layout) nor train_npz/ and test_vol_h5/ (TransUNet "
            "layout); give the folder or archive that does."
        )
    from cgs.data.folder import Folder

    return Folder(root_of(place, Folder.holds) or place, dataset)


@contextmanager
def located(name: str, dataset: DatasetConfig, folder: Path, downloads: Path | None) -> Iterator[Path | None]:
    """Where the files of a dataset lie: its folder, or its archive unpacked for as long as this lasts.

    An archive is unpacked into `folder`; one that is only an address is downloaded into `downloads` first.
    """
    if not isinstance(dataset, FilesBase):
        yield None
        return
    path = dataset.path
    if path is None and dataset.url is not None and downloads is not None:
        from cgs.data.download import download

        path = download(dataset.url, downloads / name, dataset.sha256)
    if path is None and dataset.kind == "synapse" and downloads is not None:
        from cgs.data.synapse_download import raw_data

        path = raw_data(downloads / name)
    if path is None:
        raise SuiteError(how_to_get(name, dataset))
    if not path.is_file():
        yield path
        return
    from cgs.data.archive import unpack

    try:
        unpack(path, folder / "unpacked", lambda member: member.endswith(NEEDED))
        yield folder / "unpacked"
    finally:
        shutil.rmtree(folder / "unpacked", ignore_errors=True)


NEEDED = (".nii", ".nii.gz", ".cfg", ".list", ".h5", ".npz", ".csv")
"""Ends of the names of what a reader may want from an archive."""


def how_to_get(name: str, dataset: FilesBase) -> str:
    """What a user without the files is told: three lines."""
    where = "is not given" if dataset.path is None else f"is not at {dataset.path}"
    other = dataset.files_of or name
    return (
        f"The dataset {name} {where}.\n"
        f"  Get {dataset.how}; an archive may stay packed.\n"
        f"  Say where it lies: --config {other}=PATH, or datasets.{other}.path (or .url) in the config."
    )


def prepare(
    name: str,
    dataset: DatasetConfig,
    folder: Path,
    processes: int | None = None,
    downloads: Path | None = None,
) -> None:
    """Read, check and write a dataset to `folder`, with that many processes (all cores by default).

    The folder is made anew; `source.json` is written last, so that a folder without it is not whole. The files are the
    same for any number of processes, each of which holds one volume and its label at a time. Archives that are only
    an address are kept in `downloads`. Raises SuiteError with one sentence when the source is amiss.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        (folder / "source.json").unlink()
    for left in [*folder.glob(".*.tmp*"), folder / "unpacked"]:  # Of an attempt that was killed.
        if left.is_dir():
            shutil.rmtree(left)
        elif left.exists():
            left.unlink()
    with located(name, dataset, folder, downloads) as place:
        source = open_source(name, dataset, place)
        if (folder / "cases").is_dir():
            shutil.rmtree(folder / "cases")  # Cases of an older list must not stay.
        with reading(processes or cores()) as read:
            write_slices(source, dataset.size, folder, read)
            write_cases(source, folder, read)
        facts = source.facts()
    write_json(folder / "audit.json", audit(folder, source.targets))
    parameters = dataset.model_dump(
        mode="json", exclude={"labelled", "path", "url", "sha256", "files_of", "main_table"}
    )
    write_json(
        folder / "source.json",
        {
            "dataset": name,
            "kind": dataset.kind,
            "modality": source.modality,
            "targets": list(source.targets),
            "size": dataset.size,
            "parameters": parameters,
            "sizes": sizes(folder),
            "digests": digests(folder),
            **facts,
        },
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the training slices and of the arrays of all cases: other content makes another training.

    Sizes do not show it, nor do the files of the cases, which hold the time at which they were written.
    """
    found = {}
    for name in ("images.npy", "labels.npy", "manifest.csv"):
        with open(folder / name, "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    cases = hashlib.sha256((folder / "cases.csv").read_bytes())
    for name in read_csv(folder / "cases.csv", dtype=str)["case"]:
        for array in read_arrays(folder / "cases", name, "image", "label", "spacing"):
            cases.update(np.ascontiguousarray(array).data)
    return {**found, "cases": cases.hexdigest()}


Read = Callable[[Callable[[str], Any], Sequence[str]], Iterable[Any]]
"""Applies a function to items, in order: `map`, or that of a pool of processes."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def reading(processes: int) -> Iterator[Read]:
    """A map over `processes` processes."""
    if processes == 1:
        yield map
        return
    # Started anew instead of forked: a fork would copy the locks of whatever threads this process has.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield lambda work, items: pool.map(work, items, chunksize=max(len(items) // (16 * processes), 1))


Slice = tuple[str, str, str, np.ndarray, np.ndarray]
"""Name, case, patient, image uint16 and label uint8 at the working size."""


def working_slices(source: Source, size: int, item: str) -> list[Slice]:
    """The training slices of an item at the working size, as they are stored."""
    return [
        (
            s.name,
            s.case,
            s.patient,
            stored(resize_nearest(s.image, (size, size))),
            resized_label(s.label, size),
        )
        for s in source.read_training(item)
    ]


def resized_label(label: np.ndarray | None, size: int) -> np.ndarray:
    if label is None:
        return np.full((size, size), UNLABELLED, dtype=np.uint8)
    return resize_nearest(label, (size, size)).astype(np.uint8)


def stored(image: np.ndarray) -> np.ndarray:
    """Intensities as uint16."""
    if image.dtype == np.uint16:
        return image
    return np.round(image.astype(np.float64).clip(0, 1) * SCALE).astype(np.uint16)


def write_slices(source: Source, size: int, folder: Path, read: Read) -> None:
    """Write images.npy, labels.npy and manifest.csv: patients in the order of the list, their slices by number.

    Every layout of a dataset gives the same order, and with it the same training.
    """
    slices: list[Slice] = []
    order: dict[str, int] = {}
    ranks: dict[str, int] = {}  # Patients without a label have none.
    for part in read(partial(working_slices, source, size), source.training_items()):
        for item in part:
            order.setdefault(item[2], len(order))
            if item[4].flat[0] != UNLABELLED:
                ranks.setdefault(item[2], len(ranks) + 1)
            slices.append(item)
    slices.sort(key=lambda item: (order[item[2]], by_number(item[1]), by_number(item[0])))
    rows = [
        (name, case, patient, index, "train", ranks.get(patient))
        for index, (name, case, patient, _, _) in enumerate(slices)
    ]
    for file, arrays in (("images.npy", [s[3] for s in slices]), ("labels.npy", [s[4] for s in slices])):
        with atomic_path(folder / file) as temporary:
            save_stack(temporary, arrays)
    columns = ["slice", "case", "patient", "index", "split", "labelled_rank"]
    with atomic_path(folder / "manifest.csv") as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)


def by_number(name: str) -> list[str | int]:
    """Sorts names as people do: slice_2 before slice_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def save_stack(path: Path, arrays: list[np.ndarray]) -> None:
    """What `np.save(path, np.stack(arrays))` writes, without the second copy of a whole dataset."""
    first = arrays[0]
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (len(arrays), *first.shape)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array, first.dtype).data)


def write_case(source: Source, folder: Path, item: str) -> tuple[object, ...]:
    """Write cases/<case>.npz; returns its row of cases.csv."""
    volume = source.read_volume(item)
    spacing = np.full(3, np.nan) if volume.spacing is None else np.array(volume.spacing, dtype=np.float64)
    image = volume.image if volume.image.dtype == np.uint16 else volume.image.astype(np.float32)
    with atomic_path(folder / "cases" / f"{volume.name}.npz") as temporary:
        np.savez(temporary, image=image, label=volume.label.astype(np.uint8), spacing=spacing)
    return (volume.name, volume.patient, volume.split, *volume.image.shape, *spacing)


def write_cases(source: Source, folder: Path, read: Read) -> None:
    """Write cases/<case>.npz and cases.csv."""
    rows = list(read(partial(write_case, source, folder), source.volume_items()))
    columns = ["case", "patient", "split", "slices", "height", "width", "spacing_z", "spacing_y", "spacing_x"]
    with atomic_path(folder / "cases.csv") as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
