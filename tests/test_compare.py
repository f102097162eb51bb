"""Comparing two results folders, what a paper takes from a report, and which cases are shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import small_config
from test_statistics import BASE, scores_of

from cgs.__main__ import main
from cgs.analysis.compare import as_text, compare
from cgs.analysis.tables import shown_cases
from cgs.errors import SuiteError
from cgs.report.export import escaped, latex, write_figures


def folder_with(place: Path, scores: pd.DataFrame) -> Path:
    (place / "tables").mkdir(parents=True)
    scores.to_csv(place / "tables" / "scores.csv", index=False)
    return place


def test_what_changed_and_what_did_not(tmp_path: Path) -> None:
    gain = [0.05, 0.04, 0.06, 0.05, 0.03, 0.05]
    first = folder_with(tmp_path / "a", scores_of({("cgs", 0): BASE, ("cps", 0): BASE, ("bcp", 0): BASE}))
    better = [b + g for b, g in zip(BASE, gain, strict=True)]
    second = folder_with(tmp_path / "b", scores_of({("cgs", 0): better, ("cps", 0): BASE, ("dhc", 0): BASE}))
    table = compare(first, second).set_index("method")
    assert table.loc["cgs", "difference"] == pytest.approx(np.mean(gain)) and table.loc["cgs", "ci_low"] > 0
    assert table.loc["cgs", "p"] == pytest.approx(2 / 64) and table.loc["cgs", "p_holm"] == pytest.approx(
        4 / 64
    )
    assert table.loc["cps", "difference"] == 0 and table.loc["cps", "verdict"] == "cannot be decided at n = 6"
    assert table.loc["bcp", "verdict"] == table.loc["dhc", "verdict"] == "in one only"
    assert np.isnan(table.loc["bcp", "second"]) and table.loc["bcp", "first"] == pytest.approx(np.mean(BASE))
    text = as_text(table.reset_index(), "dice")
    assert "+4.67 (+3." in text and len(text.splitlines()) == 5


def test_means_are_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    worse = [b - 0.1 for b in BASE]
    first = folder_with(tmp_path / "a", scores_of({("cgs", 0): BASE, ("cgs", 1): worse, ("cps", 0): BASE}))
    second = folder_with(tmp_path / "b", scores_of({("cgs", 0): BASE, ("cps", 1): BASE}))
    table = compare(first, second).set_index("method")
    assert table.loc["cgs", "first"] == table.loc["cgs", "second"] == pytest.approx(np.mean(BASE))
    assert table.loc["cgs", "common_seeds"] == 1 and table.loc["cgs", "difference"] == 0
    assert table.loc["cps", "verdict"] == "no common seed" and np.isfinite(table.loc["cps", "first"])


def test_the_command_and_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = folder_with(tmp_path / "a", scores_of({("cgs", 0): BASE}))
    other = scores_of({("cgs", 0): BASE})
    second = folder_with(tmp_path / "b", other.assign(dataset="elsewhere"))
    assert main(["compare", str(first), str(first), "--csv", str(tmp_path / "out.csv")]) == 0
    assert "+0.00" in capsys.readouterr().out and len(pd.read_csv(tmp_path / "out.csv")) == 1
    assert main(["compare", str(first), str(second)]) == 1
    assert "have no dataset, method, seed and patients in common" in capsys.readouterr().err
    assert main(["compare", str(first), str(tmp_path / "c")]) == 1
    assert "holds no tables/scores.csv" in capsys.readouterr().err
    with pytest.raises(SuiteError, match="has no hd95 by the strict convention"):
        compare(first, first, "hd95", "strict")


# --- LaTeX and figures -----------------------------------------------------------------------------------


def test_latex_escapes_and_marks() -> None:
    assert escaped("50 % of a_b & c$ \\x") == r"50 \% of a\_b \& c\$ \textbackslash{}x"
    cells = [
        {"value": "88.1", "spread": "0.3", "best": True, "tied": False, "uncompared": False},
        {"value": "4.0", "spread": "", "best": False, "tied": True, "uncompared": False},
    ]
    rows = [
        {"title": "CGS", "control": False, "cells": cells, "done": 3, "planned": 3},
        {"title": "Labelled only", "control": True, "cells": cells, "done": 3, "planned": 3},
        {
            "title": "BCP",
            "control": False,
            "cells": [cells[0], cells[1] | {"tied": False, "uncompared": True}],
            "done": 1,
            "planned": 3,
        },
    ]
    text = latex({"metrics": ["Dice (%) ↑", "HD95 ↓"], "rows": rows}, "A & B", "tab:x")
    assert r"CGS & \textbf{88.1} $\pm$ 0.3 & \underline{4.0} & 3 of 3 \\" in text
    assert r"& 4.0$^?$ & 1 of 3 \\" in text
    assert r"Dice (\%) $\uparrow$" in text and r"\caption{A \& B}" in text
    assert text.count("\\midrule") == 2 and text.isascii()
    assert text.count("\\begin") == text.count("\\end") == 2
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {3}, "as many cells in every row"


def test_figures_become_files(tmp_path: Path) -> None:
    page = '<p><svg role="img" aria-label="x"><g id="curves-a-0-figure_1"></g></svg></p><svg aria-hidden="true"></svg>'
    write_figures(page, tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name == "curves-a-0.svg" and 'color="black"' in file.read_text()


# --- Which cases are shown -------------------------------------------------------------------------------


def test_the_median_and_the_worst_case_are_shown() -> None:
    config = small_config(
        datasets={"phantom": {"kind": "phantom", "labelled": [1]}}, report={"overlay_cases": 2}
    )
    scores = scores_of({("cgs", 0): [0.9, 0.1, 0.5, 0.7, 0.3]})
    names = ["p4", "p0", "p1", "p2", "p3"]
    assert shown_cases(config, "phantom", names, scores) == {"p2": "median", "p1": "worst"}
    four = small_config(
        datasets={"phantom": {"kind": "phantom", "labelled": [1]}}, report={"overlay_cases": 4}
    )
    assert list(shown_cases(four, "phantom", names, scores).items())[:3] == [
        ("p2", "median"),
        ("p1", "worst"),
        ("p0", "best"),
    ]
    assert len(shown_cases(four, "phantom", names, scores)) == 4
    assert shown_cases(config, "phantom", names, scores.iloc[:0]) == {"p0": "", "p1": ""}
    none = small_config(
        datasets={"phantom": {"kind": "phantom", "labelled": [1]}}, report={"overlay_cases": 0}
    )
    assert shown_cases(none, "phantom", names, scores) == {}
