"""Results that were measured elsewhere: what collected folders hold of the cells of a config that have no run here.

`python -m cgs tables --have FOLDER ...` puts them beside the runs of this machine. A folder is one that `python -m cgs
collect` wrote (`cgs.analysis.kept`); it must have been measured as the config measures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cgs.analysis.kept import (
    KEY,
    LATER,
    NEEDED,
    alike,
    complete_cells,
    difference_of,
    held_table,
    read_table,
    same_methods,
)
from cgs.config import Config, parse_config
from cgs.errors import SuiteError, plain
from cgs.files import read_json
from cgs.plan import Cell

CURVES = (*KEY, "iteration", "quantity", "value")


def empty_tables() -> dict[str, pd.DataFrame]:
    columns = {
        "scores": NEEDED["scores"],
        "runs": NEEDED["runs"],
        "curves": CURVES,
        **LATER,
    }
    return {name: pd.DataFrame(columns=list(own)) for name, own in columns.items()}


@dataclass
class Held:
    """The rows that folders hold of cells without a run here, under the config's names.

    `cells`: each such cell with the name of its folder. `tables`: scores, runs, curves, pseudo-labels of these cells,
    and balance of all datasets. `refused`: cells that a folder holds with other options, with a sentence. `facts`: the
    provenance of each folder; `sources`: source.json of the datasets.
    """

    cells: dict[Cell, str] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=empty_tables)
    refused: dict[Cell, str] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, Any] = field(default_factory=dict)
    given: bool = False
    """Whether any folder was named: a dataset need not be prepared here then."""


def read_held(config: Config, absent: Sequence[Cell], folders: Sequence[Path]) -> Held:
    """What `folders` hold of the cells `absent`; of several that hold one, the first.

    Raises SuiteError with one sentence where a folder is none that was collected, or was measured in another way.
    """
    held = Held(given=bool(folders))
    for folder in folders:
        if not (folder / "provenance.json").is_file():
            raise SuiteError(f"--have {folder} is no folder that `python -m cgs collect` wrote.")
        facts = read_json(folder / "provenance.json")
        if not isinstance(facts, dict) or not isinstance(facts.get("config"), dict):
            raise SuiteError(f"{folder / 'provenance.json'} names no config; collect the folder again.")
        other = parse_config(facts["config"], str(folder / "provenance.json"))
        names = datasets_of(config, other, folder)
        before = len(held.cells)
        add(held, config, other, absent, folder, names)
        sources = facts["datasets"] if isinstance(facts.get("datasets"), dict) else {}
        held.sources = {n: sources[o] for n, o in names.items() if o in sources} | held.sources
        held.facts.append(summary(facts, folder, len(held.cells) - before))
    return held


def datasets_of(config: Config, other: Config, folder: Path) -> dict[str, str]:
    """Each dataset of `config` that `other` measures in the same way, and its name there.

    Raises SuiteError where one of the same name was measured differently, or none is measured at all.
    """
    names = {}
    for dataset in config.datasets:
        same = [n for n in other.datasets if alike(config, dataset, other, n)]
        if dataset in other.datasets and dataset not in same:
            raise SuiteError(
                f"{folder} cannot stand beside {dataset} of this config: "
                f"{difference_of(config, other, dataset)}; give a folder of the same data, budget and network."
            )
        if same:
            names[dataset] = dataset if dataset in same else same[0]
    if not names:
        raise SuiteError(
            f"{folder} holds none of the datasets of this config ({', '.join(config.datasets)})."
        )
    return names


def add(
    held: Held, config: Config, other: Config, absent: Sequence[Cell], folder: Path, names: dict[str, str]
) -> None:
    """Take the rows of the cells in `absent` that no folder before had."""
    kept = {name: read_table(folder, name) for name in ("scores", "runs", "curves")}
    kept |= {name: held_table(folder, name) for name in LATER}
    scored = {Cell(*key) for key in kept["scores"][KEY].drop_duplicates().itertuples(index=False, name=None)}
    there = complete_cells(folder) & scored
    taken: dict[Cell, Cell] = {}
    for cell in absent:
        source = Cell(names.get(cell.dataset, ""), cell.labelled, cell.method, cell.seed)
        if cell in held.cells or source not in there:
            continue
        if same_methods(other, config, {cell.method, *members(config, cell.method)}):
            taken[cell] = source
        else:
            held.refused[cell] = f"{plain(folder.name)} holds it with other options of the method."
    for name in ("scores", "runs", "curves", "pseudo-labels"):
        own = rows_of(kept[name], taken)
        held.tables[name] = pd.concat([t for t in (held.tables[name], own) if len(t)] or [held.tables[name]])
    known = set(held.tables["balance"]["dataset"])
    for dataset, source_name in names.items():
        own = kept["balance"][kept["balance"]["dataset"] == source_name].assign(dataset=dataset)
        if len(own) and dataset not in known:
            held.tables["balance"] = pd.concat([t for t in (held.tables["balance"], own) if len(t)])
    held.cells |= dict.fromkeys(taken, plain(folder.name))


def members(config: Config, method: str) -> tuple[str, ...]:
    return config.ensembles[method].members if method in config.ensembles else ()


def rows_of(table: pd.DataFrame, taken: dict[Cell, Cell]) -> pd.DataFrame:
    """The rows of cells, each with the cell that it has in `table`, under the names that their datasets have here."""
    pairs = [(*vars(source).values(), cell.dataset) for cell, source in taken.items()]
    names = pd.DataFrame(pairs, columns=[*KEY, "here"]).astype(table[KEY].dtypes)
    own = table.merge(names, on=KEY)
    return own.assign(dataset=own["here"]).drop(columns="here")


def summary(facts: dict[str, Any], folder: Path, taken: int) -> dict[str, Any]:
    """What the tables' provenance says of a folder. Its place is told below the working directory alone."""
    scores = next(p for p in (folder / "scores.csv.gz", folder / "scores.csv") if p.is_file())
    digest = hashlib.sha256(scores.read_bytes()).hexdigest()
    lists = {
        key: facts[key] if isinstance(facts.get(key), list) else []
        for key in ("devices", "machines", "threads", "versions")
    }
    times = {key: t if isinstance(t := facts.get(key), str) else None for key in ("started", "finished")}
    place, here = folder.resolve(), Path.cwd()
    at = place.relative_to(here) if place.is_relative_to(here) else Path("PATH") / place.name
    name = {"name": plain(folder.name), "at": plain(at.as_posix())}
    return {**name, "cells": taken, "sha256": digest, **lists, **times}


def check_cases(own: pd.DataFrame, held: Held) -> None:
    """Raise SuiteError where a run here was tested on a case, or patient, that those held were not."""
    for dataset, part in held.tables["scores"].groupby("dataset"):
        here = own[own["dataset"] == dataset]
        known, there = (set(zip(t["case"], t["patient"], strict=True)) for t in (here, part))
        if known - there:
            raise SuiteError(
                f"The runs of {dataset} here and those of --have were tested on different cases; "
                "their means cannot stand in one table."
            )


def with_held_runs(runs: pd.DataFrame, held: Held) -> pd.DataFrame:
    """`runs` with the rows of held cells in the place of the missing ones; `held` names the folder, or is empty."""
    order = runs[KEY]
    names = pd.DataFrame(
        [(*vars(c).values(), name) for c, name in held.cells.items()], columns=[*KEY, "held"]
    ).astype(runs[KEY].dtypes)
    kept = held.tables["runs"].reindex(columns=list(runs)).astype(runs[KEY].dtypes).merge(names, on=KEY)
    kept["sentence"] = kept["sentence"].fillna("")
    absent = runs.merge(names[KEY], on=KEY, how="left", indicator=True)["_merge"].to_numpy() == "left_only"
    here = runs[absent].assign(held="")
    return order.merge(pd.concat([t for t in (here, kept) if len(t)]), on=KEY)


def without_itself(main: pd.DataFrame, held: Held) -> pd.DataFrame:
    """`main` without the reference value of cells that were taken from that very reference."""
    own = {(c.dataset, c.labelled, c.method, name) for c, name in held.cells.items()}
    keys = main[["dataset", "labelled", "method", "reference_name"]].itertuples(index=False, name=None)
    same = [key in own for key in keys]
    main = main.copy()
    main.loc[same, ["reference", "reference_seeds"]] = float("nan")
    main.loc[same, "reference_name"] = ""
    return main
