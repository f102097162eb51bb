"""What the numbers rest on, and from which table each figure is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from cgs.plan import ALL

NO_PROVENANCE: dict[str, Any] = {
    "datasets": {},
    "devices": [],
    "machines": [],
    "threads": [],
    "versions": [],
    "started": None,
    "finished": None,
    "held": [],
}
FIGURES = (
    ("forest-", "differences.csv", "paired differences to the reference method"),
    ("ranks-", "ranks.csv", "rank stability"),
    ("targets-", "targets.csv", "Dice per target"),
    ("efficiency-", "main.csv", "label efficiency"),
    ("curves-", "curves.csv", "learning curves"),
    ("ladder-", "experiments.csv", "ablations"),
    ("option-", "experiments.csv", "Dice over an option"),
    ("size-", "classes.csv", "gain against target size"),
    ("quality-", "pseudo-labels.csv", "quality of pseudo-labels"),
    ("cost-", "cost.csv and experiments.csv", "cost against accuracy"),
    ("", "overlays.npz", "predictions (in the page alone)"),
)
"""How the name of a figure's file begins, the table that it is made from, and what it shows."""


def digests(runs: pd.DataFrame, titles: dict[str, str]) -> dict[str, list[str]]:
    """The source digests of each method's runs. More than one: its runs were made by different code."""
    if "source_digest" not in runs:
        return {}
    known = runs.dropna(subset=["source_digest"]).groupby("method", sort=False)["source_digest"].unique()
    return {titles[str(m)]: [str(d)[:12] for d in found] for m, found in known.items() if m in titles}


def methods_by_digest(runs: pd.DataFrame, titles: dict[str, str]) -> dict[str, list[str]]:
    """The same the other way round: a digest, and the methods that it trained; variants share one."""
    found: dict[str, list[str]] = {}
    for title, own in digests(runs, titles).items():
        for digest in own:
            found.setdefault(digest, []).append(title)
    return found


def energy(runs: pd.DataFrame) -> str:
    """'12.3 kWh of GPU in 40 of 48 trainings', or that nothing was recorded."""
    values = pd.to_numeric(runs.get("energy_joules", pd.Series(dtype=float)), errors="coerce")
    known = values[np.isfinite(values)]
    if known.empty:
        return "not recorded"
    return (
        f"{known.sum() / 3.6e6:.2f} kWh of the GPU alone, recorded in {len(known)} of {len(runs)} trainings"
    )


def days(provenance: dict[str, Any]) -> str:
    """The days of the first start and the last end: '2026-01-31', '2026-01-31 to 2026-02-02', '' where unknown."""
    ends = [str(provenance[key])[:10] for key in ("started", "finished") if provenance[key]]
    return " to ".join(dict.fromkeys(ends))


def is_held(runs: pd.DataFrame) -> pd.Series:
    """Which rows of `runs.csv` were measured elsewhere."""
    return runs["held"].fillna("") != "" if "held" in runs else pd.Series(False, index=runs.index)


def is_mixed(runs: pd.DataFrame) -> bool:
    """Whether some results were measured elsewhere and some here, so that a row must say which it has."""
    held = is_held(runs)
    return bool(held.any() and (~held & (runs["status"] == "complete")).any())


def measured_elsewhere(runs: pd.DataFrame) -> Callable[[str, str, str], int]:
    """A function of dataset, labelled patients and method: how many of its results were measured elsewhere."""
    counts = runs[is_held(runs)].groupby(["dataset", "labelled", "method"]).size().to_dict()

    def elsewhere(dataset: str, ratio: str, method: str) -> int:
        return sum(int(counts.get((dataset, labelled, method), 0)) for labelled in {ratio, ALL})

    return elsewhere


def notes_of_held(provenance: dict[str, Any], runs: pd.DataFrame) -> list[dict[str, str]]:
    """What quality control says of results that were measured elsewhere."""
    return [
        {
            "severity": "note",
            "sentence": f"{own['cells']} of {len(runs)} results were measured elsewhere, from {own['started']} to "
            f"{own['finished']}, and come from the collected folder {own['name']} (its scores have the SHA-256 "
            f"{own['sha256']}…). Their predictions are not here.",
        }
        for own in provenance.get("held", [])
    ]
