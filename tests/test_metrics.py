"""Metrics against medpy on thousands of random pairs, and each convention's rules by hand."""

from __future__ import annotations

import json
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy import metric as medpy

from cgs.evaluation import metrics
from cgs.evaluation.conventions import score_volume
from cgs.evaluation.metrics import surface_distances

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random mask: a box, a few voxels, noise, everything, or all but a hole."""
    mask = np.zeros(shape, dtype=bool)
    kind = rng.integers(6)
    if kind == 0:  # One voxel, anywhere, edges included.
        mask[tuple(rng.integers(n) for n in shape)] = True
    elif kind == 1:
        mask = rng.random(shape) < rng.uniform(0.02, 0.6)
    elif kind == 2:
        mask[:] = True
    elif kind == 3:
        mask[:] = True
        mask[tuple(rng.integers(n) for n in shape)] = False
    else:  # Boxes, often touching the border.
        for _ in range(rng.integers(1, 3)):
            corner = [rng.integers(n) for n in shape]
            mask[tuple(slice(c, c + rng.integers(1, n + 1)) for c, n in zip(corner, shape, strict=True))] = (
                True
            )
    if not mask.any():
        mask.flat[0] = True
    return mask


def compare(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> None:
    found = metrics.compare(a.astype(np.uint8), b.astype(np.uint8), 2)
    overlap = found.overlaps[0]
    distances = surface_distances(found.prediction[0], found.reference[0], spacing)
    close = {"rel": tolerance, "abs": tolerance}
    assert overlap.dice == pytest.approx(medpy.dc(a, b), **close)
    assert overlap.jaccard == pytest.approx(medpy.jc(a, b), **close)
    assert distances.hd95_pooled == pytest.approx(medpy.hd95(a, b, voxelspacing=spacing), **close)
    assert distances.asd == pytest.approx(medpy.asd(a, b, voxelspacing=spacing), **close)
    assert distances.assd == pytest.approx(medpy.assd(a, b, voxelspacing=spacing), **close)


SHAPES = [(1, 9, 7), (5, 8, 6), (3, 1, 11), (6, 12, 10), (9, 13)]


def test_equal_to_medpy_at_unit_spacing() -> None:
    rng = np.random.default_rng(0)
    for number in range(1500):
        shape = SHAPES[number % len(SHAPES)]
        compare(blobs(rng, shape), blobs(rng, shape), (1.0,) * len(shape), 1e-12)


def test_equal_to_medpy_with_anisotropic_spacing() -> None:
    rng = np.random.default_rng(1)
    for number in range(700):
        shape = SHAPES[number % len(SHAPES)]
        spacing = tuple(rng.uniform(0.3, 10, len(shape)))
        compare(blobs(rng, shape), blobs(rng, shape), spacing, 1e-6)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 8)] * 3))
def test_equal_to_medpy_on_any_shape(seed: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    compare(blobs(rng, shape), blobs(rng, shape), (1.0, 1.0, 1.0), 1e-12)


def test_golden_of_medpy() -> None:
    a, b = np.zeros((6, 24, 24), np.uint8), np.zeros((6, 24, 24), np.uint8)
    a[1:5, 4:15, 5:16] = 1
    b[2:6, 6:19, 7:18] = 1
    b[0, 20, 3] = 1
    expected = GOLDENS["medpy_metrics"]["value"]
    scores = score_volume(a, b, 2, (1.0, 1.0, 1.0), 1.0)
    assert scores["field"][0]["dice"] == pytest.approx(expected["dice"])
    assert scores["field"][0]["jaccard"] == pytest.approx(expected["jaccard"])
    assert scores["field"][0]["hd95"] == pytest.approx(expected["hd95"])
    assert scores["field"][0]["asd"] == pytest.approx(expected["asd_pred_to_ref"])
    assert scores["strict"][0]["assd"] == pytest.approx(expected["assd"])


def test_several_targets_at_once_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 4, 12, 12)).astype(np.uint8)
    together = score_volume(a, b, 4, (2.0, 1.0, 1.5), 1.0)
    for k in (1, 2, 3):
        alone = score_volume((a == k).astype(np.uint8), (b == k).astype(np.uint8), 2, (2.0, 1.0, 1.5), 1.0)
        assert together["field"][k - 1] == alone["field"][0]
        assert together["strict"][k - 1] == alone["strict"][0]


def test_targets_of_a_volume_equal_medpy_on_the_whole_volume() -> None:
    """Through both conventions: neither the crop nor the neighbouring targets change a number."""
    rng = np.random.default_rng(7)
    spacing = (4.0, 1.5, 0.7)
    for _ in range(60):
        a, b = np.zeros((2, 6, 20, 18), np.uint8)
        for label in (1, 2, 3):
            for volume in (a, b):
                z, y, x = (int(rng.integers(n - 3)) for n in a.shape)
                volume[z : z + 4, y : y + 9, x : x + 9] = label
        scores = score_volume(a, b, 5, spacing, 1.0)
        for label in (1, 2, 3, 4):
            p, r = a == label, b == label
            field, strict = scores["field"][label - 1], scores["strict"][label - 1]
            if not (p.any() and r.any()):
                assert field == {"dice": 0, "jaccard": 0, "hd95": 50, "asd": 10}
                continue
            for measured, expected in (
                (field["dice"], medpy.dc(p, r)),
                (field["jaccard"], medpy.jc(p, r)),
                (field["hd95"], medpy.hd95(p, r)),
                (field["asd"], medpy.asd(p, r)),
                (strict["dice"], field["dice"]),
                (strict["jaccard"], field["jaccard"]),
                (strict["assd"], medpy.assd(p, r, voxelspacing=spacing)),
            ):
                assert measured == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_surfaces_of_all_targets_are_those_of_one_at_a_time() -> None:
    """By definition, voxel by voxel: a face neighbour with another label, or the edge of the volume."""
    rng = np.random.default_rng(5)
    for shape in SHAPES:
        a, b = (rng.integers(0, 4, shape) * (rng.random(shape) < 0.8) for _ in range(2))
        found = metrics.compare(a.astype(np.uint8), b.astype(np.uint8), 4)
        for volume, other, surfaces in ((a, b, found.prediction), (b, a, found.reference)):
            for target, surface in enumerate(surfaces, start=1):
                points = by_definition(volume == target)
                assert {tuple(p) for p in surface.points.tolist()} == points
                shared = points & by_definition(other == target)
                assert {tuple(p) for p in surface.points[~surface.alone].tolist()} == shared


def by_definition(mask: np.ndarray) -> set[tuple[int, ...]]:
    steps = [s * np.eye(mask.ndim, dtype=int)[d] for d in range(mask.ndim) for s in (-1, 1)]

    def outside(point: np.ndarray) -> bool:
        return bool((point < 0).any() or (point >= mask.shape).any() or not mask[tuple(point)])

    return {tuple(p.tolist()) for p in np.argwhere(mask) if any(outside(p + step) for step in steps)}


def test_stray_voxels_cost_no_more_than_a_walk_over_the_volume() -> None:
    """No array of the size of the volume: the peak is far below one byte a voxel."""
    volume = np.zeros((2, 60, 256, 256), np.uint8)
    volume[:, 20:40, 100:150, 100:160] = 1
    volume[0, 0, 0, 0] = volume[0, -1, -1, -1] = 1
    tracemalloc.start()
    score_volume(volume[0], volume[1], 2, (2.0, 1.0, 1.0), 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < volume[0].nbytes


def test_nsd_counts_a_distance_of_exactly_the_tolerance() -> None:
    """Against exact fractions, with spacings of tenths of a millimetre that floating point does not hold."""
    rng = np.random.default_rng(11)
    spacing, tolerance = (Fraction(7, 10), Fraction(4, 10), Fraction(3, 10)), Fraction(12, 10)
    exactly = 0
    for _ in range(25):
        a, b = blobs(rng, (4, 9, 9)), blobs(rng, (4, 9, 9))
        surfaces = [np.array(sorted(by_definition(m))) for m in (a, b)]
        tenths = [points * np.array([10 * s for s in spacing], int) for points in surfaces]
        squares = ((tenths[0][:, None] - tenths[1][None]) ** 2).sum(-1)
        nearest = np.hstack((squares.min(1), squares.min(0)))
        limit = int((10 * tolerance) ** 2)
        exactly += int((nearest == limit).sum())
        scores = score_volume(a.astype(np.uint8), b.astype(np.uint8), 2, (0.7, 0.4, 0.3), float(tolerance))
        assert scores["strict"][0]["nsd"] == (nearest <= limit).sum() / nearest.size
    assert exactly > 50, "the case is not put to the test"


def test_strict_by_brute_force() -> None:
    """HD95, ASSD and NSD from all pairs of surface voxels, in millimetres."""
    rng = np.random.default_rng(3)
    spacing = np.array([5.0, 1.2, 0.8])
    for _ in range(20):
        a, b = blobs(rng, (4, 8, 9)), blobs(rng, (4, 8, 9))
        points = []
        for mask in (a, b):
            padded = np.pad(mask, 1)
            core = np.ones_like(mask)
            for axis in range(3):
                for shift in (-1, 1):
                    core &= np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
            points.append(np.argwhere(mask & ~core) * spacing)
        pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
        forth, back = pairs.min(1), pairs.min(0)
        scores = score_volume(a.astype(np.uint8), b.astype(np.uint8), 2, tuple(spacing), 1.5)["strict"][0]
        assert scores["hd95"] == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
        assert scores["assd"] == pytest.approx((forth.sum() + back.sum()) / (len(forth) + len(back)))
        share = ((forth <= 1.5).sum() + (back <= 1.5).sum()) / (len(forth) + len(back))
        assert scores["nsd"] == pytest.approx(share)


def test_empty_masks() -> None:
    full, empty = np.ones((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    worst = {"dice": 0, "jaccard": 0, "hd95": 50, "asd": 10}
    for a, b in ((full, empty), (empty, full), (empty, empty)):
        assert score_volume(a, b, 2, (1.0, 1.0, 1.0), 1.0)["field"][0] == worst
    diagonal = pytest.approx(np.sqrt(4**2 + 3**2 + 8**2))
    for a, b in ((full, empty), (empty, full)):
        scores = score_volume(a, b, 2, (2.0, 1.0, 2.0), 1.0)["strict"][0]
        assert scores == {"dice": 0, "jaccard": 0, "hd95": diagonal, "assd": diagonal, "nsd": 0}
    scores = score_volume(empty, empty, 2, (2.0, 1.0, 2.0), 1.0)["strict"][0]
    assert scores == {"dice": 1, "jaccard": 1, "hd95": 0, "assd": 0, "nsd": 1}


def test_unknown_spacing_gives_no_millimetres() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 3, 5, 5)).astype(np.uint8)
    scores = score_volume(a, b, 2, None, 1.0)
    assert all(np.isnan(scores["strict"][0][m]) for m in ("hd95", "assd", "nsd"))
    assert scores["strict"][0]["dice"] == scores["field"][0]["dice"]
    empty = np.zeros_like(a)
    for prediction, reference in ((empty, a), (empty, empty)):
        strict = score_volume(prediction, reference, 2, None, 1.0)["strict"][0]
        assert all(np.isnan(strict[m]) for m in ("hd95", "assd", "nsd")), "nor where a mask is empty"
        assert strict["dice"] == float(not reference.any())
    assert all(np.isfinite(v) for v in scores["field"][0].values())


def test_perfect_prediction() -> None:
    a = np.zeros((3, 6, 6), np.uint8)
    a[1, 2:4, 2:5] = 1
    scores = score_volume(a, a, 2, (3.0, 1.0, 1.0), 1.0)
    assert scores["field"][0] == {"dice": 1, "jaccard": 1, "hd95": 0, "asd": 0}
    assert scores["strict"][0] == {"dice": 1, "jaccard": 1, "hd95": 0, "assd": 0, "nsd": 1}
