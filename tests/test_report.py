"""Scores, tables and the page, from runs that were really trained and from damaged ones."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Silent, small_config

from cgs.analysis.published import ACDC, published
from cgs.analysis.tables import main_table, over_seeds, targets_table, write_tables
from cgs.config import Config
from cgs.engine.train import train
from cgs.errors import SuiteError
from cgs.evaluation.predict import predict
from cgs.evaluation.score import COLUMNS, score_run
from cgs.paths import Paths
from cgs.plan import Cell, cells
from cgs.report.main_tables import scorecard
from cgs.report.page import render


def config_of(**changes: object) -> Config:
    values = {
        "methods": ["cgs", "labelled-only", "fully-supervised"],
        "training": {"iterations": 4, "validate_every": 2},
        "seeds": [0, 1],
    }
    return small_config(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained, predicted and scored runs: three methods, two ratios, two seeds."""
    folder = tmp_path_factory.mktemp("finished")
    config, paths = config_of(), paths_in(folder)
    paths.data("phantom").parent.mkdir(parents=True)
    os.symlink(phantom, paths.data("phantom"))
    for cell in cells(config):
        assert train(config, cell, paths, Silent)  # type: ignore[arg-type]
        predict(config, cell, paths)
        score_run(paths.data("phantom"), run_of(cell, paths), config.evaluation, cell)
    return folder


def paths_in(folder: Path) -> Paths:
    return Paths("small", folder / "results", folder / "reports")


def run_of(cell: Cell, paths: Paths) -> Path:
    return paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Paths:
    """A copy to damage."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return paths_in(tmp_path / "copy")


def page_of(config: Config, paths: Paths) -> str:
    write_tables(config, paths)
    return render(config, paths).read_text(encoding="utf-8")


class Outside(HTMLParser):
    """Collects what a browser would load from elsewhere, and unbalanced tags."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster") or (
                name == "href" and tag in ("link", "use", "image")
            ):
                if not (value or "").startswith(("data:", "#")):
                    self.loads.append(f"{tag} {value}")
            if name == "id":
                self.ids.append(value or "")


def test_scores_are_tidy_and_complete(finished: Path) -> None:
    cell = Cell("phantom", "1", "cgs", 1)
    table = pd.read_csv(run_of(cell, paths_in(finished)) / "scores.csv", dtype={"labelled": str})
    assert list(table.columns) == list(COLUMNS)
    # One case, four targets, two selections, four metrics of one convention and five of the other.
    assert len(table) == 4 * 2 * (4 + 5)
    assert not table.duplicated([c for c in COLUMNS if c != "value"]).any()
    assert set(table["method"]) == {"cgs"}
    assert table["value"].notna().all()
    assert table.loc[table["metric"] == "dice", "value"].between(0, 1).all()


def test_predictions_are_at_native_size(finished: Path, phantom: Path) -> None:
    with np.load(run_of(Cell("phantom", "1", "cgs", 0), paths_in(finished)) / "predictions.npz") as file:
        assert sorted(file.files) == ["best/test000", "last/test000"]
        assert file["best/test000"].shape == (8, 96, 96)
        assert file["best/test000"].dtype == np.uint8


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: p.unlink(), "does not exist; predict the run first"),
        (lambda p: p.write_bytes(p.read_bytes()[:300]), "is damaged .* predict the run again"),
        (lambda p: np.savez(p, a=np.zeros(1)), "lacks the case test000"),
        (lambda p: np.savez(p, **{"best/test000": np.zeros((8, 9, 9), np.uint8)}), r"shape \(8, 9, 9\)"),
        (lambda p: np.savez(p, **{"best/test000": np.full((8, 96, 96), 9, np.uint8)}), "labels up to 9"),
    ],
)
def test_bad_predictions_are_one_sentence(
    copy: Paths, damage: Callable[[Path], object], sentence: str
) -> None:
    cell = Cell("phantom", "1", "cgs", 0)
    damage(run_of(cell, copy) / "predictions.npz")
    with pytest.raises(SuiteError, match=sentence):
        score_run(copy.data("phantom"), run_of(cell, copy), config_of().evaluation, cell)


def test_damaged_weights_are_one_sentence(copy: Paths) -> None:
    cell = Cell("phantom", "1", "cgs", 0)
    weights = run_of(cell, copy) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SuiteError, match="is damaged"):
        predict(config_of(), cell, copy)
    with pytest.raises(SuiteError, match="does not fit the network of the config"):
        predict(config_of(network={"width": 8}), Cell("phantom", "1", "cgs", 1), copy)


def test_means_by_hand() -> None:
    """Cases first, then targets, then seeds; the deviation is over seeds."""
    values = {("a", 0): {"x": [0.2, 0.4], "y": [0.8, 1.0]}, ("a", 1): {"x": [0.0, 0.2], "y": [0.4, 0.6]}}
    rows = [
        ("phantom", "1", m, s, "best", f"c{i}", f"p{i}", t, "field", "dice", v)
        for (m, s), targets in values.items()
        for t, vs in targets.items()
        for i, v in enumerate(vs)
    ]
    scores = pd.DataFrame(rows, columns=list(COLUMNS))
    runs = pd.DataFrame(
        [("phantom", "1", "a", s, st) for s, st in ((0, "complete"), (1, "complete"), (2, "failed"))],
        columns=["dataset", "labelled", "method", "seed", "status"],
    )
    row = main_table(config_of(), scores, runs).iloc[0]
    # Seed 0: (0.3 + 0.9) / 2 = 0.6; seed 1: (0.1 + 0.5) / 2 = 0.3.
    assert row["mean"] == pytest.approx(0.45)
    assert row["std"] == pytest.approx(np.std([0.6, 0.3], ddof=1))
    assert (row["seeds"], row["patients"], row["failed"]) == (2, 2, 1)
    targets = targets_table(scores, runs).set_index("target")["mean"]
    assert targets.to_dict() == pytest.approx({"x": 0.2, "y": 0.7})
    scores.loc[0, "value"] = np.nan
    by = ["method", "metric"]
    assert np.isnan(over_seeds(scores, by)["mean"].iloc[0]), "a NaN is not averaged away"


def test_page_is_whole_and_loads_nothing(copy: Paths) -> None:
    page = page_of(config_of(), copy)
    assert "10 of 10 trainings complete" in page
    assert page.count("2 of 2") == 3 * 4  # Three methods in four tables.
    parser = Outside()
    parser.feed(page)
    assert parser.loads == []
    assert len(parser.ids) == len(set(parser.ids)), "ids must be unique"
    assert not re.search(r"url\(\s*['\"]?https?:", page)
    assert "A small budget" in page
    assert len(page) < 5_000_000
    assert (copy.tables / "main.csv").is_file()


def test_a_second_render_is_the_same(copy: Paths) -> None:
    assert page_of(config_of(), copy) == page_of(config_of(), copy)


def test_failed_and_missing_runs_are_shown(copy: Paths) -> None:
    failed, missing = Cell("phantom", "1", "cgs", 0), Cell("phantom", "2", "cgs", 1)
    folder = run_of(failed, copy)
    (folder / "failure.json").write_text(json.dumps({"sentence": "The loss is nan <b>&"}))
    (folder / "provenance.json").write_text(json.dumps({"status": "failed"}))
    predict(config_of(), failed, copy)
    score_run(copy.data("phantom"), folder, config_of().evaluation, failed)
    assert len(pd.read_csv(folder / "scores.csv")) == 0
    shutil.rmtree(run_of(missing, copy))
    page = page_of(config_of(), copy)
    assert "8 of 10 trainings complete" in page
    assert page.count(">1 of 2<") == 4
    assert "CGS, seed 0 failed: The loss is nan &lt;b&gt;&amp;" in page
    assert "phantom, 2 labelled: a run has no result (CGS, seed 1): the run is missing" in page
    runs = pd.read_csv(copy.tables / "runs.csv", dtype={"labelled": str})
    assert runs["status"].value_counts().to_dict() == {"complete": 8, "failed": 1, "missing": 1}


def test_nothing_trained_yet_renders(phantom: Path, tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    paths.data("phantom").parent.mkdir(parents=True)
    os.symlink(phantom, paths.data("phantom"))
    page = page_of(config_of(), paths)
    assert "0 of 10 trainings complete" in page
    assert "no result yet" in page


def test_infinite_and_missing_scores_are_dashes(copy: Paths) -> None:
    file = run_of(Cell("phantom", "1", "cgs", 0), copy) / "scores.csv"
    table = pd.read_csv(file)
    table.loc[table["metric"] == "hd95", "value"] = np.inf
    table.loc[table["metric"] == "asd", "value"] = np.nan
    table.to_csv(file, index=False)
    page = page_of(config_of(), copy)
    assert "<td>–" in page
    assert ">nan" not in page
    assert ">inf" not in page


def test_changed_options_are_named(copy: Paths) -> None:
    assert "differ from the defaults" not in page_of(config_of(), copy)
    page = page_of(config_of(variants={"cgs": {"extends": "cgs", "lambda_max": 0.1}}), copy)
    assert "Options that differ from the defaults: CGS: lambda_max 0.1." in page


def test_titles_with_html_are_safe(copy: Paths) -> None:
    title = "<script>alert(1)</script>"
    page = page_of(config_of(report={"title": title}), copy)
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_damaged_tables_still_render(copy: Paths) -> None:
    write_tables(config_of(), copy)
    (copy.tables / "main.csv").write_text("")
    (copy.tables / "curves.csv").unlink()
    page = render(config_of(), copy).read_text(encoding="utf-8")
    assert "Missing or empty tables: main, curves" in page


def test_no_tables_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="holds no tables; run"):
        render(config_of(), paths_in(tmp_path))


def test_published_values_are_only_where_they_belong() -> None:
    assert published("acdc", "3", "cgs", "field", "dice").value == pytest.approx(0.8883)  # type: ignore[union-attr]
    plus = published("acdc", "7", "mc-net-plus", "field", "hd95")
    assert plus is not None and plus.value == 6.68 and "MC-Net repository" in plus.source
    assert published("acdc", "3", "mc-net-plus", "field", "dice") is None
    assert published("acdc", "7", "ss-net", "field", "hd95") is None, "its copies differ"
    assert published("acdc", "3", "cgs", "field", "hd95") is None
    assert published("acdc", "3", "cgs", "strict", "dice") is None
    assert published("phantom", "3", "cgs", "field", "dice") is None
    assert published("acdc", "5", "cgs", "field", "dice") is None
    for row, source in ACDC.values():
        assert source
        assert all(v is None or 0 < v < 100 for v in row)


def test_titles_of_variants() -> None:
    """Their own, or their name; two of one title are told apart by their names, since tables are keyed by titles."""
    from cgs.titles import method_titles

    variants: dict[str, dict[str, Any]] = {
        "no-ihed": {"extends": "cgs", "ihed": False},
        "sharp": {"extends": "cgs", "title": "CGS, sharp", "tau": 0.99},
        "other": {"extends": "cgs", "title": "CPS"},
        "mean-teacher": {"extends": "mean-teacher", "title": "MT"},
    }
    config = small_config(methods=["cgs", "cps", *variants], variants=variants)
    assert method_titles(config) == {
        "cgs": "CGS",
        "cps": "CPS (cps)",
        "no-ihed": "no-ihed",
        "sharp": "CGS, sharp",
        "other": "CPS (other)",
        "mean-teacher": "MT",
    }
    assert "title" not in config.method_and_options("sharp")[1]


def test_the_scorecard_has_every_published_cell() -> None:
    config = small_config(datasets={"phantom": {"kind": "phantom", "labelled": [1]}})
    view = {
        "dataset": "phantom",
        "labelled": "1",
        "selection": "best",
        "convention": "field",
        "metric": "dice",
    }
    values = {"cgs": (0.80, 0.81), "cps": (0.60, 0.65), "bcp": (0.7, np.nan)}
    rows = [
        {**view, "method": m, "mean": ours, "seeds": 2, "published": theirs, "published_source": "someone"}
        for m, (ours, theirs) in values.items()
    ]
    found = scorecard(config, pd.DataFrame(rows), "phantom", {m: m.upper() for m in values})
    assert found and (found["near"], [r["title"] for r in found["rows"]]) == (1, ["CPS", "CGS"])
    assert found["rows"][0]["difference"] == "−5.0" and found["rows"][0]["published"] == "65.0"
    assert scorecard(config, pd.DataFrame(rows[2:]), "phantom", {}) is None


def test_published_values_stand_beside_ours() -> None:
    from cgs.report.main_tables import published_of, published_others

    row = {"mean": 2.0, "published": 1.5, "published_source": "someone"}
    assert published_of(row, "hd95") == {"published": "1.5", "difference": "+0.5", "source": "someone"}
    assert (
        published_of({"mean": 0.5, "published": 0.6, "published_source": "x"}, "jaccard")["difference"]
        == "−10.0"
    )
    assert published_of({"mean": 2.0, "published": np.nan}, "hd95")["published"] == ""
    rows = [{"title": "A", "name": "a", "control": False}, {"title": "B", "name": "b", "control": False}]
    table = published_others({("a", "hd95"): row, ("b", "hd95"): {"mean": 1.0}}, rows, ["jaccard", "hd95"])
    assert table is not None and [r["title"] for r in table["rows"]] == ["A"] and len(table["metrics"]) == 1
    assert published_others({}, rows, ["hd95"]) is None
