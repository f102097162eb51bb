"""Shared fixtures: a small phantom, prepared once, and a way to train a cell on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cgs.config import Config, parse_config
from cgs.data.prepare import prepare
from cgs.engine.train import train
from cgs.paths import Paths
from cgs.plan import Cell
from cgs.presets import VARIANTS

torch.set_num_threads(1)

# What happens once in sixty or a hundred iterations must happen in the twelve of a test.
BUSY = {
    "caussl": {"extends": "caussl", "period": 2, "max_steps": 2},
    "magicnet": {"extends": "magicnet", "blend_after": 2, "refresh_every": 3},
}


class Silent:
    """A display that shows nothing."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def iteration(self, done: int) -> None: ...

    def logged(self, loss: float) -> None: ...

    def validated(self, done: int, dice: float, best: float, seconds: float) -> None: ...


def small_config(**changes: Any) -> Config:
    """A phantom of 6 + 1 + 1 patients at 32 x 32, 4 + 4 slices a batch, width 4."""
    training = {
        "iterations": 12,
        "labelled_batch": 4,
        "unlabelled_batch": 4,
        "validate_every": 6,
        "checkpoint_every": 4,
        "log_every": 1,
        "device": "cpu",
        **changes.pop("training", {}),
    }
    phantom = {
        "kind": "phantom",
        "size": 32,
        "labelled": [1, 2],
        "train_patients": 6,
        "val_patients": 1,
        "test_patients": 1,
        "slices": 8,
    }
    values: dict[str, Any] = {
        "name": "small",
        "datasets": {"phantom": phantom},
        "methods": ["cgs", "labelled-only"],
        "seeds": [0],
        "network": {"width": 4},
        "training": training,
        **changes,
    }
    return parse_config(values)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the prepared small phantom."""
    folder = tmp_path_factory.mktemp("phantom") / "data"
    prepare("phantom", small_config().datasets["phantom"], folder)
    return folder


@pytest.fixture
def run_cell(phantom: Path, tmp_path: Path) -> Callable[..., Path]:
    """run_cell(method, place="a", **changes) trains a cell and gives its run folder."""

    def run(method: str, place: str = "a", seed: int = 0, labelled: str = "1", **changes: Any) -> Path:
        config = small_config(**{"variants": {**VARIANTS, **BUSY}, **changes})
        paths = Paths(config.name, results=tmp_path / place)
        paths.data("phantom").parent.mkdir(parents=True, exist_ok=True)
        if not paths.data("phantom").exists():
            os.symlink(phantom, paths.data("phantom"))
        cell = Cell("phantom", labelled, method, seed)
        train(config, cell, paths, Silent)  # type: ignore[arg-type]
        return paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)

    return run
