"""Score the predictions of a run: `predictions.npz` to the tidy `scores.csv`."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cgs.config import EvaluationConfig
from cgs.data.store import list_cases, load_case
from cgs.errors import SuiteError
from cgs.evaluation.conventions import METRICS, score_volume
from cgs.files import atomic_path, read_json
from cgs.plan import Cell

COLUMNS = (
    "dataset",
    "labelled",
    "method",
    "seed",
    "selection",
    "case",
    "patient",
    "target",
    "convention",
    "metric",
    "value",
)


def score_run(data: Path, run: Path, evaluation: EvaluationConfig, cell: Cell) -> None:
    """Write `scores.csv` of a run, one value a row. A run that failed has a header and no rows.

    Raises SuiteError with one sentence when the predictions are missing, damaged or do not fit the cases.
    """
    rows: list[tuple[object, ...]] = []
    if read_json(run / "provenance.json")["status"] == "complete":
        predictions = load_predictions(run / "predictions.npz")
        targets = read_json(data / "source.json")["targets"]
        patients = pd.read_csv(data / "cases.csv", dtype=str).set_index("case")["patient"]
        for selection in evaluation.selections:
            for case in list_cases(data, "test"):
                prefix = (
                    cell.dataset,
                    cell.labelled,
                    cell.method,
                    cell.seed,
                    selection,
                    case,
                    patients[case],
                )
                prediction = predictions.get(f"{selection}/{case}")
                for scored in score_case(data, case, prediction, targets, evaluation, run):
                    rows.append((*prefix, *scored))
    with atomic_path(run / "scores.csv") as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False)


def load_predictions(path: Path) -> dict[str, np.ndarray]:
    """`<selection>/<case>` to label volumes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise SuiteError(f"{path} does not exist; predict the run first.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SuiteError(f"{path} is damaged ({error}); delete it and predict the run again.") from None


def score_case(
    data: Path,
    case: str,
    prediction: np.ndarray | None,
    targets: list[str],
    evaluation: EvaluationConfig,
    run: Path,
) -> Iterator[tuple[str, str, str, float]]:
    """(target, convention, metric, value) of one case."""
    known = load_case(data, case)
    if prediction is None:
        raise SuiteError(f"{run / 'predictions.npz'} lacks the case {case}; predict the run again.")
    if prediction.shape != known.label.shape or prediction.max(initial=0) > len(targets):
        raise SuiteError(
            f"{run / 'predictions.npz'}: {case} has shape {prediction.shape} and labels up to {prediction.max()}, but "
            f"the case has shape {known.label.shape} and {len(targets)} targets; predict the run again."
        )
    classes = len(targets) + 1
    scores = score_volume(prediction, known.label, classes, known.spacing, evaluation.nsd_tolerance_mm)
    for convention in evaluation.conventions:
        for target, values in zip(targets, scores[convention], strict=True):
            for metric in METRICS[convention]:
                yield target, convention, metric, values[metric]
