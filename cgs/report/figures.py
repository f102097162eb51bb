"""Figures of a report's curves, targets, cost and label efficiency, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cgs.analysis.experiments import APART, strict_mean
from cgs.report.drawing import (
    CONTROLS,
    MARKERS,
    MUTED,
    PALETTE,
    PAPER,
    STYLE,
    WIDTH,
    mark,
    ratios_of,
    style_of,
    svg,
)
from cgs.report.words import patients


def learning_curves(
    curves: pd.DataFrame, methods: Sequence[str], titles: dict[str, str], reference: str, name: str
) -> list[str]:
    """Validation Dice over iterations, one SVG per number of labelled patients.

    `curves` has labelled, method, seed, iteration, value; runs labelled "all" stand in every panel. Lines are
    means over seeds; from where one of the seeds broke off, the mean of the others goes on paler. That of the method
    `reference` is thick.
    """
    top = 100 * float(curves["value"].replace([np.inf, -np.inf], np.nan).max())
    panels = []
    for place, ratio in enumerate(ratios_of(curves)):
        panel = curves[curves["labelled"].isin([ratio, "all"])]
        with mpl.rc_context(STYLE):
            figure, ax = plt.subplots(figsize=(WIDTH, 2.9))
            ends = []
            for method in (m for m in methods if m in set(panel["method"])):
                own = panel[panel["method"] == method].groupby("iteration")["value"]
                line, seeds = 100 * own.mean(), own.size()
                width = 2.8 if method == reference else 1.3
                draw_line(
                    ax, line, seeds, width, style_of(method, methods) | {"ls": CONTROLS.get(method, "-")}
                )
                ends.append(f"{titles[method]} {line.iloc[-1]:.1f}")
            ax.set(xlabel="iteration", ylabel="validation Dice (%)", title=patients(ratio))
            ax.set_ylim(0, max(1.0, 1.06 * top if np.isfinite(top) else 1.0))
            alt = f"Validation Dice in per cent over iterations, {patients(ratio)}. Last: {', '.join(ends)}."
            panels.append(svg(figure, f"{name}-{place}", alt))
    return panels


def draw_line(ax: Axes, line: pd.Series, seeds: pd.Series, width: float, style: dict[str, Any]) -> None:
    """The mean of all seeds, and paler what only some of them reached."""
    look = {"lw": width, "ms": 4.5, "zorder": 2 + width / 10, **style}
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
            figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.62 * len(names)))
            draw_markers(ax, panel, names, methods)
            lowest = 100 * panel["mean"].min()  # Not from 0: methods that are near would hide each other.
            start = 10 * np.floor((lowest - 3) / 10) if np.isfinite(lowest) else 0.0
            ax.set(xlabel="test Dice (%)", xlim=(max(start, -3), 103), title=patients(ratio))
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


MANY = 4
"""Targets from which on their names stand upright."""


def name_targets(ax: Axes, sizes: pd.DataFrame) -> None:
    """The sizes themselves as ticks (within a decade a log axis has no others), the names of the targets above.

    `sizes` has target and size, sorted; what lies too near its neighbour for a text moves to the right of it.
    """
    ax.set_xscale("log")
    places = np.log10(100 * sizes["size"].to_numpy())
    span = max(places[-1] - places[0], 0.3)
    ax.set_xlim(10 ** (places[0] - 0.1 * span), 10 ** (places[-1] + 0.12 * span))
    upright = len(sizes) > MANY
    texts = places.copy()
    for k in range(1, len(texts)):
        texts[k] = max(texts[k], texts[k - 1] + (0.075 if upright else 0.2) * span)
    for target, place, text in zip(sizes["target"], places, texts, strict=True):
        ax.axvline(10**place, color=MUTED, lw=0.6, alpha=0.4)
        ax.annotate(
            target,
            (10**text, 1.02),
            xycoords=("data", "axes fraction"),
            fontsize=9,
            ha="center",
            rotation=90 if upright else 0,
        )
    known = [k for k in range(len(places)) if not k or places[k] - places[k - 1] > 0.07 * span or not upright]
    ticks = [10 ** places[k] for k in known]
    ax.set_xticks(ticks, [f"{v:.2g}" for v in ticks], rotation=90 if upright else 0)
    ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())


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
        panel = panel[panel["size"] > 0]  # A log axis has no place for a target that training lacks.
        if panel.empty:
            continue
        with mpl.rc_context(STYLE):
            figure, ax = plt.subplots(figsize=(WIDTH, 2.9))
            sizes = panel.drop_duplicates("target").sort_values("size")
            near = draw_gains(ax, panel, sizes, methods)
            ax.set_title(patients(ratio), pad=6 if near else 18 if len(sizes) <= MANY else 62)
            means = panel.groupby("target", sort=False)["gain"].mean()
            each = ", ".join(f"{t} {100 * means[t]:+.1f}" for t in sizes["target"])
            alt = f"Gain over labelled-only against target size, {patients(ratio)}. Mean over methods: {each} points."
            panels.append(svg(figure, f"{name}-{place}", alt))
    return panels


def draw_gains(ax: Axes, panel: pd.DataFrame, sizes: pd.DataFrame, methods: Sequence[str]) -> bool:
    """The markers of one panel; True where sizes are so near that the targets stand side by side, smallest first."""
    near = bool(sizes["size"].max() < APART * sizes["size"].min())
    places = dict(zip(sizes["target"], range(len(sizes)) if near else 100 * sizes["size"], strict=True))
    for method in (m for m in methods if m in set(panel["method"])):
        own = panel[panel["method"] == method]
        look = {"ls": "none", "ms": 6.5, **style_of(method, methods)}
        ax.plot(own["target"].map(places), 100 * own["gain"], **look)
    ax.axhline(0, color=MUTED, lw=1)
    ax.set(ylabel="gain over labelled-only (points)")
    if near:
        names = [f"{r['target']}\n{100 * r['size']:.1f}" for r in sizes.to_dict("records")]
        ax.set_xticks(range(len(names)), names)
        ax.set(xlabel="share of the foreground (%)", xlim=(-0.5, len(names) - 0.5))
    else:
        name_targets(ax, sizes)
        ax.set(xlabel="share of the foreground (%), log scale")
    return near


def line_style(line: str, lines: Sequence[str]) -> dict[str, Any]:
    """Colour and marker of a kind of pseudo-label."""
    place = lines.index(line)
    return {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}


def line_mark(line: str, lines: Sequence[str]) -> str:
    """Its mark in the legend."""
    return mark(line_style(line, lines))


def quality_curves(table: pd.DataFrame, lines: Sequence[str], name: str) -> list[str]:
    """Precision, then coverage over iterations, a line for each kind of pseudo-label of each method.

    `table` has line (a label, one of `lines`), iteration, target, precision, coverage; the mean over targets and
    seeds. Where one of them has no value, there is no mean: the line has a gap.
    """
    span = table["iteration"].min(), table["iteration"].max()
    drawn = []
    for quantity in ("precision", "coverage"):
        with mpl.rc_context(STYLE):
            figure, ax = plt.subplots(figsize=(WIDTH, 2.9))
            ends, known = [], 0
            for line in lines:
                own = 100 * strict_mean(table[table["line"] == line].groupby("iteration")[quantity])
                ax.plot(own.index, own, lw=1.5, ms=4, markevery=marked(own), **line_style(line, lines))
                known += int(np.isfinite(own).sum())
                last = own.iloc[-1] if len(own) else np.nan
                ends.append(f"{line} {last:.0f}" if np.isfinite(last) else f"{line} unknown for some target")
            if not known:
                ax.text(0.5, 0.5, "unknown for some target throughout", transform=ax.transAxes, ha="center")
            ax.set(xlabel="iteration", ylabel=f"{quantity} (%)", ylim=(0, 104), title=quantity)
            ax.set_xlim(span[0] - 0.03 * (span[1] - span[0] or 1), span[1] + 0.03 * (span[1] - span[0] or 1))
            alt = f"Pseudo-labels over training: {quantity}, mean over targets. At the end, in per cent: "
            drawn.append(svg(figure, f"{name}-{quantity}", alt + ", ".join(ends) + "."))
    return drawn


def marked(line: pd.Series) -> list[int]:
    """The places of a line's markers: every few, and each value between two gaps, which no line would show."""
    known = np.concatenate([[False], np.isfinite(line.to_numpy()), [False]])
    alone = np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])
    return sorted({*range(0, len(line), max(1, len(line) // 6)), *alone.tolist()})


def option_curve(rows: pd.DataFrame, option: str, title: str, name: str) -> str:
    """Test Dice over a numeric option; `rows` has value, mean, std and base (the value that a method has itself)."""
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(WIDTH, 2.9))
        x, y = rows["value"].to_numpy(), 100 * rows["mean"].to_numpy()
        spread = 100 * rows["std"].fillna(0.0).to_numpy()
        ax.errorbar(x, y, yerr=spread, fmt="-o", color=PALETTE[0], mfc=PAPER, ms=6, lw=1.5, capsize=3)
        own = rows["base"].to_numpy(dtype=bool)
        ax.plot(x[own], y[own], "o", color=PALETTE[0], ms=9, zorder=4)
        ax.margins(y=0.15)
        ax.set(xlabel=option, ylabel="test Dice (%)", title=title)
        each = ", ".join(f"{v:g} {m:.1f}" for v, m in zip(x, y, strict=True))
        return svg(figure, name, f"Test Dice in per cent over {option}, {title}: {each}.")


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
        figure, ax = plt.subplots(figsize=(WIDTH, 2.9))
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
    """Test Dice against measured milliseconds an iteration; `rows` has method, milliseconds, mean."""
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(WIDTH, 2.9))
        for method, time, mean in rows[["method", "milliseconds", "mean"]].itertuples(index=False, name=None):
            ax.plot([time], [100 * mean], ls="none", ms=7, **style_of(method, methods))
        ax.set_xscale("log")
        wide = (
            rows["milliseconds"].max() > 8 * rows["milliseconds"].min()
        )  # More numbers would run into each other.
        ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3) if wide else (1, 1.5, 2, 3, 5, 7)))
        ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        ax.margins(x=0.12)
        ax.set(xlabel="milliseconds an iteration, log scale", ylabel="test Dice (%)", title=patients(ratio))
        each = ", ".join(
            f"{titles[m]} {t:.0f} ms {100 * d:.1f}"
            for m, t, d in rows[["method", "milliseconds", "mean"]].itertuples(index=False, name=None)
        )
        return svg(
            figure, name, f"Test Dice in per cent against time of an iteration, {patients(ratio)}: {each}."
        )
