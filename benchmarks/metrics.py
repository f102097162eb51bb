"""Time the metrics of the suite against medpy on synthetic short-axis cine pairs.

    python benchmarks/metrics.py [--pairs 5] [--repeats 5]

Each pair is a heart of three targets (10 x 256 x 216 voxels) and a prediction of it with a displaced, uneven
boundary; `stray` adds false blobs far from the heart and `salt` single false voxels, the worst case of a tree of
surface points. medpy computes Dice, Jaccard, HD95 and ASD of one target after the other; the suite computes the
same numbers ("field"), and with a spacing the strict convention too ("both"). Times are processor milliseconds of a
pair, medians over pairs and repeats, taken in turn so that other work on the machine meets both alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from medpy import metric as medpy
from scipy import ndimage

from cgs.evaluation.conventions import METRICS, score_volume

SHAPE = (10, 256, 216)
SPACING = (10.0, 1.4, 1.4)
TARGETS = ("RV", "Myo", "LV")
KINDS = ("plain", "stray", "salt")


def heart(rng: np.random.Generator, error: float) -> np.ndarray:
    """Labels 0..3 of a heart; its boundaries are displaced by smooth noise of `error` voxels."""
    _, y, x = np.indices(SHAPE).astype(float)
    apex = np.linspace(1.15, 0.55, SHAPE[0])[:, None, None]
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (0.7, 9, 9))
    off = error * noise / noise.std()
    left, right = np.hypot(y - 130, x - 115) + off, np.hypot((y - 128) / 1.3, x - 85) + off
    label = np.zeros(SHAPE, np.uint8)
    label[(right < 27 * apex) & (np.arange(SHAPE[0])[:, None, None] < 8)] = 1
    label[left < 30 * apex] = 2
    label[left < 21 * apex] = 3
    label[0] = 0  # The field of view is longer than the heart.
    return label


def pair(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and its reference."""
    prediction, reference = heart(rng, 1.5), heart(rng, 0.3)
    if kind == "stray":
        for _ in range(12):
            z, y, x = (int(rng.integers(n - 6)) for n in SHAPE)
            prediction[z : z + 2, y : y + 6, x : x + 5] = rng.integers(1, 4)
    if kind == "salt":
        where = rng.random(SHAPE) < 0.01
        prediction[where] = rng.integers(1, 4, int(where.sum()))
    return prediction, reference


def by_medpy(prediction: np.ndarray, reference: np.ndarray, target: int) -> list[float]:
    """Dice, Jaccard, HD95, ASD of one target in voxel units."""
    a, b = prediction == target, reference == target
    return [medpy.dc(a, b), medpy.jc(a, b), medpy.hd95(a, b), medpy.asd(a, b)]


def by_suite(
    prediction: np.ndarray, reference: np.ndarray, classes: int, spacing: tuple[float, float, float] | None
) -> list[list[float]]:
    scores = score_volume(prediction, reference, classes, spacing, 2.0)["field"]
    return [[values[metric] for metric in METRICS["field"]] for values in scores]


def measure(pairs: int, repeats: int, kind: str) -> tuple[dict[str, dict[str, float]], float]:
    """Median milliseconds by row (a target, or all) and column, and the largest difference to medpy."""
    rng = np.random.default_rng(0)
    spent: dict[tuple[str, str], list[float]] = {}
    difference = 0.0

    def timed(row: str, column: str, work: Callable[[], list[list[float]]]) -> np.ndarray:
        start = time.process_time()
        values = work()
        spent.setdefault((row, column), []).append(1000 * (time.process_time() - start))
        return np.array(values)

    for prediction, reference in [pair(rng, kind) for _ in range(pairs)] * repeats:
        for row, labels in {**{name: [k] for k, name in enumerate(TARGETS, 1)}, "all": [1, 2, 3]}.items():
            if len(labels) == 1:  # A volume with this target alone.
                p, r = ((v == labels[0]).astype(np.uint8) for v in (prediction, reference))
            else:
                p, r = prediction, reference
            run = range(1, len(labels) + 1)
            theirs = timed(row, "medpy", lambda p=p, r=r, run=run: [by_medpy(p, r, k) for k in run])
            ours = timed(row, "field", lambda p=p, r=r, run=run: by_suite(p, r, len(run) + 1, None))
            timed(row, "both", lambda p=p, r=r, run=run: by_suite(p, r, len(run) + 1, SPACING))
            difference = max(difference, float(np.abs(theirs - ours).max()))
    table: dict[str, dict[str, float]] = {}
    for (row, column), values in spent.items():
        table.setdefault(row, {})[column] = float(np.median(values))
    return table, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    line = "{:8}{:8}{:>12}{:>12}{:>12}{:>10}{:>10}"
    print(line.format("pairs", "target", "medpy ms", "field ms", "both ms", "field x", "both x"))
    for kind in KINDS:
        table, difference = measure(options.pairs, options.repeats, kind)
        for row, t in table.items():
            numbers = [*t.values(), t["medpy"] / t["field"], t["medpy"] / t["both"]]
            print(line.format(kind, row, *(f"{v:.1f}" for v in numbers)))
        print(f"{kind}: largest difference to medpy {difference:.1e}")


if __name__ == "__main__":
    main()
