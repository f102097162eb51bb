"""The main tables: every method in every metric, beside published and reference values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cgs.config import Config
from cgs.plan import controls_of
from cgs.report.inputs import seeds_of
from cgs.report.words import LOWER, NAMES, difference, interval_of, shown


def main_rows(
    config: Config,
    tables: dict[str, pd.DataFrame],
    dataset: str,
    ratio: str,
    convention: str,
    titles: dict[str, str],
) -> dict[str, Any]:
    """One table: methods by Dice, the controls below; best values marked."""
    main, runs = tables["main"], tables["runs"]
    controls = controls_of(config)
    every = main[
        (main["dataset"] == dataset)
        & main["labelled"].isin([ratio, "all"])
        & (main["convention"] == convention)
    ]
    first, *others = config.evaluation.selections
    chosen = every[every["selection"] == first]
    other = every[every["selection"].isin(others) & (every["metric"] == "dice")].set_index("method")["mean"]
    if chosen.empty:
        return {"metrics": [], "rows": []}
    metrics = list(dict.fromkeys(chosen["metric"]))
    seeds = seeds_of(config, chosen, dataset, ratio)
    means = chosen.pivot_table(index="method", columns="metric", values="mean", dropna=False)
    spread = chosen.pivot_table(index="method", columns="metric", values="std", dropna=False)
    # Lengths in mm need a spacing; where it is unknown the column is left out. Any other gap is shown.
    if convention == "strict":
        metrics = [m for m in metrics if means[m].notna().any()]
    contest = means.drop(index=[m for m in controls if m in means.index]).where(np.isfinite)
    best = {m: (contest[m].min() if m in LOWER else contest[m].max()) for m in metrics if len(contest)}
    known = chosen.dropna(subset=["published"]).set_index(["method", "metric"])
    dice = means["dice"] if "dice" in means else pd.Series(dtype=float)
    rows: list[dict[str, Any]] = []
    ties = tables["ties"]
    tied = ties[(ties["dataset"] == dataset) & (ties["ratio"] == ratio) & (ties["convention"] == convention)]
    tied = tied[tied["selection"] == first]
    marks = set(tied[["method", "metric"]].itertuples(index=False, name=None))
    for method in config.methods:
        own = runs[
            (runs["dataset"] == dataset) & (runs["method"] == method) & runs["labelled"].isin([ratio, "all"])
        ]
        line = []
        for metric in metrics:
            value = means[metric].get(method, np.nan)
            deviation = spread[metric].get(method, np.nan) if metric in spread else np.nan
            line.append(
                {
                    "value": shown(value, metric),
                    "spread": shown(deviation, metric) if np.isfinite(deviation) else "",
                    "interval": interval_of(chosen, method, metric) if metric == "dice" else "",
                    "tied": (method, metric) in marks,
                    "best": method not in controls and np.isfinite(value) and value == best.get(metric),
                }
            )
        published = known["published"].get((method, "dice"), np.nan) if len(known) else np.nan
        source = known["published_source"].get((method, "dice"), "") if len(known) else ""
        rows.append(
            {
                "title": titles[method],
                "name": method,
                "control": method in controls,
                "reference": method == config.reference,
                "cells": line,
                "done": seeds.get(method, 0),
                "planned": len(own),
                "other": shown(other.get(method, np.nan), "dice"),
                "measured": reference_of(chosen, method),
                "published": "" if np.isnan(published) else shown(published, "dice"),
                "difference": difference(dice.get(method, np.nan) - published),
                "source": source,
                "order": (method in controls, -np.nan_to_num(dice.get(method, -1.0), nan=-1.0)),
            }
        )
    rows.sort(key=lambda r: r["order"])
    named = chosen.get("reference_name", pd.Series(dtype=object)).dropna().unique().tolist()
    names = [f"{NAMES[m]} {'↓' if m in LOWER else '↑'}".replace(" ", "\N{NO-BREAK SPACE}") for m in metrics]
    return {
        "metrics": names,
        "rows": rows,
        "other": f"Dice (%), {others[0]}" if others else "",
        "published": any(r["published"] for r in rows),
        "reference": any(r["measured"] for r in rows),
        "reference_name": ", ".join(n for n in named if n),
        "spreads": any(c["spread"] for r in rows for c in r["cells"]),
        "sources": sources(rows),
        "dashes": any(c["value"] == "–" for r in rows for c in r["cells"]),
    }


def reference_of(chosen: pd.DataFrame, method: str) -> str:
    """The reference's Dice of a method with its number of seeds, or nothing."""
    own = chosen[(chosen["method"] == method) & (chosen["metric"] == "dice")]
    value = float(own["reference"].iloc[0]) if len(own) and "reference" in own else np.nan
    return f"{shown(value, 'dice')} ({own['reference_seeds'].iloc[0]:.0f})" if np.isfinite(value) else ""


def sources(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Who published the values of a table: source to titles of methods."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["published"]:
            found.setdefault(row["source"], []).append(row["title"])
    return found
