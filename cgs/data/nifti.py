"""NIfTI volumes as arrays in one orientation, with their spacing; CT windows."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from isal import igzip  # Python's own gzip takes half as long again.
from isal.igzip_lib import IsalError
from nibabel import affines, filebasedimages, orientations, spatialimages, wrapstruct
from nibabel.arrayproxy import ArrayProxy

from cgs.bounds import LARGEST, check_claim, read_bounded, read_stream
from cgs.data.store import SCALE
from cgs.errors import SuiteError, plain

# Its notes on headers would stand beside our sentence.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    cast(type[Exception], IsalError),  # Its stub calls it an instance.
    filebasedimages.ImageFileError,
    spatialimages.HeaderDataError,
    wrapstruct.WrapStructError,
)
"""What a damaged file may raise."""

OBLIQUE = 0.01
"""Angle in radians between the axes of a volume and those of the patient from which it is refused."""


Spacing = tuple[float, float, float]

MILLIMETRES = (0, 2)
"""Codes of a header's unit of length: not said, which is taken for millimetres, and millimetres."""

UNITS = {1: "metres", 3: "micrometres"}

UNKNOWN = 255
"""Stands for a label value that nobody named."""


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed where it is gzipped. Raises ValueError for more than LARGEST bytes."""
    raw = read_bounded(path, LARGEST)
    if raw[:2] != b"\x1f\x8b":
        return raw
    with igzip.IGzipFile(fileobj=io.BytesIO(raw)) as file:
        return read_stream(file, LARGEST)


def read_pair(
    image: Path,
    label: Path,
    values: Mapping[int, int],
    *,
    others: bool = False,
    straighten: bool = True,
    origins: bool = False,
) -> tuple[np.ndarray, np.ndarray, Spacing]:
    """Image (D, H, W) as stored, label uint8, spacing (z, y, x) in mm, of two files that lie alike in space.

    `values` gives the class of every label value but 0, see `classes`; for the rest see `read_nifti`. With `origins`
    they must begin in the same place too, to half a voxel.
    """
    voxels, spacing, affine = read_nifti(image, straighten)
    marks, _, other = read_nifti(label, straighten)
    if voxels.shape != marks.shape:
        raise SuiteError(
            f"{image.name} {voxels.shape} and {label.name} {marks.shape} in {image.parent} must have the same size; "
            "fetch them again."
        )
    # A header that was lost would turn the label another way than the image.
    if not np.allclose(affine[:3, :3], other[:3, :3], atol=0.01 * min(spacing)):
        raise SuiteError(
            f"{image} and {label} lie differently in space (spacing or directions of their headers); resample the "
            "label to the image."
        )
    shift = affine[:3, 3] - other[:3, 3]
    if origins and np.abs(shift).max() > 0.5 * min(spacing):
        each = ", ".join(f"{s:.1f}" for s in shift)
        raise SuiteError(
            f"{image} and {label} begin ({each}) mm apart in space (origin of their headers); resample the label to "
            "the image, or mend its header."
        )
    return voxels, classes(marks, values, label, others=others), spacing


def classes(label: np.ndarray, values: Mapping[int, int], where: Path, *, others: bool = False) -> np.ndarray:
    """Classes 0..K uint8 from label values; 0 is background.

    Raises SuiteError for a value that `values` does not name, unless `others` are background.
    """
    known = {0: 0, **values}
    if label.dtype.kind == "f":
        whole = np.rint(label)
        _refuse(label[whole != label], known, where)
        label = whole
    low, high = int(label.min()), int(label.max())
    if low < 0 or high > max(known):
        if not others:
            _refuse(np.array([low if low < 0 else high]), known, where)
        label = np.where((label < 0) | (label > max(known)), 0, label)
    if known == {k: k for k in range(len(known))}:
        return label.astype(np.uint8)
    table = np.full(max(known) + 1, 0 if others else UNKNOWN, dtype=np.uint8)
    table[list(known)] = list(known.values())
    found = table[label.astype(np.uint16)]
    if not others:
        _refuse(label[found == UNKNOWN], known, where)
    return found


def _refuse(wrong: np.ndarray, known: Mapping[int, int], where: Path) -> None:
    if wrong.size:
        last = max(known)
        names = f"0 to {last}" if len(known) == last + 1 else ", ".join(map(str, sorted(known)))
        raise SuiteError(
            f"{where}: the label {wrong.ravel()[0]} is not among {names}; check that the file is of this dataset."
        )


def _parsed(raw: bytes) -> tuple[nibabel.Nifti1Header, nibabel.Nifti1Image, np.ndarray]:
    """Header as it stands in the file, image and voxels. Raises one of DAMAGED."""
    # An image's own header has been mended, a spacing of 0 to 1 mm.
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False)
    image = nibabel.Nifti1Image.from_bytes(raw)
    # nibabel would take the memory that the header asks for before it looks whether the file has as much.
    check_claim(
        image.shape, image.get_data_dtype().itemsize, len(raw) - cast(ArrayProxy, image.dataobj).offset
    )
    return header, image, np.asanyarray(image.dataobj)


def read_nifti(path: Path, straighten: bool = True) -> tuple[np.ndarray, Spacing, np.ndarray]:
    """Voxels (D, H, W), spacing (z, y, x) in mm and affine (4, 4) of a `.nii` or `.nii.gz`.

    Slices go from inferior to superior, rows from anterior to posterior, columns from the patient's right to left
    (the header says how they are stored; flips and permutations of axes are undone); without `straighten`, slices
    are the third axis, rows the second, columns the first, as stored. Integers stay integers unless the header scales
    them. Raises SuiteError for a file that is damaged, no volume, or oblique where it is to be straightened.
    """
    try:
        header, image, data = _parsed(read_bytes(path))
    except FileNotFoundError:
        raise SuiteError(f"{path} does not exist; fetch that file.") from None
    except DAMAGED as error:
        raise SuiteError(f"{path} is damaged or no NIfTI file ({plain(error)}); fetch it again.") from None
    data = data.reshape(data.shape[:3]) if data.ndim > 3 and max(data.shape[3:]) == 1 else data
    if data.ndim != 3:
        raise SuiteError(f"{path} holds {data.shape} voxels, but one volume of three dimensions is needed.")
    if data.dtype.kind not in "iuf" or not (data.dtype.kind in "iu" or np.isfinite(data).all()):
        raise SuiteError(f"{path} must hold finite real numbers ({data.dtype}); fetch it again.")
    sizes = np.array(header["pixdim"][1:4], dtype=np.float64)
    if not data.size:
        raise SuiteError(f"{path} holds no voxels; fetch it again.")
    unit = int(header["xyzt_units"]) & 7
    if unit not in MILLIMETRES:
        raise SuiteError(
            f"{path}: its header gives lengths in {UNITS.get(unit, 'an unknown unit')}; save it in millimetres."
        )
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and np.isfinite(image.affine).all()):
        raise SuiteError(f"{path}: the spacing {sizes.tolist()} mm is not positive; mend its header.")
    if not straighten:
        return data.transpose(2, 1, 0), (float(sizes[2]), float(sizes[1]), float(sizes[0])), image.affine
    tilt = float(np.max(affines.obliquity(image.affine)))
    if not tilt <= OBLIQUE:
        raise SuiteError(
            f"{path}: its axes are {np.degrees(tilt):.1f} degrees off the patient's; resample it to straight axes."
        )
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(("L", "P", "S"))
    )
    straight = orientations.apply_orientation(data, turn).transpose(2, 1, 0)
    x, y, z = sizes[np.argsort(turn[:, 0])].tolist()
    return straight, (z, y, x), image.affine


def scaled(voxels: np.ndarray, where: str) -> np.ndarray:
    """Intensities min-max scaled to [0, 1], float32. Raises SuiteError for a constant volume."""
    low, high = float(voxels.min()), float(voxels.max())
    if not low < high:
        raise SuiteError(f"{where}: all intensities are {low:.4g}; fetch this file again.")
    if not np.isfinite(high - low):
        raise SuiteError(
            f"{where}: intensities from {low:.4g} to {high:.4g} are no image; fetch this file again."
        )
    return ((voxels.astype(np.float64) - low) / (high - low)).astype(np.float32)


def windowed(voxels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Intensities from `window` as uint16: 0 at its low end and below, 65535 at its high end and above."""
    low, high = window
    if voxels.dtype == np.int16:  # A table of all 65,536 values instead of arithmetic on every voxel.
        every = np.arange(65536, dtype=np.uint16).view(np.int16)
        return windowed(every.astype(np.float64), window)[voxels.view(np.uint16)]
    share = ((voxels.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return np.round(share * SCALE).astype(np.uint16)
