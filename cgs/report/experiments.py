"""The report's sections of ablations and analyses, from their tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from cgs.config import Config
from cgs.report import figures, forests
from cgs.report.drawing import CONTROLS, legend_mark
from cgs.report.words import difference, difference_interval, patients, shown, whole

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
    ),
    "classes": ("dataset", "labelled", "method", "target", "size", "gain"),
    "small-targets": ("dataset", "labelled", "method", "gain_small", "gain_large", "rho", "targets"),
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
            "tables": score_tables(config, name, tables["experiments"], titles),
            "ladders": ladders(config, name, tables["experiments"], titles),
            "view": view(config, name, tables, titles),
            "kind": experiment.view,
            "legend": [(Markup(legend_mark(m, experiment.methods)), titles[m]) for m in experiment.methods],
        }
        for name, experiment in config.experiments.items()
    ]


def score_tables(
    config: Config, name: str, table: pd.DataFrame, titles: dict[str, str]
) -> list[dict[str, Any]]:
    """Dice of every method of an experiment, and the difference to what it is compared with, per dataset and ratio."""
    found = []
    own = table[table["experiment"] == name]
    for (dataset, ratio), part in own.groupby(["dataset", "labelled"], sort=False):
        rows = part.to_dict("records")
        first = next((r["parameters_inference"] for r in rows), np.nan)
        found.append(
            {
                "dataset": dataset,
                "ratio": str(ratio),
                "base": base_title(config, name, titles),
                "rows": [score_row({str(k): v for k, v in row.items()}, titles, first) for row in rows],
                "sizes": part["parameters_inference"].nunique() > 1,
            }
        )
    return found


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
    better = row.get("patients_better", np.nan)
    return {
        "title": titles[row["method"]],
        "mean": shown(row["mean"], "dice"),
        "spread": shown(row["std"], "dice") if np.isfinite(row["std"]) else "",
        "difference": difference(row["difference"]) or "–",
        "interval": difference_interval(row["ci_low"], row["ci_high"]),
        "better": f"{better:.0f} of {row['patients']:.0f}" if np.isfinite(better) else "–",
        "seeds": f"{row['seeds']} of {row['planned']}",
        "whole": row["seeds"] >= row["planned"],
        "size": f"{row['parameters_inference'] / first:.2f} ×"
        if np.isfinite(row["parameters_inference"] / first)
        else "–",
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
    """Gain against size, and the summary of small targets."""
    methods = config.experiments[name].methods
    classes = tables["classes"]
    own = classes[(classes["dataset"] == dataset) & classes["method"].isin(methods)]
    if own.empty:
        return None
    small = tables["small-targets"]
    rows = small[(small["dataset"] == dataset) & small["method"].isin(methods)].to_dict("records")
    shown = [
        {
            "title": titles[r["method"]],
            "ratio": str(r["labelled"]),
            "small": difference(r["gain_small"]) or "–",
            "large": difference(r["gain_large"]) or "–",
            "rho": f"{r['rho']:+.2f}".replace("-", "−") if np.isfinite(r["rho"]) else "–",
        }
        for r in rows
        if r["labelled"] != "all"
    ]
    drawn = figures.gain_against_size(own, methods, titles, f"size-{name}-{dataset}")
    legend = [(Markup(legend_mark(m, methods)), titles[m]) for m in methods if m not in CONTROLS]
    return {
        "dataset": dataset,
        "figures": [Markup(d) for d in drawn],
        "legend": legend,
        "rows": shown,
        "targets": int(own["target"].nunique()),
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
            }
        )
    return found


def quality_rows(part: pd.DataFrame) -> list[dict[str, Any]]:
    """Precision and coverage of every target at the last iteration of each kind of pseudo-label, over seeds."""
    rows = []
    for line, own in part.groupby("line", sort=False):
        last = own[own["iteration"] == own["iteration"].max()]
        means = last.groupby("target", sort=False)[["precision", "coverage"]].mean()
        each = [f"{shown(p, 'dice')} / {shown(c, 'dice')}" for p, c in means.itertuples(index=False)]
        rows.append({"title": line, "cells": each})
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
    rows = {str(r["method"]): r for r in own.to_dict("records")}
    base = float(rows.get("labelled-only", {}).get("parameters_training", np.nan))
    shown = [
        {
            "title": titles[m],
            "training": whole(rows[m]["parameters_training"]),
            "relative": more_than(rows[m]["parameters_training"], base),
            "inference": whole(rows[m]["parameters_inference"]),
            "milliseconds": whole(1000 * rows[m]["iteration"]),
            "memory": whole(rows[m]["peak_memory_bytes"] / 1e6),
            "energy": f"{joules / 1000:,.0f}" if np.isfinite(joules := rows[m]["energy_joules"]) else "–",
            "device": str(rows[m].get("device", "")),
        }
        for m in config.experiments[name].methods
        if m in rows
    ]
    return {
        "dataset": dataset,
        "rows": shown,
        "energy": bool(np.isfinite(own["energy_joules"]).any()),
        "figures": cost_figures(config, name, dataset, tables, titles),
    }


def more_than(value: float, base: float) -> str:
    """'+0.12 %' more than `base`, or a dash where that is unknown."""
    share = value / base - 1 if base > 0 else np.nan
    return f"{100 * share:+.2f} %".replace("-", "−") if np.isfinite(share) else "–"


def cost_figures(
    config: Config, name: str, dataset: str, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> list[Markup]:
    """Dice against the time of an iteration, a figure per number of labelled patients."""
    scores, cost = tables["experiments"], tables["cost"]
    times = cost[cost["dataset"] == dataset].set_index("method")["iteration"]
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
