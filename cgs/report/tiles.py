"""Overlay tiles as PNG data URIs: a slice, a label map, where it is wrong."""

from __future__ import annotations

import base64
import io

import matplotlib as mpl
import matplotlib.image
import numpy as np
from scipy.ndimage import binary_erosion

TARGET_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#999999")
ERROR_COLOURS = ("#6A5ACD", "#D81B60", "#8A8A00")
"""Missed, invented, confused pixels."""


def slice_tile(image: np.ndarray) -> str:
    """A slice (S, S) uint8 as a grey PNG data URI; the overlays of a case lie over this one picture."""
    return png(np.dstack([image] * 3))


def label_tile(labels: np.ndarray) -> str:
    """A label map (S, S) in 0..K as a transparent PNG data URI: targets tinted, with a solid outline."""
    scale = max(1, round(300 / labels.shape[0]))
    wide = np.kron(labels, np.ones((scale, scale), dtype=np.uint8))
    rgba = np.zeros((*wide.shape, 4), dtype=np.uint8)
    for value in np.unique(wide[wide > 0]):
        colour = mpl.colors.to_rgb(TARGET_COLOURS[(value - 1) % len(TARGET_COLOURS)])
        inside = wide == value
        core = binary_erosion(inside, iterations=max(1, wide.shape[0] // 150), border_value=1)
        rgba[inside, :3] = (255 * np.array(colour)).astype(np.uint8)
        rgba[inside, 3] = 255
        rgba[core, 3] = 72
    return png(rgba)


def error_tile(labels: np.ndarray, reference: np.ndarray) -> str:
    """Where a label map (S, S) is wrong, as a transparent PNG data URI: missed, invented, confused."""
    scale = max(1, round(200 / labels.shape[0]))
    wide, truth = (np.kron(a, np.ones((scale, scale), dtype=np.uint8)) for a in (labels, reference))
    rgba = np.zeros((*wide.shape, 4), dtype=np.uint8)
    kinds = ((wide == 0) & (truth > 0), (wide > 0) & (truth == 0), (wide > 0) & (truth > 0) & (wide != truth))
    for colour, where in zip(ERROR_COLOURS, kinds, strict=True):
        rgba[where] = (*(int(255 * c) for c in mpl.colors.to_rgb(colour)), 255)
    return png(rgba)


def png(pixels: np.ndarray) -> str:
    """Pixels (H, W, 3 or 4) uint8 as a PNG data URI."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
