"""Reading tables for the page: what is damaged, or of another config, is left out, so that all else can be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.config import PROMPTABLE, Config
from cgs.errors import SuiteError, plain
from cgs.evaluation.conventions import METRICS
from cgs.files import read_csv, read_json
from cgs.plan import ALL, FULLY_LABELLED, NONE
from cgs.runfiles import is_audit, is_count

SENTENCES = ("sentence", "published_source", "reference_name", "device", "benchmark_of")
NAMES = (
    *("dataset", "labelled", "ratio", "method", "base", "experiment", "target", "group", "kind", "quantity"),
    *("status", "selection", "convention", "metric", "verdict", "diverged", "held", "other_size"),
)
TEXT = dict.fromkeys((*SENTENCES, *NAMES, "source_digest"), str)
FLAGS = ("holds", "other_holds", "balanced_holds", "compared")
COUNTS = ("seed", "seeds", "planned", "rank", "targets", "pixels", "elsewhere")
"""Columns that hold whole numbers from 0 on."""

COUNTS_BESIDE = {"patients": {"verdict"}, "common_seeds": {"verdict"}, "iteration": {"quantity", "kind"}}
"""Those that do in tables with one of some other columns: elsewhere, `iteration` is a time."""

KEYS = {
    "runs": ("dataset", "labelled", "method", "seed"),
    "main": ("dataset", "labelled", "method", "selection", "convention", "metric"),
    "targets": ("dataset", "labelled", "method", "selection", "convention", "metric", "target"),
    "curves": ("dataset", "labelled", "method", "seed", "iteration", "quantity"),
    "differences": ("dataset", "labelled", "method"),
    "ranks": ("dataset", "labelled", "method", "rank"),
    "experiments": ("experiment", "dataset", "labelled", "method"),
    "classes": ("dataset", "labelled", "method", "target"),
    "small-targets": ("dataset", "labelled", "method"),
    "balance": ("dataset", "group", "target"),
    "cost": ("dataset", "method"),
}
"""What a table has one row of."""

OWN_RATIO = ("runs", "main", "targets", "curves", "classes")
"""Tables in which a row stands under the labels that its method is trained with."""

LONGEST = 100
"""Characters of a name that the page shows."""


def read_table(path: Path, columns: tuple[str, ...], config: Config) -> pd.DataFrame:
    """A table without the rows of another config; an empty one where it is missing or damaged: the page says so."""
    empty = pd.DataFrame(columns=list(columns))
    try:
        table = read_csv(path, dtype=TEXT)
    except (OSError, ValueError):
        return empty
    rows = read_provenance(path.parent / "provenance.json").get("rows", {}).get(path.stem)
    if rows not in (None, len(table)):  # It was cut at the end of a line.
        return empty
    odd = [n for n in table if n not in (*columns, *TEXT, *FLAGS) and table[n].dtype.kind not in "iuf"]
    table = table.drop(columns=odd)  # What the page can do without.
    if not set(columns) <= set(table) or table.empty or not numbers_fit(table, columns):
        return empty
    for name in (n for n in (*NAMES, *SENTENCES) if n in table):
        longest = None if name in SENTENCES else LONGEST
        table[name] = [plain(v)[:longest] if isinstance(v, str) else "" for v in table[name]]
    table = table[known_rows(table, path.stem, config)].reset_index(drop=True)
    return empty if table.duplicated([*KEYS.get(path.stem, table.columns)]).any() else table


def numbers_fit(table: pd.DataFrame, columns: tuple[str, ...]) -> bool:
    """Whether the columns of numbers hold some that can be drawn; NaN and infinity are shown as dashes."""
    for name in table:
        values = table[name]
        if name in TEXT:
            continue
        if name in FLAGS:
            if values.dtype.kind != "b":
                return False
        elif values.dtype.kind not in "iuf" or (np.isfinite(values) & (values.abs() > 1e15)).any():
            return False
        elif name in COUNTS or COUNTS_BESIDE.get(str(name), set()) & set(columns):
            if not (np.isfinite(values).all() and (values >= 0).all() and (values % 1 == 0).all()):
                return False
    return True


def known_rows(table: pd.DataFrame, name: str, config: Config) -> pd.Series:
    """Which rows are about what the config has: a table may be older than the config."""
    methods = {*config.every_method, config.reference}
    known = {
        "dataset": {*config.datasets},
        "method": methods,
        "base": methods,
        "experiment": {*config.experiments},
        "convention": {*METRICS},
        "metric": {metric for metrics in METRICS.values() for metric in metrics},
        "selection": {"best", "last"},
    }
    keep = pd.Series(True, index=table.index)
    for column, values in known.items():
        if column in table:
            keep &= table[column].isin(values)
    for column in ("labelled", "ratio"):
        if column in table:
            keep &= table[column].str.fullmatch(rf"{ALL}|[0-9]{{1,9}}")
    if name in OWN_RATIO:
        keep &= np.array(
            [own_ratio(config, m, r) for m, r in zip(table["method"], table["labelled"], strict=True)], bool
        )
    if name == "experiments":
        keep &= np.array(
            [
                e in config.experiments and m in config.experiments[e].methods
                for e, m in zip(table["experiment"], table["method"], strict=True)
            ],
            bool,
        )
    return keep


def own_ratio(config: Config, method: str, labelled: str) -> bool:
    """Whether a method's results can stand under a value of `labelled`."""
    if method not in (*config.every_method, config.reference):
        return False
    base, _ = config.method_and_options(method)
    special = ALL if base in FULLY_LABELLED else NONE if base == PROMPTABLE else None
    return labelled == special if special else labelled not in (ALL, NONE)


def optional(path: Path) -> dict[str, Any]:
    """A JSON file, or {} where it is missing, damaged or no mapping: the page says so."""
    try:
        values = read_json(path)
    except SuiteError:
        return {}
    return values if isinstance(values, dict) else {}


def read_provenance(path: Path) -> dict[str, Any]:
    """provenance.json of the tables, without what has another shape than the page shows."""
    values = optional(path)
    found: dict[str, Any] = {}
    for key in ("devices", "machines", "threads"):
        if isinstance(values.get(key), list):
            found[key] = [plain(v) for v in values[key] if isinstance(v, str | int)]
    for key in ("started", "finished"):
        if isinstance(values.get(key), str):
            found[key] = plain(values[key])
    if isinstance(values.get("versions"), list):
        found["versions"] = [v for v in values["versions"] if isinstance(v, dict)]
    if isinstance(values.get("datasets"), dict):
        found["datasets"] = {k: v for k, v in values["datasets"].items() if is_source(v)}
    if isinstance(values.get("held"), list):
        found["held"] = [plain_folder(v) for v in values["held"] if is_folder(v)]
    if isinstance(values.get("rows"), dict):
        found["rows"] = values["rows"]
    return found


def is_folder(value: Any) -> bool:
    """Whether a value describes a folder of results from elsewhere as the page shows it."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("name", "sha256"))
        and all(value.get(key) is None or isinstance(value[key], str) for key in ("started", "finished"))
        and is_count(value.get("cells"))
    )


def plain_folder(value: dict[str, Any]) -> dict[str, Any]:
    """The same with names and times in one line, times as days."""
    days = {key: plain(value[key] or "unknown")[:10] for key in ("started", "finished")}
    name = plain(value["name"])[:LONGEST]
    at = value.get("at")  # Tables of an earlier version lack it.
    place = plain(at)[:LONGEST] if isinstance(at, str) else f"PATH/{name}"
    facts = {"name": name, "at": place, "cells": int(value["cells"]), "sha256": plain(value["sha256"])[:12]}
    return {**facts, **days}


def is_source(value: Any) -> bool:
    """Whether a value is a source.json as the page shows it."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("kind", "layout", "modality"))
        and isinstance(value.get("targets"), list)
        and all(isinstance(target, str) for target in value["targets"])
        and ("files" not in value or (is_count(value["files"]) and is_count(value.get("bytes"))))
        and isinstance(value.get("sha256", {}), dict)
        and all(isinstance(digest, str) for digest in value.get("sha256", {}).values())
    )


def optional_audit(path: Path) -> dict[str, Any] | None:
    """An audit, or None where it is missing, damaged or of another shape."""
    audit = optional(path)
    return audit if is_audit(audit) else None
