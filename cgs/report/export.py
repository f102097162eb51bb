"""What a paper takes from a report: its main tables as LaTeX (booktabs), its figures as SVG files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cgs.files import write_text

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}
MATHS = {"±": r"$\pm$", "≈": r"$\approx$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "−": "$-$"}


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(SPECIAL.get(c) or MATHS.get(c) or c for c in text.replace("\N{NO-BREAK SPACE}", " "))


def latex(table: dict[str, Any], caption: str, label: str) -> str:
    """A main table as `main_rows` gives it: best bold, what is not distinguishable from it underlined, ? as there."""
    columns = [*table["metrics"], "Seeds"]
    lines = [
        "% Needs \\usepackage{booktabs}.",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escaped(caption)}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["Method", *map(escaped, columns)]) + r" \\",
        "\\midrule",
    ]
    before = False
    for row in table["rows"]:
        if row["control"] and not before and lines[-1] != "\\midrule":
            lines.append("\\midrule")
        before = row["control"]
        cells = [latex_cell(cell) for cell in row["cells"]]
        lines.append(
            " & ".join([escaped(row["title"]), *cells, f"{row['done']} of {row['planned']}"]) + r" \\"
        )
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"


def latex_cell(cell: dict[str, Any]) -> str:
    """A value with its deviation."""
    text = escaped(cell["value"])
    if cell["best"]:
        text = f"\\textbf{{{text}}}"
    elif cell["tied"]:
        text = f"\\underline{{{text}}}"
    elif cell["uncompared"]:
        text += "$^?$"
    return f"{text} $\\pm$ {escaped(cell['spread'])}" if cell["spread"] else text


def write_latex(sections: list[dict[str, Any]], folder: Path, patients: Any) -> None:
    """One file per main table: <dataset>-<labelled>-<convention>.tex."""
    for section in sections:
        for table in section["tables"]:
            if not table["rows"]:
                continue
            name = f"{section['name']}-{table['ratio']}-{table['convention']}"
            caption = (
                f"{section['name']}, {patients(table['ratio'])}, {table['convention']} convention. Best in bold; "
                "underlined is what is not distinguishable from it (paired difference, Holm-corrected)"
            )
            mark = "; a question mark: at most one seed in common with it, so that nothing is decided."
            caption += mark if table["uncompared"] else "."
            write_text(folder / f"{name}.tex", latex(table, caption, f"tab:{name}"))


def write_figures(page: str, folder: Path) -> None:
    """Every figure of a rendered page as a file of its own, black on nothing."""
    for drawing in re.findall(r'<svg role="img".*?</svg>', page, re.S):
        found = re.search(r'id="([\w-]+)-figure_1"', drawing)
        if found:
            text = drawing.replace("<svg ", '<svg color="black" ', 1).replace("var(--paper, #fff)", "#ffffff")
            write_text(folder / f"{found[1]}.svg", '<?xml version="1.0" encoding="utf-8"?>\n' + text + "\n")
