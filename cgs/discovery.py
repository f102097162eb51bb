"""Which methods there are, by their files alone: no import, no torch."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""


def available_methods() -> list[str]:
    """Names of all methods: `cgs`, and one for every file in `baselines/`.

    A file `mean_teacher.py` is the method `mean-teacher`; files that start with `_` are none.
    """
    files = sorted((ROOT / "baselines").glob("[!_]*.py"))
    return ["cgs", *(f.stem.replace("_", "-") for f in files)]


def module_of(method: str) -> str:
    """Module that holds a method."""
    return "cgs.method" if method == "cgs" else f"baselines.{method.replace('-', '_')}"
