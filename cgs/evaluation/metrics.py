"""Overlap and surface distances of label volumes, equal to medpy and far cheaper.

medpy transforms the whole volume once per target, metric and direction. Here the overlap of all targets comes
from one table of counts; surfaces are extracted once per target inside the union bounding box; the distances of
both directions are computed once and shared by every metric that needs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

VOXELS_PER_POINT = 8
"""A tree of surface points wins while the box holds this many voxels per point to be searched; else a transform.

Measured: hearts at 10 to 150 are up to 18 times faster by the tree; noise at 20 is even.
"""


@dataclass(frozen=True)
class Overlap:
    """Voxels of one target in the prediction, in the reference, and in both."""

    prediction: int
    reference: int
    both: int

    @property
    def dice(self) -> float:
        """2 |P and R| / (|P| + |R|); NaN where both are empty."""
        total = self.prediction + self.reference
        return 2 * self.both / total if total else float("nan")

    @property
    def jaccard(self) -> float:
        """|P and R| / |P or R|; NaN where both are empty."""
        union = self.prediction + self.reference - self.both
        return self.both / union if union else float("nan")


@dataclass(frozen=True)
class Distances:
    """Distance of every surface voxel of one mask to the surface of the other, in units of the spacing."""

    to_reference: np.ndarray
    to_prediction: np.ndarray

    @property
    def hd95_pooled(self) -> float:
        """95th percentile of both directions together (medpy's hd95)."""
        return float(np.percentile(np.hstack((self.to_reference, self.to_prediction)), 95))

    @property
    def hd95_larger(self) -> float:
        """The larger of the two directed 95th percentiles."""
        return float(max(np.percentile(self.to_reference, 95), np.percentile(self.to_prediction, 95)))

    @property
    def asd(self) -> float:
        """Mean distance from the prediction's surface to the reference's (medpy's asd: one direction)."""
        return float(self.to_reference.mean())

    @property
    def assd(self) -> float:
        """Mean over the surface voxels of both directions together (medpy's assd)."""
        return float(np.hstack((self.to_reference, self.to_prediction)).mean())

    def nsd(self, tolerance: float) -> float:
        """Share of both surfaces' voxels, counted together, that lie at most `tolerance` from the other surface."""
        # 5 voxels of 0.4 mm are 2.0000000000000004 mm in floating point, and within 2 mm all the same.
        most = tolerance * (1 + 1e-9)
        near = (self.to_reference <= most).sum() + (self.to_prediction <= most).sum()
        return float(near / (len(self.to_reference) + len(self.to_prediction)))


def overlaps(prediction: np.ndarray, reference: np.ndarray, classes: int) -> list[Overlap]:
    """Overlap of targets 1..K of two integer label volumes of the same shape; `classes` is K + 1.

    Labels must lie in 0..K: one outside would be counted as another.
    """
    joint = reference.ravel().astype(np.int64) * classes + prediction.ravel()
    table = np.bincount(joint, minlength=classes * classes).reshape(classes, classes)
    in_prediction, in_reference = table.sum(0), table.sum(1)
    return [Overlap(int(in_prediction[k]), int(in_reference[k]), int(table[k, k])) for k in range(1, classes)]


def boxes(prediction: np.ndarray, reference: np.ndarray, classes: int) -> list[tuple[slice, ...] | None]:
    """Union bounding box of each target 1..K, or None where either volume lacks it."""
    found = [ndimage.find_objects(volume, max_label=classes - 1) for volume in (prediction, reference)]
    return [
        None
        if a is None or b is None
        else tuple(slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True))
        for a, b in zip(*found, strict=True)
    ]


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a face neighbour outside it; the edge of the array counts as outside."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        first, last = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        first[axis], last[axis] = slice(1, None), slice(None, -1)
        inside[tuple(last)] &= mask[tuple(first)]
        inside[tuple(first)] &= mask[tuple(last)]
        for end in (0, -1):
            edge = [slice(None)] * mask.ndim
            edge[axis] = end  # type: ignore[call-overload]
            inside[tuple(edge)] = False
    return mask & ~inside


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacings: list[tuple[float, ...]]
) -> Iterator[Distances]:
    """Distances between the surfaces of two masks (bool, same shape, none empty), one result per spacing.

    The masks are best cropped to their union bounding box: nothing outside it is a surface, and what touches its
    edge is one, as at the edge of the volume (medpy's rule). The nearest point is found with a tree of surface
    points, or with a distance transform where the surfaces fill the box.
    """
    first, second = surface(prediction), surface(reference)
    a, b = np.argwhere(first), np.argwhere(second)
    # A voxel on both surfaces is at distance 0 of the other: only the others need a search.
    alone_a, alone_b = ~second[first], ~first[second]
    transform = (alone_a.sum() + alone_b.sum()) * VOXELS_PER_POINT > first.size
    for spacing in spacings:
        if transform:
            yield Distances(
                ndimage.distance_transform_edt(~second, sampling=spacing)[first],
                ndimage.distance_transform_edt(~first, sampling=spacing)[second],
            )
        else:
            scaled = a * np.array(spacing), b * np.array(spacing)
            yield Distances(_nearest(*scaled, alone_a), _nearest(scaled[1], scaled[0], alone_b))


def _nearest(points: np.ndarray, others: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Distance of each of `points` (N, D) to the nearest of `others`; 0 where not `alone`."""
    distances = np.zeros(len(points))
    if alone.any():
        distances[alone] = cKDTree(others, balanced_tree=False).query(points[alone])[0]
    return distances
