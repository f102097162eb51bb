"""A procedural dataset that needs no download: 3D anatomies with four targets of very different size.

Each patient has a large target, a medium one beside it, a small tube along its edge and a tiny one on its
border; their volumes span two orders of magnitude. Shape, position, contrast, noise and bias field vary from
patient to patient, and bodies that look like targets but are none lie around them. It is made to be hard with
few labels, not to be realistic: the report calls it a phantom.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from cgs.data.source import Source, TrainingSlice, Volume
from cgs.dataset_config import PhantomConfig

VERSION = 1
"""Raised when the anatomies change, so that prepared data tells which ones it holds."""

NATIVE = 96
"""Native in-plane size in pixels."""

SPACING = (5.0, 1.5, 1.5)
"""Spacing (z, y, x) in mm."""

TISSUE, AIR = 0.40, 0.06
# Mean intensity of each target; a patient's own lies around it (standard deviation CONTRAST).
MEANS = {"large": 0.54, "medium": 0.63, "small": 0.29, "tiny": 0.74}
CONTRAST, NOISE, BIAS = 0.045, 0.045, 0.30


class Phantom(Source):
    """Volumes drawn patient by patient: adding patients moves nobody's data."""

    targets = ("large", "medium", "small", "tiny")
    modality = "phantom"

    def __init__(self, config: PhantomConfig) -> None:
        self.config = config

    def training_items(self) -> Sequence[str]:
        return [f"train{number:03d}" for number in range(self.config.train_patients)]

    def read_training(self, item: str) -> list[TrainingSlice]:
        image, label = self._draw(item)
        return [TrainingSlice(f"{item}_slice_{z}", item, item, image[z], label[z]) for z in range(len(image))]

    def volume_items(self) -> Sequence[str]:
        counts = {"val": self.config.val_patients, "test": self.config.test_patients}
        return [f"{split}{number:03d}" for split, count in counts.items() for number in range(count)]

    def read_volume(self, item: str) -> Volume:
        return Volume(item, item, item.rstrip("0123456789"), *self._draw(item), SPACING)

    def _draw(self, item: str) -> tuple[np.ndarray, np.ndarray]:
        split = item.rstrip("0123456789")
        return draw_patient(self.config.seed, split, int(item.removeprefix(split)), self.config.slices)

    def facts(self) -> dict[str, Any]:
        return {"layout": "generated", "version": VERSION}


def draw_patient(seed: int, split: str, number: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (slices, 96, 96) float32 in [0, 1] and label uint8 in 0..4 of one patient."""
    rng = np.random.default_rng([seed, ("train", "val", "test").index(split), number])
    grid = patient_grid(rng, slices)
    label = draw_targets(rng, grid)
    mean = np.full(label.shape, AIR)
    mean[blob(grid, rng, (0, 0, 0), (9.0, 0.86, 0.92), 0.04)] = TISSUE
    for body in draw_distractors(rng, grid):
        mean[body & (mean > AIR)] = rng.choice(list(MEANS.values())) + rng.normal(0, CONTRAST)
    for value, base in enumerate(MEANS.values(), start=1):
        mean[label == value] = base + rng.normal(0, CONTRAST)
    image = ndimage.gaussian_filter(mean, (0.3, 0.9, 0.9))
    image *= 1 + BIAS * smooth_field(rng, label.shape)
    image += rng.normal(0, NOISE, label.shape)
    image -= image.min()
    return (image / image.max()).astype(np.float32), label


def patient_grid(rng: np.random.Generator, slices: int) -> np.ndarray:
    """Coordinates (3, D, H, W) in about [-1, 1], shifted, scaled and turned for one patient."""
    axes = [np.linspace(-1, 1, n) for n in (slices, NATIVE, NATIVE)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    angle = rng.normal(0, 0.16)
    scale = rng.normal(1, 0.08, 2)
    y, x = y + rng.normal(0, 0.06), x + rng.normal(0, 0.06)
    turned_y = (np.cos(angle) * y - np.sin(angle) * x) / scale[0]
    turned_x = (np.sin(angle) * y + np.cos(angle) * x) / scale[1]
    return np.stack([z + rng.normal(0, 0.06), turned_y, turned_x])


def blob(
    grid: np.ndarray,
    rng: np.random.Generator,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    wobble: float,
) -> np.ndarray:
    """An ellipsoid (D, H, W) bool whose in-plane outline waves by the share `wobble`."""
    z, y, x = ((g - c) / r for g, c, r in zip(grid, centre, radii, strict=True))
    theta = np.arctan2(y, x)
    waves = sum(rng.normal(0, 1) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    return z**2 + (y**2 + x**2) < (1 + wobble * np.asarray(waves)) ** 2


def draw_targets(rng: np.random.Generator, grid: np.ndarray) -> np.ndarray:
    """Label (D, H, W) uint8; smaller targets are drawn over larger ones, which they touch."""
    label = np.zeros(grid.shape[1:], dtype=np.uint8)
    y, x = rng.normal(-0.02, 0.05), rng.normal(-0.26, 0.05)
    label[blob(grid, rng, (0, y, x), (0.85, 0.50, 0.38), 0.07)] = 1
    side = rng.normal(0.15, 0.25)
    medium = (rng.normal(0.1, 0.08), y + 0.50 * np.sin(side), x + 0.48 * np.cos(side))
    label[blob(grid, rng, medium, (0.55, 0.27, 0.22), 0.08)] = 2
    bend = rng.normal(0, 0.08, 2)
    z = grid[0]
    tube = np.stack([z, grid[1] - y + 0.52 - bend[0] * z, grid[2] - x - 0.12 - bend[1] * z])
    label[blob(tube, rng, (0, 0, 0), (0.75, 0.10, 0.10), 0.05)] = 3
    place = rng.normal(2.2, 0.2)
    tiny = (rng.normal(-0.1, 0.1), y + 0.50 * np.sin(place), x + 0.38 * np.cos(place))
    label[blob(grid, rng, tiny, (0.30, 0.075, 0.075), 0.05)] = 4
    return label


def draw_distractors(rng: np.random.Generator, grid: np.ndarray) -> Iterator[np.ndarray]:
    """Bodies without a label, of the targets' size and brightness, away from where targets are expected."""
    for _ in range(rng.integers(3, 7)):
        centre = (rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.8))
        radius = rng.uniform(0.06, 0.2)
        yield blob(grid, rng, centre, (rng.uniform(0.2, 0.6), radius, radius), 0.08)


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A slowly varying field in [-1, 1]."""
    coarse = rng.normal(0, 1, (3, 4, 4))
    field = ndimage.zoom(coarse, [n / c for n, c in zip(shape, coarse.shape, strict=True)], order=3)
    return field / np.abs(field).max()
