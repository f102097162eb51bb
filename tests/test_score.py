"""Scoring a run: the file it writes, and every way in which its input can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgs.config import EvaluationConfig
from cgs.errors import SuiteError
from cgs.evaluation.conventions import METRICS, score_volume
from cgs.evaluation.score import load_predictions, score_run
from cgs.plan import Cell

CELL = Cell("toy", "3", "cgs", 1)
TARGETS = ["liver", "spleen"]
SPACINGS = {"c1": (3.0, 1.0, 1.0), "c2": None}
HEADER = "dataset,labelled,method,seed,selection,case,patient,target,convention,metric,value"


def volume(seed: int) -> np.ndarray:
    """Two targets in a (3, 12, 14) volume; case c2 (seed 2) lacks the spleen."""
    rng = np.random.default_rng(seed)
    label = np.zeros((3, 12, 14), np.uint8)
    y, x = rng.integers(0, 4, 2)
    label[:, y : y + 6, x : x + 5] = 1
    if seed != 2:
        label[1:, y + 6 : y + 8, x : x + 7] = 2
    return label


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A prepared dataset of two test cases, one without spacing, and a validation case."""
    folder = tmp_path / "data"
    (folder / "cases").mkdir(parents=True)
    for seed, case in enumerate(("c1", "c2", "v1"), start=1):
        spacing = np.array(SPACINGS.get(case) or [np.nan] * 3)
        label = volume(seed)
        np.savez(
            folder / "cases" / f"{case}.npz", image=label.astype(np.float32) / 2, label=label, spacing=spacing
        )
    (folder / "cases.csv").write_text(
        "case,patient,split,slices,height,width,spacing_z,spacing_y,spacing_x\n"
        "c1,007,test,3,12,14,3,1,1\nv1,009,val,3,12,14,,,\nc2,008,test,3,12,14,,,\n"
    )
    (folder / "source.json").write_text(json.dumps({"dataset": "toy", "targets": TARGETS}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run with predictions of both selections."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps({"status": "complete"}))
    write(folder, predictions())
    return folder


def predictions() -> dict[str, np.ndarray]:
    return {
        f"{selection}/{case}": volume(10 * number + seed)
        for number, selection in enumerate(("best", "last"), start=1)
        for seed, case in enumerate(("c1", "c2"), start=1)
    }


def write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(folder / "predictions.npz", **arrays)


def test_every_score_is_there_once_and_right(data: Path, run: Path) -> None:
    score_run(data, run, EvaluationConfig(), CELL)
    text = (run / "scores.csv").read_text()
    assert text.splitlines()[0] == HEADER
    table = pd.read_csv(run / "scores.csv", dtype={"patient": str, "labelled": str})
    assert len(table) == 2 * 2 * 2 * (4 + 5)
    assert (table["patient"] == table["case"].map({"c1": "007", "c2": "008"})).all()
    keys = table[["dataset", "labelled", "method", "seed"]].drop_duplicates()
    assert keys.to_numpy().tolist() == [["toy", "3", "cgs", 1]]
    values = table.set_index(["selection", "case", "target", "convention", "metric"])["value"]
    assert values.index.is_unique
    for key, prediction in predictions().items():
        selection, case = key.split("/")
        scores = score_volume(prediction, volume(int(case[1])), 3, SPACINGS[case], 2.0)
        for convention, metrics in METRICS.items():
            for number, target in enumerate(TARGETS):
                for metric in metrics:
                    expected = scores[convention][number][metric]
                    read = values[selection, case, target, convention, metric]
                    assert read == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_rows_of_unknown_distances_stay_and_are_empty(data: Path, run: Path) -> None:
    score_run(data, run, EvaluationConfig(), CELL)
    table = pd.read_csv(run / "scores.csv")
    lost = table[table["value"].isna()]
    assert set(lost["case"]) == {"c2"}
    assert set(lost["convention"]) == {"strict"}
    assert set(lost["metric"]) == {"hd95", "assd", "nsd"}
    assert len(lost) == 2 * 2 * 3


def test_only_what_the_config_asks_for_in_its_order(data: Path, run: Path) -> None:
    score_run(data, run, EvaluationConfig(conventions=("strict",), selections=("last", "best")), CELL)
    table = pd.read_csv(run / "scores.csv")
    assert set(table["convention"]) == {"strict"}
    assert table["selection"].drop_duplicates().tolist() == ["last", "best"]
    assert table["case"].drop_duplicates().tolist() == ["c1", "c2"]


def test_the_tolerance_is_the_config_s(data: Path, run: Path) -> None:
    nsd = []
    for tolerance in (0.5, 50.0):
        score_run(data, run, EvaluationConfig(nsd_tolerance_mm=tolerance), CELL)
        table = pd.read_csv(run / "scores.csv")
        nsd.append(table.loc[(table["metric"] == "nsd") & (table["case"] == "c1"), "value"].mean())
    assert nsd[0] < 1 == nsd[1]


def test_several_processes_write_the_same_file(data: Path, run: Path) -> None:
    score_run(data, run, EvaluationConfig(), CELL)
    alone = (run / "scores.csv").read_bytes()
    (run / "scores.csv").unlink()
    score_run(data, run, EvaluationConfig(), CELL, processes=2)
    assert (run / "scores.csv").read_bytes() == alone


@pytest.mark.parametrize("predicted", [True, False])
def test_a_failed_run_has_a_header_only(data: Path, run: Path, predicted: bool) -> None:
    """Whether the step of the predictions left an empty file or never ran."""
    (run / "failure.json").write_text(json.dumps({"sentence": "The loss is nan."}))
    (run / "provenance.json").write_text(json.dumps({"status": "failed"}))
    write(run, {})
    if not predicted:
        (run / "predictions.npz").unlink()
    score_run(data, run, EvaluationConfig(), CELL)
    assert (run / "scores.csv").read_text() == HEADER + "\n"


def change(**changes: np.ndarray | None) -> Callable[[Path], None]:
    """Replace predictions (`best_c1` stands for best/c1), or leave them out."""

    def damage(file: Path) -> None:
        arrays: dict[str, np.ndarray | None] = {**predictions()}
        arrays |= {key.replace("_", "/"): value for key, value in changes.items()}
        write(file.parent, {key: value for key, value in arrays.items() if value is not None})

    return damage


def save_as_npy(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, volume(1))


BAD_PREDICTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (Path.unlink, "does not exist; predict the run first"),
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-200]), "is damaged .*; delete it"),
    "empty file": (lambda f: f.write_bytes(b""), "is damaged .*; delete it"),
    "text": (lambda f: f.write_text("no zip"), "is damaged .*; delete it"),
    "one array": (save_as_npy, "is damaged .*; delete it"),
    "objects": (lambda f: np.savez(f, **{"best/c1": np.array([None])}), "is damaged .*; delete it"),
    "lost case": (change(best_c2=None), r"lacks the case c2 \(best\); predict the run again"),
    "lost selection": (change(last_c1=None, last_c2=None), r"lacks the case c1 \(last\)"),
    "shape": (change(best_c1=volume(1)[:, :-1]), r"best/c1 is uint8 of shape \(3, 11, 14\).*\(3, 12, 14\)"),
    "no slice": (change(best_c1=volume(1)[:0]), r"of shape \(0, 12, 14\)"),
    "two axes": (change(best_c1=volume(1)[0]), r"of shape \(12, 14\)"),
    "floats": (change(best_c1=volume(1) / 1), "best/c1 is float64 .* but uint8"),
    "signed": (change(best_c1=-volume(1).astype(np.int8)), "best/c1 is int8 .* but uint8"),
    "label": (change(last_c2=volume(1) * 2), "last/c2 has labels up to 4 but there are 2 targets"),
}


@pytest.mark.parametrize("name", BAD_PREDICTIONS)
def test_bad_predictions_are_one_sentence_and_write_nothing(data: Path, run: Path, name: str) -> None:
    damage, sentence = BAD_PREDICTIONS[name]
    (run / "scores.csv").write_text("the scores before")
    damage(run / "predictions.npz")
    with pytest.raises(SuiteError, match=sentence) as caught:
        score_run(data, run, EvaluationConfig(), CELL)
    assert str(caught.value).count("\n") == 0
    assert (run / "scores.csv").read_text() == "the scores before"
    assert sorted(p.name for p in run.iterdir() if p.name != "predictions.npz") == [
        "provenance.json",
        "scores.csv",
    ]


def test_a_write_that_fails_half_way_leaves_the_scores_before(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(table: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_text("dataset,lab")
        raise OSError(28, "No space left on device")

    (run / "scores.csv").write_text("the scores before")
    monkeypatch.setattr(pd.DataFrame, "to_csv", full_disk)
    with pytest.raises(SuiteError, match=r"Cannot write .*scores.csv: No space left"):
        score_run(data, run, EvaluationConfig(), CELL)
    assert (run / "scores.csv").read_text() == "the scores before"
    assert not list(run.glob(".*"))


def test_a_reference_with_a_label_too_many_is_one_sentence(data: Path, run: Path) -> None:
    (data / "source.json").write_text(json.dumps({"targets": ["liver"]}))
    write(run, {key: (value > 0).astype(np.uint8) for key, value in predictions().items()})
    with pytest.raises(SuiteError, match=r"The reference of c1 .* labels up to 2 but there are 1 targets"):
        score_run(data, run, EvaluationConfig(), CELL)


def test_any_changed_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """A file with one damaged byte gives the same arrays, lacks one, or is one sentence: never other values."""
    write(tmp_path, predictions())
    path = tmp_path / "predictions.npz"
    whole, right = path.read_bytes(), predictions()
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = load_predictions(path)
        except SuiteError:
            refused += 1
            continue
        assert all(np.array_equal(found[key], right[key]) for key in found.keys() & right.keys())
    assert refused > len(whole) / 2


def test_asked_keys_alone_are_read(run: Path) -> None:
    found = load_predictions(run / "predictions.npz", ["best/c2", "best/c9"])
    assert list(found) == ["best/c2"]
    np.testing.assert_array_equal(found["best/c2"], predictions()["best/c2"])
    assert load_predictions(run / "predictions.npz").keys() == predictions().keys()


def test_scoring_needs_no_torch() -> None:
    code = "import sys, cgs.evaluation.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
