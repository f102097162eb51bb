"""`inference.json` of a run: how long a prediction took, beside the provenance that the prediction is made from."""

from __future__ import annotations

from pathlib import Path

from cgs.errors import SuiteError
from cgs.files import read_json
from cgs.runfiles import is_count

INFERENCE = "inference.json"
"""`seconds_per_slice`: the median over test volumes and checkpoints, resizing included; `device`."""


def read_seconds_per_slice(folder: Path) -> float:
    """Seconds that the prediction of a slice took; NaN where that is not known: no more than a time is lost."""
    try:
        values = read_json(folder / INFERENCE)
    except SuiteError:
        return float("nan")
    seconds = values.get("seconds_per_slice") if isinstance(values, dict) else None
    return float(seconds) if is_count(seconds) else float("nan")  # type: ignore[arg-type]
