"""Figures of differences between methods: forests of intervals, stability of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cgs.report.drawing import INK, MUTED, PALETTE, STYLE, style_of, svg
from cgs.report.words import patients


def forest(rows: pd.DataFrame, titles: dict[str, str], base: str, ratio: str, name: str) -> str:
    """Paired differences to the reference method with intervals, a row each; `rows` as in differences.csv."""
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(4.8, 0.9 + 0.27 * len(rows)))
        for place, row in enumerate(rows.to_dict("records")):
            sure = row["verdict"] == "differs"
            look: Any = {"color": PALETTE[1] if sure else MUTED, "mfc": PALETTE[1] if sure else "none"}
            ends = [100 * row["ci_low"], 100 * row["ci_high"]]
            if np.isfinite(ends).all():
                ax.plot(ends, [place, place], color=look["color"], lw=1.6)
            ax.plot([100 * row["difference"]], [place], "o", ms=5.5, **look)
        ax.axvline(0, color=INK, lw=1)
        ax.set_yticks(range(len(rows)), [titles[m] for m in rows["method"]])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set(xlabel=f"Dice difference to {titles[base]} (points)", title=patients(ratio))
        each = ", ".join(
            f"{titles[m]} {100 * d:+.1f}"
            for m, d in rows[["method", "difference"]].itertuples(index=False, name=None)
        )
        return svg(
            figure, name, f"Paired Dice differences to {titles[base]} in points, {patients(ratio)}: {each}."
        )


def rank_blobs(
    rows: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], ratio: str, name: str
) -> str:
    """Share of bootstrap samples in which a method has a rank, as the area of a disc; best methods on top."""
    expected = rows.assign(part=rows["rank"] * rows["share"]).groupby("method")["part"].sum().sort_values()
    order = [str(m) for m in expected.index]
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(4.8, 0.9 + 0.27 * len(order)))
        for place, method in enumerate(order):
            own = rows[rows["method"] == method]
            colour = style_of(method, methods)["color"] if method in methods else MUTED
            ax.scatter(own["rank"], [place] * len(own), s=170 * own["share"], color=colour, linewidths=0)
        ax.set_yticks(range(len(order)), [titles[m] for m in order])
        ax.set_xticks(range(1, len(order) + 1))
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.set(xlabel="rank", title=patients(ratio), xlim=(0.3, len(order) + 0.7))
        best = rows[rows["rank"] == 1].sort_values("share", ascending=False).head(3)
        each = ", ".join(
            f"{titles[m]} {100 * s:.0f} %"
            for m, s in best[["method", "share"]].itertuples(index=False, name=None)
        )
        return svg(
            figure, name, f"Ranks over bootstrap samples of patients, {patients(ratio)}. First: {each}."
        )
