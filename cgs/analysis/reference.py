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

import numpy as np
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
    trained_runs,
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
        kept = add(config, Paths(config.name, path.parent.parent), target, weights)
    runs = trained_runs(kept, read_table(target, "runs"))
    complete = int((runs["status"] == "complete").sum())
    return f"{target} holds {complete} of {len(runs)} trainings.{without_counts(target, runs)}"


def without_counts(target: Path, runs: pd.DataFrame) -> str:
    """A sentence where the label counts of a dataset did not come along; else nothing."""
    known = set(held_table(target, "balance")["dataset"])
    lacking = [d for d in runs.loc[runs["status"] == "complete", "dataset"].unique() if d not in known]
    if not lacking:
        return ""
    return (
        f" The label counts of {', '.join(lacking)} are not among them, so that a page from it has no gain against "
        "target size and no balance; audit.json and labels.npy of results/<config>/data/ bring them."
    )


def add(config: Config, paths: Paths, target: Path, weights: bool) -> Config:
    """Merge the complete runs of one results folder into `target`; returns the config of all that is there.

    `runs.csv` says which runs are there and is written last: rows that an interrupted attempt left in other tables
    do not count, and the next attempt writes them again.
    """
    known = complete_cells(target)
    facts: dict[str, Any] = read_json(target / "provenance.json") if known else {}
    before = parse_config(facts["config"], str(target / "provenance.json")) if facts else config
    check_protocol(before, config, known, f"{paths.root} was measured by another protocol than {target}")
    every = united(before, config)
    planned = cells(config)
    scores, unscored = whole_runs(gather_scores(planned, paths), planned, paths)
    fresh = [c for c in planned if c not in known and complete(c, paths) and c not in unscored]
    old = {name: of_known(read_table(target, name), known) for name in ("scores", "curves")} if known else {}
    runs = runs_table(fresh, {}, paths)
    runs = with_missing(joined(read_table(target, "runs") if known else None, runs), every)
    same = same_runs(runs, planned, paths)
    tables = {
        "scores": joined(old.get("scores"), of_cells(scores, fresh)),
        "curves": joined(old.get("curves"), curves_table(logs_of(fresh, paths))),
        "pseudo-labels": with_pseudo_labels(
            of_known(held_table(target, "pseudo-labels"), known), same, paths
        ),
        "balance": with_balance(target, config, paths),
    }
    main = main_table(every, tables["scores"], runs)
    tables["main"] = main.drop(
        columns=[c for c in main if str(c).startswith("reference")]
    )  # It is one itself.
    tables["targets"] = targets_table(tables["scores"], runs)
    write(target, tables)
    new = provenance(config, fresh, paths)
    write_json(target / "provenance.json", merged(facts, new, every, trained_runs(every, runs)))
    write(target, {"runs": runs})
    if weights:
        keep_weights(
            runs, [c for c in same if c.method not in {*every.ensembles, *every.promptable}], paths, target
        )
    return every


def of_known(table: pd.DataFrame, known: set[Cell]) -> pd.DataFrame:
    """The rows of some cells."""
    wanted = [Cell(*key) in known for key in table[KEY].itertuples(index=False, name=None)]
    return table[np.array(wanted, dtype=bool)]


def united(old: Config, new: Config) -> Config:
    """The config of two campaigns of one protocol: `new`, with what `old` alone has. No path of any machine."""
    first, values = (config.model_dump(mode="json") for config in (old, new))
    for name, dataset in values["datasets"].items():
        before = first["datasets"].get(name, {}).get("labelled", [])
        dataset["labelled"] = sorted({*before, *dataset["labelled"]})
    for key in ("datasets", "variants", "ensembles", "promptable", "experiments"):
        values[key] = {**first[key], **values[key]}
    for key in ("methods", "seeds"):
        values[key] = list(dict.fromkeys([*first[key], *values[key]]))
    for dataset in values["datasets"].values():
        if "path" in dataset:
            dataset["path"] = None
    values["training"]["gpu_slots"] = 1
    return parse_config(values)


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


def with_missing(runs: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The complete ones of `runs`, and a row for every planned run that is not among them."""
    planned_runs = runs_table(cells(config), {}, Paths(config.name, Path("nowhere")))
    measured = runs[runs["status"] == "complete"]
    missing = planned_runs.merge(measured[KEY], on=KEY, how="left", indicator=True)
    missing = missing[missing["_merge"] == "left_only"].drop(columns="_merge")
    return pd.concat([measured, missing], ignore_index=True)


def logs_of(chosen: list[Cell], paths: Paths) -> dict[Cell, list[dict[str, Any]]]:
    return {cell: list(read_log(cell, paths)) for cell in chosen}


def same_runs(runs: pd.DataFrame, planned: list[Cell], paths: Paths) -> list[Cell]:
    """The cells whose run here is the very one that `runs` holds: same source, same seconds."""
    mark = [*KEY, "source_digest", "seconds"]
    here = runs_table([c for c in planned if complete(c, paths)], {}, paths)
    held = runs[runs["status"] == "complete"]
    marks = [t[mark].astype({"seconds": float, "seed": int}).round({"seconds": 2}) for t in (held, here)]
    same = set(marks[0].merge(marks[1], on=mark)[KEY].itertuples(index=False, name=None))
    return [c for c in planned if tuple(vars(c).values()) in same]


def with_pseudo_labels(old: pd.DataFrame, same: list[Cell], paths: Paths) -> pd.DataFrame:
    """The quality of pseudo-labels that is kept, and that of the runs `same` that have none kept.

    Among those are runs that were collected before this table was.
    """
    watched = {Cell(*key) for key in old[KEY].drop_duplicates().itertuples(index=False, name=None)}
    return joined(old, pseudo_labels_table(logs_of([c for c in same if c not in watched], paths)))


def with_balance(target: Path, config: Config, paths: Paths) -> pd.DataFrame:
    """The label counts that `target` holds, and those of datasets and numbers of labelled patients that are new."""
    tables = [held_table(target, "balance")]
    for name, entry in config.datasets.items():
        data = paths.data(name)
        if all((data / file).is_file() for file in ("audit.json", "labels.npy")):
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


def merged(old: dict[str, Any], new: dict[str, Any], config: Config, runs: pd.DataFrame) -> dict[str, Any]:
    """Provenance of all campaigns: their config, lists united, the seconds of all trainings in `runs`."""
    lists = {
        key: [*old.get(key, []), *(v for v in new[key] if v not in old.get(key, []))]
        for key in ("devices", "machines", "threads", "versions")
    }
    times = [t for t in (old.get("started"), old.get("finished"), new["started"], new["finished"]) if t]
    seconds = runs.loc[runs["status"] == "complete", "seconds"].astype(float)
    return {
        "config": config.model_dump(mode="json"),
        "datasets": {**old.get("datasets", {}), **new["datasets"]},
        **lists,
        "started": min(times, default=None),
        "finished": max(times, default=None),
        "training_seconds": round(float(seconds.sum()), 1),
    }


def keep_weights(runs: pd.DataFrame, found: list[Cell], paths: Paths, target: Path) -> None:
    """Copy the weights of the best seed of each cell, by validation, where they are among `found` and small."""
    for cell in found:
        same = (runs[KEY[:3]] == [cell.dataset, cell.labelled, cell.method]).all(axis=1)
        best = runs[same].sort_values("best_validation_dice", ascending=False)["seed"].tolist()[0]
        source = folder_of(cell, paths) / "weights.safetensors"
        if int(best) == cell.seed and source.is_file() and source.stat().st_size <= LARGEST_WEIGHTS:
            name = f"{cell.dataset}-{cell.labelled}-{cell.method}.safetensors"
            with atomic_path(target / "weights" / name) as temporary:
                shutil.copyfile(source, temporary)
