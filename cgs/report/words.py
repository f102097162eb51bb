"""Numbers and words as the report shows them."""

from __future__ import annotations

import numpy as np
import pandas as pd

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


def difference(value: float) -> str:
    """A difference of Dice in points with its sign, or nothing where either side is unknown."""
    if not np.isfinite(value):
        return ""
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−")  # Adding 0.0 makes minus zero plus zero.


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


def interval_of(chosen: pd.DataFrame, method: str, metric: str) -> str:
    """The interval over patients of a mean, as '86.0 to 90.2', or nothing."""
    own = chosen[(chosen["method"] == method) & (chosen["metric"] == metric)]
    if own.empty or "ci_low" not in own or not np.isfinite(own["ci_low"].iloc[0]):
        return ""
    low, high = float(own["ci_low"].iloc[0]), float(own["ci_high"].iloc[0])
    if metric in PERCENT:  # Student's interval knows no bounds.
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{shown(low, metric)} to {shown(high, metric)}"
