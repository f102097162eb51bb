"""Figures of differences between methods: forests of intervals, stability of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from cgs.report.drawing import INK, MUTED, PALETTE, PAPER, STYLE, WIDTH, style_of, svg
from cgs.report.words import patients


def forest(rows: pd.DataFrame, titles: dict[str, str], base: str, ratio: str, name: str) -> str:
    """Paired differences to the reference method with intervals, a row each; `rows` as in differences.csv.

    Filled markers are of methods that differ after correction, over several seeds.
    """
    sure = [v == "differs" for v in rows["verdict"]]
    label = f"Dice difference to {titles[base]} (points)"
    return intervals(rows, sure, titles, label, patients(ratio), name)


def ladder(rows: pd.DataFrame, titles: dict[str, str], base: str, title: str, name: str) -> str:
    """Paired differences to `base`, in the order of the experiment; `rows` as in experiments.csv.

    Filled markers are of intervals without 0, over several seeds.
    """
    sure = [not low <= 0 <= high for low, high in rows[["ci_low", "ci_high"]].itertuples(index=False)]
    known = np.isfinite(rows["ci_low"]) & (rows["common_seeds"] > 1)
    sure = [s and k for s, k in zip(sure, known, strict=True)]
    return intervals(rows, sure, titles, f"Dice difference to {base} (points)", title, name)


def intervals(
    rows: pd.DataFrame, sure: Sequence[bool], titles: dict[str, str], label: str, title: str, name: str
) -> str:
    """A row for each method: its difference and interval, in colour where it is `sure`."""
    with mpl.rc_context(STYLE):
        longest = max((len(titles[m]) for m in rows["method"]), default=0)
        width = max(WIDTH - 0.07 * max(longest - 14, 0), 2.4)  # Long names must not make all type smaller.
        figure, ax = plt.subplots(figsize=(width, 0.9 + 0.27 * len(rows)))
        for place, (row, certain) in enumerate(zip(rows.to_dict("records"), sure, strict=True)):
            colour = PALETTE[1] if certain else MUTED
            ends = [100 * row["ci_low"], 100 * row["ci_high"]]
            if np.isfinite(ends).all():
                ax.plot(ends, [place, place], color=colour, lw=2)
            look: Any = {"color": colour, "mfc": colour if certain else PAPER, "mew": 1.4}
            ax.plot([100 * row["difference"]], [place], "o", ms=5.5, **look)
        ax.axvline(0, color=INK, lw=1)
        ax.set_yticks(range(len(rows)), [titles[m] for m in rows["method"]])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        ax.set(xlabel=label, title=title)
        each = ", ".join(
            f"{titles[m]} {100 * d:+.1f}" if np.isfinite(d) else f"{titles[m]} unknown"
            for m, d in rows[["method", "difference"]].itertuples(index=False, name=None)
        )
        return svg(figure, name, f"{label} with intervals, {title}: {each}.")


def rank_blobs(
    rows: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], ratio: str, name: str
) -> str:
    """Share of bootstrap samples in which a method has a rank, as the area of a disc; best methods on top."""
    expected = rows.assign(part=rows["rank"] * rows["share"]).groupby("method")["part"].sum().sort_values()
    order = [str(m) for m in expected.index]
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.27 * len(order)))
        for place, method in enumerate(order):
            own = rows[rows["method"] == method]
            colour = style_of(method, methods)["color"] if method in methods else MUTED
            ax.scatter(own["rank"], [place] * len(own), s=170 * own["share"], color=colour, linewidths=0)
        ax.set_yticks(range(len(order)), [titles[m] for m in order])
        ax.set_xticks(range(1, len(order) + 1))
        ax.tick_params(axis="x", labelsize=10 if len(order) < 12 else 8.5)
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.set(xlabel="rank", title=patients(ratio), xlim=(0.3, len(order) + 0.7))
        best = rows[rows["rank"] == 1].sort_values("share", ascending=False).head(3)
        each = ", ".join(
            f"{titles[m]} {100 * s:.0f} %"
            for m, s in best[["method", "share"]].itertuples(index=False, name=None)
        )
        return svg(figure, name, f"Ranks over bootstrap samples, {patients(ratio)}. First: {each}.")
