"""Methods against each other: intervals, paired differences to the reference method, ties with the best, ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cgs.analysis.experiments import leading, paired, paired_differences, patient_means, ratio_of
from cgs.analysis.statistics import ALPHA, holm, interval, interval_p, rank_shares, verdict
from cgs.config import Config

VIEW = ["selection", "convention", "metric"]
CELL = ["dataset", "labelled", "method"]
LOWER = ("hd95", "asd", "assd")
"""Metrics of which less is better."""
DIFFERENCES = [
    *CELL, "base", "difference", "ci_low", "ci_high", "patients", "patients_better", "common_seeds", "p", "p_holm",
    "verdict",
]  # fmt: skip


def intervals(scores: pd.DataFrame) -> pd.DataFrame:
    """Interval over seeds and patients of every cell and metric: columns of the cell and view, ci_low, ci_high."""
    rows: list[dict[str, Any]] = []
    view: Any
    cell: Any
    for view, part in scores.groupby(VIEW, sort=False):
        for cell, own in patient_means(part).groupby(level=CELL, sort=False):
            found = interval(seeds_by_patient(own, cell).to_numpy())
            names = dict(zip([*CELL, *VIEW], [*cell, *view], strict=True))
            rows.append({**names, "ci_low": found.low, "ci_high": found.high})
    return pd.DataFrame(rows, columns=[*CELL, *VIEW, "ci_low", "ci_high"])


def ratios(config: Config, dataset: str) -> list[str]:
    return [str(n) for n in config.datasets[dataset].labelled]


def tied_with_best(
    config: Config, main: pd.DataFrame, scores: pd.DataFrame, controls: frozenset[str]
) -> pd.DataFrame:
    """For every main table and metric, the methods that cannot be told from the best one.

    Columns dataset, ratio, method, the view and `compared`: True where the p-value of the paired difference to the best
    (that of its interval, corrected by Holm over the methods of the table) is above ALPHA. False where the two have no
    common seed, and where they have one alone and p is not above ALPHA: that tells two trainings apart, not two
    methods. Controls take no part; the best itself is not listed.
    """
    methods = [m for m in config.methods if m not in controls]
    rows: list[tuple[Any, ...]] = []
    for view, part in scores.groupby(VIEW, sort=False):
        of_patient = patient_means(part)
        for dataset in config.main_datasets:
            for ratio in ratios(config, dataset):
                keys = {m: (dataset, ratio_of(config, m, ratio), m) for m in methods}
                best = best_of(main, keys, view)
                known = set(of_patient.droplevel(["seed", "patient"]).index)
                others = [m for m, key in keys.items() if best and m != best and key in known]
                found = [paired_differences(of_patient, keys[m], keys[str(best)]) for m in others]
                adjusted = holm(np.array([interval_p(d) for d in found]))
                rows += [
                    (dataset, ratio, method, *view, bool(len(differences) and p > ALPHA))
                    for method, differences, p in zip(others, found, adjusted, strict=True)
                    if len(differences) < 2 or p > ALPHA
                ]
    return pd.DataFrame(rows, columns=["dataset", "ratio", "method", *VIEW, "compared"])


def best_of(main: pd.DataFrame, keys: dict[str, tuple[str, str, str]], view: Any) -> str | None:
    """The method with the best mean in one view of the main table, of those in `keys`."""
    own = main[(main[VIEW] == list(view)).all(axis=1)].set_index(CELL)["mean"]
    means = {
        m: float(own.loc[key]) for m, key in keys.items() if key in own.index and np.isfinite(own.loc[key])
    }
    if not means:
        return None
    return (min if view[-1] in LOWER else max)(means, key=means.__getitem__)


def differences_table(config: Config, scores: pd.DataFrame) -> pd.DataFrame:
    """Paired Dice difference of every method to the reference method, Holm-corrected within a dataset and ratio."""
    of_patient = patient_means(leading(config, scores))
    known = set(of_patient.droplevel(["seed", "patient"]).index)
    tables = []
    for dataset in config.main_datasets:
        for ratio in ratios(config, dataset):
            base = (dataset, ratio_of(config, config.reference, ratio), config.reference)
            keys = {
                m: (dataset, ratio_of(config, m, ratio), m) for m in config.methods if m != config.reference
            }
            found = {m: paired(of_patient, key, base) for m, key in keys.items() if {key, base} <= known}
            if found:
                table = pd.DataFrame([{"method": m, **own} for m, own in found.items()], columns=DIFFERENCES)
                tables.append(judged(table).assign(dataset=dataset, labelled=ratio, base=config.reference))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=DIFFERENCES)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `paired` with `p_holm`, corrected over all of them, and `verdict`."""
    p = table["p"].to_numpy(dtype=np.float64)
    adjusted, tests = holm(p), int(np.isfinite(p).sum())
    table = table.fillna({"patients": 0, "patients_better": 0})
    facts = zip(adjusted, table["patients"], table["common_seeds"], strict=True)
    return table.assign(
        p_holm=adjusted, verdict=[verdict(q, int(patients), tests, int(n)) for q, patients, n in facts]
    )


def ranks_table(
    config: Config, scores: pd.DataFrame, runs: pd.DataFrame, controls: frozenset[str]
) -> pd.DataFrame:
    """Shares of bootstrap samples in which a method has a rank by Dice, per dataset and ratio.

    Ranked are the methods that have begun, over the seeds that all of them have ended. A seed that failed counts as 0:
    a method gains nothing by not finishing. There are no ranks where fewer than two have scores, or no such seed.
    """
    of_patient = patient_means(leading(config, scores))
    tables = []
    for dataset in config.main_datasets:
        for ratio in ratios(config, dataset):
            keys = {m: (dataset, ratio_of(config, m, ratio), m) for m in config.methods if m not in controls}
            known = {m: seeds_by_patient(of_patient, key) for m, key in keys.items()}
            ended = {m: set(known[m].index) | failed_seeds(runs, key) for m, key in keys.items()}
            begun = [m for m in keys if ended[m]]
            common = sorted(set.intersection(*(ended[m] for m in begun))) if begun else []
            patients = sorted(set().union(*(known[m].columns for m in begun)))
            if common and sum(bool(len(known[m])) for m in begun) > 1:
                values = [known[m].reindex(index=common, columns=patients).fillna(0.0) for m in begun]
                shares = rank_shares(np.stack([v.to_numpy(dtype=np.float64) for v in values]), begun)
                tables.append(shares.assign(dataset=dataset, labelled=ratio, seeds=len(common)))
    columns = [*CELL, "rank", "share", "seeds"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def seeds_by_patient(of_patient: pd.Series, key: tuple[str, str, str]) -> pd.DataFrame:
    """The scores of a cell, a row a seed and a column a patient; empty where there are none."""
    try:
        return of_patient.loc[key].unstack("patient")
    except KeyError:
        return pd.DataFrame()


def failed_seeds(runs: pd.DataFrame, key: tuple[str, str, str]) -> set[int]:
    """The seeds of a cell whose runs failed."""
    own = runs[(runs[CELL] == list(key)).all(axis=1) & (runs["status"] == "failed")]
    return {int(seed) for seed in own["seed"]}
