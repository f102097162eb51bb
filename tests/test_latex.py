"""The LaTeX tables of a report compile: every one of them, in one document.

Needs pdflatex with booktabs (texlive-latex-recommended); skipped with a notice elsewhere.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import small_config
from test_tables import make_run

from cgs.analysis.tables import write_tables
from cgs.paths import Paths
from cgs.plan import cells
from cgs.presets import METHODS
from cgs.report.export import escaped
from cgs.report.page import render

needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex; apt-get install texlive-latex-recommended"
)


def compiled(folder: Path, body: str) -> str:
    """What pdflatex says about a document; fails the test where it does not compile."""
    lines = ["\\documentclass{article}", "\\usepackage{booktabs}", "\\usepackage[margin=2cm]{geometry}"]
    text = "\n".join([*lines, "\\begin{document}", body, "\\end{document}"])
    (folder / "all.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "all.pdf").read_bytes()[:5] == b"%PDF-"
    return done.stdout


@needs_latex
def test_every_table_compiles(phantom: Path, tmp_path: Path) -> None:
    paths = Paths("small", tmp_path / "results", tmp_path / "reports")
    config = small_config(methods=METHODS, seeds=[0, 1])
    paths.data("phantom").parent.mkdir(parents=True)
    paths.data("phantom").symlink_to(phantom)
    for cell in cells(config):
        make_run(cell, paths)
    write_tables(config, paths)
    tables = sorted((render(config, paths).parent / "latex").glob("*.tex"))
    assert len(tables) == 2  # Two ratios; the made-up scores have one convention.
    said = compiled(tmp_path, "\n".join(f"\\input{{{table}}}" for table in tables))
    assert "Overfull" not in said and "undefined" not in said


@needs_latex
def test_any_text_compiles(tmp_path: Path) -> None:
    compiled(tmp_path, escaped("50 % & $5 #1 a_b {c} ~d^e \\f ± ≈ ↑ ↓ – − \N{NO-BREAK SPACE} Überschrift"))
