"""Predict the test cases of a trained run to label volumes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cgs.data.store import Slices, list_cases, load_case, load_slices
from cgs.engine.device import describe, lease, prepare_torch
from cgs.engine.method import Method, build, method_of
from cgs.engine.run import WEIGHTS
from cgs.engine.validate import predict_volume
from cgs.errors import SuiteError
from cgs.evaluation.inferencefile import INFERENCE
from cgs.files import atomic_path, write_json
from cgs.runfiles import read_facts

if TYPE_CHECKING:
    from cgs.config import Config
    from cgs.paths import Paths
    from cgs.plan import Cell


def load_weights(method: Method, path: Path) -> None:
    """Load `<network>.<tensor>` weights into the networks that `method.predict` uses."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise SuiteError(f"{path} does not exist; train the run first.") from None
    except (OSError, SafetensorError) as error:
        raise SuiteError(f"{path} is damaged ({error}); delete it and train the run again.") from None
    for name, net in method.inference().items():
        prefix = f"{name}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            net.load_state_dict(own)
        except RuntimeError as error:
            raise SuiteError(
                f"{path} does not fit the network of the config ({str(error).splitlines()[-1].strip()}); train "
                "the run again."
            ) from None


def trained_method(config: Config, cell: Cell, slices: Slices, device: torch.device) -> Method:
    """The method of a trained run, for its weights to be loaded: those that it started from are not needed."""
    method = method_of(config, cell.method, slices.classes, slices.size)
    method.task = replace(method.task, weights=None)
    build(method, lambda axis: None, device)
    return method


def predict(config: Config, cell: Cell, paths: Paths) -> None:
    """Write `predictions.npz`: `<selection>/<case>` to uint8 (D, H, W) at the native size; `inference.json`: its time.

    A run that failed has no weights: its file is written without entries, so that the next steps go on.
    """
    folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    predictions: dict[str, np.ndarray] = {}
    if read_facts(folder)["status"] == "complete":
        with lease(config.training) as device:
            prepare_torch(config.training)
            predictions, seconds = predict_cases(config, cell, paths, device)
            facts = {"seconds_per_slice": float(np.median(seconds)), "device": describe(device)}
        # Not in provenance.json, which is what this step is made from.
        write_json(folder / INFERENCE, facts)
    with atomic_path(folder / "predictions.npz") as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **predictions)


def predict_cases(
    config: Config, cell: Cell, paths: Paths, device: torch.device
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Label volumes of every test case for every checkpoint that is evaluated; the seconds a slice of each volume."""
    data, folder = paths.data(cell.dataset), paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    slices = load_slices(data)
    method = trained_method(config, cell, slices, device)
    cases = {name: load_case(data, name) for name in list_cases(data, "test")}
    predictions, seconds = {}, []
    for selection in config.evaluation.selections:
        load_weights(method, folder / WEIGHTS[selection])
        for name, case in cases.items():
            start = time.perf_counter()
            predictions[f"{selection}/{name}"] = predict_volume(method, case.image, device)
            seconds.append((time.perf_counter() - start) / len(case.image))
    return predictions, seconds
