"""Numbers and words as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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


def shown(value: float, metric: str) -> str:
    """A number as the tables show it: per cent or length with one digit; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.1f}"


def whole(value: float) -> str:
    """A count with commas; a dash where there is none."""
    return f"{value:,.0f}" if np.isfinite(value) else "–"


def difference(value: float, metric: str = "dice") -> str:
    """A difference with its sign, in points where the metric is a share; nothing where either side is unknown."""
    if not np.isfinite(value):
        return ""
    scale = 100 if metric in PERCENT else 1
    return f"{round(scale * value, 1) + 0.0:+.1f}".replace("-", "−")  # Adding 0.0 makes minus zero plus zero.


def difference_interval(low: float, high: float) -> str:
    """'−1.2 to +0.4', or a dash where it is unknown."""
    return f"{difference(low)} to {difference(high)}" if np.isfinite(low) else "–"


def compared(points: float, other: str) -> str:
    """'3.2 points above X' or 'below'."""
    return f"{abs(points):.1f} points {'above' if points >= 0 else 'below'} {other}"


def p_value(value: float) -> str:
    """A p-value with three digits behind the point."""
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def patients(labelled: str) -> str:
    """'1 labelled patient', '3 labelled patients', 'all patients labelled'."""
    if labelled == "all":
        return "all patients labelled"
    return f"{labelled} labelled patient{'' if labelled == '1' else 's'}"


def interval_text(row: Mapping[str, Any], metric: str) -> str:
    """The interval of a row of main.csv, as '86.0 to 90.2', or nothing."""
    low, high = float(row.get("ci_low", np.nan)), float(row.get("ci_high", np.nan))
    if not np.isfinite(low):
        return ""
    low = max(low, 0.0)  # Student's interval knows no bounds.
    high = min(high, 1.0) if metric in PERCENT else high
    return f"{shown(low, metric)} to {shown(high, metric)}"
