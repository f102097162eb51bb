"""The report: one self-contained HTML file, rendered from the tables alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cgs.config import Config, PhantomConfig
from cgs.errors import SuiteError
from cgs.files import read_json, write_text
from cgs.paths import Paths
from cgs.report import figures
from cgs.report.figures import CONTROLS
from cgs.titles import method_titles

PERCENT = ("dice", "jaccard", "nsd")
NAMES = {
    "dice": "Dice (%)",
    "jaccard": "Jaccard (%)",
    "hd95": "HD95",
    "asd": "ASD",
    "assd": "ASSD",
    "nsd": "NSD (%)",
}
LOWER = ("hd95", "asd", "assd")
TEXT = {"labelled": str, "sentence": str, "method": str, "dataset": str, "published_source": str}
FULL_ITERATIONS, FULL_SIZE = 30000, 224


def render(config: Config, paths: Paths) -> Path:
    """Write reports/<config>/index.html from results/<config>/tables/ and return its path.

    What is missing or half finished is said in the page. Raises SuiteError only where there are no tables at all.
    """
    if not (paths.tables / "runs.csv").is_file():
        raise SuiteError(f"{paths.tables} holds no tables; run `python -m cgs tables` first.")
    tables = {
        name: read_table(paths.tables / f"{name}.csv") for name in ("runs", "main", "targets", "curves")
    }
    titles = method_titles(config)
    page = {
        "config": config,
        "titles": titles,
        "headline": headline(config, tables, titles),
        "budget": budget(config, tables["runs"]),
        "datasets": [dataset_section(name, config, tables, paths, titles) for name in config.datasets],
        "quality": list(quality(config, tables, titles)),
        "provenance": read_json(paths.tables / "provenance.json"),
        "config_json": json.dumps(config.model_dump(mode="json"), indent=1),
        "missing": [name for name, table in tables.items() if table.empty],
    }
    page["patients"] = figures.patients
    environment = Environment(
        loader=PackageLoader("cgs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(paths.report, environment.get_template("index.html").render(page))
    return paths.report


def read_table(path: Path) -> pd.DataFrame:
    """A table, or an empty one where it is missing or damaged: the page says so."""
    try:
        return pd.read_csv(path, dtype=TEXT)
    except (OSError, ValueError):
        return pd.DataFrame()


def budget(config: Config, runs: pd.DataFrame) -> dict[str, Any]:
    """How much was trained, on what; `small` where it is below the paper's."""
    training = config.training
    sizes = sorted({d.size for d in config.datasets.values()})
    small = training.iterations < FULL_ITERATIONS or min(sizes) < FULL_SIZE or config.network.width < 16
    return {
        "small": small,
        "iterations": training.iterations,
        "sizes": " and ".join(f"{s} × {s}" for s in sizes),
        "batch": f"{training.labelled_batch} labelled + {training.unlabelled_batch} unlabelled",
        "width": config.network.width,
        "seeds": len(config.seeds),
        "planned": len(runs),
        "complete": int((runs["status"] == "complete").sum()),
        "hours": float(runs["seconds"].sum()) / 3600,
        "phantom": any(isinstance(d, PhantomConfig) for d in config.datasets.values()),
    }


def cell_values(tables: dict[str, pd.DataFrame], dataset: str, ratio: str, config: Config) -> pd.Series:
    """Mean test Dice by method at a ratio, by the `field` convention and the leading selection."""
    main = tables["main"]
    if main.empty:
        return pd.Series(dtype=float)
    chosen = main[
        (main["dataset"] == dataset)
        & main["labelled"].isin([ratio, "all"])
        & (main["metric"] == "dice")
        & (main["convention"] == config.evaluation.conventions[0])
        & (main["selection"] == config.evaluation.selections[0])
    ]
    return chosen.set_index("method")["mean"].dropna()


def headline(config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]) -> list[str]:
    """The answer in a sentence per dataset and ratio, made from the numbers."""
    sentences = []
    for dataset, entry in config.datasets.items():
        for ratio in map(str, entry.labelled):
            where = f"On {dataset} with {figures.patients(ratio)}"
            values = 100 * cell_values(tables, dataset, ratio, config)
            methods = values[[m for m in values.index if m not in CONTROLS]]
            if methods.empty:
                sentences.append(f"{where}: no result yet.")
                continue
            best = str(methods.idxmax())
            text = f"{where}, {titles[best]} is the best method with {methods[best]:.1f} % test Dice"
            parts = []
            if "labelled-only" in values:
                parts.append(compared(methods[best] - values["labelled-only"], "labelled-only training"))
            if "fully-supervised" in values:
                parts.append(compared(methods[best] - values["fully-supervised"], "full supervision"))
            if config.reference in methods and config.reference != best:
                parts.append(compared(methods[best] - methods[config.reference], titles[config.reference]))
            sentences.append(f"{text}{', ' if parts else ''}{', '.join(parts)}.")
    return sentences


def compared(points: float, other: str) -> str:
    """'3.2 points above X' or 'below'."""
    return f"{abs(points):.1f} points {'above' if points >= 0 else 'below'} {other}"


def shown(value: float, metric: str) -> str:
    """A number as the tables show it: per cent or length with one digit; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.1f}"


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
    if main.empty:
        return {"metrics": [], "rows": []}
    every = main[
        (main["dataset"] == dataset)
        & main["labelled"].isin([ratio, "all"])
        & (main["convention"] == convention)
    ]
    first, *others = config.evaluation.selections
    chosen = every[every["selection"] == first]
    other = every[every["selection"].isin(others) & (every["metric"] == "dice")].set_index("method")["mean"]
    metrics = list(dict.fromkeys(chosen["metric"]))
    means = chosen.pivot_table(index="method", columns="metric", values="mean", dropna=False)
    spread = chosen.pivot_table(index="method", columns="metric", values="std", dropna=False)
    metrics = [m for m in metrics if m in means and means[m].notna().any()]
    contest = means.drop(index=[m for m in CONTROLS if m in means.index])
    best = {m: (contest[m].min() if m in LOWER else contest[m].max()) for m in metrics if len(contest)}
    known = chosen.dropna(subset=["published"]).set_index(["method", "metric"])
    rows = []
    for method in config.methods:
        own = runs[
            (runs["dataset"] == dataset) & (runs["method"] == method) & runs["labelled"].isin([ratio, "all"])
        ]
        done = int((own["status"] == "complete").sum())
        cells = []
        for metric in metrics:
            value = means[metric].get(method, np.nan)
            deviation = spread[metric].get(method, np.nan) if metric in spread else np.nan
            cells.append(
                {
                    "value": shown(value, metric),
                    "spread": shown(deviation, metric) if np.isfinite(deviation) else "",
                    "best": method not in CONTROLS and np.isfinite(value) and value == best.get(metric),
                }
            )
        published = known["published"].get((method, "dice"), np.nan) if len(known) else np.nan
        source = known["published_source"].get((method, "dice"), "") if len(known) else ""
        rows.append(
            {
                "title": titles[method],
                "name": method,
                "control": method in CONTROLS,
                "reference": method == config.reference,
                "cells": cells,
                "done": done,
                "planned": len(own),
                "other": shown(other.get(method, np.nan), "dice"),
                "published": "" if np.isnan(published) else shown(published, "dice"),
                "difference": difference(means["dice"].get(method, np.nan) - published),
                "source": source,
                "order": (method in CONTROLS, -np.nan_to_num(means["dice"].get(method, -1.0), nan=-1.0)),
            }
        )
    rows.sort(key=lambda r: r["order"])
    names = [f"{NAMES[m]} {'↓' if m in LOWER else '↑'}" for m in metrics]
    return {
        "metrics": names,
        "rows": rows,
        "other": f"Dice (%), {others[0]}" if others else "",
        "published": any(r["published"] for r in rows),
    }


def difference(value: float) -> str:
    """A difference of Dice in points with its sign, or nothing where either side is unknown."""
    return f"{100 * value:+.1f}" if np.isfinite(value) else ""


def dataset_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], paths: Paths, titles: dict[str, str]
) -> dict[str, Any]:
    """Everything that the page shows of one dataset."""
    entry = config.datasets[name]
    audit_file, source = paths.tables / f"audit-{name}.json", {}
    if (paths.tables / "provenance.json").is_file():
        source = read_json(paths.tables / "provenance.json")["datasets"].get(name, {})
    ratios = [str(n) for n in entry.labelled]
    unit = {"field": "voxels", "strict": "mm"}
    return {
        "name": name,
        "source": source,
        "ratios": ratios,
        "tables": [
            {
                "ratio": ratio,
                "convention": convention,
                "unit": unit[convention],
                **main_rows(config, tables, name, ratio, convention, titles),
            }
            for convention in config.evaluation.conventions
            for ratio in ratios
        ],
        "targets": targets_section(name, config, tables, titles),
        "curves": curves_section(name, config, tables, titles),
        "overlays": overlays_section(name, config, paths, titles, source.get("targets", [])),
        "audit": audit_section(audit_file),
    }


def leading(config: Config, table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Rows of the dataset's test Dice by the first convention and selection."""
    return table[
        (table["dataset"] == dataset)
        & (table["metric"] == "dice")
        & (table["convention"] == config.evaluation.conventions[0])
        & (table["selection"] == config.evaluation.selections[0])
    ]


def targets_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> dict[str, Any] | None:
    """Dice per target: a figure, and a table per ratio with the best marked."""
    if tables["targets"].empty:
        return None
    chosen = leading(config, tables["targets"], name)
    if chosen.empty:
        return None
    names = list(dict.fromkeys(chosen["target"]))
    panels = []
    for ratio in map(str, config.datasets[name].labelled):
        wide = chosen[chosen["labelled"].isin([ratio, "all"])].pivot_table(
            index="method", columns="target", values="mean", dropna=False
        )
        contest = wide.drop(index=[m for m in CONTROLS if m in wide.index])
        rows = [
            {
                "title": titles[m],
                "control": m in CONTROLS,
                "cells": [
                    {
                        "value": shown(wide.loc[m, t], "dice"),
                        "best": m not in CONTROLS and wide.loc[m, t] == contest[t].max(),
                    }
                    for t in names
                ],
            }
            for m in sorted((m for m in config.methods if m in wide.index), key=lambda m: m in CONTROLS)
        ]
        panels.append({"ratio": ratio, "rows": rows})
    figure = figures.per_target(chosen, config.methods, titles, f"targets-{name}")
    return {"names": names, "panels": panels, "figure": Markup(figure)}


def curves_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Markup | None:
    curves = tables["curves"]
    if curves.empty:
        return None
    chosen = curves[(curves["dataset"] == name) & (curves["quantity"] == "validation dice")]
    if chosen.empty:
        return None
    return Markup(figures.learning_curves(chosen, config.methods, titles, f"curves-{name}"))


def overlays_section(
    name: str, config: Config, paths: Paths, titles: dict[str, str], targets: list[str]
) -> dict[str, Any] | None:
    """Tiles of the fixed cases: image, reference and every method, per ratio."""
    file = paths.tables / "overlays.npz"
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files if key.startswith(f"{name}/")}
    cases = []
    for key in arrays:
        if not key.endswith("/image"):
            continue
        case = key.split("/")[1]
        image = arrays[key]
        scale = max(1, round(160 / image.shape[0]))
        rows = []
        for ratio in map(str, config.datasets[name].labelled):
            tiles = [("Image", figures.overlay_tile(image, None, scale))]
            tiles.append(
                ("Reference", figures.overlay_tile(image, arrays[f"{name}/{case}/reference"], scale))
            )
            for method in config.methods:
                labels = arrays.get(
                    f"{name}/{case}/{ratio}/{method}", arrays.get(f"{name}/{case}/all/{method}")
                )
                if labels is not None:
                    tiles.append((titles[method], figures.overlay_tile(image, labels, scale)))
            rows.append({"ratio": ratio, "tiles": tiles})
        cases.append({"name": case, "rows": rows})
    if not cases:
        return None
    return {"cases": cases, "key": list(zip(targets, figures.TARGET_COLOURS, strict=False))}


def audit_section(file: Path) -> dict[str, Any] | None:
    """Findings and class balance as the dataset's audit wrote them."""
    if not file.is_file():
        return None
    audit = read_json(file)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in audit["balance"]:
        groups.setdefault(row["group"], []).append(row)
    return {"findings": audit["findings"], "groups": groups}


def quality(
    config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Iterator[dict[str, str]]:
    """What a reader must doubt: failed and missing runs, selection, results outside the controls."""
    for run in tables["runs"].to_dict("records"):
        name = (
            f"{run['dataset']}, {run['labelled']} labelled, {titles[str(run['method'])]}, seed {run['seed']}"
        )
        if run["status"] == "failed":
            yield {"severity": "error", "sentence": f"{name} failed: {run['sentence']}"}
        elif run["status"] != "complete":
            yield {
                "severity": "error",
                "sentence": f"{name} has no result; the run is missing or unfinished.",
            }
        elif run["best_validation_dice"] - run["last_validation_dice"] > 0.1:
            yield {
                "severity": "warning",
                "sentence": f"{name}: validation Dice fell from {100 * run['best_validation_dice']:.1f} % at iteration "
                f"{int(run['best_iteration'])} to {100 * run['last_validation_dice']:.1f} % at the end.",
            }
    for dataset, entry in config.datasets.items():
        for ratio in map(str, entry.labelled):
            values = 100 * cell_values(tables, dataset, ratio, config)
            yield from outside_controls(values, f"{dataset}, {ratio} labelled", titles)
    if len(config.seeds) == 1:
        yield {
            "severity": "note",
            "sentence": "There is one seed: no spread is known, and differences of a few points may be chance.",
        }


def outside_controls(values: pd.Series, where: str, titles: dict[str, str]) -> Iterator[dict[str, str]]:
    """Methods below labelled-only or above fully-supervised, and controls in the wrong order."""
    low, high = values.get("labelled-only"), values.get("fully-supervised")
    if low is not None and high is not None and low >= high:
        yield {
            "severity": "error",
            "sentence": f"{where}: labelled-only ({low:.1f} %) is not below fully supervised ({high:.1f} %).",
        }
    for method, value in values.items():
        if method in CONTROLS:
            continue
        if low is not None and value < low:
            sentence = f"{where}: {titles[str(method)]} ({value:.1f} %) is below labelled-only ({low:.1f} %)."
            yield {"severity": "warning", "sentence": sentence}
        if high is not None and value > high:
            sentence = (
                f"{where}: {titles[str(method)]} ({value:.1f} %) is above full supervision ({high:.1f} %)."
            )
            yield {"severity": "warning", "sentence": sentence}
