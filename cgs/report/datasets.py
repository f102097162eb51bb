"""The sections of one dataset: tables, comparisons, targets, curves, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cgs.analysis.published import CLAIMS
from cgs.config import Config
from cgs.paths import Paths
from cgs.plan import controls_of
from cgs.report import figures, forests
from cgs.report.inputs import leading
from cgs.report.main_tables import main_rows, scorecard
from cgs.report.overlays import overlays_section
from cgs.report.tables import optional_audit, read_provenance
from cgs.report.words import difference, difference_interval, p_value, shown


def dataset_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], paths: Paths, titles: dict[str, str]
) -> dict[str, Any]:
    """Everything that the page shows of one dataset."""
    entry = config.datasets[name]
    source = read_provenance(paths.tables / "provenance.json").get("datasets", {}).get(name, {})
    ratios = [str(n) for n in entry.labelled]
    unit = {"field": "voxels", "strict": "mm"}
    return {
        "name": name,
        "source": source,
        "ratios": ratios,
        "claim": CLAIMS.get(entry.kind, ""),
        "scorecard": scorecard(config, tables["main"], name, titles),
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
        pictures = [forests.forest(own, titles, base, ratio, f"forest-{name}-{place}")]
        if ranks["method"].nunique() > 1:
            pictures.append(forests.rank_blobs(ranks, config.methods, titles, ratio, f"ranks-{name}-{place}"))
        found.append(
            {
                "ratio": ratio,
                "base": titles[base],
                "patients": int(own["patients"].fillna(0).max()),
                "ranked_seeds": int(ranks["seeds"].max()) if len(pictures) > 1 else 0,
                "rows": [difference_row(row, titles) for row in own.to_dict("records")],
                "figures": [Markup(p) for p in pictures],
            }
        )
    return found


def difference_row(row: Any, titles: dict[str, str]) -> dict[str, str]:
    """A row of differences.csv as the page shows it."""
    return {
        "title": titles[row["method"]],
        "difference": difference(row["difference"]),
        "interval": difference_interval(row["ci_low"], row["ci_high"]),
        "seeds": f"{row['common_seeds']:.0f}",
        "p": p_value(row["p_holm"]),
        "verdict": row["verdict"],
    }


def targets_section(
    name: str, config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> dict[str, Any] | None:
    """Dice per target: a figure, and a table per ratio."""
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
        rows = [
            {
                "title": titles[m],
                "control": m in controls,
                "cells": [shown(wide.loc[m, t], "dice") for t in names],
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
    drawn = figures.learning_curves(chosen, config.methods, titles, config.reference, f"curves-{name}")
    return [Markup(d) for d in drawn]


def audit_section(file: Path) -> dict[str, Any] | None:
    """Findings, label counts and class balance as the dataset's audit wrote them."""
    audit = optional_audit(file)
    if audit is None:
        return None
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in audit["balance"]:
        groups.setdefault(row["group"], []).append(row)
    return {"findings": audit["findings"], "groups": groups, "labels": audit.get("labels", [])}
