"""NIfTI volumes as arrays in one orientation, with their spacing; CT windows."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from isal import igzip  # Python's own gzip takes half as long again.
from isal.igzip_lib import IsalError
from nibabel import affines, filebasedimages, orientations, spatialimages

from cgs.data.store import SCALE
from cgs.errors import SuiteError

# Its notes on headers would stand beside our sentence.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    cast(type[Exception], IsalError),  # Its stub calls it an instance.
    filebasedimages.ImageFileError,
    spatialimages.HeaderDataError,
)
"""What a damaged file may raise."""

OBLIQUE = 0.01
"""Angle in radians between the axes of a volume and those of the patient from which it is refused."""


def read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Voxels (D, H, W) and spacing (z, y, x) in mm of a `.nii` or `.nii.gz`.

    Slices go from inferior to superior, rows from anterior to posterior, columns from the patient's right to left
    (the header says how they are stored; flips and permutations of axes are undone). Integers stay integers unless
    the header scales them. Raises SuiteError for a file that is damaged, oblique or no volume.
    """
    try:
        raw = path.read_bytes()
        raw = igzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        # As it stands in the file: an image's own header has been mended, a spacing of 0 to 1 mm.
        header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False)
        image = nibabel.Nifti1Image.from_bytes(raw)
        data = np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise SuiteError(f"{path} does not exist; fetch that file.") from None
    except DAMAGED as error:
        raise SuiteError(f"{path} is damaged or no NIfTI file ({error}); fetch it again.") from None
    data = data.reshape(data.shape[:3]) if data.ndim > 3 and max(data.shape[3:]) == 1 else data
    if data.ndim != 3:
        raise SuiteError(f"{path} holds {data.shape} voxels, but one volume of three dimensions is needed.")
    if data.dtype.kind not in "iuf" or not (data.dtype.kind in "iu" or np.isfinite(data).all()):
        raise SuiteError(f"{path} must hold finite real numbers ({data.dtype}); fetch it again.")
    sizes = np.array(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and np.isfinite(image.affine).all()):
        raise SuiteError(f"{path}: the spacing {sizes.tolist()} mm is not positive; mend its header.")
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
    return straight, (z, y, x)


def windowed(voxels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Intensities from `window` as uint16: 0 at its low end and below, 65535 at its high end and above."""
    low, high = window
    if voxels.dtype == np.int16:  # A table of all 65,536 values instead of arithmetic on every voxel.
        every = np.arange(65536, dtype=np.uint16).view(np.int16)
        return windowed(every.astype(np.float64), window)[voxels.view(np.uint16)]
    share = ((voxels.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return np.round(share * SCALE).astype(np.uint16)
