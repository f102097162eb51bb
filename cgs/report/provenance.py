"""What the numbers rest on: the facts of the provenance section."""

from __future__ import annotations

from typing import Any

import pandas as pd

NO_PROVENANCE: dict[str, Any] = {
    "datasets": {},
    "devices": [],
    "machines": [],
    "threads": [],
    "versions": [],
    "started": None,
    "finished": None,
}


def digests(runs: pd.DataFrame, titles: dict[str, str]) -> dict[str, list[str]]:
    """The source digests of each method's runs. More than one: its runs were made by different code."""
    if "source_digest" not in runs:
        return {}
    known = runs.dropna(subset=["source_digest"]).groupby("method", sort=False)["source_digest"].unique()
    return {titles[str(m)]: [str(d)[:12] for d in found] for m, found in known.items() if m in titles}
