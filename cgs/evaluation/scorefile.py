"""scores.csv of a run as others read it. Apart from `cgs.runfiles`, so that a changed metric repeats no prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cgs.errors import SuiteError, plain
from cgs.evaluation.conventions import METRICS
from cgs.files import read_csv
from cgs.plan import Cell

COLUMNS = (
    "dataset",
    "labelled",
    "method",
    "seed",
    "selection",
    "case",
    "patient",
    "target",
    "convention",
    "metric",
    "value",
)
"""Those of scores.csv."""

SHARES = ("dice", "jaccard", "nsd")


def read_scores(path: Path, cell: Cell, text: Any) -> pd.DataFrame:
    """scores.csv of the run of `cell`. Raises SuiteError unless it holds possible scores of that run, each once."""
    mend = "delete it and evaluate the run again"
    try:
        table = read_csv(path, dtype=text)
    except (ValueError, OSError) as error:
        raise SuiteError(f"{path} cannot be read ({plain(error)}); {mend}.") from None
    if list(table.columns) != list(COLUMNS):
        raise SuiteError(f"{path} has other columns than scores.csv; {mend}.")
    if len(table) and (fault := fault_of(table, cell)):
        raise SuiteError(f"{path} {fault}; {mend}.")
    return table


def fault_of(table: pd.DataFrame, cell: Cell | None = None) -> str:
    """What is wrong with the scores of a run, or of several, or nothing."""
    own = {key: str(value) for key, value in vars(cell).items()} if cell else {}
    if any((table[key].astype(str) != value).any() for key, value in own.items()):
        return "is of another run"
    keys = [name for name in COLUMNS if name != "value"]
    if (
        table[keys].isna().any(axis=None)
        or table["value"].dtype.kind not in "if"
        or table["seed"].dtype.kind != "i"
    ):
        return "holds a row that is not whole"
    if table.duplicated(keys).any():
        return "holds a score twice"
    known = {(convention, metric) for convention, metrics in METRICS.items() for metric in metrics}
    if not set(table[["convention", "metric"]].itertuples(index=False, name=None)) <= known:
        return "holds an unknown metric"
    value = table["value"]
    if (value < 0).any() or (value[table["metric"].isin(SHARES)] > 1).any():
        return "holds a score that cannot be"
    return ""
