"""Overlap and surface distances of label volumes, equal to medpy and far cheaper.

medpy transforms the whole volume once per target, metric and direction. Here one walk over the slices gives the
overlaps and the surface voxels of all targets at once; the distances of both directions are found in trees of surface
voxels, once, and shared by every metric that needs them. So neither the volume's size nor stray voxels far from an
organ cost much, and no temporary array is larger than a slice or a surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


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


@dataclass(frozen=True)
class Surface:
    """Surface voxels of one target in one volume: `points` (N, D) indices; `alone` (N,) where the other has none."""

    points: np.ndarray
    alone: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """What two label volumes have to do with each other: per target 1..K, overlap and both surfaces."""

    overlaps: list[Overlap]
    prediction: list[Surface]
    reference: list[Surface]


def compare(prediction: np.ndarray, reference: np.ndarray, classes: int) -> Comparison:
    """Walk over the slices of two integer label volumes of the same shape; `classes` is K + 1.

    Labels must lie in 0..K: one outside would be counted as another. A surface voxel has a face neighbour of
    another label; the edge of the volume counts as outside (medpy's rule).
    """
    slices = prediction.shape[0] if prediction.ndim == 3 else 1
    table = np.zeros(classes * classes, dtype=np.int64)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for z in range(slices):
        planes = [v[z] if v.ndim == 3 else v for v in (prediction, reference)]
        joint = np.flatnonzero(planes[0] | planes[1])
        if not len(joint):
            continue
        values = planes[1].ravel()[joint].astype(np.intp) * classes + planes[0].ravel()[joint]
        table += np.bincount(values, minlength=classes * classes)
        # Outside these rows both volumes are empty, so that the edge of the crop is a surface like any other.
        width = planes[0].shape[-1]
        rows = slice(joint[0] // width, joint[-1] // width + 1)
        planes = [plane[rows] for plane in planes]
        edges = [_edge(v, plane, z, rows) for v, plane in zip((prediction, reference), planes, strict=True)]
        both = edges[0] & edges[1] & (planes[0] == planes[1])
        for edge, plane, out in zip(edges, planes, found, strict=True):
            y, x = np.nonzero(edge)
            columns = (np.full(len(y), z), y + rows.start, x, plane[y, x], ~both[y, x])
            out.append(np.stack(columns, axis=1, dtype=np.int32, casting="unsafe"))
    counts = table.reshape(classes, classes)
    in_prediction, in_reference = counts.sum(0), counts.sum(1)
    overlaps = [
        Overlap(int(in_prediction[k]), int(in_reference[k]), int(counts[k, k])) for k in range(1, classes)
    ]
    return Comparison(overlaps, *(_surfaces(out, classes, prediction.ndim) for out in found))


def _edge(volume: np.ndarray, plane: np.ndarray, z: int, rows: slice) -> np.ndarray:
    """Where `plane`, the given rows of slice z, is a surface of its own label."""
    edge = np.ones(plane.shape, dtype=bool)
    if plane.shape[0] > 2 and plane.shape[1] > 2:
        middle = plane[1:-1, 1:-1]
        edge[1:-1, 1:-1] = (
            (middle != plane[:-2, 1:-1])
            | (middle != plane[2:, 1:-1])
            | (middle != plane[1:-1, :-2])
            | (middle != plane[1:-1, 2:])
        )
    if volume.ndim == 3:
        for other in (z - 1, z + 1):
            edge |= plane != volume[other, rows] if 0 <= other < len(volume) else True
    return edge & (plane > 0)


def _surfaces(found: list[np.ndarray], classes: int, dimensions: int) -> list[Surface]:
    """The surface of each target from rows of (z, y, x, label, alone)."""
    rows = np.concatenate(found) if found else np.zeros((0, 5), dtype=np.int32)
    parts = [rows[rows[:, 3] == k] for k in range(1, classes)]
    return [Surface(part[:, 3 - dimensions : 3], part[:, 4].astype(bool)) for part in parts]


def surface_distances(prediction: Surface, reference: Surface, spacing: tuple[float, ...]) -> Distances:
    """Distances between two surfaces, none empty, in units of the spacing."""
    first, second = prediction.points * np.array(spacing), reference.points * np.array(spacing)
    return Distances(_nearest(first, second, prediction.alone), _nearest(second, first, reference.alone))


def _nearest(points: np.ndarray, others: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Distance of each of `points` (N, D) to the nearest of `others`; 0 where not `alone`."""
    distances = np.zeros(len(points))
    if alone.any():
        distances[alone] = cKDTree(others, balanced_tree=False).query(points[alone])[0]
    return distances
