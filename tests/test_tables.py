"""Tables and page from made-up results: nothing is trained here, so every kind of damage is cheap to try."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import small_config

from cgs.analysis.tables import write_tables
from cgs.config import Config
from cgs.evaluation.score import COLUMNS
from cgs.files import write_json
from cgs.paths import Paths
from cgs.plan import Cell, cells
from cgs.report.drawing import MARKERS, PALETTE, style_of
from cgs.report.headline import decisions
from cgs.report.page import render
from cgs.report.quality import outside_controls

METHODS = ["cgs", "labelled-only", "fully-supervised"]
TARGETS = ("large", "medium", "small", "tiny")
HALF = Cell("phantom", "1", "cgs", 0)


def config_of(**changes: Any) -> Config:
    return small_config(**{"methods": METHODS, "seeds": [0, 1], **changes})


def make_run(cell: Cell, paths: Paths) -> None:
    """A finished run whose Dice is 0.5 + 0.1 per seed on the first target, and half of it on the others."""
    folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    facts = {"status": "complete", "seconds": 60.0, "best_iteration": 6, "best_validation_dice": 0.5}
    write_json(folder / "provenance.json", {**facts, "source_digest": "a" * 64, "device": "cpu"})
    lines = [
        {"iteration": 6 * i, "validation": {"dice": 0.2 * i, "per_target": {"large": 0.2 * i}}, "seconds": 1}
        for i in (1, 2)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scale = {"cgs": 1.0, "labelled-only": 0.5, "fully-supervised": 1.2}.get(cell.method, 1.0)
    rows = [
        (*key, selection, case, case, target, "field", metric, scale * (0.5 + 0.1 * cell.seed) * part)
        for key in [(cell.dataset, cell.labelled, cell.method, cell.seed)]
        for selection in ("best", "last")
        for case in ("c0", "c1")
        for target, part in zip(TARGETS, (1, 0.5, 0.5, 0.5), strict=True)
        for metric in ("dice", "hd95")
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "scores.csv", index=False)


@pytest.fixture
def made(phantom: Path, tmp_path: Path) -> Paths:
    """Made-up runs of all cells of the config."""
    paths = Paths("small", tmp_path / "results", tmp_path / "reports")
    paths.data("phantom").parent.mkdir(parents=True)
    paths.data("phantom").symlink_to(phantom)
    for cell in cells(config_of()):
        make_run(cell, paths)
    return paths


def folder_of(cell: Cell, paths: Paths) -> Path:
    return paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)


def page_of(paths: Paths, **changes: Any) -> str:
    config = config_of(**changes)
    write_tables(config, paths)
    return render(config, paths).read_text(encoding="utf-8")


def row_of(paths: Paths, cell: Cell, table: str = "main") -> pd.Series:
    """The Dice of a cell by the best checkpoint."""
    t = pd.read_csv(paths.tables / f"{table}.csv", dtype={"labelled": str})
    chosen = t[(t["labelled"] == cell.labelled) & (t["method"] == cell.method) & (t["metric"] == "dice")]
    return chosen[chosen["selection"] == "best"].iloc[0]


def test_whole_runs_by_hand(made: Paths) -> None:
    write_tables(config_of(), made)
    row = row_of(made, HALF)
    # Seed 0: (0.5 + 3 x 0.25) / 4 = 0.3125; seed 1: 0.375.
    assert row["mean"] == pytest.approx(0.34375)
    assert row["std"] == pytest.approx(0.0625 / np.sqrt(2))
    assert (row["seeds"], row["failed"], row["patients"]) == (2, 0, 2)
    assert row_of(made, HALF, "targets")["failed"] == 0


def stale(run: Path) -> None:
    """A training that failed beside the scores of an earlier one."""
    write_json(run / "provenance.json", {"status": "failed"})
    write_json(run / "failure.json", {"sentence": "The loss is not finite."})


def fewer_cases(run: Path) -> None:
    table = pd.read_csv(run / "scores.csv")
    table[table["case"] != "c0"].to_csv(run / "scores.csv", index=False)


@pytest.mark.parametrize(
    ("damage", "status", "sentence"),
    [
        (stale, "failed", "CGS, seed 0 failed: The loss is not finite."),
        (
            lambda run: write_json(run / "provenance.json", {"status": "failed"}),
            "failed",
            "no reason was recorded",
        ),
        (
            lambda run: (run / "scores.csv").unlink(),
            "missing",
            "but the scores are missing; evaluate it again",
        ),
        (fewer_cases, "missing", "but 16 of the 32 scores are missing; evaluate it again"),
        (shutil.rmtree, "missing", "the run is missing or unfinished"),
    ],
)
def test_only_whole_runs_are_averaged(
    made: Paths, damage: Callable[[Path], object], status: str, sentence: str
) -> None:
    damage(folder_of(HALF, made))
    page = page_of(made)
    row = row_of(made, HALF)
    assert row["mean"] == pytest.approx(0.375), "seed 1 alone"
    failed = int(status == "failed")  # What is only missing is told by the number of seeds.
    assert (row["seeds"], row["failed"]) == (1, failed)
    assert row_of(made, HALF, "targets")["failed"] == failed
    runs = pd.read_csv(made.tables / "runs.csv", dtype={"labelled": str})
    assert runs["status"].value_counts().to_dict() == {"complete": 9, status: 1}
    assert sentence in page
    assert "CGS has 1 of 2 seeds" in page, "the headline says it too"
    assert "With one seed it is over patients alone" in page
    assert len(re.findall(r">1 of 2<", page)) == 1


def test_a_ratio_without_any_result_renders(made: Paths) -> None:
    """Neither its methods nor the upper bound have run: the other ratio is still shown."""
    for part in ("1", "all"):
        shutil.rmtree(made.root / "runs" / "phantom" / part)
    page = page_of(made)
    assert "1 labelled patient: no result yet" in page
    assert "1 labelled patient, field: no scores yet" in page
    assert "without a result: Fully supervised" in page
    assert ">0 of 2<" in page


@pytest.mark.parametrize("name", ["runs.csv", "main.csv", "targets.csv", "curves.csv", "provenance.json"])
@pytest.mark.parametrize("damage", ["absent", "empty", "other"])
def test_any_missing_table_is_said(made: Paths, name: str, damage: str) -> None:
    write_tables(config_of(), made)
    (made.tables / name).unlink()
    if damage != "absent":
        (made.tables / name).write_text("" if damage == "empty" else "{}\n1\n")
    page = render(config_of(), made).read_text(encoding="utf-8")
    assert f"Missing or empty tables: {name.split('.')[0]}." in page


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("audit-phantom.json", "No audit was written for this dataset"), ("overlays.npz", "No overlays")],
)
def test_damaged_pictures_and_audit_are_said(made: Paths, name: str, sentence: str) -> None:
    write_tables(config_of(), made)
    (made.tables / name).write_bytes(b"PK{")
    assert sentence in render(config_of(), made).read_text(encoding="utf-8")


def test_only_controls(made: Paths) -> None:
    assert "only the controls have results" in page_of(made, methods=["labelled-only", "fully-supervised"])


def test_a_variant_of_the_upper_bound_is_never_best(made: Paths) -> None:
    changes = {
        "methods": ["cgs", "more", "labelled-only"],
        "variants": {"more": {"extends": "fully-supervised"}},
    }
    for seed in (0, 1):
        folder = folder_of(Cell("phantom", "all", "fully-supervised", seed), made)
        shutil.copytree(folder, folder_of(Cell("phantom", "all", "more", seed), made))
        file = folder_of(Cell("phantom", "all", "more", seed), made) / "scores.csv"
        file.write_text(file.read_text().replace("fully-supervised", "more"))
    page = page_of(made, **changes)
    assert "CGS is the only method with a result" in page
    rows = re.findall(r"<tr class.*?</tr>", page, flags=re.S)
    assert rows and '<span class="star"' not in page, "one contestant is not the best of anything"


def test_unbounded_scores_are_dashes_with_a_note(made: Paths) -> None:
    page = page_of(made)
    assert "A dash (–) means" not in page
    assert "With one seed it is over patients alone" not in page
    file = folder_of(HALF, made) / "scores.csv"
    table = pd.read_csv(file)
    table.loc[table.index[0], "value"] = np.nan  # One case of one target.
    table.loc[table["metric"] == "hd95", "value"] = np.inf
    table.to_csv(file, index=False)
    page = page_of(made)
    assert page.count("A dash (–) means") == 1
    assert np.isnan(row_of(made, HALF)["mean"]), "a NaN is not averaged away"


def test_runs_of_different_source_are_a_warning(made: Paths) -> None:
    folder = folder_of(HALF, made)
    facts = json.loads((folder / "provenance.json").read_text())
    write_json(folder / "provenance.json", {**facts, "source_digest": "b" * 64})
    assert "CGS: its runs were trained by 2 versions of the source" in page_of(made)


def test_curves_say_where_a_seed_broke_off(made: Paths) -> None:
    whole = page_of(made)
    log = folder_of(HALF, made) / "log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert page_of(made).count("stroke-opacity: 0.4") > whole.count("stroke-opacity: 0.4")


def test_methods_are_told_apart_in_figures() -> None:
    names = [f"m{i}" for i in range(14)]
    looks = {(style_of(n, names)["color"], style_of(n, names)["marker"]) for n in names}
    assert len(looks) == len(names)


@pytest.mark.parametrize("colour", PALETTE)
@pytest.mark.parametrize("ground", ["#ffffff", "#12171e"])
def test_colours_stand_out_from_both_grounds(colour: str, ground: str) -> None:
    """WCAG 2.1, 1.4.11: graphics have a contrast of at least 3:1."""

    def luminance(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(colour), luminance(ground)))
    assert (high + 0.05) / (low + 0.05) >= 3
    assert len(MARKERS) >= 14


def test_disagreement_is_said(made: Paths) -> None:
    """Seeds that lie far apart, and checkpoints that do, stand in the quality control."""
    assert "seeds disagree" not in page_of(made)
    run = folder_of(HALF, made)
    table = pd.read_csv(run / "scores.csv")
    last = table["selection"] == "last"
    table.loc[~last, "value"] = 0.9
    table.loc[last, "value"] = 0.1
    table.to_csv(run / "scores.csv", index=False)
    page = page_of(made)
    assert "phantom, 1 labelled, CGS: seeds disagree, the standard deviation is 37.1 points." in page
    assert re.search(
        r"CGS: test Dice is 63\.[78] % with the best checkpoint and 23\.[78] % with the last", page
    )


def test_diverged_runs_say_why(made: Paths) -> None:
    folder = folder_of(HALF, made)
    write_json(folder / "provenance.json", {"status": "failed", "diverged": True})
    write_json(folder / "failure.json", {"sentence": "The loss is nan at iteration 4."})
    page = page_of(made)
    assert "phantom, 1 labelled, CGS, seed 0 diverged: The loss is nan at iteration 4." in page
    assert "Of 10 planned trainings 9 are complete, 1 diverged, 0 failed for another reason" in page


def test_seconds_are_those_of_trainings(made: Paths) -> None:
    """An ensemble's provenance names the seconds of its members, which are counted already."""
    config = config_of(
        ensembles={"both": {"members": ["cgs", "labelled-only"], "rule": "vote"}},
        experiments={"x": {"title": "X", "methods": ["cgs", "both"]}},
    )
    combined = [cell for cell in cells(config) if cell.method == "both"]
    assert len(combined) == 4
    for cell in combined:
        make_run(cell, made)
        file = folder_of(cell, made) / "provenance.json"
        write_json(file, {**json.loads(file.read_text()), "base_method": "ensemble", "seconds": 120.0})
    write_tables(config, made)
    trained = len(cells(config)) - len(combined)
    assert json.loads((made.tables / "provenance.json").read_text())["training_seconds"] == 60 * trained


def test_energy_is_shown_where_it_is_known(made: Paths) -> None:
    assert "<dt>Energy</dt><dd>not recorded</dd>" in page_of(made)
    for seed in (0, 1):
        file = folder_of(Cell("phantom", "1", "cgs", seed), made) / "provenance.json"
        write_json(file, {**json.loads(file.read_text()), "energy_joules": 1.8e6})
    assert "1.00 kWh of the GPU alone, recorded in 2 of 10 trainings" in page_of(made)
    assert pd.read_csv(made.tables / "runs.csv")["energy_joules"].sum() == 3.6e6


def test_labels_are_counted(made: Paths) -> None:
    page = page_of(made)
    # Six patients of eight slices, one of them labelled.
    assert '<tr><th scope="row">1</th><td>8</td><td>5</td><td>40</td><td>16.7 %</td></tr>' in page


def test_ablations_are_a_ladder_with_intervals(made: Paths) -> None:
    ladder = {"title": "Ladder", "row": "A1", "methods": ["cgs", "labelled-only"]}
    page = page_of(made, experiments={"a": ladder})
    assert 'id="ladder-a-0-figure_1"' in page and 'id="ladder-a-1-figure_1"' in page
    # Both patients lose the same; the two seeds do not, and one degree of freedom is little.
    assert re.search(r"<td>−17\.2</td><td>−\d+\.\d to [+−]\d+\.\d</td><td>0 of 2</td>", page)


def test_the_energy_of_a_training_stands_beside_its_cost(made: Paths) -> None:
    cost = {"title": "Cost", "view": "cost", "methods": METHODS}
    assert "Energy of a training" not in page_of(made, experiments={"cost": cost})
    for cell in cells(config_of()):
        file = folder_of(cell, made) / "provenance.json"
        known = {"iterations": 12, "energy_joules": 1.5e6, "peak_memory_bytes": 10**9}
        write_json(
            file,
            {**json.loads(file.read_text()), "parameters_training": 9, "parameters_inference": 9, **known},
        )
    assert "<td>1,500</td></tr>" in page_of(made, experiments={"cost": cost})


def test_every_figure_names_its_table(made: Paths) -> None:
    from cgs.report.provenance import FIGURES

    page_of(made, experiments={"size": {"title": "Size", "view": "classes", "methods": METHODS}})
    files = [file.name for file in (made.report.parent / "figures").glob("*.svg")]
    assert files
    for file in files:
        known = [table for prefix, table, _ in FIGURES if prefix and file.startswith(prefix)]
        assert len(known) == 1 and all((made.tables / name).is_file() for name in known[0].split(" and ")), (
            file
        )


@pytest.mark.parametrize(
    ("seeds", "verdicts", "sentence"),
    [
        (
            (3, 2),
            ("differs", "not distinguishable"),
            " 1 of 2 other methods differ from CGS after correction.",
        ),
        (
            (3, 1),
            ("differs", "these trainings differ"),
            " 1 of 1 other methods differ from CGS after correction. With one seed in common, 1 of 1 other trainings "
            "differ from that of CGS after correction; whether the methods do is not known.",
        ),
        ((0, 0), ("no common seed", "no common seed"), ""),
        (
            (2, 2),
            ("cannot be decided at n = 4", "cannot be decided at n = 4"),
            " With 4 test patients no test can tell so many methods from CGS.",
        ),
    ],
)
def test_headline_counts_methods_and_single_trainings_apart(
    seeds: tuple[int, int], verdicts: tuple[str, str], sentence: str
) -> None:
    config = small_config(methods=["cgs", "bcp", "fixmatch", "labelled-only"])
    methods = {"bcp": "BCP", "fixmatch": "FixMatch"}
    rows = {"method": list(methods), "common_seeds": seeds, "verdict": verdicts}
    table = pd.DataFrame(rows).assign(dataset="phantom", labelled="1", patients=4)
    assert decisions(config, table, "phantom", "1", {"cgs": "CGS", **methods}) == sentence


def test_what_lies_outside_the_controls_is_named_with_its_seeds() -> None:
    values = pd.Series({"cgs": 60.0, "dhc": 39.4, "labelled-only": 39.5, "fully-supervised": 74.5})
    titles = {"cgs": "CGS", "dhc": "DHC"}
    for seeds, said in (
        ({"dhc": 1, "labelled-only": 3}, "below labelled-only (39.5 %, 3 seeds): DHC (39.4 %, 1 seed)."),
        ({"dhc": 3, "labelled-only": 3}, "below labelled-only (39.5 %): DHC (39.4 %)."),
    ):
        (found,) = outside_controls(values, seeds, "acdc, 3 labelled", titles)
        assert found == {"severity": "warning", "sentence": f"acdc, 3 labelled: {said}"}
    swapped = values.rename({"labelled-only": "fully-supervised", "fully-supervised": "labelled-only"})
    found = list(outside_controls(swapped, {}, "acdc", titles))
    assert [f["severity"] for f in found] == ["error", "warning", "warning"]
    assert found[2]["sentence"] == "acdc: above full supervision (39.5 %): CGS (60.0 %)."
