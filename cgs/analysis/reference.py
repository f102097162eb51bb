"""Measured results that are kept: what `python -m cgs collect` gathers from campaigns, and how a report reads it.

A folder `results/reference/<name>/` holds the files that `cgs.analysis.kept` describes: no images and no predictions;
weights only where they were asked for.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cgs.analysis.experiments import pseudo_labels_table
from cgs.analysis.kept import KEY, LONG, complete_cells, held_table, protocol, read_table, same_methods
from cgs.analysis.spreadsheet import inert
from cgs.analysis.tables import (
    curves_table,
    folder_of,
    gather_scores,
    main_table,
    provenance,
    read_log,
    runs_table,
    targets_table,
    whole_runs,
)
from cgs.config import Config, load_config, parse_config
from cgs.data.audit import labelled_balance
from cgs.errors import SuiteError
from cgs.files import atomic_path, read_json, write_json
from cgs.paths import Paths
from cgs.plan import Cell, cells
from cgs.runfiles import read_audit

LARGEST_WEIGHTS = 8 * 10**6


def collect(sources: Sequence[Path], target: Path, *, weights: bool = False) -> str:
    """Merge the complete runs of campaigns into `target`; says in a sentence what is there now.

    `sources` are `--out` folders of campaigns, or folders in which snakemake was started. A cell that is already in
    `target` stays as it is. With `weights`, those of each cell's best seed by validation come along.
    Raises SuiteError where two were measured by different protocols.
    """
    found = [path for source in sources for path in sorted(source.absolute().glob("results/*/config.yaml"))]
    if not found:
        raise SuiteError(f"{sources[0]} holds no results/<config>/config.yaml; give the --out of a campaign.")
    for path in found:
        config = load_config(path)
        add(config, Paths(config.name, path.parent.parent), target, weights)
    runs = read_table(target, "runs")
    runs = runs[~runs["method"].isin([*config.ensembles, *config.promptable])]
    complete = int((runs["status"] == "complete").sum())
    return f"{target} holds {complete} of {len(runs)} trainings."


def add(config: Config, paths: Paths, target: Path, weights: bool) -> None:
    """Merge the complete runs of one results folder into `target`."""
    known = complete_cells(target)
    facts: dict[str, Any] = read_json(target / "provenance.json") if known else {}
    before = parse_config(facts["config"]) if facts else config
    check_protocol(before, config, known, f"{paths.root} was measured by another protocol than {target}")
    planned = cells(config)
    scores, unscored = whole_runs(gather_scores(planned, paths), planned, paths)
    fresh = [c for c in planned if c not in known and complete(c, paths) and c not in unscored]
    runs = runs_table(fresh, {}, paths)
    old = {name: read_table(target, name) for name in ("scores", "curves", "runs")} if known else {}
    tables = {
        "scores": joined(old.get("scores"), of_cells(scores, fresh)),
        "curves": joined(old.get("curves"), curves_table(logs_of(fresh, paths))),
        "runs": with_missing(joined(old.get("runs"), runs), planned, config),
        "pseudo-labels": with_pseudo_labels(target, old.get("runs", runs), fresh, planned, paths),
        "balance": with_balance(target, config, paths),
    }
    main = main_table(config, tables["scores"], tables["runs"])
    tables["main"] = main.drop(
        columns=[c for c in main if str(c).startswith("reference")]
    )  # It is one itself.
    tables["targets"] = targets_table(tables["scores"], tables["runs"])
    write(target, tables)
    write_json(target / "provenance.json", merged(facts, provenance(config, fresh, paths), fresh, config))
    if weights:
        keep_weights(tables["runs"], fresh, paths, target)


def check_protocol(before: Config, config: Config, known: set[Cell], said: str) -> None:
    """Raise SuiteError, which begins with `said`, unless both configs measure `known` in the same way."""
    old, new = protocol(before), protocol(config)
    for name in old["datasets"].keys() ^ new["datasets"].keys():  # A config may have grown by a dataset.
        old["datasets"].pop(name, None)
        new["datasets"].pop(name, None)
    if old != new or not same_methods(before, config, {cell.method for cell in known}):
        raise SuiteError(f"{said} (compare the two configs); collect it into a folder of its own.")


def of_cells(scores: pd.DataFrame, fresh: list[Cell]) -> pd.DataFrame:
    """The scores of some cells, rounded as they are kept, so that a merge changes no mean."""
    own = scores.merge(pd.DataFrame(map(vars, fresh), columns=KEY).astype(scores[KEY].dtypes), on=KEY)
    return own.assign(value=own["value"].round(6))


def joined(old: pd.DataFrame | None, new: pd.DataFrame) -> pd.DataFrame:
    """Both tables, one below the other."""
    parts = [t for t in (old, new) if t is not None and len(t)]
    return pd.concat(parts, ignore_index=True) if parts else new


def with_missing(runs: pd.DataFrame, planned: list[Cell], config: Config) -> pd.DataFrame:
    """The complete ones of `runs`, and a row for every planned run that is not among them."""
    planned_runs = runs_table(planned, {}, Paths(config.name, Path("nowhere")))
    measured = runs[runs["status"] == "complete"]
    missing = planned_runs.merge(measured[KEY], on=KEY, how="left", indicator=True)
    missing = missing[missing["_merge"] == "left_only"].drop(columns="_merge")
    return pd.concat([measured, missing], ignore_index=True)


def logs_of(chosen: list[Cell], paths: Paths) -> dict[Cell, list[dict[str, Any]]]:
    return {cell: list(read_log(cell, paths)) for cell in chosen}


def with_pseudo_labels(
    target: Path, runs: pd.DataFrame, fresh: list[Cell], planned: list[Cell], paths: Paths
) -> pd.DataFrame:
    """The quality of pseudo-labels that `target` holds, and that of the runs that it has none of.

    `runs` are those that it holds. Those that were collected before this table was kept get theirs from their logs,
    where the log is of the same run: same source, same seconds.
    """
    old = held_table(target, "pseudo-labels")
    watched = set(old[KEY].drop_duplicates().itertuples(index=False, name=None))
    mark = [*KEY, "source_digest", "seconds"]
    here = runs_table([c for c in planned if complete(c, paths)], {}, paths)
    marks = [t.reindex(columns=mark).astype({"seconds": float}).round({"seconds": 2}) for t in (runs, here)]
    same = set(marks[0].merge(marks[1], on=mark)[KEY].itertuples(index=False, name=None))
    wanted = [c for c in planned if c in fresh or tuple(vars(c).values()) in same - watched]
    return joined(old, pseudo_labels_table(logs_of(wanted, paths)))


def with_balance(target: Path, config: Config, paths: Paths) -> pd.DataFrame:
    """The label counts that `target` holds, and those of datasets and numbers of labelled patients that are new."""
    tables = [held_table(target, "balance")]
    for name, entry in config.datasets.items():
        data = paths.data(name)
        if (data / "audit.json").is_file():
            rows = [
                *read_audit(data / "audit.json")["balance"],
                *labelled_balance(data, list(entry.labelled)),
            ]
            tables.append(pd.DataFrame(rows).assign(dataset=name))
    found = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    found = found[["dataset", *(c for c in found if c != "dataset")]]
    return found.drop_duplicates(["dataset", "group", "target"], ignore_index=True)


def complete(cell: Cell, paths: Paths) -> bool:
    """Trained and scored."""
    folder = folder_of(cell, paths)
    return (folder / "scores.csv").is_file() and not (folder / "failure.json").is_file()


def write(target: Path, tables: dict[str, pd.DataFrame]) -> None:
    """The tables, the long ones compressed, the same bytes for the same values."""
    for name, table in tables.items():
        long = name in LONG
        digits = "%.6g" if name in ("curves", "pseudo-labels") else None
        with atomic_path(target / (f"{name}.csv.gz" if long else f"{name}.csv")) as temporary:
            text = inert(table).to_csv(index=False, float_format=digits).encode()
            temporary.write_bytes(gzip.compress(text, mtime=0) if long else text)


def merged(old: dict[str, Any], new: dict[str, Any], fresh: list[Cell], config: Config) -> dict[str, Any]:
    """Provenance of all campaigns: lists united, times added, no path of any machine."""
    values = config.model_dump(mode="json")
    for dataset in values["datasets"].values():
        if "path" in dataset:
            dataset["path"] = None
    values["training"]["gpu_slots"] = 1
    if not fresh and old:
        return old
    united = {
        key: [*old.get(key, []), *(v for v in new[key] if v not in old.get(key, []))]
        for key in ("devices", "machines", "threads", "versions")
    }
    times = [t for t in (old.get("started"), old.get("finished"), new["started"], new["finished"]) if t]
    return {
        "config": values,
        "datasets": {**old.get("datasets", {}), **new["datasets"]},
        **united,
        "started": min(times, default=None),
        "finished": max(times, default=None),
        "training_seconds": round(old.get("training_seconds", 0) + new["training_seconds"], 1),
    }


def keep_weights(runs: pd.DataFrame, fresh: list[Cell], paths: Paths, target: Path) -> None:
    """Copy the weights of the best seed of each cell, by validation, where they are small."""
    for cell in fresh:
        same = (runs[KEY[:3]] == [cell.dataset, cell.labelled, cell.method]).all(axis=1)
        best = runs[same].sort_values("best_validation_dice", ascending=False)["seed"].tolist()[0]
        source = folder_of(cell, paths) / "weights.safetensors"
        if int(best) == cell.seed and source.stat().st_size <= LARGEST_WEIGHTS:
            name = f"{cell.dataset}-{cell.labelled}-{cell.method}.safetensors"
            with atomic_path(target / "weights" / name) as temporary:
                shutil.copyfile(source, temporary)
