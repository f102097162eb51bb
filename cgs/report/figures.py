"""Figures of a report's curves, targets, cost and label efficiency, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cgs.report.drawing import CONTROLS, MARKERS, MUTED, PALETTE, STYLE, ratios_of, style_of, svg
from cgs.report.words import patients


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
