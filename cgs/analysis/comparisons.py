"""Methods against each other: intervals, paired differences to the reference method, ties with the best, ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cgs.analysis.experiments import leading, paired_differences, patient_means, ratio_of, strict_mean
from cgs.analysis.statistics import holm, interval, rank_shares, sign_flip_p, verdict
from cgs.config import Config

VIEW = ["selection", "convention", "metric"]
CELL = ["dataset", "labelled", "method"]
LOWER = ("hd95", "asd", "assd")
"""Metrics of which less is better."""
DIFFERENCES = [
    *CELL, "base", "difference", "ci_low", "ci_high", "patients", "patients_better", "p", "p_holm", "verdict",
]  # fmt: skip


def intervals(scores: pd.DataFrame) -> pd.DataFrame:
    """Interval over patients of every cell and metric: columns of the cell and view, ci_low, ci_high."""
    rows: list[dict[str, Any]] = []
    view: Any
    cell: Any
    for view, part in scores.groupby(VIEW, sort=False):
        means = strict_mean(patient_means(part).groupby(level=[*CELL, "patient"], sort=False))
        for cell, own in means.groupby(level=CELL, sort=False):
            found = interval(own.to_numpy())
            names = dict(zip([*CELL, *VIEW], [*cell, *view], strict=True))
            rows.append({**names, "ci_low": found.low, "ci_high": found.high})
    return pd.DataFrame(rows, columns=[*CELL, *VIEW, "ci_low", "ci_high"])


def ratios(config: Config, dataset: str) -> list[str]:
    return [str(n) for n in config.datasets[dataset].labelled]


def tied_with_best(
    config: Config, main: pd.DataFrame, scores: pd.DataFrame, controls: frozenset[str]
) -> pd.DataFrame:
    """For every main table and metric, the methods whose interval of the paired difference to the best holds 0.

    Columns dataset, ratio, method and the view. Controls take no part; the best itself is not listed.
    """
    methods = [m for m in config.methods if m not in controls]
    rows = []
    for view, part in scores.groupby(VIEW, sort=False):
        of_patient = patient_means(part)
        for dataset in config.main_datasets:
            for ratio in ratios(config, dataset):
                keys = {m: (dataset, ratio_of(config, m, ratio), m) for m in methods}
                best = best_of(main, keys, view)
                for method, key in keys.items():
                    if best is None or method == best:
                        continue
                    found = interval(paired_differences(of_patient, key, keys[best]))
                    if found.low <= 0 <= found.high:
                        rows.append((dataset, ratio, method, *view))
    return pd.DataFrame(rows, columns=["dataset", "ratio", "method", *VIEW])


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
    rows = []
    for dataset in config.main_datasets:
        for ratio in ratios(config, dataset):
            base = (dataset, ratio_of(config, config.reference, ratio), config.reference)
            found = []
            for method in (m for m in config.methods if m != config.reference):
                key = (dataset, ratio_of(config, method, ratio), method)
                difference = paired_differences(of_patient, key, base)
                if len(difference):
                    found.append((method, difference))
            p = [sign_flip_p(d) for _, d in found]
            for (method, difference), raw, adjusted in zip(found, p, holm(np.array(p)), strict=True):
                own = interval(difference)
                rows.append(
                    {
                        "dataset": dataset,
                        "labelled": ratio,
                        "method": method,
                        "base": config.reference,
                        "difference": own.mean,
                        "ci_low": own.low,
                        "ci_high": own.high,
                        "patients": own.patients,
                        "patients_better": int((difference > 0).sum()),
                        "p": raw,
                        "p_holm": adjusted,
                        "verdict": verdict(adjusted, own.patients, len(found)),
                    }
                )
    return pd.DataFrame(rows, columns=DIFFERENCES)


def ranks_table(config: Config, scores: pd.DataFrame, controls: frozenset[str]) -> pd.DataFrame:
    """Shares of bootstrap samples in which a method has a rank by Dice, per dataset and ratio.

    Seeds that failed or are missing count as 0: a method gains nothing by not finishing. There are no ranks where only
    one method has scores.
    """
    of_patient = patient_means(leading(config, scores))
    tables = []
    for dataset in config.main_datasets:
        patients = of_patient[of_patient.index.get_level_values("dataset") == dataset]
        names = patients.index.get_level_values("patient").unique().sort_values()
        for ratio in ratios(config, dataset):
            columns: dict[str, pd.Series] = {}
            ranked = 0
            for method in (m for m in config.methods if m not in controls):
                key = (dataset, ratio_of(config, method, ratio), method)
                known = key in patients.droplevel(["seed", "patient"]).index
                wide = of_patient.loc[key].unstack("seed") if known else pd.DataFrame()
                wide = wide.reindex(index=names, columns=list(config.seeds)).fillna(0.0)
                columns[method] = wide.mean(axis=1)
                ranked += known
            if ranked > 1:
                shares = rank_shares(pd.DataFrame(columns))
                tables.append(shares.assign(dataset=dataset, labelled=ratio))
    empty = pd.DataFrame(columns=[*CELL, "rank", "share"])
    return pd.concat(tables, ignore_index=True)[[*CELL, "rank", "share"]] if tables else empty
