"""The report's sections of ablations and analyses, from their tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from cgs.analysis.experiments import strict_mean
from cgs.config import UNTRAINED, Config
from cgs.report import figures, forests
from cgs.report.drawing import CONTROLS, legend_mark
from cgs.report.main_tables import reference_of
from cgs.report.words import difference, difference_interval, patients, shown, whole
from cgs.titles import varied_option

COLUMNS = {
    "experiments": (
        "experiment",
        "dataset",
        "labelled",
        "method",
        "mean",
        "std",
        "seeds",
        "planned",
        "parameters_inference",
        "difference",
        "ci_low",
        "ci_high",
        "patients_better",
        "patients",
        "common_seeds",
    ),
    "classes": ("dataset", "labelled", "method", "target", "size", "gain"),
    "small-targets": (
        *("dataset", "labelled", "method", "gain_small", "gain_large", "contrast", "ci_low", "ci_high"),
        *("rho", "targets", "size_ratio"),
    ),
    "pseudo-labels": (
        "dataset",
        "labelled",
        "method",
        "iteration",
        "kind",
        "target",
        "precision",
        "coverage",
    ),
    "balance": (
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
    ),
    "cost": (
        "dataset",
        "method",
        "parameters_training",
        "parameters_inference",
        "iteration",
        "peak_memory_bytes",
        "energy_joules",
        "benchmark",
    ),
}
"""What the page reads of each table."""


def sections(config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]) -> list[dict[str, Any]]:
    """One section per experiment of the config."""
    return [
        {
            "name": name,
            "title": experiment.title,
            "row": experiment.row,
            "claim": experiment.claim,
            "remarks": remarks(config, name, titles),
            "tables": score_tables(config, name, tables["experiments"], titles),
            "ladders": ladders(config, name, tables["experiments"], titles),
            "curves": option_curves(config, name, tables["experiments"], titles),
            "view": view(config, name, tables, titles),
            "kind": experiment.view,
            "legend": [(Markup(legend_mark(m, experiment.methods)), titles[m]) for m in experiment.methods],
        }
        for name, experiment in config.experiments.items()
    ]


def remarks(config: Config, name: str, titles: dict[str, str]) -> list[str]:
    """What a reader must know of an experiment's methods: what a TransUNet started from, where prompts came from."""
    found = []
    methods = config.experiments[name].methods
    started: dict[str, list[str]] = {}
    for method in (m for m in methods if config.method_and_options(m)[0] not in UNTRAINED):
        network = config.network_of(method)
        if network.kind == "transunet":
            weights = f"the weights of {network.weights.name}" if network.weights else "random weights"
            started.setdefault(weights, []).append(titles[method])
    found += [f"The TransUNet started from {weights}: {'; '.join(own)}." for weights, own in started.items()]
    for method in (m for m in methods if m in config.promptable):
        found.append(
            f"{titles[method]} is not trained. Its prompts (a {config.promptable[method].prompt} for every target of a "
            "slice) are made from the reference labels of the test cases: an advantage that no other row has."
        )
    return found


def option_curves(
    config: Config, name: str, table: pd.DataFrame, titles: dict[str, str]
) -> dict[str, Any] | None:
    """Dice over the one numeric option in which an experiment's methods differ; None where there is no such option."""
    varied = varied_option(config, name)
    if varied is None:
        return None
    option, values = varied
    base = config.experiments[name].methods[0]
    own = table[(table["experiment"] == name) & np.isfinite(table["mean"])]
    drawn = []
    for place, ((dataset, ratio), part) in enumerate(own.groupby(["dataset", "labelled"], sort=False)):
        rows = part.assign(value=part["method"].map(values), base=part["method"] == base).sort_values("value")
        if len(rows) > 1:
            title = f"{dataset}, {patients(str(ratio))}"
            drawn.append(Markup(figures.option_curve(rows, option, title, f"option-{name}-{place}")))
    return {"option": option, "base": titles[base], "figures": drawn} if drawn else None


def score_tables(
    config: Config, name: str, table: pd.DataFrame, titles: dict[str, str]
) -> list[dict[str, Any]]:
    """Dice of every method of an experiment, and the difference to what it is compared with, per dataset and ratio."""
    found = []
    own = table[table["experiment"] == name]
    for (dataset, ratio), part in own.groupby(["dataset", "labelled"], sort=False):
        rows = part.to_dict("records")
        first = next((r["parameters_inference"] for r in rows), np.nan)
        shown_rows = [score_row({str(k): v for k, v in row.items()}, titles, first) for row in rows]
        named = {
            str(r.get("reference_name", "")) for r, s in zip(rows, shown_rows, strict=True) if s["reference"]
        }
        found.append(
            {
                "dataset": dataset,
                "ratio": str(ratio),
                "base": base_title(config, name, titles),
                "rows": shown_rows,
                "sizes": part["parameters_inference"].nunique() > 1,
                "reference": ", ".join(sorted(named)),
                "other_size": other_size(config, str(dataset), part),
            }
        )
    return found


def other_size(config: Config, dataset: str, part: pd.DataFrame) -> str:
    """'64 × 64', the size of the dataset that has the same files, where its Dice is known; else ''."""
    names = set(part.get("other_size", pd.Series(dtype=str))) & set(config.datasets)
    if not names or "other_size_mean" not in part or not np.isfinite(part["other_size_mean"]).any():
        return ""
    size = config.datasets[names.pop()].size
    return f"{size} × {size}"


def base_title(config: Config, name: str, titles: dict[str, str]) -> str:
    """What the methods of an experiment are compared with, in words."""
    experiment = config.experiments[name]
    return "the method it extends" if experiment.against == "extended" else titles[experiment.methods[0]]


def ladders(config: Config, name: str, table: pd.DataFrame, titles: dict[str, str]) -> list[Markup]:
    """The differences between compared methods with their intervals, a figure per dataset and ratio."""
    own = table[table["experiment"] == name]
    drawn = []
    for place, ((dataset, ratio), part) in enumerate(own.groupby(["dataset", "labelled"], sort=False)):
        part = part[[config.compared_with(name, m) is not None for m in part["method"]]]
        if np.isfinite(part["difference"]).any():
            title = f"{dataset}, {patients(str(ratio))}"
            base = base_title(config, name, titles)
            drawn.append(Markup(forests.ladder(part, titles, base, title, f"ladder-{name}-{place}")))
    return drawn


def score_row(row: dict[str, Any], titles: dict[str, str], first: float) -> dict[str, Any]:
    """A row as the page shows it."""
    better, size = row.get("patients_better", np.nan), row["parameters_inference"] / first
    fewer = 0 < row["common_seeds"] < row["seeds"]
    return {
        "title": titles[row["method"]],
        "mean": shown(row["mean"], "dice"),
        "spread": shown(row["std"], "dice") if np.isfinite(row["std"]) else "",
        "difference": difference(row["difference"]) or "–",
        "common": f"over {row['common_seeds']:.0f} common seed{'s' * (row['common_seeds'] > 1)}"
        if fewer
        else "",
        "interval": difference_interval(row["ci_low"], row["ci_high"]),
        "better": f"{better:.0f} of {row['patients']:.0f}" if np.isfinite(better) else "–",
        "seeds": f"{row['seeds']} of {row['planned']}",
        "elsewhere": int(row.get("elsewhere", 0)),
        "whole": row["seeds"] >= row["planned"],
        "size": f"{size:.2f} ×" if np.isfinite(size) else "–",
        "reference": reference_of(row) if "reference_seeds" in row else "",
        "other_size": shown(row.get("other_size_mean", np.nan), "dice"),
        "change": difference(row.get("change", np.nan)) or "–",
        "change_interval": difference_interval(row.get("change_low", np.nan), row.get("change_high", np.nan)),
    }


def view(config: Config, name: str, tables: dict[str, pd.DataFrame], titles: dict[str, str]) -> Any:
    """What an experiment shows beside its scores."""
    kind = config.experiments[name].view
    datasets = config.datasets_of(name)
    if kind == "classes":
        return [v for d in datasets if (v := classes_view(config, name, d, tables, titles)) is not None]
    if kind == "pseudo-labels":
        return [v for d in datasets for v in quality_view(config, name, d, tables["pseudo-labels"], titles)]
    if kind == "balance":
        return balance_view(tables["balance"], datasets)
    if kind == "cost":
        return [v for d in datasets if (v := cost_view(config, name, d, tables, titles)) is not None]
    return None


def classes_view(
    config: Config, name: str, dataset: str, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> dict[str, Any] | None:
    """Gain against size, and the contrast of small targets and others."""
    methods = config.experiments[name].methods
    classes = tables["classes"]
    own = classes[(classes["dataset"] == dataset) & classes["method"].isin(methods)]
    if own.empty:
        return None
    small = tables["small-targets"]
    rows = small[(small["dataset"] == dataset) & small["method"].isin(methods) & (small["labelled"] != "all")]
    drawn = figures.gain_against_size(own, methods, titles, f"size-{name}-{dataset}")
    sizes = own[own["size"] > 0].drop_duplicates("target").sort_values("size")
    return {
        "dataset": dataset,
        "figures": [Markup(d) for d in drawn],
        "legend": [(Markup(legend_mark(m, methods)), titles[m]) for m in methods if m not in CONTROLS],
        "rows": [small_row(row, titles) for row in rows.to_dict("records")],
        "targets": len(sizes),
        "sizes": [f"{r['target']} {shown(r['size'], 'dice')} %" for r in sizes.to_dict("records")],
        "small": list(sizes["target"][sizes["size"] < sizes["size"].median()]),
        "ratio": float(sizes["size"].max() / sizes["size"].min()) if len(sizes) else np.nan,
    }


def small_row(row: Any, titles: dict[str, str]) -> dict[str, str]:
    """A row of small-targets.csv as the page shows it."""
    return {
        "title": titles[row["method"]],
        "ratio": str(row["labelled"]),
        "small": difference(row["gain_small"]) or "–",
        "large": difference(row["gain_large"]) or "–",
        "contrast": difference(row["contrast"]) or "–",
        "interval": difference_interval(row["ci_low"], row["ci_high"]),
        "rho": f"{row['rho']:+.2f}".replace("-", "−") if np.isfinite(row["rho"]) else "–",
    }


def quality_view(
    config: Config, name: str, dataset: str, table: pd.DataFrame, titles: dict[str, str]
) -> list[dict[str, Any]]:
    """Pseudo-labels over training per ratio: figures of the mean over the targets, a table of each at the end."""
    own = table[
        (table["dataset"] == dataset)
        & table["method"].isin(config.experiments[name].methods)
        & (table["target"] != "background")
    ]
    own = own.assign(line=[f"{titles[m]}, {k}" for m, k in zip(own["method"], own["kind"], strict=True)])
    lines = list(dict.fromkeys(own["line"]))
    found = []
    for place, (ratio, part) in enumerate(own.groupby("labelled", sort=False)):
        drawn = figures.quality_curves(part, lines, f"quality-{name}-{dataset}-{place}")
        found.append(
            {
                "dataset": dataset,
                "ratio": str(ratio),
                "legend": [(Markup(figures.line_mark(line, lines)), line) for line in lines],
                "figures": [Markup(d) for d in drawn],
                "targets": list(dict.fromkeys(part["target"])),
                "rows": quality_rows(part),
                "unrecorded": [
                    titles[m] for m in config.experiments[name].methods if m not in set(part["method"])
                ],
            }
        )
    return found


def quality_rows(part: pd.DataFrame) -> list[dict[str, Any]]:
    """Precision and coverage of every target at the last iteration of each kind of pseudo-label, over seeds.

    `precise`: on how many targets a precision is known, '2 of 3', in every seed; a target without a pseudo-label has
    none, and counts in no mean.
    """
    rows = []
    targets = list(dict.fromkeys(part["target"]))
    for line, own in part.groupby("line", sort=False):
        last = own[own["iteration"] == own["iteration"].max()]
        means = pd.DataFrame(
            {q: strict_mean(last.groupby("target")[q]).reindex(targets) for q in ("precision", "coverage")}
        )
        each = [f"{shown(p, 'dice')} / {shown(c, 'dice')}" for p, c in means.itertuples(index=False)]
        precise = int(np.isfinite(means["precision"]).sum())
        rows.append(
            {"title": line, "cells": each, "precise": f"{precise} of {len(targets)}"}
            | {"whole": precise == len(targets)}
        )
    return rows


def balance_view(table: pd.DataFrame, datasets: tuple[str, ...]) -> list[dict[str, Any]]:
    """Shares of the targets, before and after, per dataset and group."""
    found = []
    for (dataset, group), own in table[table["dataset"].isin(datasets)].groupby(
        ["dataset", "group"], sort=False
    ):
        rows = [
            {
                "target": r["target"],
                "pixels": f"{r['pixels']:,}",
                "p": shown(r["p"], "dice"),
                "balanced": shown(r["balanced"], "dice"),
                "holds": bool(r["holds"]),
                "other": shown(r["other"], "dice"),
                "other_holds": bool(r["other_holds"]),
            }
            for r in own.to_dict("records")
        ]
        number = str(group).removeprefix("labelled ")
        where = "all training patients" if group == "train" else patients(number)
        found.append({"dataset": dataset, "where": where, "rows": rows, "even": f"{100 / len(rows):.1f}"})
    return found


def cost_view(
    config: Config, name: str, dataset: str, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> dict[str, Any] | None:
    """Parameters, time, memory and energy, relative to labelled-only where it was trained."""
    table = tables["cost"]
    own = table[(table["dataset"] == dataset) & table["method"].isin(config.experiments[name].methods)]
    if own.empty:
        return None
    rows = {str(r["method"]): {str(k): v for k, v in r.items()} for r in own.to_dict("records")}
    base = rows.get("labelled-only", {})
    devices = " ".join(map(str, own.get("device", pd.Series(dtype=str))))
    return {
        "dataset": dataset,
        "rows": [cost_row(rows[m], base, titles[m]) for m in config.experiments[name].methods if m in rows],
        "energy": bool(np.isfinite(own["energy_joules"]).any()),
        "inference": "seconds_per_slice" in own and bool(np.isfinite(own["seconds_per_slice"]).any()),
        "cuda": "NVIDIA" in devices,
        "benchmarks": sorted({str(v) for v in own.get("benchmark_of", pd.Series(dtype=str))} - {"", "nan"}),
        "figures": cost_figures(config, name, dataset, tables, titles),
    }


def cost_row(row: dict[str, Any], base: dict[str, Any], title: str) -> dict[str, str]:
    """A row of cost.csv as the page shows it, beside that of labelled-only, `base`."""
    joules, seconds = row["energy_joules"], row.get("seconds_per_slice", np.nan)
    return {
        "title": title,
        "training": whole(row["parameters_training"]),
        "relative": more_than(row["parameters_training"], base.get("parameters_training", np.nan)),
        "inference": whole(row["parameters_inference"]),
        "milliseconds": whole(1000 * row["iteration"]),
        "benchmark": whole(1000 * row["benchmark"]),
        "memory": whole(row["peak_memory_bytes"] / 1e6),
        "memory_relative": more_than(row["peak_memory_bytes"], base.get("peak_memory_bytes", np.nan), 0),
        "slice": f"{1000 * seconds:.1f}" if np.isfinite(seconds) else "–",
        "energy": f"{joules / 1000:,.0f}" if np.isfinite(joules) else "–",
        "device": str(row.get("device", "")),
    }


def more_than(value: float, base: float, digits: int = 2) -> str:
    """'+0.12 %' more than `base`, or a dash where that is unknown."""
    share = value / base - 1 if base > 0 else np.nan
    return f"{100 * share:+.{digits}f} %".replace("-", "−") if np.isfinite(share) else "–"


def cost_figures(
    config: Config, name: str, dataset: str, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> list[Markup]:
    """Dice against the time of an iteration as the benchmark measured it, a figure per number of labelled patients.

    Not against the times of the trainings, which rest on what else the machine did. Nothing where the device and the
    size were not measured.
    """
    scores, cost = tables["experiments"], tables["cost"]
    times = cost[cost["dataset"] == dataset].set_index("method")["benchmark"]
    found = []
    own = scores[(scores["experiment"] == name) & (scores["dataset"] == dataset)]
    for place, (ratio, part) in enumerate(own.groupby("labelled", sort=False)):
        rows = part[["method", "mean"]].assign(milliseconds=1000 * part["method"].map(times))
        rows = rows[np.isfinite(rows["mean"]) & np.isfinite(rows["milliseconds"])]
        if len(rows):
            methods = config.experiments[name].methods
            drawn = figures.cost_accuracy(rows, methods, titles, str(ratio), f"cost-{name}-{dataset}-{place}")
            found.append(Markup(drawn))
    return found
