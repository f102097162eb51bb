"""Figures of the report: inline SVG that takes its text colour from the page, and overlay tiles as PNG.

Colours are those of Okabe and Ito, safe for colour-blind readers; orange and sky blue are darkened so that every
colour has a contrast of 3:1 on the light and on the dark page. Every method has a marker shape too.
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
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D
from scipy.ndimage import binary_erosion

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07A00", "#3D8FD1", "#8C6BB1", "#A6761D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "*", "<", ">", "d", "8", "h")
TARGET_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#999999")
ERROR_COLOURS = ("#6A5ACD", "#D81B60", "#8A8A00")
"""Missed, invented, confused pixels."""
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
    "text.parse_math": False,  # A dollar sign in a name is no formula.
}


def style_of(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour and marker of a method; controls are grey. The same in every figure of a report."""
    others = [m for m in methods if m not in CONTROLS]
    if method in CONTROLS:
        return {"color": MUTED, "marker": "o" if method == "labelled-only" else "s", "mfc": "none"}
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


def legend_mark(method: str, methods: Sequence[str]) -> str:
    """Marker and line of a method as a small SVG, for a legend in HTML that is readable at any width."""
    look = style_of(method, methods)
    shape = MarkerStyle(look["marker"])
    path = shape.get_path().transformed(shape.get_transform() + Affine2D().scale(8.4, -8.4).translate(14, 7))
    d = " ".join(
        {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[int(code)]
        + ("" if code == 79 else ",".join(f"{v:.1f}" for v in points))
        for points, code in path.iter_segments()
    )
    colour, dash = look["color"], {":": "2 3", "--": "6 3"}.get(CONTROLS.get(method, ""), "none")
    return (
        f'<svg viewBox="0 0 28 14" width="28" height="14" aria-hidden="true"><path d="M0 7H28" stroke="{colour}" '
        f'stroke-width="2" stroke-dasharray="{dash}"/><path d="{d}" fill="{look.get("mfc", colour)}" '
        f'stroke="{colour}" stroke-width="1.5"/></svg>'
    )


def ratios_of(table: pd.DataFrame) -> list[str]:
    """The panels of a figure: numbers of labelled patients; "all" alone only where there is nothing else."""
    return [r for r in table["labelled"].unique() if r != "all"] or ["all"]


def learning_curves(
    curves: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], name: str
) -> list[str]:
    """Validation Dice over iterations, one SVG per number of labelled patients.

    `curves` has labelled, method, seed, iteration, value; runs labelled "all" stand in every panel. Lines are
    means over seeds; from where one of the seeds broke off, the mean of the others goes on paler.
    """
    top = 100 * float(curves["value"].replace([np.inf, -np.inf], np.nan).max())
    panels = []
    for place, ratio in enumerate(ratios_of(curves)):
        panel = curves[curves["labelled"].isin([ratio, "all"])]
        with mpl.rc_context(STYLE):
            figure, ax = plt.subplots(figsize=(4.6, 3.3))
            ends = []
            for method in (m for m in methods if m in set(panel["method"])):
                own = panel[panel["method"] == method].groupby("iteration")["value"]
                line, seeds = 100 * own.mean(), own.size()
                draw_line(ax, line, seeds, method, methods)
                ends.append(f"{titles[method]} {line.iloc[-1]:.1f}")
            ax.set(xlabel="iteration", ylabel="validation Dice (%)", title=patients(ratio))
            ax.set_ylim(0, max(1.0, 1.06 * top if np.isfinite(top) else 1.0))
            alt = f"Validation Dice in per cent over iterations, {patients(ratio)}. Last: {', '.join(ends)}."
            panels.append(svg(figure, f"{name}-{place}", alt))
    return panels


def draw_line(ax: Axes, line: pd.Series, seeds: pd.Series, method: str, methods: Sequence[str]) -> None:
    """The mean of all seeds, and paler what only some of them reached."""
    look = {"lw": 1.6, "ls": CONTROLS.get(method, "-"), "ms": 4.5, **style_of(method, methods)}
    whole = int((seeds == seeds.max()).to_numpy().nonzero()[0][-1]) + 1
    ax.plot(line.index[:whole], line.iloc[:whole], markevery=max(1, whole // 8), **look)
    if whole < len(line):
        ax.plot(line.index[whole - 1 :], line.iloc[whole - 1 :], alpha=0.4, **{**look, "marker": ""})


def per_target(
    targets: pd.DataFrame,
    methods: Sequence[str],
    titles: dict[str, str],
    controls: frozenset[str],
    name: str,
) -> list[str]:
    """Dice of every target by method: a row of markers per target, one SVG per number of labelled patients."""
    names = list(dict.fromkeys(targets["target"]))
    panels = []
    for place, ratio in enumerate(ratios_of(targets)):
        panel = targets[targets["labelled"].isin([ratio, "all"])]
        with mpl.rc_context(STYLE):
            figure, ax = plt.subplots(figsize=(4.6, 0.9 + 0.62 * len(names)))
            draw_markers(ax, panel, names, methods)
            ax.set(xlabel="test Dice (%)", xlim=(-3, 103), title=patients(ratio))
            ax.set_yticks(range(len(names)), names)
            ax.invert_yaxis()
            contest = panel[~panel["method"].isin(controls)].sort_values("mean").dropna(subset=["mean"])
            rows = contest.groupby("target").last().reindex(names).dropna(subset=["mean"]).reset_index()
            triples = rows[["target", "method", "mean"]].to_numpy().tolist()
            best = [f"{target} {titles[m]} {100 * mean:.1f}" for target, m, mean in triples]
            alt = f"Test Dice per target in per cent, {patients(ratio)}. Best: {', '.join(best) or 'none'}."
            panels.append(svg(figure, f"{name}-{place}", alt))
    return panels


def draw_markers(ax: Axes, panel: pd.DataFrame, names: list[str], methods: Sequence[str]) -> None:
    """Markers of one panel, methods spread a little so that they do not hide each other."""
    shifts = np.linspace(-0.3, 0.3, max(len(methods), 2))
    for shift, method in zip(shifts, methods, strict=False):
        own = panel[panel["method"] == method].set_index("target")["mean"].reindex(names)
        ax.plot(100 * own, np.arange(len(names)) + shift, ls="none", ms=6.5, **style_of(method, methods))
    for row in range(1, len(names)):
        ax.axhline(row - 0.5, color=MUTED, lw=0.6, alpha=0.5)
    ax.grid(axis="y", visible=False)


def gain_against_size(
    classes: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], name: str
) -> list[str]:
    """Gain over labelled-only against the size of the target, one SVG per number of labelled patients.

    `classes` has labelled, method, target, size, gain of one dataset.
    """
    panels = []
    for place, ratio in enumerate(ratios_of(classes)):
        panel = classes[(classes["labelled"] == ratio) & ~classes["method"].isin(CONTROLS)]
        panel = panel.replace([np.inf, -np.inf], np.nan).dropna(subset=["size", "gain"])
        if panel.empty:
            continue
        with mpl.rc_context(STYLE):
            figure, ax = plt.subplots(figsize=(4.6, 3.3))
            for method in (m for m in methods if m in set(panel["method"])):
                own = panel[panel["method"] == method]
                ax.plot(100 * own["size"], 100 * own["gain"], ls="none", ms=6.5, **style_of(method, methods))
            sizes = panel.drop_duplicates("target").sort_values("size")
            for target, size in sizes[["target", "size"]].itertuples(index=False, name=None):
                ax.axvline(100 * size, color=MUTED, lw=0.6, alpha=0.4)
                ax.annotate(
                    target, (100 * size, 1.02), xycoords=("data", "axes fraction"), fontsize=8, ha="center"
                )
            ax.axhline(0, color=MUTED, lw=1)
            ax.set_xscale("log")
            # The sizes themselves as ticks: within a decade a log axis has no others.
            ax.set_xticks([100 * v for v in sizes["size"]], [f"{100 * v:.3g}" for v in sizes["size"]])
            ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
            ax.margins(x=0.12)
            ax.set(xlabel="share of the foreground (%), log scale", ylabel="gain over labelled-only (points)")
            ax.set_title(patients(ratio), pad=18)
            means = panel.groupby("target", sort=False)["gain"].mean()
            each = ", ".join(f"{t} {100 * means[t]:+.1f}" for t in sizes["target"])
            alt = f"Gain over labelled-only against target size, {patients(ratio)}. Mean over methods: {each} points."
            panels.append(svg(figure, f"{name}-{place}", alt))
    return panels


def quality_curves(table: pd.DataFrame, title: str, name: str) -> str:
    """Precision and coverage over iterations, a line for each kind of pseudo-label of each method.

    `table` has line (a label), iteration, precision, coverage of one target.
    """
    lines = list(dict.fromkeys(table["line"]))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), sharey=True)
        for ax, quantity in zip(axes, ("precision", "coverage"), strict=True):
            for place, line in enumerate(lines):
                own = 100 * table[table["line"] == line].groupby("iteration")[quantity].mean()
                look = {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}
                ax.plot(own.index, own, lw=1.5, ms=4, markevery=max(1, len(own) // 6), label=line, **look)
            ax.set(xlabel="iteration", ylabel=f"{quantity} (%)", ylim=(0, 104))
        figure.suptitle(title, fontsize=11)
        axes[1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
        last = (
            table[table["iteration"] == table["iteration"].max()]
            .groupby("line")[["precision", "coverage"]]
            .mean()
        )
        each = "; ".join(
            f"{line} precision {100 * last.loc[line, 'precision']:.0f}, coverage {100 * last.loc[line, 'coverage']:.0f}"
            for line in lines
            if line in last.index
        )
        return svg(figure, name, f"Pseudo-labels over training, {title}. At the end, in per cent: {each}.")


def label_efficiency(
    main: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], name: str
) -> str | None:
    """Test Dice over the number of labelled patients; None where there is one number alone.

    `main` has labelled, method, mean of one dataset; full supervision is a line across.
    """
    numbers = sorted({int(r) for r in main["labelled"].unique() if r.isdigit() and int(r) > 0})
    if len(numbers) < 2:
        return None
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(5.2, 3.4))
        ends = []
        for method in methods:
            own = main[main["method"] == method].set_index("labelled")["mean"]
            look = {"lw": 1.4, "ls": CONTROLS.get(method, "-"), "ms": 6, **style_of(method, methods)}
            if "all" in own.index:
                ax.axhline(100 * own["all"], color=MUTED, lw=1.4, ls="--")
                continue
            line = 100 * own.reindex([str(n) for n in numbers])
            ax.plot(numbers, line, **look)
            if np.isfinite(line.iloc[-1] - line.iloc[0]):
                ends.append(f"{titles[method]} {line.iloc[0]:.1f} to {line.iloc[-1]:.1f}")
        ax.set_xticks(numbers)
        ax.set(xlabel="labelled patients", ylabel="test Dice (%)")
        return svg(
            figure, name, f"Test Dice over the number of labelled patients, in per cent: {', '.join(ends)}."
        )


def cost_accuracy(
    rows: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], ratio: str, name: str
) -> str:
    """Test Dice against milliseconds an iteration; `rows` has method, milliseconds, mean."""
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(4.6, 3.3))
        for method, time, mean in rows[["method", "milliseconds", "mean"]].itertuples(index=False, name=None):
            ax.plot([time], [100 * mean], ls="none", ms=7, **style_of(method, methods))
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        ax.xaxis.set_minor_formatter(mpl.ticker.FuncFormatter(lambda v, _: ""))
        ax.set(xlabel="milliseconds an iteration, log scale", ylabel="test Dice (%)", title=patients(ratio))
        each = ", ".join(
            f"{titles[m]} {t:.0f} ms {100 * d:.1f}"
            for m, t, d in rows[["method", "milliseconds", "mean"]].itertuples(index=False, name=None)
        )
        return svg(
            figure, name, f"Test Dice in per cent against time of an iteration, {patients(ratio)}: {each}."
        )


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


def slice_tile(image: np.ndarray) -> str:
    """A slice (S, S) uint8 as a grey PNG data URI; the overlays of a case lie over this one picture."""
    return png(np.dstack([image] * 3))


def label_tile(labels: np.ndarray) -> str:
    """A label map (S, S) in 0..K as a transparent PNG data URI: targets tinted, with a solid outline."""
    scale = max(1, round(300 / labels.shape[0]))
    wide = np.kron(labels, np.ones((scale, scale), dtype=np.uint8))
    rgba = np.zeros((*wide.shape, 4), dtype=np.uint8)
    for value in np.unique(wide[wide > 0]):
        colour = mpl.colors.to_rgb(TARGET_COLOURS[(value - 1) % len(TARGET_COLOURS)])
        inside = wide == value
        core = binary_erosion(inside, iterations=max(1, wide.shape[0] // 150), border_value=1)
        rgba[inside, :3] = (255 * np.array(colour)).astype(np.uint8)
        rgba[inside, 3] = 255
        rgba[core, 3] = 72
    return png(rgba)


def error_tile(labels: np.ndarray, reference: np.ndarray) -> str:
    """Where a label map (S, S) is wrong, as a transparent PNG data URI: missed, invented, confused."""
    scale = max(1, round(200 / labels.shape[0]))
    wide, truth = (np.kron(a, np.ones((scale, scale), dtype=np.uint8)) for a in (labels, reference))
    rgba = np.zeros((*wide.shape, 4), dtype=np.uint8)
    kinds = ((wide == 0) & (truth > 0), (wide > 0) & (truth == 0), (wide > 0) & (truth > 0) & (wide != truth))
    for colour, where in zip(ERROR_COLOURS, kinds, strict=True):
        rgba[where] = (*(int(255 * c) for c in mpl.colors.to_rgb(colour)), 255)
    return png(rgba)


def png(pixels: np.ndarray) -> str:
    """Pixels (H, W, 3 or 4) uint8 as a PNG data URI."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
