"""Two results folders against each other: what changed, by how much, and whether it is more than chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cgs.analysis.experiments import CELL, paired_differences, patient_means
from cgs.analysis.kept import TEXT, read_table
from cgs.analysis.statistics import holm, interval, sign_flip_p, verdict
from cgs.errors import SuiteError

COLUMNS = [
    *CELL, "first", "second", "difference", "ci_low", "ci_high", "patients", "p", "p_holm", "verdict",
]  # fmt: skip


def scores_of(folder: Path) -> pd.DataFrame:
    """The scores of `results/<config>`, of its tables, or of a collected reference. Raises SuiteError."""
    for place in (folder, folder / "tables"):
        if any((place / name).is_file() for name in ("scores.csv", "scores.csv.gz")):
            return read_table(place, "scores")
    raise SuiteError(f"{folder} holds no tables/scores.csv; give results/<config>, or a reference folder.")


def compare(
    first: Path, second: Path, metric: str = "dice", convention: str = "field", selection: str = "best"
) -> pd.DataFrame:
    """One row for every cell of either folder: both means, the paired difference second - first, its test.

    Patients and seeds that both have are compared; p is corrected by Holm over all cells. A cell that one lacks has an
    empty difference. Raises SuiteError where nothing is in both.
    """
    tables = [
        leading_of(scores_of(folder), folder, metric, convention, selection) for folder in (first, second)
    ]
    both = pd.concat([t.assign(method=f"{k}:" + t["method"]) for k, t in enumerate(tables)])
    of_patient = patient_means(both)
    cells = dict.fromkeys(key for t in tables for key in t[CELL].itertuples(index=False, name=None))
    known = {key[:3] for key in of_patient.index}
    rows = []
    for dataset, labelled, method in cells:
        keys = [(dataset, labelled, f"{k}:{method}") for k in (0, 1)]
        found = [of_patient.loc[key] if key in known else None for key in keys]
        means = [np.nan if own is None else float(own.mean()) for own in found]
        difference = paired_differences(of_patient, keys[1], keys[0])
        own = interval(difference)
        rows.append(
            {
                "dataset": dataset,
                "labelled": labelled,
                "method": method,
                "first": means[0],
                "second": means[1],
                "difference": own.mean,
                "ci_low": own.low,
                "ci_high": own.high,
                "patients": own.patients,
                "p": sign_flip_p(difference),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    if not table["difference"].notna().any():
        raise SuiteError(f"{first} and {second} have no dataset, method and patients in common.")
    table["p_holm"] = holm(table["p"].to_numpy())
    tests = int(table["p"].notna().sum())
    table["verdict"] = [
        verdict(p, int(n), tests) if np.isfinite(d) else "in one only"
        for p, n, d in table[["p_holm", "patients", "difference"]].itertuples(index=False, name=None)
    ]
    return table


def leading_of(
    scores: pd.DataFrame, folder: Path, metric: str, convention: str, selection: str
) -> pd.DataFrame:
    """Rows of one metric by one convention and selection. Raises SuiteError where there is none."""
    own = scores[
        (scores["metric"] == metric)
        & (scores["convention"] == convention)
        & (scores["selection"] == selection)
    ].astype({key: str for key in TEXT if key in scores})
    if own.empty:
        raise SuiteError(
            f"{folder} has no {metric} by the {convention} convention and the {selection} checkpoint."
        )
    return own


def as_text(table: pd.DataFrame, metric: str) -> str:
    """The comparison as lines of a terminal; shares in per cent."""
    scale = 100 if metric in ("dice", "jaccard", "nsd") else 1
    lines = [
        f"{'dataset':<12} {'labelled':>8}  {'method':<24} {'first':>7} {'second':>7} {'difference':>22}  verdict"
    ]
    for row in table.to_dict("records"):
        change = "–"
        if np.isfinite(row["difference"]):
            change = f"{scale * row['difference']:+.2f}"
        if np.isfinite(row["ci_low"]):
            change += f" ({scale * row['ci_low']:+.2f} to {scale * row['ci_high']:+.2f})"
        numbers = [
            f"{scale * row[k]:7.2f}" if np.isfinite(row[k]) else f"{'–':>7}" for k in ("first", "second")
        ]
        lines.append(
            f"{row['dataset']:<12} {row['labelled']:>8}  {row['method']:<24} {numbers[0]} {numbers[1]} {change:>22}  "
            f"{row['verdict']}"
        )
    return "\n".join(lines)
