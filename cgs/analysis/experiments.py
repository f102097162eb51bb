"""The tables of ablations and analyses: scores, class-level gains, pseudo-labels, balance, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cgs.analysis.cost import measurements
from cgs.analysis.statistics import interval, paired_p
from cgs.balance import holds, inside_specialists, proportions, with_specialists
from cgs.config import Config
from cgs.plan import Cell, labelled_values

RATIO = ["dataset", "labelled"]
CELL = [*RATIO, "method"]
LOWER_CONTROL = "labelled-only"
Key = tuple[str, str, str]
"""Dataset, labelled and method."""


def leading(config: Config, table: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Rows of a metric by the first convention and selection of the config."""
    return table[
        (table["metric"] == metric)
        & (table["convention"] == config.evaluation.conventions[0])
        & (table["selection"] == config.evaluation.selections[0])
    ]


EXPERIMENTS = [
    *("experiment", *CELL, "mean", "std", "seeds", "planned", "elsewhere", "parameters_inference"),
    *("against", "common_seeds", "difference", "ci_low", "ci_high", "p", "patients_better", "patients"),
    *("reference", "reference_seeds", "reference_name"),
    *("other_size", "other_size_mean", "other_size_seeds", "change", "change_low", "change_high"),
]


def experiments_table(
    config: Config, main: pd.DataFrame, scores: pd.DataFrame, runs: pd.DataFrame
) -> pd.DataFrame:
    """One row per experiment, dataset, ratio and method: Dice, and the paired difference to the method in `against`.

    All of it over the experiment's seeds. `difference` is the mean over patients of the differences between their
    scores (cases, targets and seeds averaged within a patient), over the `common_seeds` that both have; `p` is not
    corrected; `patients_better` is how many of them gain. `reference`: what a kept reference has, over all its seeds.
    Where the dataset has the files of another one at another size (`other_size`): the same method's Dice there, and
    the paired `change` from there to here.
    """
    chosen = leading(config, scores)
    of_seed = means_by(chosen, [*CELL, "seed"]).sort_index()
    numbers = Numbers(of_seed, patient_means(chosen), runs, leading(config, main))
    rows = []
    for name, experiment in config.experiments.items():
        for dataset in config.datasets_of(name):
            for ratio in map(str, experiment.labelled or config.datasets[dataset].labelled):
                rows += [
                    {"experiment": name, "dataset": dataset, **row}
                    for row in experiment_rows(config, name, Cell(dataset, ratio, "", 0), numbers)
                ]
    return pd.DataFrame(rows, columns=EXPERIMENTS)


@dataclass(frozen=True)
class Numbers:
    """What an experiment's rows are made from: Dice by seed, by seed and patient, the runs, the main table."""

    of_seed: pd.Series
    of_patient: pd.Series
    runs: pd.DataFrame
    main: pd.DataFrame

    def over(self, seeds: Sequence[int]) -> Numbers:
        """The same over some seeds."""
        parts = [s[s.index.get_level_values("seed").isin(seeds)] for s in (self.of_seed, self.of_patient)]
        return Numbers(parts[0], parts[1], self.runs[self.runs["seed"].isin(seeds)], self.main)

    def seeds(self, key: Key) -> pd.Series:
        """Dice by seed of a dataset, ratio and method; empty where there is none."""
        known = key in self.of_seed.droplevel("seed").index
        return self.of_seed.loc[key] if known else pd.Series(dtype=float)


def experiment_rows(config: Config, name: str, where: Cell, numbers: Numbers) -> list[dict[str, Any]]:
    """The rows of one experiment on one dataset at one ratio."""
    experiment = config.experiments[name]
    numbers = numbers.over(experiment.seeds or config.seeds)
    rows = []
    for method in experiment.methods:
        key = (where.dataset, ratio_of(config, method, where.labelled), method)
        found = numbers.seeds(key)
        own = numbers.runs[(numbers.runs[CELL] == list(key)).all(axis=1)]
        row: dict[str, Any] = {
            "labelled": where.labelled,
            "method": method,
            "mean": found.mean(skipna=False),
            "std": found.std(skipna=False),
            "seeds": len(found),
            "planned": len(own),
            "elsewhere": int((own["held"].fillna("") != "").sum()) if "held" in own else 0,
            "parameters_inference": own["parameters_inference"].median(),
            "against": config.compared_with(name, method),
            "common_seeds": 0,
            **reference_row(numbers.main, key),
            **other_size_row(config, key, numbers),
        }
        if row["against"]:
            base = (where.dataset, ratio_of(config, row["against"], where.labelled), row["against"])
            row["common_seeds"] = len(found.index.intersection(numbers.seeds(base).index))
            row |= paired(numbers.of_patient, key, base)
        rows.append(row)
    return rows


def reference_row(main: pd.DataFrame, key: Key) -> dict[str, Any]:
    """What a kept reference measured of the same cell, where there is one."""
    columns = ["reference", "reference_seeds", "reference_name"]
    if not set(columns) <= set(main):
        return {}
    own = main[(main[CELL] == list(key)).all(axis=1)][columns].to_dict("records")
    return {str(k): v for k, v in own[0].items()} if own else {}


def other_size_row(config: Config, key: Key, numbers: Numbers) -> dict[str, Any]:
    """Dice of the same method on the same files at the size of another dataset of the config, and the change."""
    other = getattr(config.datasets[key[0]], "files_of", None)
    if other not in config.datasets:
        return {}
    there = (other, *key[1:])
    found, change = numbers.seeds(there), interval(paired_differences(numbers.of_patient, key, there))
    return {
        "other_size": other,
        "other_size_mean": found.mean(skipna=False),
        "other_size_seeds": len(found),
        "change": change.mean,
        "change_low": change.low,
        "change_high": change.high,
    }


def ratio_of(config: Config, method: str, labelled: str) -> str:
    """The value of `labelled` under which a method's results stand."""
    return labelled_values(config, method, [int(labelled)])[0]


def patient_means(scores: pd.DataFrame) -> pd.Series:
    """Mean score over cases, then targets, by dataset, labelled, method, seed and patient; NaN over a NaN."""
    return means_by(scores, [*CELL, "seed", "patient"]).sort_index()


def means_by(scores: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Mean score over cases, then targets, by `keys` in the order of `scores`; NaN over a NaN."""
    of_target = list(dict.fromkeys([*keys, "target"]))
    per_target = strict_mean(scores.groupby(of_target, sort=False)["value"])
    return strict_mean(per_target.groupby(keys, sort=False))


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


def classes_table(
    config: Config, scores: pd.DataFrame, targets: pd.DataFrame, balances: dict[str, pd.DataFrame]
) -> pd.DataFrame:
    """Dice of every target, its gain over labelled-only, and the target's size.

    `balances` has the audit's balance of each dataset. `size`: share of the target in the foreground pixels of all
    training slices. `gain` is over the `common_seeds` that both have, `dice` over all `seeds`.
    """
    table = leading(config, targets)[[*CELL, "target", "mean", "seeds"]].rename(columns={"mean": "dice"})
    sizes = [
        balance.loc[balance["group"] == "train", ["target", "share_of_foreground"]].assign(dataset=name)
        for name, balance in balances.items()
    ]
    if not sizes or table.empty:
        return pd.DataFrame(columns=[*CELL, "target", "dice", "seeds", "size", "gain", "common_seeds"])
    table = table.merge(
        pd.concat(sizes).rename(columns={"share_of_foreground": "size"}), on=["dataset", "target"], how="left"
    )
    of_seed = means_by(leading(config, scores), [*CELL, "seed", "target"]).rename("own").reset_index()
    base = of_seed[of_seed["method"] == LOWER_CONTROL].drop(columns="method").rename(columns={"own": "base"})
    both = of_seed.merge(base, on=[*RATIO, "seed", "target"])
    grouped = both.assign(gain=both["own"] - both["base"]).groupby([*CELL, "target"], sort=False)["gain"]
    gains = pd.DataFrame({"gain": strict_mean(grouped), "common_seeds": grouped.size()}).reset_index()
    return table.merge(gains, on=[*CELL, "target"], how="left").fillna({"common_seeds": 0})


SMALL = [
    *CELL,
    "gain_small",
    "gain_large",
    "contrast",
    "ci_low",
    "ci_high",
    "patients",
    "rho",
    "targets",
    "size_ratio",
]
APART = 2.0
"""How many times the smallest target the largest must be, for some to be called small."""
ENOUGH = 6
"""Targets from which on a rank correlation is given."""


def small_targets_table(config: Config, scores: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Per method and ratio: whether targets of below-median size gain more over labelled-only than the others.

    `contrast` is the gain of the small targets less that of the others, with its interval over common seeds and
    patients: in each patient the differences of every target (cases averaged) are taken first. `size_ratio` is the
    largest target by the smallest; where it is below APART, no target is small and there is neither contrast nor
    `rho`, Spearman's correlation of size and gain, which needs ENOUGH targets too.
    """
    keys = [*CELL, "seed", "patient", "target"]
    of_target = strict_mean(leading(config, scores).groupby(keys, sort=False)["value"]).sort_index()
    rows = []
    known = classes[(classes["size"] > 0) & (classes["method"] != LOWER_CONTROL)]
    key: Any
    for key, own in known.groupby(CELL, sort=False):
        sizes = own.set_index("target")["size"]
        gains = target_gains(of_target, key, (*key[:2], LOWER_CONTROL), list(sizes.index))
        if len(gains):
            rows.append(dict(zip(CELL, key, strict=True)) | contrast_row(sizes, gains))
    return pd.DataFrame(rows, columns=SMALL)


def target_gains(of_target: pd.Series, key: Key, base: Key, targets: list[str]) -> pd.DataFrame:
    """Differences of two methods, a row per common seed and patient, a column per target; empty where there is none."""
    try:
        own, other = of_target.loc[key], of_target.loc[base]
    except KeyError:
        return pd.DataFrame()
    both = pd.concat([own, other], axis=1, keys=["own", "other"], join="inner")
    return (both["own"] - both["other"]).unstack("target")[targets] if len(both) else pd.DataFrame()


def contrast_row(sizes: pd.Series, gains: pd.DataFrame) -> dict[str, Any]:
    """The contrast of small targets and others; NaN where their sizes are too near."""
    ratio = float(sizes.max() / sizes.min())
    patients = gains.index.get_level_values("patient").nunique()
    row: dict[str, Any] = {"targets": len(sizes), "size_ratio": ratio, "patients": patients}
    if ratio < APART:
        return row
    small = list(sizes.index[sizes < sizes.median()])
    of_small, others = (
        gains[part].mean(axis=1, skipna=False) for part in (small, sizes.index.difference(small))
    )
    found = interval((of_small - others).unstack("patient").to_numpy())
    means = gains.mean(skipna=False)
    enough = len(sizes) >= ENOUGH and np.isfinite(means).all() and means.nunique() > 1
    return row | {
        "gain_small": of_small.mean(skipna=False),
        "gain_large": others.mean(skipna=False),
        "contrast": found.mean,
        "ci_low": found.low,
        "ci_high": found.high,
        "rho": stats.spearmanr(sizes, means[sizes.index]).statistic if enough else np.nan,
    }


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


MEDIANS = ["parameters_training", "parameters_inference", "iteration", "peak_memory_bytes", "seconds"]
MEDIANS += ["seconds_per_slice", "energy_joules"]


def cost_table(config: Config, runs: pd.DataFrame) -> pd.DataFrame:
    """Parameters, times, memory, energy of each method: medians over its complete runs, per dataset.

    `iteration`: seconds an iteration in training; `seconds_per_slice`: at inference, where that was recorded.
    `benchmark`: seconds an iteration as `benchmarks/cost.py` measured them, one method at a time, where that was on
    the device of the runs and at their size; `benchmark_of` says how.
    """
    known = runs[
        (runs["status"] == "complete") & runs["method"].isin(config.every_method) & runs["iterations"].notna()
    ]
    known = known.assign(iteration=known["seconds"] / known["iterations"])
    for name in ("energy_joules", "seconds_per_slice"):  # Runs of an earlier version lack the latter.
        values = known.get(name, pd.Series(np.nan, index=known.index))
        known[name] = pd.to_numeric(values, errors="coerce")
    table = known.groupby(["dataset", "method"], sort=False)[MEDIANS].median().reset_index()
    keys = list(table[["dataset", "method"]].itertuples(index=False, name=None))
    devices = known.groupby(["dataset", "method"])["device"].agg(lambda d: ", ".join(sorted(set(d.dropna()))))
    table["device"] = [str(devices[key]) for key in keys]
    found = [benchmark(config, d, m, str(devices[d, m])) for d, m in keys]
    return table.assign(benchmark=[f[0] for f in found], benchmark_of=[f[1] for f in found])


def benchmark(config: Config, dataset: str, method: str, device: str) -> tuple[float, str]:
    """Measured seconds an iteration of a method on `device` and how they were measured; NaN where they were not."""
    network, training = config.network_of(method), config.training
    size = config.datasets[dataset].size if dataset in config.datasets else 0
    for measured in measurements():
        name = measured.known(config, method)
        same = (measured.device, measured.size, measured.width, measured.threads, measured.precision) == (
            *(device, size, network.width, training.threads, training.precision),
        )
        if name and same and network.kind == "unet":
            pixels, images = f"{size} x {size} pixels", f"batch {measured.batch} + {measured.batch}"
            return measured.seconds[name], f"{device}, {pixels}, {images}, {measured.date}"
    return np.nan, ""
