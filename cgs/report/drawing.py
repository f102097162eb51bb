"""How figures look: colours, markers, type, and their way into the page as inline SVG.

Colours are those of Okabe and Ito, safe for colour-blind readers; orange and sky blue are darkened so that every
colour has a contrast of 3:1 on the light and on the dark page. Every method has a marker shape too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07A00", "#3D8FD1", "#8C6BB1", "#A6761D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "*", "<", ">", "d", "8", "h")
INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""

PAPER = "#fdfcfb"
"""Stands for the page's background likewise."""

WIDTH = 3.6
"""Inches of a figure beside another one: its type is readable on a telephone too."""

MUTED = "#808080"
CONTROLS = {"labelled-only": ":", "fully-supervised": "--"}
ENLARGED = 1.15
"""How much larger than drawn a figure may stand in the page."""

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10.5,
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


def svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as inline SVG with an accessible name; ids are made unique by `name`."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "var(--paper, #fff)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'"#([^"]+)"', rf'"#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    # matplotlib writes a fixed size in points; the page scales the drawing to its column instead.
    text = re.sub(
        r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"',
        lambda found: f'{found[1]} style="max-width:{ENLARGED * float(found[2]):.0f}pt"',
        text,
        count=1,
    )
    safe = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)


def legend_mark(method: str, methods: Sequence[str]) -> str:
    """Marker and line of a method as a small SVG, for a legend in HTML that is readable at any width."""
    dash = {":": "2 3", "--": "6 3"}.get(CONTROLS.get(method, ""), "none")
    return mark(style_of(method, methods), dash)


def mark(look: dict[str, Any], dash: str = "none") -> str:
    """A marker on a piece of line as a small SVG."""
    shape = MarkerStyle(look["marker"])
    path = shape.get_path().transformed(shape.get_transform() + Affine2D().scale(8.4, -8.4).translate(14, 7))
    d = " ".join(
        {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[int(code)]
        + ("" if code == 79 else ",".join(f"{v:.1f}" for v in points))
        for points, code in path.iter_segments()
    )
    colour = look["color"]
    return (
        f'<svg viewBox="0 0 28 14" width="28" height="14" aria-hidden="true"><path d="M0 7H28" stroke="{colour}" '
        f'stroke-width="2" stroke-dasharray="{dash}"/><path d="{d}" fill="{look.get("mfc", colour)}" '
        f'stroke="{colour}" stroke-width="1.5"/></svg>'
    )


def ratios_of(table: pd.DataFrame) -> list[str]:
    """The panels of a figure: numbers of labelled patients; "all" alone only where there is nothing else."""
    return [r for r in table["labelled"].unique() if r != "all"] or ["all"]
