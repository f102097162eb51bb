"""The main tables: every method in every metric, beside published and reference values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cgs.config import Config
from cgs.plan import controls_of
from cgs.report.inputs import leading, seeds_of
from cgs.report.words import LOWER, NAMES, difference, interval_text, shown

Cells = dict[tuple[str, str], dict[str, Any]]
"""Rows of main.csv by method and metric."""


def main_rows(
    config: Config,
    tables: dict[str, pd.DataFrame],
    dataset: str,
    ratio: str,
    convention: str,
    titles: dict[str, str],
) -> dict[str, Any]:
    """One table: methods by Dice, the controls below; best values marked."""
    main, controls = tables["main"], controls_of(config)
    every = main[
        (main["dataset"] == dataset)
        & main["labelled"].isin([ratio, "all"])
        & (main["convention"] == convention)
    ]
    first, *others = config.evaluation.selections
    chosen = every[every["selection"] == first]
    if chosen.empty:
        return {"metrics": [], "rows": [], "uncompared": False}
    cells: Cells = {(row["method"], row["metric"]): dict(row) for _, row in chosen.iterrows()}
    metrics = metrics_of(chosen, convention)
    best = best_values(cells, metrics, controls)
    tied, uncompared = ties_of(tables["ties"], dataset, ratio, convention, first)
    other = every[every["selection"].isin(others) & (every["metric"] == "dice")].set_index("method")["mean"]
    done, planned = seeds_of(config, chosen, dataset, ratio), planned_of(tables["runs"], dataset, ratio)
    rows: list[dict[str, Any]] = [
        {
            "title": titles[method],
            "name": method,
            "control": method in controls,
            "reference": method == config.reference,
            "cells": [
                cell_of(cells, method, m, best, tied, controls) | {"uncompared": (method, m) in uncompared}
                for m in metrics
            ],
            "done": done.get(method, 0),
            "planned": planned.get(method, 0),
            "other": shown(other.get(method, np.nan), "dice"),
            "measured": reference_of(cells.get((method, "dice"), {})),
            **published_of(cells.get((method, "dice"), {}), "dice"),
        }
        for method in config.methods
    ]
    rows.sort(key=lambda r: order_of(r, cells))
    named = chosen.get("reference_name", pd.Series(dtype=object)).dropna().unique().tolist()
    return {
        "metrics": [heading(m) for m in metrics],
        "rows": rows,
        "other": f"Dice (%), {others[0]}" if others else "",
        "published": any(r["published"] for r in rows),
        "published_others": published_others(cells, rows, [m for m in metrics if m != "dice"]),
        "reference": any(r["measured"] for r in rows),
        "reference_name": ", ".join(n for n in named if n),
        "uncompared": bool(uncompared),
        "spreads": any(c["spread"] for r in rows for c in r["cells"]),
        "sources": sources(rows),
        "dashes": any(c["value"] == "–" for r in rows for c in r["cells"]),
    }


def heading(metric: str) -> str:
    """'Dice (%) ↑', in one line."""
    return f"{NAMES[metric]} {'↓' if metric in LOWER else '↑'}".replace(" ", "\N{NO-BREAK SPACE}")


def metrics_of(chosen: pd.DataFrame, convention: str) -> list[str]:
    """The columns. Lengths in mm need a spacing: where it is unknown they are left out; any other gap is shown."""
    metrics = list(dict.fromkeys(chosen["metric"]))
    if convention != "strict":
        return metrics
    return [m for m in metrics if chosen.loc[chosen["metric"] == m, "mean"].notna().any()]


def best_values(cells: Cells, metrics: list[str], controls: frozenset[str]) -> dict[str, float]:
    """The best of at least two finite means of each metric; the controls take no part."""
    found = {}
    for metric in metrics:
        means = [r["mean"] for (m, k), r in cells.items() if k == metric and m not in controls]
        known = [v for v in means if np.isfinite(v)]
        if len(known) > 1:
            found[metric] = min(known) if metric in LOWER else max(known)
    return found


def ties_of(
    ties: pd.DataFrame, dataset: str, ratio: str, convention: str, selection: str
) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Methods and metrics that are not distinguishable from the best of one table, and those not compared with it."""
    own = ties[
        (ties["dataset"] == dataset)
        & (ties["ratio"] == ratio)
        & (ties["convention"] == convention)
        & (ties["selection"] == selection)
    ]
    compared = own["compared"].astype(bool)
    names = own[["method", "metric"]]
    tied, others = (set(n.itertuples(index=False, name=None)) for n in (names[compared], names[~compared]))
    return tied, others


def planned_of(runs: pd.DataFrame, dataset: str, ratio: str) -> dict[str, int]:
    """Number of planned runs of each method at a ratio."""
    own = runs[(runs["dataset"] == dataset) & runs["labelled"].isin([ratio, "all"])]
    return {str(m): int(n) for m, n in own.groupby("method").size().items()}


def cell_of(
    cells: Cells,
    method: str,
    metric: str,
    best: dict[str, float],
    marks: set[tuple[str, str]],
    controls: frozenset[str],
) -> dict[str, Any]:
    """A value with its deviation over seeds, its interval, and whether it is or equals the best."""
    row = cells.get((method, metric), {})
    value, deviation = (float(row.get(key, np.nan)) for key in ("mean", "std"))
    leads = method not in controls and np.isfinite(value) and value == best.get(metric)
    return {
        "value": shown(value, metric),
        "spread": shown(deviation, metric) if np.isfinite(deviation) else "",
        "interval": interval_text(row, metric) if np.isfinite(value) else "",
        "tied": (method, metric) in marks and not leads,
        "best": leads,
    }


def order_of(row: dict[str, Any], cells: Cells) -> tuple[bool, float]:
    """Methods before controls, by falling Dice, unknown ones last."""
    dice = float(cells.get((row["name"], "dice"), {}).get("mean", np.nan))
    return row["control"], -np.nan_to_num(dice, nan=-1.0)


def published_of(row: dict[str, Any], metric: str) -> dict[str, str]:
    """The published value of a cell, ours less it, and who published it; empty where there is none."""
    value = float(row.get("published", np.nan))
    if not np.isfinite(value):
        return {"published": "", "difference": "", "source": ""}
    return {
        "published": shown(value, metric),
        "difference": difference(float(row["mean"]) - value, metric),
        "source": str(row["published_source"]),
    }


NEAR = 0.02
"""Dice within which a published value counts as reproduced."""


def scorecard(
    config: Config, main: pd.DataFrame, dataset: str, titles: dict[str, str]
) -> dict[str, Any] | None:
    """Every published Dice of a dataset against ours, the farthest below first; None where nothing was published."""
    own = leading(config, main, dataset)
    off = own["mean"].astype(float) - own["published"].astype(float)
    own = own.assign(off=off).dropna(subset="off").sort_values("off", kind="stable")
    rows = [
        {
            "title": titles[str(row["method"])],
            "labelled": row["labelled"],
            "seeds": int(row["seeds"]),
            "ours": shown(row["mean"], "dice"),
            **published_of({str(k): v for k, v in row.items()}, "dice"),
            "near": abs(row["off"]) <= NEAR,
        }
        for row in own.to_dict("records")
    ]
    return {"rows": rows, "near": sum(r["near"] for r in rows), "points": 100 * NEAR} if rows else None


def published_others(cells: Cells, rows: list[dict[str, Any]], metrics: list[str]) -> dict[str, Any] | None:
    """A table of what was published beyond Dice; None where nothing was."""
    columns = [
        m for m in metrics if any(published_of(cells.get((r["name"], m), {}), m)["published"] for r in rows)
    ]
    found = []
    for row in rows:
        own = [published_of(cells.get((row["name"], m), {}), m) for m in columns]
        if any(c["published"] for c in own):
            found.append({"title": row["title"], "control": row["control"], "cells": own})
    return {"metrics": [heading(m) for m in columns], "rows": found} if found else None


def reference_of(row: dict[str, Any]) -> str:
    """The reference's Dice of a method with its number of seeds, or nothing."""
    value = float(row.get("reference", np.nan))
    return f"{shown(value, 'dice')} ({row['reference_seeds']:.0f})" if np.isfinite(value) else ""


def sources(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Who published the values of a table: source to titles of methods."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["published"]:
            found.setdefault(row["source"], []).append(row["title"])
    return found
