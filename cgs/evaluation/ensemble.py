"""Ensembles of trained methods, from their weights: nothing is trained (paper, ensembles Avg, Conf and Vot).

The paper does not say how its ensembles combine; ours is the reading of `cgs.config.Ensemble`. Members predict slices
at the working size; their softmax maps are combined pixel by pixel, and the label map goes back to the native size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cgs.data.store import list_cases, load_case, load_slices, resize_nearest
from cgs.engine.device import describe, lease, prepare_torch
from cgs.engine.method import Method
from cgs.engine.run import WEIGHTS, now, record_failure, versions
from cgs.engine.validate import BATCH, evaluating, working_slices
from cgs.errors import SuiteError
from cgs.evaluation.predict import load_weights, trained_method
from cgs.files import atomic_path, write_json
from cgs.plan import members
from cgs.runfiles import read_facts

if TYPE_CHECKING:
    from cgs.config import Config
    from cgs.paths import Paths
    from cgs.plan import Cell


def combine(probabilities: Tensor, rule: str) -> Tensor:
    """Label maps (B, H, W) of members' softmax maps (M, B, C, H, W) by a rule of `cgs.config.Ensemble`."""
    if rule == "average":
        return probabilities.mean(0).argmax(1)
    confidence, labels = probabilities.max(2)
    if rule == "confident":
        return labels.gather(0, confidence.argmax(0, keepdim=True))[0]
    classes = probabilities.shape[2]
    votes = torch.nn.functional.one_hot(labels, classes).sum(0).movedim(-1, 1)
    # A mean probability is at most 1: it decides between equal numbers of votes and nothing else.
    return (votes + 0.5 * probabilities.mean(0)).argmax(1)


def ensemble(config: Config, cell: Cell, paths: Paths) -> None:
    """Write `predictions.npz` and `provenance.json` of an ensemble's cell.

    Where a member failed, so has the ensemble: the sentence is recorded and other work goes on.
    """
    folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    folders = {m: paths.run(m.dataset, m.labelled, m.method, m.seed) for m in members(config, cell)}
    found = {m: read_facts(place) for m, place in folders.items()}
    rule = config.ensembles[cell.method].rule
    facts: dict[str, Any] = {
        **{key: getattr(cell, key) for key in ("dataset", "labelled", "method", "seed")},
        "base_method": "ensemble",
        "options": {"members": list(config.ensembles[cell.method].members), "rule": rule},
        "versions": versions(),
        "started": now(),
    }
    failed = [m for m, values in found.items() if values["status"] != "complete"]
    predictions: dict[str, np.ndarray] = {}
    if failed:
        record_failure(folder, f"Its member {failed[0]} has failed.", None, facts)
    else:
        (folder / "failure.json").unlink(missing_ok=True)
        with lease(config.training) as device:
            prepare_torch(config.training)
            facts["device"] = describe(device)
            predictions = predict_together(config, list(folders), folders, paths, rule, device)
    with atomic_path(folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **predictions)
    if not failed:
        total = {
            key: sum(int(values.get(key) or 0) for values in found.values())
            for key in ("parameters_training", "parameters_inference")
        }
        seconds = sum(float(values.get("seconds") or 0) for values in found.values())
        write_json(
            folder / "provenance.json",
            {"status": "complete", **facts, **total, "seconds": seconds, "finished": now()},
        )


def predict_together(
    config: Config,
    cells: list[Cell],
    folders: dict[Cell, Path],
    paths: Paths,
    rule: str,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """`<selection>/<case>` to uint8 (D, H, W) at the native size."""
    data = paths.data(cells[0].dataset)
    slices = load_slices(data)
    methods = {cell: trained_method(config, cell, slices, device) for cell in cells}
    predictions = {}
    for selection in config.evaluation.selections:
        for cell, method in methods.items():
            load_weights(method, folders[cell] / WEIGHTS[selection])
        for name in list_cases(data, "test"):
            image = load_case(data, name).image
            parts = working_slices(image, slices.size, device).split(BATCH)
            labels = np.concatenate([label_batch(list(methods.values()), part, rule) for part in parts])
            predictions[f"{selection}/{name}"] = resize_nearest(labels, (image.shape[1], image.shape[2]))
    return predictions


def label_batch(methods: list[Method], slices: Tensor, rule: str) -> np.ndarray:
    """Label maps (B, S, S) uint8 of slices (B, 1, S, S)."""
    maps = []
    for method in methods:
        with evaluating(method):
            maps.append(method.predict(slices).float().softmax(1))
    if len({m.shape for m in maps}) > 1:
        raise SuiteError("The members of the ensemble predict different classes; train them on one dataset.")
    with torch.inference_mode():
        return combine(torch.stack(maps), rule).to(torch.uint8).cpu().numpy()
