"""Time the metrics of the suite against medpy on synthetic volumes.

    python benchmarks/metrics.py [--cases cine thorax abdomen] [--repeats 5] [--markdown FILE]

A case is a reference and a prediction of it with a displaced, uneven boundary: `cine` a short-axis heart (10 x 256 x
216 voxels, three targets), `thorax` a CT (180 x 512 x 512, heart, aorta, trachea, oesophagus), `abdomen` a CT (150 x
512 x 512, eight organs). `stray` adds false blobs far from the organs, `salt` single false voxels. medpy computes Dice,
Jaccard, HD95 and ASD of one target after the other in voxel units, once per case (it needs minutes on a CT); the suite
computes the same numbers (field) and, with an anisotropic spacing, those of the strict convention too (both). Times are
processor seconds, of the suite medians over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import scipy
import torch
from medpy import metric as medpy
from scipy import ndimage

from cgs.engine.device import describe
from cgs.evaluation.conventions import METRICS, score_volume
from cgs.files import write_text

KINDS = ("plain", "stray", "salt")

Organ = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Centre and radii of an ellipsoid in voxels (z, y, x)."""

SHAPES = {"cine": (10, 256, 216), "thorax": (180, 512, 512), "abdomen": (150, 512, 512)}
SPACINGS = {"cine": (10.0, 1.4, 1.4), "thorax": (2.5, 0.98, 0.98), "abdomen": (3.0, 0.8, 0.8)}
ORGANS: dict[str, list[Organ]] = {
    "cine": [((3.5, 128, 85), (6, 33, 27)), ((4.5, 130, 115), (7, 30, 30)), ((4.5, 130, 115), (6, 21, 21))],
    "thorax": [
        ((60, 230, 270), (27, 60, 62)),
        ((90, 290, 290), (80, 15, 15)),
        ((120, 235, 256), (45, 9, 10)),
        ((90, 280, 262), (85, 7, 9)),
    ],
    "abdomen": [
        ((75, 300, 262), (70, 11, 11)),
        ((112, 310, 240), (8, 12, 15)),
        ((60, 320, 340), (20, 27, 26)),
        ((55, 320, 175), (20, 27, 26)),
        ((90, 230, 170), (32, 75, 90)),
        ((85, 250, 270), (8, 13, 50)),
        ((95, 300, 370), (18, 40, 32)),
        ((95, 220, 330), (18, 45, 42)),
    ],
}


def draw(rng: np.random.Generator, name: str, error: float) -> np.ndarray:
    """Labels 0..K; the organs' boundaries are displaced by smooth noise of `error` voxels."""
    label = np.zeros(SHAPES[name], np.uint8)
    for target, (centre, radii) in enumerate(ORGANS[name], start=1):
        ends = zip(centre, radii, SHAPES[name], strict=True)
        box = tuple(slice(max(int(c - r) - 8, 0), min(int(c + r) + 9, n)) for c, r, n in ends)
        grid = np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij")
        scaled = [(g - c) / r for g, c, r in zip(grid, centre, radii, strict=True)]
        noise = ndimage.gaussian_filter(rng.standard_normal(grid[0].shape), (1, 6, 6))
        distance = (np.sqrt(sum(s * s for s in scaled)) - 1) * min(radii[1:])
        label[box][distance + error * noise / noise.std() < 0] = target
    return label


def pair(rng: np.random.Generator, name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and its reference."""
    prediction, reference = draw(rng, name, 1.5), draw(rng, name, 0.3)
    targets, shape = len(ORGANS[name]), SHAPES[name]
    if kind == "stray":
        for target in [*range(1, targets + 1)] * 4:
            z, y, x = (int(rng.integers(n - 6)) for n in shape)
            prediction[z : z + 3, y : y + 6, x : x + 5] = target
    if kind == "salt":
        where = rng.random(shape, dtype=np.float32) < 0.001
        prediction[where] = rng.integers(1, targets + 1, int(where.sum()))
    return prediction, reference


def by_medpy(prediction: np.ndarray, reference: np.ndarray, classes: int) -> list[list[float]]:
    """Dice, Jaccard, HD95, ASD of every target in voxel units."""
    masks = [(prediction == k, reference == k) for k in range(1, classes)]
    return [[f(a, b) for f in (medpy.dc, medpy.jc, medpy.hd95, medpy.asd)] for a, b in masks]


def timed(work: Callable[[], list[list[float]]]) -> tuple[float, np.ndarray]:
    """Processor seconds of `work`, and its result."""
    start = time.process_time()
    values = work()
    return time.process_time() - start, np.array(values)


def row(name: str, kind: str, repeats: int) -> list[float]:
    """medpy's seconds, field, both, the two ratios, and the largest difference to medpy."""
    prediction, reference = pair(np.random.default_rng(0), name, kind)
    classes = len(ORGANS[name]) + 1

    def by_suite(spacing: tuple[float, float, float] | None) -> list[list[float]]:
        scores = score_volume(prediction, reference, classes, spacing, 2.0)["field"]
        return [[values[metric] for metric in METRICS["field"]] for values in scores]

    slow, theirs = timed(lambda: by_medpy(prediction, reference, classes))
    runs = [(timed(lambda: by_suite(None)), timed(lambda: by_suite(SPACINGS[name]))) for _ in range(repeats)]
    field, both = (statistics.median(run[i][0] for run in runs) for i in (0, 1))
    return [slow, field, both, slow / field, slow / both, float(np.abs(runs[0][0][1] - theirs).max())]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", help="also write the table into this file")
    options = parser.parse_args()
    rows = [
        "| case | kind | medpy (s) | field (s) | both (s) | field, times faster | both, times faster | difference |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in options.cases:
        for kind in KINDS:
            slow, field, both, *ratios, difference = row(name, kind, options.repeats)
            times = f"{slow:.2f} | {field:.3f} | {both:.3f} | {ratios[0]:.0f} | {ratios[1]:.0f}"
            rows.append(f"| {name} | {kind} | {times} | {difference:.1e} |")
            print(rows[-1], flush=True)
    if options.markdown:
        explained = (__doc__ or "").split("\n\n", 2)[2].strip()
        where = f"{describe(torch.device('cpu'))}, numpy {np.__version__}, scipy {scipy.__version__}"
        measured = f"Measured by `python benchmarks/metrics.py` on {where}, {datetime.now(UTC):%Y-%m-%d}."
        text = ["# The metrics against medpy", "", *textwrap.wrap(measured, 120), "", explained, "", *rows]
        write_text(options.markdown, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
