"""The tables of ablations and analyses: scores, class-level gains, pseudo-labels, balance, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cgs.analysis.statistics import interval, paired_p
from cgs.balance import holds, inside_specialists, proportions, with_specialists
from cgs.config import Config
from cgs.plan import Cell, labelled_values

RATIO = ["dataset", "labelled"]
CELL = [*RATIO, "method"]
LOWER_CONTROL = "labelled-only"


def leading(config: Config, table: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Rows of a metric by the first convention and selection of the config."""
    return table[
        (table["metric"] == metric)
        & (table["convention"] == config.evaluation.conventions[0])
        & (table["selection"] == config.evaluation.selections[0])
    ]


def experiments_table(
    config: Config, main: pd.DataFrame, scores: pd.DataFrame, runs: pd.DataFrame
) -> pd.DataFrame:
    """One row per experiment, dataset, ratio and method: Dice, and the paired difference to the method in `against`.

    `difference` is the mean over patients of the differences between their scores (cases, targets and seeds averaged
    within a patient), over the seeds that both have; `p` is not corrected; `patients_better` is how many of them gain.
    """
    means = {
        (row["dataset"], row["labelled"], row["method"]): row
        for row in leading(config, main).to_dict("records")
    }
    of_patient = patient_means(leading(config, scores))
    rows = []
    for name, experiment in config.experiments.items():
        for dataset in config.datasets_of(name):
            for ratio in map(str, experiment.labelled or config.datasets[dataset].labelled):
                rows += [
                    {"experiment": name, "dataset": dataset, "labelled": ratio, **row}
                    for row in experiment_rows(
                        config, name, Cell(dataset, ratio, "", 0), means, of_patient, runs
                    )
                ]
    columns = [
        "experiment",
        *CELL,
        "mean",
        "std",
        "seeds",
        "planned",
        "parameters_inference",
        "against",
        "difference",
        "ci_low",
        "ci_high",
        "p",
        "patients_better",
        "patients",
        "common_seeds",
    ]
    return pd.DataFrame(rows, columns=columns)


def experiment_rows(
    config: Config,
    name: str,
    where: Cell,
    means: dict[tuple[str, str, str], Any],
    of_patient: pd.Series,
    runs: pd.DataFrame,
) -> list[dict[str, Any]]:
    """The rows of one experiment on one dataset at one ratio."""
    experiment = config.experiments[name]
    seeds = experiment.seeds or config.seeds
    rows = []
    for method in experiment.methods:
        labelled = ratio_of(config, method, where.labelled)
        key = (where.dataset, labelled, method)
        found = means.get(key)
        own = runs[
            (runs["dataset"] == where.dataset)
            & (runs["labelled"] == labelled)
            & (runs["method"] == method)
            & runs["seed"].isin(seeds)
        ]
        row: dict[str, Any] = {
            "method": method,
            "mean": np.nan if found is None else float(found["mean"]),
            "std": np.nan if found is None else float(found["std"]),
            "seeds": 0 if found is None else int(found["seeds"]),
            "planned": len(own),
            "parameters_inference": own["parameters_inference"].median(),
            "against": config.compared_with(name, method),
        }
        if row["against"]:
            base = (where.dataset, ratio_of(config, row["against"], where.labelled), row["against"])
            row |= paired(of_patient, key, base)
        rows.append(row)
    return rows


def ratio_of(config: Config, method: str, labelled: str) -> str:
    """The value of `labelled` under which a method's results stand."""
    return labelled_values(config, method, [int(labelled)])[0]


def patient_means(scores: pd.DataFrame) -> pd.Series:
    """Mean score over cases, then targets, by dataset, labelled, method, seed and patient; NaN over a NaN."""
    keys = [*CELL, "seed", "patient"]
    per_target = strict_mean(scores.groupby([*keys, "target"], sort=False)["value"])
    return strict_mean(per_target.groupby(keys, sort=False)).sort_index()


def strict_mean(grouped: Any) -> pd.Series:
    """Means of a grouped series; NaN where any value of a group is NaN, not the mean of the rest."""
    means: pd.Series = grouped.mean().where(grouped.count() == grouped.size())
    return means


def paired(of_patient: pd.Series, key: tuple[str, str, str], base: tuple[str, str, str]) -> dict[str, Any]:
    """Difference of two methods over their common seeds and patients: mean, interval, p, how many patients gain.

    Empty but for `common_seeds` 0 where there is no common seed.
    """
    differences = paired_differences(of_patient, key, base)
    if not len(differences):
        return {"common_seeds": 0}
    found = interval(differences)
    return {
        "difference": found.mean,
        "ci_low": found.low,
        "ci_high": found.high,
        "p": paired_p(differences),
        "patients_better": int((differences.mean(axis=0) > 0).sum()),
        "patients": found.patients,
        "common_seeds": found.seeds,
    }


def paired_differences(
    of_patient: pd.Series, key: tuple[str, str, str], base: tuple[str, str, str]
) -> np.ndarray:
    """Differences (S, N) of two methods, a row for each seed that both have; empty where there is none."""
    try:
        own, other = of_patient.loc[key], of_patient.loc[base]
    except KeyError:
        return np.zeros((0, 0))
    both = pd.concat([own, other], axis=1, keys=["own", "other"], join="inner")
    if both.empty:
        return np.zeros((0, 0))
    return (both["own"] - both["other"]).unstack("patient").to_numpy()


def classes_table(config: Config, targets: pd.DataFrame, balances: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Dice of every target, its gain over labelled-only, and the target's size.

    `balances` has the audit's balance of each dataset. `size`: share of the target in the foreground pixels of all
    training slices.
    """
    table = leading(config, targets)[[*CELL, "target", "mean", "seeds"]].rename(columns={"mean": "dice"})
    sizes = [
        balance.loc[balance["group"] == "train", ["target", "share_of_foreground"]].assign(dataset=name)
        for name, balance in balances.items()
    ]
    if not sizes or table.empty:
        return pd.DataFrame(columns=[*CELL, "target", "dice", "seeds", "size", "gain"])
    table = table.merge(
        pd.concat(sizes).rename(columns={"share_of_foreground": "size"}), on=["dataset", "target"], how="left"
    )
    base = table[table["method"] == LOWER_CONTROL].set_index([*RATIO, "target"])["dice"]
    keys = pd.MultiIndex.from_frame(table[[*RATIO, "target"]])
    table["gain"] = table["dice"] - base.reindex(keys).to_numpy()
    return table


def small_targets_table(classes: pd.DataFrame) -> pd.DataFrame:
    """Per method and ratio: gain on targets of below-median size, on the others, and Spearman's rho of gain and size.

    With three or four targets rho tells little; it is given for what it is, with the number of targets.
    """
    rows = []
    known = classes.dropna(subset=["gain", "size"])
    for key, own in known[known["method"] != LOWER_CONTROL].groupby(CELL, sort=False):
        small = own["size"] < own["size"].median()
        enough = len(own) > 2 and own["gain"].nunique() > 1
        rho = stats.spearmanr(own["size"], own["gain"]).statistic if enough else np.nan
        rows.append(
            dict(zip(CELL, key, strict=True))
            | {
                "gain_small": own.loc[small, "gain"].mean(),
                "gain_large": own.loc[~small, "gain"].mean(),
                "rho": rho,
                "targets": len(own),
            }
        )
    return pd.DataFrame(rows, columns=[*CELL, "gain_small", "gain_large", "rho", "targets"])


def pseudo_labels_table(logs: dict[Cell, list[dict[str, Any]]]) -> pd.DataFrame:
    """Precision and coverage of pseudo-labels per kind and class over training, from the logs of runs."""
    rows = []
    for cell, entries in logs.items():
        for entry in entries:
            for kind, classes in entry.get("pseudo_labels", {}).items():
                for target, (said, right, true, labelled) in classes.items():
                    precision = right / said if said else np.nan
                    coverage = labelled / true if true else np.nan
                    rows.append((*vars(cell).values(), entry["iteration"], kind, target, precision, coverage))
    columns = [*CELL, "seed", "iteration", "kind", "target", "precision", "coverage"]
    return pd.DataFrame(rows, columns=columns)


def balance_table(balances: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """p_i, p_i' of our reading and of the other definition, per dataset, group of labelled patients and target."""
    rows = []
    for dataset, balance in balances.items():
        groups = balance[balance["group"].str.startswith("labelled ") | (balance["group"] == "train")]
        for group, own in groups.groupby("group", sort=False):
            if not own["pixels"].sum():
                continue
            p = proportions(own["pixels"].to_numpy())
            ours, other = with_specialists(p), inside_specialists(p)
            for k, target in enumerate(own["target"]):
                rows.append(
                    {
                        "dataset": dataset,
                        "group": group,
                        "target": target,
                        "pixels": int(own["pixels"].iloc[k]),
                        "p": p[k],
                        "balanced": ours[k],
                        "even": 1 / len(p),
                        "holds": bool(holds(p, ours)[k]),
                        "other": other[k],
                        "other_holds": bool(holds(p, other)[k]),
                    }
                )
    columns = [
        "dataset",
        "group",
        "target",
        "pixels",
        "p",
        "balanced",
        "even",
        "holds",
        "other",
        "other_holds",
    ]
    return pd.DataFrame(rows, columns=columns)


def cost_table(runs: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Parameters, seconds an iteration, memory, energy of each method: medians over its complete runs, per dataset."""
    known = runs[(runs["status"] == "complete") & runs["method"].isin(methods) & runs["iterations"].notna()]
    known = known.assign(iteration=known["seconds"] / known["iterations"])
    values = [
        "parameters_training",
        "parameters_inference",
        "iteration",
        "peak_memory_bytes",
        "seconds",
        "energy_joules",
    ]
    known["energy_joules"] = pd.to_numeric(known["energy_joules"], errors="coerce")
    table = known.groupby(["dataset", "method"], sort=False)[values].median().reset_index()
    table["device"] = [
        ", ".join(sorted(set(known.loc[(known["dataset"] == d) & (known["method"] == m), "device"].dropna())))
        for d, m in table[["dataset", "method"]].itertuples(index=False, name=None)
    ]
    return table
