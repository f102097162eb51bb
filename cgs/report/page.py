"""The report: one self-contained HTML file, rendered from the tables alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cgs.config import UNTRAINED, Config
from cgs.dataset_config import PhantomConfig
from cgs.errors import SuiteError
from cgs.files import read_json, write_text
from cgs.paths import Paths
from cgs.plan import cells, controls_of
from cgs.report import experiments, export, figures
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
TEXT = dict.fromkeys(
    ("ratio", "labelled", "sentence", "method", "dataset", "published_source", "reference_name"), str
)
FULL_ITERATIONS, FULL_SIZE = 30000, 224
CELL = ("dataset", "labelled", "method")
COLUMNS = {
    "runs": (*CELL, "seed", "status", "sentence", "seconds", "best_validation_dice", "last_validation_dice"),
    "main": (*CELL, "selection", "convention", "metric", "mean", "std", "seeds", "published"),
    "targets": (*CELL, "selection", "convention", "metric", "target", "mean"),
    "curves": (*CELL, "seed", "iteration", "quantity", "value"),
}
COMPARISONS = {
    "differences": (*CELL, "base", "difference", "ci_low", "ci_high", "patients", "p_holm", "verdict"),
    "ranks": (*CELL, "rank", "share"),
    "ties": ("dataset", "ratio", "method", "selection", "convention", "metric"),
}
"""What the page reads of each table. A table that lacks one of these counts as damaged."""

NO_PROVENANCE: dict[str, Any] = {
    "datasets": {},
    "devices": [],
    "machines": [],
    "threads": [],
    "versions": [],
    "started": None,
    "finished": None,
}


def render(config: Config, paths: Paths) -> Path:
    """Write reports/<config>/index.html from results/<config>/tables/ and return its path.

    What is missing or half finished is said in the page. Raises SuiteError only where there are no tables at all.
    """
    if not any((paths.tables / f"{name}.csv").is_file() for name in COLUMNS):
        raise SuiteError(f"{paths.tables} holds no tables; run `python -m cgs tables` first.")
    tables = {name: read_table(paths.tables / f"{name}.csv", columns) for name, columns in COLUMNS.items()}
    missing = [name for name, table in tables.items() if table.empty]
    tables |= {
        name: read_table(paths.tables / f"{name}.csv", columns)
        for name, columns in (COMPARISONS | experiments.COLUMNS).items()
    }
    for name in ("main", "targets", "curves"):  # What only experiments train stands in their sections.
        tables[name] = tables[name][tables[name]["method"].isin(config.methods)]
    if tables["runs"].empty:
        tables["runs"] = unknown_runs(config)
    provenance = optional(paths.tables / "provenance.json")
    if not provenance:
        missing.append("provenance")
    titles = method_titles(config)
    page: dict[str, Any] = {
        "config": config,
        "titles": titles,
        "headline": headline(config, tables, titles),
        "budget": budget(config, tables["runs"]),
        "datasets": [dataset_section(name, config, tables, paths, titles) for name in shown_datasets(config)],
        "experiments": experiments.sections(config, tables, titles),
        "quality": list(quality(config, tables, titles)),
        "provenance": NO_PROVENANCE | provenance,
        "config_json": json.dumps(config.model_dump(mode="json"), indent=1),
        "missing": missing,
        "changed": changed_options(config, titles),
        "legend": [(Markup(figures.legend_mark(m, config.methods)), titles[m]) for m in config.methods],
        "digests": digests(tables["runs"], titles),
    }
    page["patients"] = figures.patients
    environment = Environment(
        loader=PackageLoader("cgs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("index.html").render(page)
    write_text(paths.report, text)
    export.write_figures(text, paths.report.parent / "figures")
    export.write_latex(page["datasets"], paths.report.parent / "latex", figures.patients)
    return paths.report


def shown_datasets(config: Config) -> tuple[str, ...]:
    """The datasets with main tables; none for an experiment alone."""
    return config.main_datasets if config.methods else ()


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table, or an empty one where it is missing or damaged: the page says so."""
    try:
        table = pd.read_csv(path, dtype=TEXT)
    except (OSError, ValueError):
        return pd.DataFrame(columns=list(columns))
    return table if set(columns) <= set(table) else pd.DataFrame(columns=list(columns))


def optional(path: Path) -> dict[str, Any]:
    """A JSON file, or {} where it is missing or damaged: the page says so."""
    try:
        return dict(read_json(path))
    except SuiteError:
        return {}


def unknown_runs(config: Config) -> pd.DataFrame:
    """The planned runs, for a page without runs.csv: how they ended is not known."""
    table = pd.DataFrame([asdict(cell) for cell in cells(config)])
    return table.assign(status="unknown", sentence="", seconds=0.0)


def changed_options(config: Config, titles: dict[str, str]) -> list[str]:
    """Methods of the config whose options are not the defaults: 'CGS: lambda_max 0.1'."""
    changed = []
    for method in config.methods:
        base, options = config.method_and_options(method)
        if options and base not in UNTRAINED:
            values = ", ".join(f"{name} {value}" for name, value in options.items())
            changed.append(f"{titles[method]}: {values}")
    return changed


def budget(config: Config, runs: pd.DataFrame) -> dict[str, Any]:
    """How much was trained, on what; `small` where it is below the paper's."""
    training = config.training
    runs = runs[
        ~runs["method"].isin({*config.ensembles, *config.promptable})
    ]  # Nothing was trained for those.
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
    means = chosen.set_index("method")["mean"]
    return means[np.isfinite(means)]


def headline(config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]) -> list[str]:
    """The answer in a sentence per dataset and ratio, made from the numbers."""
    sentences = []
    for dataset in shown_datasets(config):
        entry = config.datasets[dataset]
        for ratio in map(str, entry.labelled):
            where = f"On {dataset} with {figures.patients(ratio)}"
            values = 100 * cell_values(tables, dataset, ratio, config)
            methods = values[[m for m in values.index if m not in controls_of(config)]]
            if methods.empty:
                state = "no result yet" if values.empty else "only the controls have results"
                sentences.append(f"{where}: {state}.")
                continue
            best = str(methods.idxmax())
            text = f"{where}, {titles[best]} is the best method with {methods[best]:.1f} % test Dice"
            text += certainty(config, tables, best, dataset, ratio)
            parts = []
            if "labelled-only" in values:
                parts.append(compared(methods[best] - values["labelled-only"], "labelled-only training"))
            if "fully-supervised" in values:
                parts.append(compared(methods[best] - values["fully-supervised"], "full supervision"))
            if config.reference in methods and config.reference != best:
                parts.append(compared(methods[best] - methods[config.reference], titles[config.reference]))
            caveat = unsettled(config, tables["main"], best, dataset, ratio, titles)
            decided = decisions(config, tables["differences"], dataset, ratio, titles)
            sentences.append(f"{text}{', ' if parts else ''}{', '.join(parts)}.{decided}{caveat}")
    return sentences


def certainty(config: Config, tables: dict[str, pd.DataFrame], best: str, dataset: str, ratio: str) -> str:
    """' (95 % interval over patients 86.0 to 90.2)', or nothing where it is not known."""
    own = leading(config, tables["main"], dataset)
    found = interval_of(own[own["labelled"].isin([ratio, "all"])], best, "dice")
    return f" (95 % interval over patients {found})" if found else ""


def decisions(
    config: Config, differences: pd.DataFrame, dataset: str, ratio: str, titles: dict[str, str]
) -> str:
    """How many methods differ from the reference method after correction, in a sentence."""
    own = differences[
        (differences["dataset"] == dataset)
        & (differences["labelled"] == ratio)
        & differences["method"].isin(set(config.methods) - controls_of(config))
    ]
    if own.empty:
        return ""
    base, verdicts = titles[config.reference], own["verdict"].astype(str)
    undecided = verdicts[verdicts.str.startswith("cannot")]
    if len(undecided):
        patients = int(own["patients"].max())
        return f" With {patients} test patients no test can tell so many methods from {base}."
    return f" {int((verdicts == 'differs').sum())} of {len(own)} other methods differ from {base} after correction."


def unsettled(
    config: Config,
    main: pd.DataFrame,
    best: str,
    dataset: str,
    ratio: str,
    titles: dict[str, str],
) -> str:
    """What the sentence about the best method must not hide: missing seeds, methods without any result."""
    done = seeds_of(config, main, dataset, ratio)
    parts = []
    if done.get(best, 0) < len(config.seeds):
        parts.append(f"{titles[best]} has {done.get(best, 0)} of {len(config.seeds)} seeds")
    absent = [titles[m] for m in config.methods if m not in done]
    if absent:
        parts.append(f"without a result: {', '.join(absent)}")
    return f" Not settled: {'; '.join(parts)}." if parts else ""


def seeds_of(config: Config, main: pd.DataFrame, dataset: str, ratio: str) -> dict[str, int]:
    """Number of runs in the means of each method at a ratio."""
    own = main[
        (main["dataset"] == dataset)
        & main["labelled"].isin([ratio, "all"])
        & (main["selection"] == config.evaluation.selections[0])
    ]
    return {str(m): int(n) for m, n in own.groupby("method")["seeds"].min().items()}


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


def interval_of(chosen: pd.DataFrame, method: str, metric: str) -> str:
    """The interval over patients of a mean, as '86.0 to 90.2', or nothing."""
    own = chosen[(chosen["method"] == method) & (chosen["metric"] == metric)]
    if own.empty or "ci_low" not in own or not np.isfinite(own["ci_low"].iloc[0]):
        return ""
    low, high = float(own["ci_low"].iloc[0]), float(own["ci_high"].iloc[0])
    if metric in PERCENT:  # Student's interval knows no bounds.
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{shown(low, metric)} to {shown(high, metric)}"


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


def difference(value: float) -> str:
    """A difference of Dice in points with its sign, or nothing where either side is unknown."""
    if not np.isfinite(value):
        return ""
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−")  # Adding 0.0 makes minus zero plus zero.


def dataset_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], paths: Paths, titles: dict[str, str]
) -> dict[str, Any]:
    """Everything that the page shows of one dataset."""
    entry = config.datasets[name]
    source = optional(paths.tables / "provenance.json").get("datasets", {}).get(name, {})
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
        "efficiency": efficiency_section(name, config, tables, titles),
        "comparisons": comparisons_section(name, config, tables, titles),
        "targets": targets_section(name, config, tables, titles),
        "curves": curves_section(name, config, tables, titles),
        "overlays": overlays_section(name, config, paths, titles, source.get("targets", [])),
        "audit": audit_section(paths.tables / f"audit-{name}.json"),
    }


def efficiency_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Markup | None:
    """Dice over the number of labelled patients, where there are several."""
    own = leading(config, tables["main"], name)
    drawn = figures.label_efficiency(own, config.methods, titles, f"efficiency-{name}") if len(own) else None
    return Markup(drawn) if drawn else None


def comparisons_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> list[dict[str, Any]]:
    """Paired differences to the reference method and ranks, per number of labelled patients."""
    found = []
    for place, ratio in enumerate(map(str, config.datasets[name].labelled)):
        own, ranks = (
            t[(t["dataset"] == name) & (t["labelled"] == ratio) & t["method"].isin(config.methods)]
            for t in (tables["differences"], tables["ranks"])
        )
        own = own.sort_values("difference", ascending=False)
        if own.empty:
            continue
        base = config.reference
        pictures = [figures.forest(own, titles, base, ratio, f"forest-{name}-{place}")]
        if ranks["method"].nunique() > 1:
            pictures.append(figures.rank_blobs(ranks, config.methods, titles, ratio, f"ranks-{name}-{place}"))
        found.append(
            {
                "ratio": ratio,
                "base": titles[base],
                "patients": int(own["patients"].max()),
                "rows": [difference_row(row, titles) for row in own.to_dict("records")],
                "figures": [Markup(p) for p in pictures],
            }
        )
    return found


def difference_row(row: Any, titles: dict[str, str]) -> dict[str, str]:
    """A row of differences.csv as the page shows it."""
    known = np.isfinite(row["ci_low"])
    return {
        "title": titles[row["method"]],
        "difference": difference(row["difference"]),
        "interval": f"{difference(row['ci_low'])} to {difference(row['ci_high'])}" if known else "–",
        "p": p_value(row["p_holm"]),
        "verdict": row["verdict"],
    }


def p_value(value: float) -> str:
    """A p-value with three digits behind the point."""
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


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
    names, controls = list(dict.fromkeys(chosen["target"])), controls_of(config)
    panels = []
    for ratio in map(str, config.datasets[name].labelled):
        wide = chosen[chosen["labelled"].isin([ratio, "all"])].pivot_table(
            index="method", columns="target", values="mean", dropna=False
        )
        contest = wide.drop(index=[m for m in controls if m in wide.index])
        rows = [
            {
                "title": titles[m],
                "control": m in controls,
                "cells": [
                    {
                        "value": shown(wide.loc[m, t], "dice"),
                        "best": m not in controls and wide.loc[m, t] == contest[t].max(),
                    }
                    for t in names
                ],
            }
            for m in sorted((m for m in config.methods if m in wide.index), key=lambda m: m in controls)
        ]
        panels.append({"ratio": ratio, "rows": rows})
    drawn = figures.per_target(chosen, config.methods, titles, controls, f"targets-{name}")
    return {"names": names, "panels": panels, "figures": [Markup(d) for d in drawn]}


def curves_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> list[Markup] | None:
    """The learning curves, one picture per number of labelled patients."""
    curves = tables["curves"]
    if curves.empty:
        return None
    chosen = curves[(curves["dataset"] == name) & (curves["quantity"] == "validation dice")]
    if chosen.empty:
        return None
    drawn = figures.learning_curves(chosen, config.methods, titles, f"curves-{name}")
    return [Markup(d) for d in drawn]


def overlays_section(
    name: str, config: Config, paths: Paths, titles: dict[str, str], targets: list[str]
) -> dict[str, Any] | None:
    """Tiles of the fixed cases: image, reference and every method, per ratio."""
    file = paths.tables / "overlays.npz"
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files if key.startswith(f"{name}/")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    cases = []
    for key in arrays:
        if not key.endswith("/image"):
            continue
        case = key.split("/")[1]
        reference = arrays.get(f"{name}/{case}/reference")
        if reference is None:
            continue
        rows = []
        for ratio in map(str, config.datasets[name].labelled):
            tiles = [
                overlay("Image", None, reference, targets),
                overlay("Reference", reference, None, targets),
            ]
            for method in config.methods:
                labels = arrays.get(
                    f"{name}/{case}/{ratio}/{method}", arrays.get(f"{name}/{case}/all/{method}")
                )
                if labels is not None:
                    tiles.append(overlay(titles[method], labels, reference, targets))
            rows.append({"ratio": ratio, "tiles": tiles})
        cases.append({"name": case, "slice": figures.slice_tile(arrays[key]), "rows": rows})
    if not cases:
        return None
    kinds = zip(("missed", "invented", "confused"), figures.ERROR_COLOURS, strict=True)
    return {
        "cases": cases,
        "key": list(zip(targets, figures.TARGET_COLOURS, strict=False)),
        "errors": list(kinds),
    }


def overlay(
    title: str, labels: np.ndarray | None, reference: np.ndarray | None, targets: list[str]
) -> dict[str, Any]:
    """One tile: its picture, and the Dice of this slice as caption and as alternative text."""
    picture = None if labels is None else figures.label_tile(labels)
    if labels is None or reference is None:
        return {"title": title, "picture": picture, "dice": "", "alt": title, "errors": None}
    scores = {}
    for value, target in enumerate(targets, start=1):
        a, b = labels == value, reference == value
        if (a | b).any():
            scores[target] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    each = ", ".join(f"{target} {100 * v:.0f}" for target, v in scores.items())
    mean = f"{100 * np.mean(list(scores.values())):.1f}" if scores else "–"
    wrong = 100 * float((labels != reference).mean())
    return {
        "title": title,
        "picture": picture,
        "dice": mean,
        "alt": f"{title}: Dice of this slice {each} %",
        "errors": figures.error_tile(labels, reference),
        "wrong": f"{title}: {wrong:.1f} % of the pixels wrong",
    }


def audit_section(file: Path) -> dict[str, Any] | None:
    """Findings and class balance as the dataset's audit wrote them."""
    audit = optional(file)
    if not {"balance", "findings"} <= set(audit):
        return None
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in audit["balance"]:
        groups.setdefault(row["group"], []).append(row)
    return {"findings": audit["findings"], "groups": groups}


def digests(runs: pd.DataFrame, titles: dict[str, str]) -> dict[str, list[str]]:
    """The source digests of each method's runs. More than one: its runs were made by different code."""
    if "source_digest" not in runs:
        return {}
    known = runs.dropna(subset=["source_digest"]).groupby("method", sort=False)["source_digest"].unique()
    return {titles[str(m)]: [str(d)[:12] for d in found] for m, found in known.items() if m in titles}


def quality(
    config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Iterator[dict[str, str]]:
    """What a reader must doubt: failed and missing runs, selection, results outside the controls."""
    for run in tables["runs"].to_dict("records"):
        name = (
            f"{run['dataset']}, {run['labelled']} labelled, {titles[str(run['method'])]}, seed {run['seed']}"
        )
        reason = run["sentence"] if isinstance(run["sentence"], str) else ""
        if run["status"] == "failed":
            yield {"severity": "error", "sentence": f"{name} failed: {reason or 'no reason was recorded.'}"}
        elif run["status"] == "missing":
            text = f"{name} has no result; {reason or 'the run is missing or unfinished.'}"
            yield {"severity": "error", "sentence": text}
        elif run["status"] == "complete" and run["best_validation_dice"] - run["last_validation_dice"] > 0.1:
            yield {
                "severity": "warning",
                "sentence": f"{name}: validation Dice fell from {100 * run['best_validation_dice']:.1f} % at iteration "
                f"{int(run['best_iteration'])} to {100 * run['last_validation_dice']:.1f} % at the end.",
            }
    for dataset in shown_datasets(config):
        for ratio in map(str, config.datasets[dataset].labelled):
            values = 100 * cell_values(tables, dataset, ratio, config)
            shown_values = values[[m for m in values.index if m in CONTROLS or m not in controls_of(config)]]
            yield from outside_controls(shown_values, f"{dataset}, {ratio} labelled", titles)
    yield from disagreements(config, tables, titles)
    for title, found in digests(tables["runs"], titles).items():
        if len(found) > 1:
            text = f"{title}: its runs were trained by {len(found)} versions of the source; see provenance."
            yield {"severity": "warning", "sentence": text}
    if len(config.seeds) == 1:
        yield {
            "severity": "note",
            "sentence": "There is one seed: no spread is known, and differences of a few points may be chance.",
        }


SEEDS_APART = 0.10
SELECTIONS_APART = 0.05
"""Test Dice from which seeds, and the best and the last checkpoint, count as disagreeing."""


def disagreements(
    config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Cells whose seeds lie far apart, or whose best and last checkpoints do."""
    main = tables["main"]
    own = main[(main["metric"] == "dice") & (main["convention"] == config.evaluation.conventions[0])]
    first, *others = config.evaluation.selections
    keys = list(CELL)
    lead = own[own["selection"] == first]
    for row in lead[lead["std"] > SEEDS_APART].to_dict("records"):
        where = f"{row['dataset']}, {row['labelled']} labelled, {titles[str(row['method'])]}"
        yield {
            "severity": "warning",
            "sentence": f"{where}: seeds disagree, the standard deviation is {100 * row['std']:.1f} points.",
        }
    for other in others:
        both = lead.merge(own[own["selection"] == other], on=keys, suffixes=("", "_other"))
        for row in both[(both["mean"] - both["mean_other"]).abs() > SELECTIONS_APART].to_dict("records"):
            where = f"{row['dataset']}, {row['labelled']} labelled, {titles[str(row['method'])]}"
            yield {
                "severity": "note",
                "sentence": f"{where}: test Dice is {100 * row['mean']:.1f} % with the {first} checkpoint and "
                f"{100 * row['mean_other']:.1f} % with the {other} one.",
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
