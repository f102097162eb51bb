"""Zero-shot rows of promptable models (SAM and its kin) whose code and weights the user supplies (paper, X1).

The user names a function `load(weights: Path, device: str)` in a file. It gives an object with

    segment(image, box, point) -> mask

image (H, W) float32 in [0, 1]; box (x0, y0, x1, y1) in pixels, ends included, or None; point (x, y) inside the target,
or None; mask (H, W) bool. It is asked once per slice and target, at the native size. The prompts come from the
reference labels of the test cases, as the literature does it: an advantage that no other row has, and the report says
so. Where masks overlap, the smaller one wins.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import ndimage

from cgs.data.store import list_cases, load_case
from cgs.engine.device import describe, lease
from cgs.engine.run import digest_of, now, versions
from cgs.errors import SuiteError
from cgs.files import atomic_path, write_json

if TYPE_CHECKING:
    from cgs.config import Config, Promptable
    from cgs.paths import Paths
    from cgs.plan import Cell

Box = tuple[int, int, int, int]
Point = tuple[int, int]


class Model(Protocol):
    """What the user's function gives."""

    def segment(self, image: np.ndarray, box: Box | None, point: Point | None) -> np.ndarray: ...


def prompt_test_cases(config: Config, cell: Cell, paths: Paths) -> None:
    """Write `predictions.npz` and `provenance.json` of a promptable model's cell.

    Raises SuiteError with one sentence where its code, its weights or a mask are not as agreed.
    """
    entry = config.promptable[cell.method]
    folder, data = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed), paths.data(cell.dataset)
    started = now()
    with lease(config.training) as device:
        model = load_model(cell.method, entry, str(device))
        volumes = {
            name: segment_volume(model, entry, load_case(data, name).image, load_case(data, name).label)
            for name in list_cases(data, "test")
        }
        name = describe(device)
    # There is one model and no checkpoint to choose: every selection shows it.
    predictions = {
        f"{s}/{case}": volume for s in config.evaluation.selections for case, volume in volumes.items()
    }
    with atomic_path(folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **predictions)
    facts: dict[str, Any] = {key: getattr(cell, key) for key in ("dataset", "labelled", "method", "seed")}
    write_json(
        folder / "provenance.json",
        {
            "status": "complete",
            **facts,
            "base_method": "promptable",
            "options": {"code": entry.code, "prompt": entry.prompt, "margin": entry.margin},
            "weights_sha256": digest_of(entry.weights),
            "versions": versions(),
            "device": name,
            "started": started,
            "finished": now(),
        },
    )


def load_model(name: str, entry: Promptable, device: str) -> Model:
    """Import the user's file and call its function."""
    file, _, function = entry.code.rpartition(":")
    if not entry.weights.is_file():
        raise SuiteError(f"{name}: {entry.weights} does not exist; give the file of the model's weights.")
    spec = importlib.util.spec_from_file_location("promptable_code", file)
    if not Path(file).is_file() or spec is None or spec.loader is None:
        raise SuiteError(f"{name}: {file} does not exist; give a Python file and a function, as sam.py:load.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load: Callable[[Path, str], Model] | None = getattr(module, function, None)
    if load is None:
        raise SuiteError(f"{name}: {file} has no function {function}.")
    return load(entry.weights, device)


def segment_volume(model: Model, entry: Promptable, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Label volume (D, H, W) uint8 of a case, prompted by its reference."""
    result = np.zeros(label.shape, dtype=np.uint8)
    for z in np.flatnonzero(label.reshape(len(label), -1).any(1)):
        masks = {}
        for target in np.unique(label[z][label[z] > 0]):
            own = label[z] == target
            box = box_of(own, entry.margin) if entry.prompt == "box" else None
            point = point_of(own) if entry.prompt == "point" else None
            mask = np.asarray(model.segment(image[z], box, point))
            if mask.shape != own.shape or mask.dtype != bool:
                raise SuiteError(
                    f"{entry.code} gave a mask {mask.shape} of {mask.dtype} for an image {own.shape}; it must be bool "
                    "and of the image's size."
                )
            masks[int(target)] = mask
        for target in sorted(masks, key=lambda t: -int(masks[t].sum())):
            result[z][masks[target]] = target
    return result


def box_of(mask: np.ndarray, margin: int) -> Box:
    """The bounding box of a mask (H, W), widened by `margin` pixels and cut to the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        max(int(columns[0]) - margin, 0),
        max(int(rows[0]) - margin, 0),
        min(int(columns[-1]) + margin, width - 1),
        min(int(rows[-1]) + margin, height - 1),
    )


def point_of(mask: np.ndarray) -> Point:
    """The pixel deepest inside a mask (H, W), as (x, y)."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(x), int(y)
