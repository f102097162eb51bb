"""Two conventions of evaluation, from the same predictions.

`field` is what the literature reports: voxel units whatever the spacing, HD95 pooled over both directions, ASD
from prediction to reference only, and (Dice, Jaccard, HD95, ASD) = (0, 0, 50, 10) where the prediction or the
reference is empty. That includes both empty: a target rightly left out scores as the worst.

`strict` is in millimetres: HD95 is the larger of the two directed 95th percentiles; ASSD is the mean over the surface
voxels of both directions; NSD (normalised surface Dice) is the share of the surface voxels of both masks that lie
at most a stated tolerance from the other surface. A target that both lack is a perfect result (Dice, Jaccard, NSD 1;
distances 0); one that only one of them has is the worst (Dice, Jaccard, NSD 0; both distances the diagonal
of the volume, which is finite, so that a mean over cases exists). Where the spacing is unknown, HD95, ASSD and NSD
are NaN for every target rather than a guess; their rows stay, so that they are seen to be missing.

A surface voxel is one of the mask that has a face neighbour outside it; the edge of the volume counts as outside.
"""

from __future__ import annotations

import numpy as np

from cgs.evaluation.metrics import Distances, Overlap, compare, surface_distances

Scores = dict[str, float]
METRICS = {"field": ("dice", "jaccard", "hd95", "asd"), "strict": ("dice", "jaccard", "hd95", "assd", "nsd")}
IN_MILLIMETRES = ("hd95", "assd", "nsd")


def field(overlap: Overlap, distances: Distances | None) -> Scores:
    """The scores of one target by the `field` convention; `distances` at unit spacing, None where one is empty."""
    if distances is None:
        return {"dice": 0.0, "jaccard": 0.0, "hd95": 50.0, "asd": 10.0}
    return {
        "dice": overlap.dice,
        "jaccard": overlap.jaccard,
        "hd95": distances.hd95_pooled,
        "asd": distances.asd,
    }


def strict(overlap: Overlap, distances: Distances | None, diagonal: float, tolerance: float) -> Scores:
    """The scores of one target by the `strict` convention; `diagonal` and `tolerance` in mm."""
    if distances is not None:
        return {
            "dice": overlap.dice,
            "jaccard": overlap.jaccard,
            "hd95": distances.hd95_larger,
            "assd": distances.assd,
            "nsd": distances.nsd(tolerance),
        }
    right = float(overlap.prediction == overlap.reference)  # Both empty.
    far = 0.0 if right else diagonal
    return {"dice": right, "jaccard": right, "hd95": far, "assd": far, "nsd": right}


def score_volume(
    prediction: np.ndarray,
    reference: np.ndarray,
    classes: int,
    spacing: tuple[float, ...] | None,
    tolerance: float,
) -> dict[str, list[Scores]]:
    """Scores of targets 1..K by both conventions: {"field": [...], "strict": [...]}.

    prediction and reference (D, H, W) or (H, W), integer, of the same shape, labels in 0..K; `classes` is K + 1;
    spacing in mm per axis, or None where unknown; tolerance of the NSD in mm.
    """
    result: dict[str, list[Scores]] = {"field": [], "strict": []}
    unit = (1.0,) * prediction.ndim
    diagonal = float(np.linalg.norm(np.multiply(prediction.shape, spacing or unit)))
    found = compare(prediction, reference, classes)
    for overlap, first, second in zip(found.overlaps, found.prediction, found.reference, strict=True):
        voxels = millimetres = None
        if overlap.prediction and overlap.reference:
            voxels = millimetres = surface_distances(first, second, unit)
            if spacing not in (None, unit):
                millimetres = surface_distances(first, second, spacing)
        result["field"].append(field(overlap, voxels))
        scores = strict(overlap, millimetres, diagonal, tolerance)
        if spacing is None:
            scores |= dict.fromkeys(IN_MILLIMETRES, float("nan"))
        result["strict"].append(scores)
    return result
