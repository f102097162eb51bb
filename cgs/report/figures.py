"""Figures of the report: inline SVG that takes its text colour from the page, and overlay tiles as PNG.

Colours are those of Okabe and Ito, safe for colour-blind readers; every method has a marker shape too.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("svg")
import matplotlib.image
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "*", "<", ">", "d", "8")
TARGET_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#999999")
INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""

MUTED = "#808080"
CONTROLS = {"labelled-only": ":", "fully-supervised": "--"}

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def style_of(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour and marker of a method; controls are grey. The same in every figure of a report."""
    others = [m for m in methods if m not in CONTROLS]
    if method in CONTROLS:
        return {"color": MUTED, "marker": "|" if method == "labelled-only" else "_"}
    place = others.index(method)
    return {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}


def patients(labelled: str) -> str:
    """'1 labelled patient', '3 labelled patients', 'all patients labelled'."""
    if labelled == "all":
        return "all patients labelled"
    return f"{labelled} labelled patient{'' if labelled == '1' else 's'}"


def svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as inline SVG with an accessible name; ids are made unique by `name`."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'"#([^"]+)"', rf'"#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    # matplotlib writes a fixed size in points; the page scales the drawing to its column instead.
    text = re.sub(
        r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', r'\1 style="max-width:\2pt"', text, count=1
    )
    safe = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)


def learning_curves(curves: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], name: str) -> str:
    """Validation Dice over iterations, the mean over seeds, one panel per number of labelled patients.

    `curves` has labelled, method, seed, iteration, value; runs labelled "all" stand in every panel.
    """
    ratios = [r for r in curves["labelled"].unique() if r != "all"] or ["all"]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(ratios), figsize=(5.2 * len(ratios), 3.6), sharey=True, squeeze=False
        )
        for ax, ratio in zip(axes[0], ratios, strict=True):
            panel = curves[curves["labelled"].isin([ratio, "all"])]
            for method in (m for m in methods if m in set(panel["method"])):
                own = panel[panel["method"] == method]
                line = own.groupby("iteration")["value"].mean()
                look = style_of(method, methods)
                dash = CONTROLS.get(method, "-")
                ax.plot(
                    line.index,
                    100 * line,
                    label=titles[method],
                    lw=1.6,
                    ls=dash,
                    ms=4,
                    markevery=0.12,
                    **look,
                )
            ax.set_title(patients(ratio), fontsize=10)
            ax.set_xlabel("iteration")
        axes[0][0].set_ylabel("validation Dice (%)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.03), ncol=4, fontsize=9)
        last = curves.sort_values("iteration").groupby(["labelled", "method"])["value"].last()
        rows = last.reset_index().to_numpy().tolist()
        ends = "; ".join(f"{titles[m]} at {r}: {100 * v:.1f}" for r, m, v in rows)
        return svg(figure, name, f"Validation Dice in per cent over iterations. Last values: {ends}.")


def per_target(targets: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], name: str) -> str:
    """Dice of every target by method: a row of markers per target, one panel per number of labelled patients."""
    ratios = [r for r in targets["labelled"].unique() if r != "all"] or ["all"]
    names = list(dict.fromkeys(targets["target"]))
    height = 0.9 + 0.55 * len(names)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(ratios), figsize=(5.2 * len(ratios), height), sharey=True, squeeze=False
        )
        for ax, ratio in zip(axes[0], ratios, strict=True):
            panel = targets[targets["labelled"].isin([ratio, "all"])]
            draw_markers(ax, panel, names, methods, titles)
            ax.set_title(patients(ratio), fontsize=10)
            ax.set_xlabel("test Dice (%)")
            ax.set_xlim(-3, 103)
        axes[0][0].set_yticks(range(len(names)), names)
        axes[0][0].invert_yaxis()
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.03), ncol=4, fontsize=9)
        contest = targets[~targets["method"].isin(CONTROLS)].sort_values("mean").dropna(subset=["mean"])
        tops = contest.groupby(["labelled", "target"], sort=False).last().reset_index()
        rows = tops[["target", "labelled", "method", "mean"]].to_numpy().tolist()
        best = [f"{t} at {r}: {titles[m]} {100 * v:.1f}" for t, r, m, v in rows]
        return svg(figure, name, f"Test Dice per target in per cent. Best: {'; '.join(best)}.")


def draw_markers(
    ax: Axes, panel: pd.DataFrame, names: list[str], methods: Sequence[str], titles: dict[str, str]
) -> None:
    """Markers of one panel, methods spread a little so that they do not hide each other."""
    present = [m for m in methods if m in set(panel["method"])]
    shifts = np.linspace(-0.26, 0.26, max(len(present), 2))
    for shift, method in zip(shifts, present, strict=False):
        own = panel[panel["method"] == method].set_index("target")["mean"].reindex(names)
        rows = np.arange(len(names)) + shift
        look = style_of(method, methods)
        ax.plot(
            100 * own, rows, ls="none", ms=7, mew=2 if method in CONTROLS else 1, label=titles[method], **look
        )


def overlay_tile(image: np.ndarray, labels: np.ndarray | None, scale: int = 3) -> str:
    """A slice as a PNG data URI: grey image, targets as tinted areas with a solid outline.

    image (S, S) uint8, labels (S, S) in 0..K or None.
    """
    big = np.kron(image, np.ones((scale, scale), dtype=np.uint8)).astype(np.float32) / 255
    rgb = np.repeat(big[..., None], 3, axis=-1)
    if labels is not None:
        wide = np.kron(labels, np.ones((scale, scale), dtype=np.uint8))
        padded = np.pad(wide, 1, mode="edge")
        around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        edge = np.any([a != wide for a in around], axis=0)
        for value in np.unique(wide[wide > 0]):
            colour = np.array(mpl.colors.to_rgb(TARGET_COLOURS[(value - 1) % len(TARGET_COLOURS)]))
            inside = wide == value
            rgb[inside] = 0.72 * rgb[inside] + 0.28 * colour
            rgb[inside & edge] = colour
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, (255 * rgb).astype(np.uint8), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
