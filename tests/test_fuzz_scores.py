"""Metrics against slow definitions on arbitrary masks, and the files of runs against arbitrary damage."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fuzzing import AWKWARD, JSON, damages, fuzzed, said
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays
from test_tables import HALF, config_of, folder_of, make_run

from cgs.analysis.compare import compare
from cgs.analysis.experiments import cost_table, pseudo_labels_table
from cgs.analysis.spreadsheet import ACTIVE, inert
from cgs.analysis.tables import (
    curves_table,
    gather_scores,
    main_table,
    provenance,
    read_log,
    runs_table,
    whole_runs,
    write_tables,
)
from cgs.config import EvaluationConfig
from cgs.data.store import list_cases, load_case
from cgs.evaluation.conventions import METRICS, score_volume
from cgs.evaluation.score import COLUMNS, load_predictions, score_run
from cgs.files import write_json
from cgs.paths import Paths
from cgs.plan import Cell, cells

CLASSES = 3
SPACINGS = st.none() | st.tuples(*[st.sampled_from([0.1, 0.5, 1.0, 3.0, 12.5])] * 3)


@st.composite
def masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two label volumes of one small shape."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
    volume = numpy_arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1))
    return draw(volume), draw(volume)


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels (N, 3) of a mask with a face neighbour outside it, one by one."""
    wide = np.pad(mask, 1)
    found = []
    for at in np.argwhere(mask):
        z, y, x = at + 1
        steps = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
        around = [wide[z + dz, y + dy, x + dx] for dz, dy, dx in steps]
        if not all(around):
            found.append(at)
    return np.array(found, dtype=float).reshape(-1, 3)


def slow(
    prediction: np.ndarray, reference: np.ndarray, spacing: Any, tolerance: float
) -> dict[str, dict[str, float]]:
    """The scores of one target by both conventions, from their definitions."""
    p, r = int(prediction.sum()), int(reference.sum())
    both = int((prediction & reference).sum())
    sides = [surface(m) for m in (prediction, reference)]
    scale = np.array(spacing or (1.0, 1.0, 1.0))
    diagonal = float(np.sqrt(((np.array(prediction.shape) * scale) ** 2).sum()))
    if p and r:

        def directed(a: np.ndarray, b: np.ndarray, unit: Any) -> np.ndarray:
            return np.array([min(np.sqrt((((v - w) * unit) ** 2).sum()) for w in b) for v in a])

        to, back = directed(sides[0], sides[1], 1.0), directed(sides[1], sides[0], 1.0)
        field = {
            "dice": 2 * both / (p + r),
            "jaccard": both / (p + r - both),
            "hd95": np.percentile(np.concatenate([to, back]), 95),
            "asd": to.mean(),
        }
        to, back = directed(sides[0], sides[1], scale), directed(sides[1], sides[0], scale)
        every = np.concatenate([to, back])
        strict = {
            **field,
            "hd95": max(np.percentile(to, 95), np.percentile(back, 95)),
            "assd": every.mean(),
            "nsd": (every <= tolerance * (1 + 1e-9)).mean(),
        }
    else:
        field = {"dice": 0.0, "jaccard": 0.0, "hd95": 50.0, "asd": 10.0}
        same = float(p == r)
        far = 0.0 if same else diagonal
        strict = {"dice": same, "jaccard": same, "hd95": far, "assd": far, "nsd": same}
    if spacing is None:
        strict |= dict.fromkeys(("hd95", "assd", "nsd"), float("nan"))
    strict.pop("asd", None)
    return {"field": field, "strict": strict}


@fuzzed(60)
@given(pair=masks(), spacing=SPACINGS, tolerance=st.sampled_from([0.1, 1.0, 2.0, 50.0]))
def test_scores_are_those_of_their_definitions(pair: Any, spacing: Any, tolerance: float) -> None:
    prediction, reference = pair
    found = score_volume(prediction, reference, CLASSES, spacing, tolerance)
    for k in range(1, CLASSES):
        expected = slow(prediction == k, reference == k, spacing, tolerance)
        for convention in METRICS:
            assert set(found[convention][k - 1]) == set(METRICS[convention])
            assert found[convention][k - 1] == pytest.approx(
                expected[convention], rel=1e-9, abs=1e-9, nan_ok=True
            )


@fuzzed(60)
@given(
    pair=masks(),
    spacing=SPACINGS.filter(lambda s: s is not None),
    axis=st.integers(0, 2),
    factor=st.sampled_from([0.5, 2.0]),
)
def test_scores_do_not_depend_on_what_they_must_not(
    pair: Any, spacing: Any, axis: int, factor: float
) -> None:
    """Flips and empty borders change nothing; strict is symmetric and scales with the spacing; overlaps agree."""
    prediction, reference = pair
    first = score_volume(prediction, reference, CLASSES, spacing, 2.0)
    flipped = score_volume(np.flip(prediction, axis), np.flip(reference, axis), CLASSES, spacing, 2.0)
    turned = score_volume(reference, prediction, CLASSES, spacing, 2.0)
    larger = score_volume(prediction, reference, CLASSES, tuple(factor * s for s in spacing), factor * 2.0)
    same = score_volume(prediction, prediction, CLASSES, spacing, 2.0)
    for k in range(CLASSES - 1):
        strict, field = first["strict"][k], first["field"][k]
        assert flipped["strict"][k] == pytest.approx(strict) and flipped["field"][k] == pytest.approx(field)
        assert turned["strict"][k] == pytest.approx(strict)
        scaled = {m: v * (factor if m in ("hd95", "assd") else 1) for m, v in strict.items()}
        assert larger["strict"][k] == pytest.approx(scaled)
        assert same["strict"][k] == {"dice": 1, "jaccard": 1, "hd95": 0, "assd": 0, "nsd": 1}
        for scores in (strict, field):
            assert 0 <= scores["jaccard"] <= scores["dice"] <= 1
            assert scores["dice"] == pytest.approx(2 * scores["jaccard"] / (1 + scores["jaccard"]))
        assert 0 <= strict["nsd"] <= 1 and strict["assd"] >= 0 and strict["hd95"] >= 0


# --- the files of runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Made-up runs of a small config, whose files are damaged in place and put back."""
    folder = tmp_path_factory.mktemp("made")
    paths = Paths("small", folder / "results", folder / "reports")
    paths.data("phantom").parent.mkdir(parents=True)
    paths.data("phantom").symlink_to(phantom)
    for cell in cells(CONFIG):
        make_run(cell, paths)
    write_tables(CONFIG, paths)
    return paths


CONFIG = config_of(
    methods=["cgs", "labelled-only"],
    datasets={
        **config_of().model_dump(mode="json")["datasets"],
        "phantom": config_of().model_dump(mode="json")["datasets"]["phantom"] | {"labelled": [1]},
    },
    report={"overlay_cases": 1},
    experiments={"a1": {"title": "A", "methods": ["cgs", "labelled-only"], "view": "pseudo-labels"}},
)


@pytest.fixture(autouse=True)
def to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file needs to outlive a power cut here."""
    monkeypatch.setattr("cgs.files.to_disk", lambda path: None)


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes(data)
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def tables_of(made: Paths) -> list[str]:
    """Write the tables; every number of them is possible, and no cell is a formula."""
    with said() as sentences:
        write_tables(CONFIG, made)
        main = pd.read_csv(made.tables / "main.csv", dtype={"labelled": str})
        shares = main["metric"].isin(("dice", "jaccard", "nsd")) & main["mean"].notna()
        assert main.loc[shares, "mean"].between(0, 1).all()
        runs = pd.read_csv(made.tables / "runs.csv", dtype={"labelled": str})
        cell = ["dataset", "labelled", "method"]
        absent = runs[~runs["status"].isin(("complete", "failed"))].groupby(cell).size()
        without = absent.reindex(pd.MultiIndex.from_frame(main[cell]), fill_value=0).to_numpy()
        assert (main["seeds"] + main["failed"] + without == 2).all()
        assert not main.duplicated(
            ["dataset", "labelled", "method", "selection", "convention", "metric"]
        ).any()
        assert set(main["method"]) <= {"cgs", "labelled-only"}
        for file in made.tables.glob("*.csv"):
            for text in (
                pd.read_csv(file, dtype=str, keep_default_na=False)
                .select_dtypes(exclude="number")
                .to_numpy()
                .ravel()
            ):
                assert (
                    not str(text).startswith(("=", "+", "@", "\t", "\r"))
                    or str(text)[1:].replace(".", "").isdigit()
                )
    return sentences


def read_runs(made: Paths) -> pd.DataFrame | None:
    """What the tables are made of, without the statistics: the runs, or None after a sentence."""
    planned = cells(CONFIG)
    with said():
        scores, unscored = whole_runs(gather_scores(planned, made), planned, made)
        runs = runs_table(planned, unscored, made)
        logs = {cell: list(read_log(cell, made)) for cell in planned}
        for table in (curves_table(logs), pseudo_labels_table(logs), cost_table(CONFIG, runs)):
            table.to_csv(io.StringIO())
        main_table(CONFIG, scores, runs)
        write_json(made.tables / "provenance.json", provenance(CONFIG, planned, made))
        assert set(runs["status"].map(type)) == {str}
        return runs
    return None


@fuzzed(25)
@given(damage=damages())
def test_damaged_scores(made: Paths, damage: Any) -> None:
    file = folder_of(HALF, made) / "scores.csv"
    with changed(file, damage(file.read_bytes())):
        tables_of(made)


@fuzzed(40)
@given(row=st.integers(0, 31), column=st.sampled_from(COLUMNS), value=AWKWARD, twice=st.booleans())
def test_scores_with_any_value(made: Paths, row: int, column: str, value: Any, twice: bool) -> None:
    """A cell of another run, a value that no metric has, a row that stands there twice in place of another."""
    file = folder_of(HALF, made) / "scores.csv"
    table = pd.read_csv(file, dtype=object)
    if twice:
        table.iloc[row] = table.iloc[(row + 1) % len(table)]
    else:
        table.loc[row, column] = str(value).encode("utf-8", "replace").decode()
    with changed(file, table.to_csv(index=False).encode()):
        sentences = tables_of(made)
        if twice or column in ("dataset", "labelled", "method", "seed"):
            again = pd.read_csv(file, dtype=str, keep_default_na=False)
            same = (
                again.equals(pd.read_csv(file, dtype=str, keep_default_na=False))
                and not twice
                and str(value) == str(vars(HALF)[column])
            )
            assert sentences or same


def test_scores_of_another_run_are_refused(made: Paths) -> None:
    other = folder_of(Cell("phantom", "1", "labelled-only", 0), made) / "scores.csv"
    with changed(folder_of(HALF, made) / "scores.csv", other.read_bytes()):
        assert "is of another run; delete it and evaluate" in tables_of(made)[0]


@fuzzed(15)
@given(name=st.sampled_from(["log.jsonl", "provenance.json", "failure.json"]), damage=damages())
def test_damaged_files_of_a_run(made: Paths, name: str, damage: Any) -> None:
    file = folder_of(HALF, made) / name
    before = file.read_bytes() if file.exists() else b'{"sentence": "The loss is nan.", "iteration": 3}\n'
    with changed(file, damage(before)):
        read_runs(made)


FACTS = st.sampled_from(
    [
        "",
        "status",
        "seconds",
        "best_iteration",
        "best_validation_dice",
        "device",
        "source_digest",
        "versions",
        "bytes",
        "started",
        "threads",
        "machine",
        "iterations",
        "peak_memory_bytes",
        "parameters_inference",
        "last_validation_dice",
    ]
)


@fuzzed(25)
@given(key=FACTS, value=JSON)
def test_provenance_of_any_shape(made: Paths, key: str, value: Any) -> None:
    file = folder_of(HALF, made) / "provenance.json"
    whole = json.loads(file.read_text())
    with changed(file, json.dumps({**whole, key: value} if key else value).encode()):
        read_runs(made)
        with said():
            score_run(made.data("phantom"), file.parent, EvaluationConfig(), HALF)
    make_run(HALF, made)


LINES: list[Any] = [
    {"iteration": 3, "loss": 0.5, "terms": {"supervised": 0.1}},
    {"iteration": 6, "validation": {"dice": 0.2, "per_target": {"large": 0.2}}, "seconds": 1},
    {"iteration": 6, "pseudo_labels": {"main": {"large": [4, 3, 5, 2]}}},
]


@fuzzed(30)
@given(
    line=st.sampled_from(LINES),
    path=st.integers(0, 9),
    key=st.text(max_size=4),
    value=JSON,
    kind=st.sampled_from(["set", "add", "all"]),
)
def test_log_lines_of_any_shape(made: Paths, line: Any, path: int, key: str, value: Any, kind: str) -> None:
    changed_line = json.loads(json.dumps(line))
    holders = [changed_line, *(v for v in changed_line.values() if isinstance(v, dict))]
    holders += [v for h in holders[1:] for v in h.values() if isinstance(v, dict)]
    holder = holders[path % len(holders)]
    if kind == "add":
        holder[key] = value
    elif kind == "set" and holder:
        holder[sorted(holder)[path % len(holder)]] = value
    text = "\n".join(json.dumps(v) for v in (*LINES, value if kind == "all" else changed_line))
    with changed(folder_of(HALF, made) / "log.jsonl", text.encode("utf-8", "replace")):
        read_runs(made)


@fuzzed(10)
@given(key=st.sampled_from(["", "sentence"]), value=JSON)
def test_failures_of_any_shape(made: Paths, key: str, value: Any) -> None:
    folder = folder_of(HALF, made)
    with (
        changed(folder / "failure.json", json.dumps({key: value} if key else value).encode()),
        changed(folder / "provenance.json", b'{"status": "failed"}'),
    ):
        runs = read_runs(made)
        assert runs is not None
        sentence = inert(runs).loc[runs["status"] == "failed", "sentence"].tolist()
        assert len(sentence) == 1 and sentence[0] and not sentence[0].startswith(ACTIVE)


@fuzzed(60)
@given(damage=damages())
def test_damaged_predictions(made: Paths, phantom: Path, damage: Any) -> None:
    """What is read has the bytes that were written: every member has a checksum."""
    (case,) = list_cases(phantom, "test")
    label = load_case(phantom, case).label
    file = folder_of(HALF, made) / "predictions.npz"
    np.savez_compressed(file, **{f"best/{case}": label})
    try:
        file.write_bytes(damage(file.read_bytes()))
        with said():
            for key, value in load_predictions(file).items():
                assert np.array_equal(value, label), key
    finally:
        file.unlink()


@fuzzed(30)
@given(
    value=st.sampled_from(
        [
            np.zeros((2, 3), np.uint8),
            np.zeros((0, 96, 96), np.uint8),
            np.full((8, 96, 96), 200, np.uint8),
            np.zeros((8, 96, 96)),
            np.array(["x"]),
        ]
    )
)
def test_predictions_of_any_shape(made: Paths, phantom: Path, value: np.ndarray) -> None:
    (case,) = list_cases(phantom, "test")
    file = folder_of(HALF, made) / "predictions.npz"
    np.savez_compressed(file, **{f"{s}/{case}": value for s in ("best", "last")})
    try:
        tables_of(made)
        with said() as sentences:
            score_run(made.data("phantom"), file.parent, EvaluationConfig(), HALF)
        assert sentences
    finally:
        file.unlink()


@fuzzed(30)
@given(damage=damages(), packed=st.booleans())
def test_comparing_damaged_tables(made: Paths, damage: Any, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        data = (made.tables / "scores.csv").read_bytes()
        name = "scores.csv.gz" if packed else "scores.csv"
        (Path(place) / name).write_bytes(damage(gzip.compress(data, mtime=0) if packed else data))
        with said():
            table = compare(made.tables, Path(place))
            assert table["verdict"].notna().all()


def test_cells_are_no_formulas() -> None:
    """Text that a spreadsheet would compute gets an apostrophe; numbers and other text stay."""
    table = pd.DataFrame(
        {"sentence": ["=cmd|' /C calc'!A0", "+1", "-1+1", "@x", "\tx", "\rx", "fine", None], "value": -1.5}
    )
    safe = inert(table)
    assert safe["sentence"].tolist()[:6] == [f"'{v}" for v in table["sentence"].tolist()[:6]]
    assert safe["sentence"].tolist()[6] == "fine" and safe["value"].tolist() == [-1.5] * 8
    assert "'=cmd" in safe.to_csv() and ",=" not in safe.to_csv() and "-1.5" in safe.to_csv()


def test_a_failure_that_is_a_formula(made: Paths) -> None:
    folder = folder_of(HALF, made)
    with (
        changed(folder / "failure.json", b'{"sentence": "=HYPERLINK(1)"}'),
        changed(folder / "provenance.json", b'{"status": "failed"}'),
    ):
        assert not tables_of(made)
        assert ",'=HYPERLINK(1)" in (made.tables / "runs.csv").read_text()
