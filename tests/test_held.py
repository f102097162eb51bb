"""What is collected is whole, merges, and makes tables and a page where the runs are not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import Silent, small_config

from cgs.analysis.kept import held_table, read_table
from cgs.analysis.reference import collect
from cgs.config import Config
from cgs.engine.train import train
from cgs.evaluation.predict import predict
from cgs.evaluation.score import score_run
from cgs.files import write_json
from cgs.paths import Paths
from cgs.plan import cells


def config_of(**changes: object) -> Config:
    values = {
        "methods": ["cgs", "labelled-only"],
        "training": {"iterations": 4, "validate_every": 2},
        "seeds": [0, 1],
        "datasets": {
            "phantom": {"kind": "phantom", "size": 32, "labelled": [2], "train_patients": 6, "slices": 8}
            | {"val_patients": 1, "test_patients": 3}
        },
    }
    return small_config(**{**values, **changes})


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of a campaign: two methods, two seeds."""
    folder = tmp_path_factory.mktemp("campaign")
    config, paths = config_of(), Paths("small", folder / "results")
    write_json(paths.resolved_config, config.model_dump(mode="json"))
    from cgs.data.prepare import prepare

    prepare("phantom", config.datasets["phantom"], paths.data("phantom"))
    for cell in cells(config):
        assert train(config, cell, paths, Silent)  # type: ignore[arg-type]
        predict(config, cell, paths)
        run = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
        score_run(paths.data("phantom"), run, config.evaluation, cell)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# --- What is collected -----------------------------------------------------------------------------------


def test_pseudo_labels_and_label_counts_are_kept(campaign: Path, tmp_path: Path) -> None:
    target = tmp_path / "reference"
    collect([campaign], target)
    quality, balance = read_table(target, "pseudo-labels"), read_table(target, "balance")
    assert set(quality["method"]) == {"cgs"} and set(quality["seed"]) == {0, 1}
    assert set(quality["iteration"]) == {2, 4} and quality["coverage"].between(0, 1).all()
    assert set(balance["group"]) == {"train", "val", "test", "labelled 2"}
    train_ = balance[(balance["dataset"] == "phantom") & (balance["group"] == "train")]
    assert train_["share_of_foreground"].sum() == pytest.approx(1, abs=1e-3) and len(train_) == 4
    whole = bytes_of(target)
    collect([campaign], target)
    assert bytes_of(target) == whole, "collecting twice changes nothing"

    for name in ("pseudo-labels.csv.gz", "balance.csv"):  # As a folder of an earlier version.
        (target / name).unlink()
    collect([campaign], target)
    assert bytes_of(target) == whole, "what an earlier version did not keep comes from the logs"


def test_a_log_of_another_run_says_nothing_of_a_kept_one(campaign: Path, tmp_path: Path) -> None:
    target, other = tmp_path / "reference", tmp_path / "other"
    collect([campaign], target)
    (target / "pseudo-labels.csv.gz").unlink()
    shutil.copytree(campaign, other)
    facts = next(other.rglob("cgs/1/provenance.json"))
    values = json.loads(facts.read_text())
    facts.write_text(json.dumps(values | {"seconds": values["seconds"] + 1}))
    collect([other], target)
    assert set(held_table(target, "pseudo-labels")["seed"]) == {0}


def test_collected_seeds_of_two_machines_stand_together(campaign: Path, tmp_path: Path) -> None:
    target, parts = tmp_path / "reference", [tmp_path / "one", tmp_path / "two"]
    for seed, part in enumerate(parts):
        shutil.copytree(campaign, part)
        for run in part.rglob(f"{1 - seed}/scores.csv"):
            shutil.rmtree(run.parent)
    shutil.rmtree(parts[1] / "results/small/data/phantom/cases")
    os.unlink(parts[1] / "results/small/data/phantom/audit.json")
    collect([parts[0]], target)
    first = read_table(target, "pseudo-labels")
    collect([parts[1]], target)
    both = read_table(target, "pseudo-labels")
    assert set(first["seed"]) == {0} and set(both["seed"]) == {0, 1} and len(both) == 2 * len(first)
    assert len(read_table(target, "balance")) == 4 * 4, "the counts stay where the data is not"
    whole = pd.read_csv(target / "runs.csv")
    assert (whole["status"] == "complete").all()
