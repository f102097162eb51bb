"""Score the predictions of a run: `predictions.npz` to the tidy `scores.csv`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cgs.bounds import load_npz
from cgs.config import EvaluationConfig
from cgs.data.store import list_cases, load_case, read_cases, targets_of
from cgs.errors import SuiteError, plain
from cgs.evaluation.conventions import METRICS, score_volume
from cgs.evaluation.scorefile import COLUMNS
from cgs.files import DAMAGED, atomic_path
from cgs.plan import Cell
from cgs.runfiles import read_facts

Row = tuple[str, str, str, float]


def score_run(
    dataset_folder: Path, run_folder: Path, evaluation: EvaluationConfig, cell: Cell, processes: int = 1
) -> None:
    """Write `scores.csv` of a run, one value a row. A run that failed has a header and no rows.

    Dice, Jaccard and NSD are fractions; distances voxels (field) or mm (strict); a value that needs an unknown
    spacing is empty. `processes` score that many cases at once; the file is the same.
    Raises SuiteError with one sentence when the predictions are missing, damaged or do not fit the cases.
    """
    rows: list[tuple[object, ...]] = []
    if read_facts(run_folder)["status"] == "complete":
        cases = list_cases(dataset_folder, "test")
        patients = read_cases(dataset_folder).set_index("case")["patient"]
        todo = [(selection, case) for selection in evaluation.selections for case in cases]
        for (selection, case), scores in zip(
            todo, _score_all(dataset_folder, run_folder, evaluation, todo, processes), strict=True
        ):
            run = (cell.dataset, cell.labelled, cell.method, cell.seed, selection, case, patients[case])
            rows += [(*run, *score) for score in scores]
    with atomic_path(run_folder / "scores.csv") as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False)


def _score_all(
    data: Path, run: Path, evaluation: EvaluationConfig, todo: Sequence[tuple[str, str]], processes: int
) -> list[list[Row]]:
    """The scores of each (selection, case), in order."""
    work = partial(score_case, data, run, evaluation)
    if processes == 1:
        return [work(*item) for item in todo]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(work, *zip(*todo, strict=True)))


def load_predictions(path: Path, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """`<selection>/<case>` to label volumes (D, H, W): all of the file, or those of `keys` that it holds."""
    try:
        return load_npz(path, keys)
    except FileNotFoundError:
        raise SuiteError(f"{path} does not exist; predict the run first.") from None
    except DAMAGED as error:
        raise SuiteError(
            f"{path} is damaged ({plain(error)}); delete it and predict the run again."
        ) from None


def check_prediction(where: str, prediction: np.ndarray, label: np.ndarray) -> None:
    """Raise SuiteError unless a prediction is a label map of the size of the reference."""
    if prediction.dtype != np.uint8 or prediction.shape != label.shape:
        raise SuiteError(
            f"{where} is {prediction.dtype} of shape {prediction.shape}, but uint8 of shape {label.shape} is needed; "
            "predict the run again."
        )


def score_case(data: Path, run: Path, evaluation: EvaluationConfig, selection: str, case: str) -> list[Row]:
    """(target, convention, metric, value) of one case by every convention of `evaluation`."""
    targets = targets_of(data)
    known = load_case(data, case)
    key, path = f"{selection}/{case}", run / "predictions.npz"
    prediction = load_predictions(path, [key]).get(key)
    if prediction is None:
        raise SuiteError(f"{path} lacks the case {case} ({selection}); predict the run again.")
    check_prediction(f"{path}: {key}", prediction, known.label)
    for volume, place, mend in (
        (prediction, f"{path}: {key}", "predict the run again"),
        (known.label, f"The reference of {case} in {data}", "delete the folder and prepare again"),
    ):
        if volume.max(initial=0) > len(targets):
            raise SuiteError(
                f"{place} has labels up to {volume.max()} but there are {len(targets)} targets; {mend}."
            )
    scores = score_volume(
        prediction, known.label, len(targets) + 1, known.spacing, evaluation.nsd_tolerance_mm
    )
    return [
        (target, convention, metric, values[metric])
        for convention in evaluation.conventions
        for target, values in zip(targets, scores[convention], strict=True)
        for metric in METRICS[convention]
    ]
