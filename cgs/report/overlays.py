"""Predictions as pictures: image, reference, every method, and where it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgs.bounds import load_npz
from cgs.config import Config
from cgs.errors import plain
from cgs.files import DAMAGED
from cgs.paths import Paths
from cgs.report.tiles import ERROR_COLOURS, TARGET_COLOURS, error_tile, label_tile, slice_tile


def overlays_section(
    name: str, config: Config, paths: Paths, titles: dict[str, str], targets: list[str]
) -> dict[str, Any] | None:
    """Tiles of the fixed cases: image, reference and every method, per ratio."""
    file = paths.tables / "overlays.npz"
    try:
        stored = {key: value for key, value in load_npz(file).items() if key.startswith(f"{name}/")}
    except DAMAGED:
        return None
    arrays = {key: value for key, value in stored.items() if is_tile(value)}
    cases = []
    for key in arrays:
        if not key.endswith("/image"):
            continue
        case = key.split("/")[1]
        reference = arrays.get(f"{name}/{case}/reference")
        if reference is None:
            continue
        rows = []
        for ratio in map(str, config.datasets[name].labelled):
            tiles = [
                overlay("Image", None, reference, targets),
                overlay("Reference", reference, None, targets),
            ]
            for method in config.methods:
                labels = arrays.get(
                    f"{name}/{case}/{ratio}/{method}", arrays.get(f"{name}/{case}/all/{method}")
                )
                if labels is not None and labels.shape == reference.shape:
                    tiles.append(overlay(titles[method], labels, reference, targets))
            rows.append({"ratio": ratio, "tiles": tiles})
        role = plain(stored.get(f"{name}/{case}/role", ""))[:99]
        cases.append({"name": case, "role": role, "slice": slice_tile(arrays[key]), "rows": rows})
    if not cases:
        return None
    kinds = zip(("missed", "invented", "confused"), ERROR_COLOURS, strict=True)
    return {
        "cases": cases,
        "key": list(zip(targets, TARGET_COLOURS, strict=False)),
        "errors": list(kinds),
    }


def is_tile(array: np.ndarray) -> bool:
    """Whether an array is a slice or a label map that can be drawn."""
    return array.dtype == np.uint8 and array.ndim == 2 and min(array.shape) > 0 and max(array.shape) <= 4096


def overlay(
    title: str, labels: np.ndarray | None, reference: np.ndarray | None, targets: list[str]
) -> dict[str, Any]:
    """One tile: its picture, and the Dice of this slice as caption and as alternative text."""
    picture = None if labels is None else label_tile(labels)
    if labels is None or reference is None:
        return {"title": title, "picture": picture, "dice": "", "alt": title, "errors": None}
    scores = {}
    for value, target in enumerate(targets, start=1):
        a, b = labels == value, reference == value
        if (a | b).any():
            scores[target] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    each = ", ".join(f"{target} {100 * v:.0f}" for target, v in scores.items())
    mean = f"{100 * np.mean(list(scores.values())):.1f}" if scores else "–"
    wrong = 100 * float((labels != reference).mean())
    return {
        "title": title,
        "picture": picture,
        "dice": mean,
        "alt": f"{title}: Dice of this slice {each} %",
        "errors": error_tile(labels, reference),
        "wrong": f"{title}: {wrong:.1f} % of the pixels wrong",
    }
