"""The page from tables with arbitrary damage: it renders, shows text as text, and no number that is none."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fuzzing import AWKWARD, EXAMPLES, JSON, damages, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from test_tables import config_of, make_run

from cgs.analysis.tables import write_tables
from cgs.config import Config
from cgs.paths import Paths
from cgs.plan import cells
from cgs.report import figures, forests
from cgs.report.page import render

VIEWS = ("scores", "cost", "classes", "pseudo-labels", "balance")
PHANTOM = config_of().model_dump(mode="json")["datasets"]["phantom"]
CONFIG: Config = config_of(
    datasets={"phantom": PHANTOM | {"labelled": [1]}},
    seeds=[0],
    evaluation={"conventions": ["field"]},
    report={"overlay_cases": 1},
    experiments={
        v: {"title": v, "view": v, "methods": ["cgs", "labelled-only"], "labelled": [1]} for v in VIEWS
    },
)


@pytest.fixture(scope="module")
def made(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Tables of made-up runs with something to show in every section; they are damaged in place and put back."""
    folder = tmp_path_factory.mktemp("report")
    paths = Paths("small", folder / "results", folder / "reports")
    paths.data("phantom").parent.mkdir(parents=True)
    paths.data("phantom").symlink_to(phantom)
    for cell in cells(CONFIG):
        make_run(cell, paths)
        run = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
        facts = json.loads((run / "provenance.json").read_text())
        cost = dict.fromkeys(
            ("iterations", "parameters_training", "parameters_inference", "peak_memory_bytes"), 1000
        )
        (run / "provenance.json").write_text(json.dumps({**facts, **cost}))
        with (run / "log.jsonl").open("a") as file:
            file.write(
                json.dumps({"iteration": 12, "pseudo_labels": {"main": {"large": [4, 3, 5, 2]}}}) + "\n"
            )
    write_tables(CONFIG, paths)
    assert len(list(paths.tables.glob("*.csv"))) == 14
    return paths


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file needs to outlive a power cut; figures are laid out, but written for many examples alone."""
    monkeypatch.setattr("cgs.files.to_disk", lambda path: None)
    if not EXAMPLES:
        for module in (figures, forests):
            monkeypatch.setattr(module, "svg", laid_out)


def laid_out(figure: Figure, name: str, alt: str) -> str:
    """A figure that was laid out and not written, with its alternative text as it would be."""
    figure.draw_without_rendering()
    plt.close(figure)
    return f'<svg role="img" aria-label="{escape(alt)}"></svg>'


class Safe(HTMLParser):
    """Collects what is not as the templates write it."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.wrong: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag in ("iframe", "object", "embed", "base", "form", "marquee"):
            self.wrong.append(tag)
        for name, value in attributes:
            loads = name in ("src", "srcset", "data", "poster") or (
                name == "href" and tag in ("link", "use", "image")
            )
            if name.startswith("on") or (
                loads and not (value or "").startswith(("data:image/png;base64,", "data:,", "#"))
            ):
                self.wrong.append(f"{tag} {name}={value}")


def check_page(made: Paths) -> str:
    page = render(CONFIG, made).read_text(encoding="utf-8")
    parser = Safe()
    parser.feed(page)
    parser.close()
    assert parser.scripts == 1 and not parser.wrong
    assert page.rstrip().endswith("</html>")
    assert not re.search(r">\s*[+−-]?(nan|inf)( %)?\s*<", page)
    assert "\x1b" not in page and "\0" not in page
    return page


@contextmanager
def changed(path: Path, data: bytes | None) -> Iterator[None]:
    before = path.read_bytes()
    try:
        path.unlink() if data is None else path.write_bytes(data)
        yield
    finally:
        path.write_bytes(before)


TABLES = st.sampled_from(
    [
        "runs",
        "main",
        "targets",
        "curves",
        "differences",
        "ranks",
        "ties",
        "experiments",
        "classes",
        "small-targets",
        "pseudo-labels",
        "balance",
        "cost",
    ]
)


def test_every_section_has_something_to_show(made: Paths) -> None:
    page = check_page(made)
    assert "Missing or empty" not in page and "No results yet" not in page and page.count("<svg role") > 5


@fuzzed(4)
@given(table=TABLES, damage=damages())
def test_damaged_tables(made: Paths, table: str, damage: Any) -> None:
    file = made.tables / f"{table}.csv"
    with changed(file, damage(file.read_bytes())):
        check_page(made)


NASTY = st.one_of(
    AWKWARD,
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "=1+1",
            "{{ 7*7 }}",
            "x" * 5000,
            "a\x1b[2Jb",
            "$x^2$",
            "all",
            "0",
        ]
    ),
    st.sampled_from(
        [
            "²",
            "-0.0",
            "1e400",
            "999999999999999999999",
            "inf",
            "-inf",
            "nan",
            "",
            "True",
            "cgs",
            "labelled-only",
            "fixmatch",
        ]
    ),
)


@fuzzed(7)
@given(
    table=TABLES,
    changes=st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 20), NASTY, st.booleans()), min_size=1, max_size=4
    ),
)
def test_tables_with_any_value(made: Paths, table: str, changes: list[tuple[int, int, Any, bool]]) -> None:
    """One cell or a whole column of a table that holds anything."""
    file = made.tables / f"{table}.csv"
    frame = pd.read_csv(file, dtype=object)
    for row, column, value, whole in changes:
        text = str(value).encode("utf-8", "replace").decode()
        place = column % len(frame.columns)
        if whole:
            frame[frame.columns[place]] = text
        elif len(frame):
            frame.iloc[row % len(frame), place] = text
    with changed(file, frame.to_csv(index=False).encode()):
        check_page(made)


@fuzzed(4)
@given(
    table=TABLES, row=st.integers(0, 20), kind=st.sampled_from(["twice", "lost", "none", "column", "missing"])
)
def test_tables_of_other_rows(made: Paths, table: str, row: int, kind: str) -> None:
    file = made.tables / f"{table}.csv"
    frame = pd.read_csv(file, dtype=object)
    if kind == "twice" and len(frame):
        frame = pd.concat([frame, frame.iloc[[row % len(frame)]]])
    elif kind == "lost" and len(frame):
        frame = frame.drop(index=row % len(frame))
    elif kind == "none":
        frame = frame[:0]
    elif kind == "column":
        frame = frame.drop(columns=frame.columns[row % len(frame.columns)])
    with changed(file, None if kind == "missing" else frame.to_csv(index=False).encode()):
        check_page(made)


@fuzzed(3)
@given(name=st.sampled_from(["provenance.json", "audit-phantom.json"]), damage=damages())
def test_damaged_json(made: Paths, name: str, damage: Any) -> None:
    with changed(made.tables / name, damage((made.tables / name).read_bytes())):
        check_page(made)


@fuzzed(7)
@given(
    name=st.sampled_from(["provenance.json", "audit-phantom.json"]),
    path=st.lists(st.integers(0, 20), max_size=4),
    value=JSON,
    drop=st.booleans(),
)
def test_json_of_any_shape(made: Paths, name: str, path: list[int], value: Any, drop: bool) -> None:
    whole = {"": json.loads((made.tables / name).read_text())}
    holder: Any = whole
    key: Any = ""
    for step in path:
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        holder, key = (
            inner,
            sorted(inner)[step % len(inner)] if isinstance(inner, dict) else step % len(inner),
        )
    if drop and holder is not whole:
        del holder[key]
    else:
        holder[key] = value
    with changed(made.tables / name, json.dumps(whole[""]).encode()):
        check_page(made)


TILES = st.sampled_from(
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((3, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 3), np.uint8),
        np.full((32, 32), 255, np.uint8),
        np.zeros((32, 32)),
        np.array("x"),
        np.full((32, 32), np.nan),
        np.zeros((2, 2, 2), np.uint8),
    ]
)


@fuzzed(4)
@given(
    tiles=st.dictionaries(
        st.sampled_from(["image", "reference", "1/cgs", "2/cgs", "all/fully-supervised", "<b>"]), TILES
    ),
    damage=st.none() | damages(),
)
def test_overlays_of_any_shape(made: Paths, tiles: dict[str, np.ndarray], damage: Any) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{f"phantom/<i>case/{key}": value for key, value in tiles.items()})
    data = damage(buffer.getvalue()) if damage else buffer.getvalue()
    with changed(made.tables / "overlays.npz", data):
        assert "<i>case" not in check_page(made)
