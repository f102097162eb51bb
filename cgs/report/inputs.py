"""What the report reads: the tables of a config and their parts; what is damaged counts as missing."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from cgs.config import Config
from cgs.plan import cells

CELL = ("dataset", "labelled", "method")
COLUMNS = {
    "runs": (
        *(*CELL, "seed", "status", "sentence", "seconds"),
        *("best_iteration", "best_validation_dice", "last_validation_dice"),
    ),
    "main": (
        *CELL,
        "selection",
        "convention",
        "metric",
        "mean",
        "std",
        "seeds",
        "published",
        "published_source",
    ),
    "targets": (*CELL, "selection", "convention", "metric", "target", "mean"),
    "curves": (*CELL, "seed", "iteration", "quantity", "value"),
}
COMPARISONS = {
    "differences": (
        *CELL,
        "base",
        "difference",
        "ci_low",
        "ci_high",
        "patients",
        "common_seeds",
        "p_holm",
        "verdict",
    ),
    "ranks": (*CELL, "rank", "share", "seeds"),
    "ties": ("dataset", "ratio", "method", "selection", "convention", "metric", "compared"),
}
"""What the page reads of each table. A table that lacks one of these counts as damaged."""


def shown_datasets(config: Config) -> tuple[str, ...]:
    """The datasets with main tables; none for an experiment alone."""
    return config.main_datasets if config.methods else ()


def unknown_runs(config: Config) -> pd.DataFrame:
    """The planned runs, for a page without runs.csv: how they ended is not known."""
    table = pd.DataFrame([asdict(cell) for cell in cells(config)])
    return table.assign(
        status="unknown",
        sentence="",
        seconds=0.0,
        best_iteration=np.nan,
        best_validation_dice=np.nan,
        last_validation_dice=np.nan,
    )


def leading(config: Config, table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Rows of the dataset's test Dice by the first convention and selection."""
    return table[
        (table["dataset"] == dataset)
        & (table["metric"] == "dice")
        & (table["convention"] == config.evaluation.conventions[0])
        & (table["selection"] == config.evaluation.selections[0])
    ]


def cell_values(tables: dict[str, pd.DataFrame], dataset: str, ratio: str, config: Config) -> pd.Series:
    """Mean test Dice by method at a ratio, by the `field` convention and the leading selection."""
    if tables["main"].empty:
        return pd.Series(dtype=float)
    chosen = leading(config, tables["main"], dataset)
    means = chosen[chosen["labelled"].isin([ratio, "all"])].set_index("method")["mean"]
    return means[np.isfinite(means)]


def most_seeds(config: Config, runs: pd.DataFrame) -> int:
    """The largest number of complete seeds in a cell of the main tables."""
    return int(max(seeds_done(config, runs), default=0))


def fewest_seeds(config: Config, runs: pd.DataFrame) -> int:
    """The smallest number of complete seeds in a cell of the main tables that has any."""
    return int(min(seeds_done(config, runs), default=0))


def seeds_done(config: Config, runs: pd.DataFrame) -> pd.Series:
    """Number of complete seeds of the cells of the main tables that have any."""
    done = runs[(runs["status"] == "complete") & runs["method"].isin(config.methods)]
    return done.groupby(list(CELL))["seed"].nunique()


def seeds_of(config: Config, main: pd.DataFrame, dataset: str, ratio: str) -> dict[str, int]:
    """Number of runs in the means of each method at a ratio."""
    own = main[
        (main["dataset"] == dataset)
        & main["labelled"].isin([ratio, "all"])
        & (main["selection"] == config.evaluation.selections[0])
    ]
    return {str(m): int(n) for m, n in own.groupby("method")["seeds"].min().items()}
