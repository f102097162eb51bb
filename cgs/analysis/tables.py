"""From the files of all runs to the tables that the report shows, so that they can be read without it.

A failed run is counted beside every cell, never dropped silently; one that is missing shows in the number of seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.analysis.comparisons import differences_table, intervals, ranks_table, tied_with_best
from cgs.analysis.experiments import (
    balance_table,
    classes_table,
    cost_table,
    experiments_table,
    leading,
    means_by,
    pseudo_labels_table,
    small_targets_table,
)
from cgs.analysis.held import Held, check_cases, read_held, with_held_runs, without_itself
from cgs.analysis.kept import KEY, TEXT, matching
from cgs.analysis.published import published
from cgs.analysis.spreadsheet import inert
from cgs.config import ENSEMBLE, Config
from cgs.data.audit import label_counts, labelled_balance
from cgs.data.store import list_cases, load_case, resize_nearest
from cgs.errors import SuiteError, plain
from cgs.evaluation.inferencefile import read_seconds_per_slice
from cgs.evaluation.score import check_prediction, load_predictions
from cgs.evaluation.scorefile import COLUMNS, read_scores
from cgs.files import atomic_path, read_json, write_json
from cgs.paths import Paths
from cgs.plan import Cell, cells, controls_of
from cgs.runfiles import read_audit, read_entries, read_facts, read_failure

GROUP = ["dataset", "labelled", "method", "selection", "convention", "metric"]
MAIN = [
    *GROUP,
    "mean",
    "std",
    "ci_low",
    "ci_high",
    "seeds",
    "patients",
    "failed",
    "published",
    "published_source",
    "reference",
    "reference_seeds",
    "reference_name",
]


def write_tables(config: Config, paths: Paths, have: Sequence[Path] = ()) -> None:
    """Write results/<config>/tables/: main, targets, scores, runs, curves, audits, overlays, provenance.

    Cells without a run here take their rows from `have`, folders that were collected elsewhere.
    """
    planned = cells(config)
    held = read_held(config, [c for c in planned if not facts_of(c, paths)], have)
    balances = write_audits(config, paths, held)
    tables = all_tables(config, paths, planned, held, balances)
    for name, table in tables.items():
        with atomic_path(paths.tables / f"{name}.csv") as temporary:
            inert(table).to_csv(temporary, index=False)
    with atomic_path(paths.tables / "overlays.npz") as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **overlays(config, paths, tables["scores"]))
    rows = {name: len(table) for name, table in tables.items()}
    facts = with_held_facts(provenance(config, planned, paths), trained_runs(config, tables["runs"]), held)
    write_json(paths.tables / "provenance.json", {**facts, "rows": rows})
    if (
        held.given and not paths.resolved_config.is_file()
    ):  # The page says how to make it again from this file.
        write_json(paths.resolved_config, config.model_dump(mode="json"))


def all_tables(
    config: Config, paths: Paths, planned: list[Cell], held: Held, balances: dict[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Every table by its name."""
    own = gather_scores(planned, paths)
    check_cases(own, held)
    scores, unscored = whole_runs(below(own, held.tables["scores"]), planned, paths)
    runs = with_held_runs(runs_table(planned, held.refused | unscored, paths), held)
    main = without_itself(main_table(config, scores, runs), held)
    targets = targets_table(scores, runs)
    logs = {cell: list(read_log(cell, paths)) for cell in planned if cell not in held.cells}
    classes = classes_table(config, scores, targets, balances)
    controls = controls_of(config)
    return {
        "runs": runs,
        "scores": scores,
        "main": main,
        "targets": targets,
        "curves": below(curves_table(logs), held.tables["curves"]),
        "experiments": experiments_table(config, main, scores, runs),
        "classes": classes,
        "small-targets": small_targets_table(config, scores, classes),
        "pseudo-labels": below(pseudo_labels_table(logs), held.tables["pseudo-labels"]),
        "balance": balance_table(balances),
        "cost": cost_table(config, runs),
        "differences": differences_table(config, scores),
        "ranks": ranks_table(config, scores, runs, controls),
        "ties": tied_with_best(config, main, scores, controls),
    }


def below(own: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs here, then those that are held."""
    return pd.concat([own, held], ignore_index=True) if len(own) and len(held) else held if len(held) else own


NOT_KEPT = "Only the label counts of this dataset were kept; it was not checked for leaks or duplicates here."


def write_audits(config: Config, paths: Paths, held: Held) -> dict[str, pd.DataFrame]:
    """Copy the audits, with counts and balance of the labelled slices; returns the balances by dataset.

    Of a dataset that is not prepared here, what `held` has of it.
    """
    balances = {}
    kept = held.tables["balance"]
    for dataset, entry in config.datasets.items():
        data = paths.data(dataset)
        if held.given and not (data / "audit.json").is_file():
            own = kept[kept["dataset"] == dataset].drop(columns="dataset")
            if len(own):
                note = {"severity": "note", "sentence": NOT_KEPT}
                values: dict[str, Any] = {"balance": own.to_dict("records"), "findings": [note]}
            else:
                continue
        else:
            values = read_audit(data / "audit.json")
            values["balance"] += labelled_balance(data, list(entry.labelled))
            values["labels"] = label_counts(data, list(entry.labelled))
        write_json(paths.tables / f"audit-{dataset}.json", values)
        balances[dataset] = pd.DataFrame(values["balance"])
    return balances


def folder_of(cell: Cell, paths: Paths) -> Path:
    return paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)


def facts_of(cell: Cell, paths: Paths) -> dict[str, Any]:
    """provenance.json of a run; {} where it was not run or its file is damaged (it then counts as missing)."""
    try:
        return read_facts(folder_of(cell, paths))
    except SuiteError:
        return {}


FACTS = (
    "iterations",
    "best_iteration",
    "best_validation_dice",
    "seconds",
    "device",
    "energy_joules",
    "diverged",
    "peak_memory_bytes",
    "parameters_training",
    "parameters_inference",
    "source_digest",
)
"""What a row of runs.csv has of the provenance of its run."""
RUNS = [*KEY, "status", "sentence", "seconds_per_slice", "last_validation_dice", *FACTS]


def runs_table(planned: list[Cell], unscored: dict[Cell, str], paths: Paths) -> pd.DataFrame:
    """A row for every planned training, whatever became of it.

    A run of `unscored` was trained but has no scores to average, so it counts as missing, with its sentence.
    """
    rows = []
    for cell in planned:
        facts = facts_of(cell, paths)
        validations = [e["validation"]["dice"] for e in read_log(cell, paths) if "validation" in e] or [None]
        cut = "" if log_is_whole(cell, paths) else "Its log was cut off; its curves are left out."
        rows.append(
            {
                **vars(cell),
                "status": "missing" if cell in unscored else facts.get("status", "missing"),
                "sentence": unscored.get(cell) or read_failure(folder_of(cell, paths)) or cut,
                "seconds_per_slice": read_seconds_per_slice(folder_of(cell, paths)),
                "last_validation_dice": facts.get("last_validation_dice", validations[-1]),
                **{key: facts.get(key, np.nan) for key in FACTS},
            }
        )
    return pd.DataFrame(rows, columns=RUNS)


def gather_scores(planned: list[Cell], paths: Paths) -> pd.DataFrame:
    """The scores of all complete runs. What an earlier training left beside a failed one is not read."""
    tables = [pd.DataFrame(columns=list(COLUMNS))]
    for cell in planned:
        file = folder_of(cell, paths) / "scores.csv"
        if not file.is_file() or facts_of(cell, paths).get("status") != "complete":
            continue
        table = read_scores(file, cell, TEXT)
        if len(table):
            tables.append(table)
    scores = pd.concat(tables[1:] or tables, ignore_index=True)
    patients = scores.groupby(["dataset", "case"])["patient"].nunique()
    if (patients > 1).any():
        dataset, case = patients[patients > 1].index[0]
        raise SuiteError(
            f"The scores.csv of {dataset} name different patients for the case {plain(case)}; evaluate its runs again."
        )
    return scores


def whole_runs(
    scores: pd.DataFrame, planned: list[Cell], paths: Paths
) -> tuple[pd.DataFrame, dict[Cell, str]]:
    """The scores of the runs that are scored whole, and a sentence for every other trained run.

    A run is whole when it has every score that its dataset's runs can have, by their cases, targets and metrics: means
    over different cases must not be compared, nor averaged over seeds, and a file that was cut off must not count.
    """
    of_run = ["dataset", "labelled", "method", "seed"]
    counts = scores.groupby(of_run).size().to_dict()
    expected = {
        dataset: own["selection"].nunique()
        * own["case"].nunique()
        * own["target"].nunique()
        * len(own[["convention", "metric"]].drop_duplicates())
        for dataset, own in scores.groupby("dataset")
    }
    sentences = {}
    for cell in planned:
        found = counts.get((cell.dataset, cell.labelled, cell.method, cell.seed), 0)
        wanted = expected.get(cell.dataset, 0)
        if facts_of(cell, paths).get("status") != "complete" or 0 < found == wanted:
            continue
        lacking = f"{wanted - found} of the {wanted} scores" if found else "the scores"
        sentences[cell] = f"It was trained, but {lacking} are missing; evaluate it again."
    partial = {(c.dataset, c.labelled, c.method, c.seed) for c in sentences}
    keep = [key not in partial for key in scores[of_run].itertuples(index=False, name=None)]
    return scores[np.array(keep, dtype=bool)], sentences


def over_seeds(scores: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and standard deviation (n - 1; empty with one seed) over the means of seeds, and their number."""
    grouped = means_by(scores, [*by, "seed"]).groupby(by, sort=False)
    with np.errstate(invalid="ignore"):  # An infinite score has no deviation; the page shows a dash.
        table = grouped.agg(
            mean=lambda v: v.mean(skipna=False), std=lambda v: v.std(skipna=False), seeds="size"
        )
    return table.reset_index()


def main_table(config: Config, scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, metric, convention and selection: mean over seeds of the mean over targets of cases."""
    if scores.empty:
        return pd.DataFrame(columns=MAIN)
    table = over_seeds(scores, GROUP)
    patients = scores.groupby(GROUP, sort=False)["patient"].nunique().rename("patients").reset_index()
    table = with_failed(table.merge(patients, on=GROUP), runs)
    table = table.merge(intervals(scores), on=GROUP, how="left")
    known = [
        published(config.datasets[dataset].kind, labelled, method, convention, metric)
        for dataset, labelled, method, _, convention, metric in table[GROUP].to_numpy().tolist()
    ]
    table["published"] = [k.value if k else np.nan for k in known]
    table["published_source"] = [k.source if k else "" for k in known]
    return with_reference(config, table)[MAIN]


def with_reference(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """`table` with what the references that ship measured in the same way: mean, number of seeds, name."""
    found = [
        match[0][[*GROUP, "mean", "seeds"]].assign(reference_name=match[1])
        for dataset in config.datasets
        if (match := matching(config, dataset)) is not None
    ]
    if not found:
        return table.assign(reference=np.nan, reference_seeds=np.nan, reference_name="")
    names = {"mean": "reference", "seeds": "reference_seeds"}
    return table.merge(pd.concat(found).rename(columns=names), on=GROUP, how="left")


def targets_table(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The same for every target alone."""
    by = [*GROUP, "target"]
    if scores.empty:
        return pd.DataFrame(columns=[*by, "mean", "std", "seeds", "failed"])
    return with_failed(over_seeds(scores, by), runs)


def with_failed(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`table` with the number of runs of each cell that failed. Those that have not run are not among them."""
    keys = ["dataset", "labelled", "method"]
    bad = runs.assign(failed=runs["status"] == "failed")
    return table.merge(bad.groupby(keys, sort=False)["failed"].sum().reset_index(), on=keys)


def read_log(cell: Cell, paths: Paths) -> Iterator[dict[str, Any]]:
    """The entries of a run's log; a half-written last line of a killed run ends it. None of one that was cut off."""
    file = folder_of(cell, paths) / "log.jsonl"
    if not file.is_file() or not log_is_whole(cell, paths):
        return
    yield from read_entries(file)


def log_is_whole(cell: Cell, paths: Paths) -> bool:
    """Whether the log has the size that the provenance of a complete run notes; its last entry is then the last."""
    file = folder_of(cell, paths) / "log.jsonl"
    noted = facts_of(cell, paths).get("bytes", {}).get("log.jsonl")
    return noted is None or (file.is_file() and file.stat().st_size == noted)


def curves_table(logs: dict[Cell, list[dict[str, Any]]]) -> pd.DataFrame:
    """Losses and validation Dice over iterations, from the logs of runs."""
    rows: list[tuple[object, ...]] = []
    for cell, entries in logs.items():
        key = (cell.dataset, cell.labelled, cell.method, cell.seed)
        for entry in entries:
            if "pseudo_labels" in entry:
                continue
            if "validation" in entry:
                values = {"validation dice": entry["validation"]["dice"]}
                per_target = entry["validation"]["per_target"]
                values |= {f"validation dice:{name}": v for name, v in per_target.items()}
            else:
                values = {"loss": entry["loss"]}
                values |= {f"term:{name}": v for name, v in entry["terms"].items()}
            rows += [(*key, entry["iteration"], quantity, value) for quantity, value in values.items()]
    columns = ["dataset", "labelled", "method", "seed", "iteration", "quantity", "value"]
    return pd.DataFrame(rows, columns=columns)


def shown_cases(config: Config, dataset: str, names: list[str], scores: pd.DataFrame) -> dict[str, str]:
    """The test cases of the overlays and what they are of the reference method: its median one, worst, best, others.

    By its Dice at the smallest number of labelled patients, first seed, first selection; without its scores the first
    in name order.
    """
    count = min(config.report.overlay_cases, len(names))
    own = leading(config, scores)
    own = own[
        (own["dataset"] == dataset)
        & (own["method"] == config.reference)
        & (own["seed"] == config.seeds[0])
        & (own["labelled"] == str(min(config.datasets[dataset].labelled)))
    ]
    dice = own.groupby("case")["value"].mean().sort_values(kind="stable")
    if not set(names) <= set(dice.index):
        return dict.fromkeys(sorted(names)[:count], "")
    order = [case for case in dice.index if case in names]
    last = len(order) - 1
    places = [last // 2, 0, last, *np.linspace(0, last, count).round().astype(int).tolist()]
    roles = {last: "best", 0: "worst", last // 2: "median"}
    return {order[place]: roles.get(place, "") for place in [*dict.fromkeys(places)][:count]}


def overlays(config: Config, paths: Paths, scores: pd.DataFrame) -> dict[str, np.ndarray]:
    """One slice of each of `shown_cases`: image, reference, and every method's label map.

    The slice is the one with the largest foreground area of the reference; the runs are those of the first
    seed, by the first selection. Keys: <dataset>/<case>/image, .../role, .../reference, .../<labelled>/<method>.
    """
    result: dict[str, np.ndarray] = {}
    shown = [cell for cell in cells(config) if cell.method in config.methods]
    for dataset in config.main_datasets if config.methods else ():
        entry, data = config.datasets[dataset], paths.data(dataset)
        if not (data / "cases.csv").is_file():  # Only its results are here.
            continue
        for name, role in shown_cases(config, dataset, list_cases(data, "test"), scores).items():
            case = load_case(data, name)
            z = int((case.label > 0).sum((1, 2)).argmax())
            size = (entry.size, entry.size)
            image = (case.image[z] - case.image[z].min()) / max(float(np.ptp(case.image[z])), 1e-6)
            result[f"{dataset}/{name}/image"] = resize_nearest((255 * image).astype(np.uint8), size)
            result[f"{dataset}/{name}/role"] = np.array(role)
            result[f"{dataset}/{name}/reference"] = resize_nearest(case.label[z], size)
            for cell in shown:
                file = folder_of(cell, paths) / "predictions.npz"
                if (cell.dataset, cell.seed) != (dataset, config.seeds[0]) or not file.is_file():
                    continue
                wanted = f"{config.evaluation.selections[0]}/{name}"
                found = load_predictions(file, [wanted]).get(wanted)
                if found is not None:
                    check_prediction(f"{file}: {wanted}", found, case.label)
                    key = f"{dataset}/{name}/{cell.labelled}/{cell.method}"
                    result[key] = resize_nearest(found[z], size)
    return result


def sources(config: Config, paths: Paths) -> dict[str, Any]:
    """source.json of the datasets that are prepared."""
    files = {name: paths.data(name) / "source.json" for name in config.datasets}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def provenance(config: Config, planned: list[Cell], paths: Paths) -> dict[str, Any]:
    """What the numbers rest on: config, data, versions, devices, time."""
    facts = [f for f in (facts_of(cell, paths) for cell in planned) if f]
    trained = [
        f for f in facts if f.get("base_method") != ENSEMBLE
    ]  # Its seconds are its members' once more.

    def distinct(key: str) -> list[str]:
        return sorted({str(f[key]) for f in facts if key in f})

    versions = sorted({json.dumps(f["versions"], sort_keys=True) for f in facts if "versions" in f})
    return {
        "config": config.model_dump(mode="json"),
        "datasets": sources(config, paths),
        "devices": distinct("device"),
        "machines": distinct("machine"),
        "threads": distinct("threads"),
        "versions": [json.loads(v) for v in versions],
        "started": min(distinct("started"), default=None),
        "finished": max(distinct("finished"), default=None),
        "training_seconds": round(sum(f.get("seconds") or 0 for f in trained), 1),
    }


def trained_runs(config: Config, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are trainings: the seconds of an ensemble are those of its members."""
    return runs[~runs["method"].isin({*config.ensembles, *config.promptable})]


def with_held_facts(facts: dict[str, Any], runs: pd.DataFrame, held: Held) -> dict[str, Any]:
    """Provenance with that of the folders that rows were taken from; `held` lists those."""
    used = [own for own in held.facts if own["cells"]]
    if not held.given:
        return facts
    united = {
        key: [*facts[key], *(v for own in used for v in own[key] or [] if v not in facts[key])]
        for key in ("devices", "machines", "threads", "versions")
    }
    united = {key: [v for k, v in enumerate(values) if v not in values[:k]] for key, values in united.items()}
    seconds = runs.loc[runs["held"] != "", "seconds"].sum()
    return {
        **facts,
        **united,
        "datasets": {**held.sources, **facts["datasets"]},
        "started": min((t for own in (facts, *used) if (t := own["started"])), default=None),
        "finished": max((t for own in (facts, *used) if (t := own["finished"])), default=None),
        "training_seconds": round(facts["training_seconds"] + float(seconds), 1),
        "held": [
            {key: own[key] for key in ("name", "at", "cells", "started", "finished", "sha256")}
            for own in used
        ],
    }
