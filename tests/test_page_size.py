"""The page of the whole paper stays small: its methods, ratios and experiments on made-up results.

One seed stands for three, and phantoms for the patients: neither makes the page larger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tables import make_run

from cgs.analysis.tables import write_tables
from cgs.config import Config, load_config, parse_config
from cgs.data.prepare import prepare
from cgs.data.store import list_cases, read_case
from cgs.discovery import ROOT
from cgs.paths import Paths
from cgs.plan import Cell, cells
from cgs.report.page import render

MOST = 10_000_000
WANTED = 5_000_000


def paper_on_phantoms() -> Config:
    """The paper's config with a phantom in the place of every dataset."""
    values: dict[str, Any] = load_config(ROOT / "config" / "paper.yaml").model_dump(mode="json")
    few = {"kind": "phantom", "train_patients": 8, "val_patients": 1, "test_patients": 2, "slices": 8}
    for name, dataset in values["datasets"].items():
        kept = {key: dataset[key] for key in ("labelled", "main_table")}
        values["datasets"][name] = {**few, **kept, "size": 224 if dataset["main_table"] else 32}
    return parse_config({**values, "seeds": [0]})


def predict_by_shifting(cell: Cell, paths: Paths) -> None:
    """Label maps that are a little wrong, so that the page has pictures of errors."""
    data = paths.data(cell.dataset)
    shift = 1 + sum(map(ord, cell.method + cell.labelled)) % 7
    labels = {
        f"best/{case}": np.roll(read_case(data / "cases", case).label, shift, (1, 2))
        for case in list_cases(data, "test")
    }
    folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    np.savez_compressed(folder / "predictions.npz", allow_pickle=False, **labels)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    config, paths = paper_on_phantoms(), Paths("paper", folder / "results", folder / "reports")
    for name, dataset in config.datasets.items():
        prepare(name, dataset, paths.data(name), processes=1)
    for cell in cells(config):
        make_run(cell, paths)
        if cell.method in config.methods and cell.dataset in config.main_datasets:
            predict_by_shifting(cell, paths)
    write_tables(config, paths)
    return render(config, paths)


def test_the_paper_fits_a_page(page: Path) -> None:
    size = page.stat().st_size
    assert size < MOST
    assert size < WANTED, f"{size / 1e6:.1f} MB: over what is wanted of the paper's page"
    text = page.read_text(encoding="utf-8")
    assert text.count('class="slice errors"') == 2 * 5 * 16  # Cases, tables, methods.
