"""What is collected is whole, merges, and makes tables and a page where the runs are not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Silent, small_config

from cgs.__main__ import main
from cgs.analysis.held import Held, without_itself
from cgs.analysis.kept import held_table, read_table
from cgs.analysis.reference import collect
from cgs.analysis.tables import write_tables
from cgs.config import Config, parse_config
from cgs.data.prepare import prepare
from cgs.engine.train import train
from cgs.errors import SuiteError
from cgs.evaluation.inferencefile import read_seconds_per_slice
from cgs.evaluation.predict import predict
from cgs.evaluation.score import score_run
from cgs.files import read_json, write_json
from cgs.paths import Paths
from cgs.plan import Cell, cells
from cgs.report.page import render
from cgs.report.provenance import days


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


def test_the_time_of_inference_is_kept(campaign: Path, tmp_path: Path) -> None:
    target = tmp_path / "reference"
    collect([campaign], target)
    run = campaign / "results/small/runs/phantom/2/cgs/1"
    written = read_json(run / "inference.json")
    runs = read_table(target, "runs").set_index(["method", "seed"])["seconds_per_slice"]
    assert written["seconds_per_slice"] > 0 and written["device"] and runs.notna().all()
    assert runs["cgs", 1] == pytest.approx(written["seconds_per_slice"])
    for text in ("{", "[1]", '{"seconds_per_slice": "x"}', '{"seconds_per_slice": -1}'):
        (tmp_path / "inference.json").write_text(text)
        assert np.isnan(read_seconds_per_slice(tmp_path))
    assert np.isnan(read_seconds_per_slice(tmp_path / "nowhere"))


# --- A page of what was collected ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "kept"
    collect([campaign], folder)
    return folder


def experiment_config() -> Config:
    return config_of(
        experiments={
            "x": {"title": "X", "methods": ["labelled-only", "cgs"]},
            "l1": {"title": "L1", "view": "classes", "methods": ["labelled-only", "cgs"]},
            "l2": {"title": "L2", "view": "pseudo-labels", "methods": ["cgs"]},
            "l3": {"title": "L3", "view": "balance"},
            "a7": {"title": "A7", "view": "cost", "methods": ["cgs", "labelled-only"]},
        }
    )


def test_a_collected_folder_makes_the_tables_that_its_runs_made(
    campaign: Path, collected: Path, tmp_path: Path
) -> None:
    config = experiment_config()
    here, there = Paths("small", campaign / "results"), Paths("small", tmp_path / "results")
    write_tables(config, here)
    write_tables(config, there, [collected])
    tables = [f.name for f in sorted(here.tables.glob("*.csv"))]
    assert "experiments.csv" in tables and "pseudo-labels.csv" in tables
    for name in tables:
        ours, theirs = (pd.read_csv(p.tables / name) for p in (here, there))
        keys = [c for c in ours if ours[c].dtype.kind not in "f" and c not in ("held", "elsewhere")]
        drop = [c for c in ("held", "elsewhere") if c in ours]
        ours, theirs = (t.drop(columns=drop).sort_values(keys, ignore_index=True) for t in (ours, theirs))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False, rtol=1e-4, atol=1e-5, obj=name)
    runs = pd.read_csv(there.tables / "runs.csv")
    assert set(runs["held"]) == {"kept"} and pd.read_csv(here.tables / "runs.csv")["held"].isna().all()


def test_the_page_says_what_was_measured_elsewhere(
    collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(experiment_config().model_dump(mode="json")))
    assert main(["report", "--config", "config.yaml", "--have", str(collected)]) == 0
    page = Path("reports/small/index.html").read_text()
    digest = hashlib.sha256((collected / "scores.csv.gz").read_bytes()).hexdigest()[:12]
    day = read_json(collected / "provenance.json")["finished"][:10]
    assert "4 of 4 results were measured elsewhere" in page and page.count(digest) == 2 and day in page
    assert "2 elsewhere" not in page, "where all is, no row needs to say so"
    assert "Only the label counts of this dataset were kept" in page
    assert (
        "ms a slice at inference" in page
        and "Small less others" in page
        and "Sizes, as shares of the foreground: tiny" in page
    )
    assert "No pseudo-labels were recorded yet" not in page and "No label counts yet" not in page
    assert str(tmp_path) not in page and str(collected) not in page
    assert f"--have PATH/{collected.name}</code>, where PATH is the place of that folder" in page
    shutil.copytree(collected, "below/kept")
    assert main(["report", "--config", "config.yaml", "--have", "below/kept"]) == 0
    page = Path("reports/small/index.html").read_text()
    printed = re.search(r"<code>python -m cgs (report --config \S+ --have below/kept)</code>", page)
    assert printed is not None and main(printed[1].split()) == 0, "the command that the page prints works"
    assert Path("results/small/config.yaml").is_file()
    assert main(["tables", "--config", "config.yaml", "--have", "nothing"]) == 1
    assert "nothing is no folder that `python -m cgs collect` wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("started", "finished", "text"),
    [
        ("2026-01-31T23:00:00Z", "2026-02-02T01:00:00Z", "2026-01-31 to 2026-02-02"),
        ("2026-01-31T01:00:00Z", "2026-01-31T02:00:00Z", "2026-01-31"),
        (None, "2026-01-31T02:00:00Z", "2026-01-31"),
        (None, None, ""),
    ],
)
def test_the_headline_names_the_days_of_the_trainings(
    started: str | None, finished: str | None, text: str
) -> None:
    assert days({"started": started, "finished": finished}) == text


def test_a_run_here_goes_before_one_that_is_held(campaign: Path, collected: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(campaign, own)
    for run in own.rglob("1/provenance.json"):
        shutil.rmtree(run.parent)
    paths = Paths("small", own / "results", own / "reports")
    write_tables(config_of(), paths, [collected, collected])
    runs = pd.read_csv(paths.tables / "runs.csv")
    assert (runs["status"] == "complete").all()
    assert runs.groupby("seed")["held"].count().to_dict() == {0: 0, 1: 2}
    curves = pd.read_csv(paths.tables / "curves.csv")
    assert not curves.duplicated(["dataset", "labelled", "method", "seed", "iteration", "quantity"]).any()
    page = render(config_of(), paths).read_text()
    assert "2 of 4 results were measured elsewhere" in page and "1 elsewhere" in page

    for file in own.rglob("0/scores.csv"):
        table = pd.read_csv(file, dtype=str)
        table.loc[table["case"] == "test000", "case"] = "test009"
        table.to_csv(file, index=False)
    with pytest.raises(SuiteError, match="tested on different cases"):
        write_tables(config_of(), paths, [collected])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training": {"iterations": 5}}, "training has iterations 4, not 5; give a folder of the same data"),
        ({"network": {"width": 8}}, "network has width 4, not 8"),
        ({"evaluation": {"selections": ["last"]}}, "evaluation has selections .* not "),
        ({"datasets": {"phantom": {"kind": "phantom", "size": 48}}}, "data has size 32, not 48"),
        ({"datasets": {"other": {"kind": "phantom", "size": 48}}}, r"none of the datasets .*\(other\)"),
    ],
)
def test_a_folder_of_another_measurement_is_refused(
    collected: Path, tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SuiteError, match=sentence):
        write_tables(config_of(**changes), Paths("small", tmp_path / "results"), [collected])
    assert not (tmp_path / "results").exists()


def test_cells_of_other_options_are_missing_with_a_sentence(collected: Path, tmp_path: Path) -> None:
    config = config_of(variants={"cgs": {"extends": "cgs", "tau": 0.5}})
    paths = Paths("small", tmp_path / "results")
    write_tables(config, paths, [collected])
    runs = pd.read_csv(paths.tables / "runs.csv").set_index("method")
    assert (runs.loc["cgs", "status"] == "missing").all()
    assert (runs.loc["cgs", "sentence"] == "kept holds it with other options of the method.").all()
    assert (runs.loc["labelled-only", "held"] == "kept").all()


def test_the_same_data_under_another_name(collected: Path, tmp_path: Path) -> None:
    values = config_of().model_dump(mode="json")
    values["datasets"] = {"renamed": values["datasets"]["phantom"]}
    paths = Paths("small", tmp_path / "results")
    write_tables(parse_config(values), paths, [collected])
    for name in ("main", "targets", "curves", "balance", "pseudo-labels"):
        assert set(pd.read_csv(paths.tables / f"{name}.csv")["dataset"]) == {"renamed"}, name


def test_a_held_reference_is_not_shown_beside_itself() -> None:
    held = Held(cells={Cell("d", "3", "cgs", 0): "kept"})
    rows = [("d", "3", "cgs", "kept"), ("d", "7", "cgs", "kept"), ("d", "3", "cgs", "another")]
    main_ = pd.DataFrame(rows, columns=["dataset", "labelled", "method", "reference_name"])
    found = without_itself(main_.assign(reference=0.5, reference_seeds=1.0), held)
    assert found["reference"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("text", ["[]", '{"config": 3}', "{"])
def test_a_damaged_folder_is_one_sentence(collected: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(collected, folder)
    (folder / "provenance.json").write_text(text)
    with pytest.raises(SuiteError, match=r"collect the folder again|cannot be read"):
        write_tables(config_of(), Paths("small", tmp_path / "results"), [folder])
