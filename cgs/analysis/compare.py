"""Two results folders against each other: what changed, by how much, and whether it is more than chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cgs.analysis.comparisons import judged, seeds_by_patient
from cgs.analysis.experiments import CELL, paired, patient_means
from cgs.analysis.kept import TEXT, read_table
from cgs.errors import SuiteError

COLUMNS = [
    *CELL, "first", "second", "common_seeds", "difference", "ci_low", "ci_high", "patients", "p", "p_holm", "verdict",
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

    Patients and seeds that both have are compared, and the means are of those; p is corrected by Holm over all cells. A
    cell without a common seed has the means of what each folder has, and an empty difference. Raises SuiteError where
    nothing is in both.
    """
    tables = [
        leading_of(scores_of(folder), folder, metric, convention, selection) for folder in (first, second)
    ]
    both = pd.concat([t.assign(method=f"{k}:" + t["method"]) for k, t in enumerate(tables)])
    of_patient = patient_means(both)
    cells = dict.fromkeys(key for t in tables for key in t[CELL].itertuples(index=False, name=None))
    rows = []
    for dataset, labelled, method in cells:
        keys = [(dataset, labelled, f"{k}:{method}") for k in (0, 1)]
        found = [seeds_by_patient(of_patient, key) for key in keys]
        own = paired(of_patient, keys[1], keys[0])
        if own["common_seeds"]:
            found = [f.loc[f.index.isin(found[1 - k].index)] for k, f in enumerate(found)]
        first_mean, second_mean = (float(f.to_numpy().mean()) if f.size else np.nan for f in found)
        cell = dict(zip(CELL, (dataset, labelled, method), strict=True))
        rows.append({**cell, "first": first_mean, "second": second_mean, **own})
    table = judged(pd.DataFrame(rows, columns=COLUMNS))
    if not table["common_seeds"].any():
        raise SuiteError(f"{first} and {second} have no dataset, method, seed and patients in common.")
    lonely = table["first"].isna() != table["second"].isna()
    table["verdict"] = table["verdict"].mask((table["common_seeds"] == 0) & lonely, "in one only")
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
        f"{'dataset':<12} {'labelled':>8}  {'method':<24} {'first':>7} {'second':>7} {'seeds':>5} "
        f"{'difference':>22}  verdict"
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
            f"{row['dataset']:<12} {row['labelled']:>8}  {row['method']:<24} {numbers[0]} {numbers[1]} "
            f"{row['common_seeds']:>5} {change:>22}  {row['verdict']}"
        )
    return "\n".join(lines)
