"""Reference results that are kept under `results/reference/`: reading them, and finding those that a config matches.

A folder holds `provenance.json` (the config, devices, versions, times) and these tables of all complete runs:

- `main.csv`, `targets.csv`, `runs.csv`: as in `results/<config>/tables/`; `runs.csv` names the missing runs too;
- `scores.csv.gz`: every score, rounded to six digits; all means are made from these;
- `curves.csv.gz`: losses and validation Dice over the iterations;
- `pseudo-labels.csv.gz`: precision and coverage of pseudo-labels at each validation, where the method has some;
- `balance.csv`: the audit's label counts of each dataset, in all and at each number of labelled patients.

Folders that were collected earlier may lack the last two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cgs.config import Config, parse_config
from cgs.discovery import ROOT
from cgs.errors import SuiteError, plain
from cgs.evaluation.scorefile import COLUMNS, fault_of
from cgs.files import read_csv, read_json
from cgs.plan import Cell

REFERENCE = ROOT / "results" / "reference"
KEY = ["dataset", "labelled", "method", "seed"]
TEXT = dict.fromkeys(("dataset", "labelled", "method", "selection", "case", "patient", "target"), str)
NEEDED = {
    "runs": (*KEY, "status"),
    "main": ("dataset", "labelled", "method", "selection", "convention", "metric", "mean", "seeds"),
    "scores": COLUMNS,
}
"""Columns that are read of each table."""

LONG = ("scores", "curves", "pseudo-labels")
"""Tables that are kept compressed."""

LATER = {
    "pseudo-labels": (*KEY, "iteration", "kind", "target", "precision", "coverage"),
    "balance": ("dataset", "group", "target", "pixels", "share_of_foreground", "slices", "all_slices"),
}
"""Tables that folders of an earlier version lack, and their columns."""

INCIDENTAL = ("device", "gpu_slots", "threads", "checkpoint_every", "log_every", "pseudo_label_slices")
"""What changes no number."""
PLACES = ("path", "url", "sha256", "files_of", "main_table", "labelled")
"""Keys of a dataset that do not change its slices."""


def complete_cells(folder: Path) -> set[Cell]:
    """The cells whose results `folder` holds; none where there is no such folder."""
    if not (folder / "runs.csv").is_file():
        return set()
    runs = read_table(folder, "runs")
    complete = runs.loc[runs["status"] == "complete", KEY]
    return {Cell(d, labelled, m, int(s)) for d, labelled, m, s in complete.itertuples(index=False, name=None)}


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """A table of a collected folder. Raises SuiteError with one sentence where it cannot be read."""
    for path in (folder / f"{name}.csv", folder / f"{name}.csv.gz"):
        if path.is_file():
            try:
                table = read_csv(path, dtype=TEXT)
                lacking = sorted(set({**NEEDED, **LATER}.get(name, ())) - set(table))
                if lacking:
                    raise ValueError(f"it lacks the column {lacking[0]}")
                if name == "scores" and len(table) and (fault := fault_of(table)):
                    raise ValueError(f"it {fault}")
                return table
            except (OSError, EOFError, ValueError) as error:
                raise SuiteError(f"{path} cannot be read ({plain(error)}); fetch it again.") from None
    raise SuiteError(f"{folder} has no {name}.csv; collect a campaign into it.")


def held_table(folder: Path, name: str) -> pd.DataFrame:
    """A table of LATER; an empty one where the folder lacks it. Raises SuiteError where it cannot be read."""
    if not any((folder / f"{name}{ending}").is_file() for ending in (".csv", ".csv.gz")):
        return pd.DataFrame(columns=list(LATER[name]))
    return read_table(folder, name)


def protocol(config: Config) -> dict[str, Any]:
    """What two results must share to be in one table: a config without places, seeds, and what changes no number.

    The options of the methods are compared by `same_methods`.
    """
    apart = {"name", "seeds", "methods", "variants", "report", "reference", "ensembles", "experiments"}
    values = config.model_dump(mode="json", exclude=apart)
    for dataset in values["datasets"].values():
        for key in PLACES:
            dataset.pop(key, None)
    for key in INCIDENTAL:
        values["training"].pop(key, None)
    return values


def same_methods(old: Config, new: Config, names: set[str]) -> bool:
    """Whether those of the methods `names` that `new` has are the same in `old`, options and network included."""

    def of(config: Config, name: str) -> Any:
        return config.method_and_options(name), config.network_of(name)

    known = set(old.every_method)
    return all(name in known and of(old, name) == of(new, name) for name in names & set(new.every_method))


def matching(config: Config, dataset: str, folder: Path = REFERENCE) -> tuple[pd.DataFrame, str] | None:
    """The main table of a reference that was measured as `config` measures `dataset`, and the reference's name.

    The data, the protocol and the network are the same; methods with other options are left out. None where there is no
    such reference.
    """
    for file in sorted(folder.glob("*/provenance.json")):
        other = parse_config(read_json(file)["config"])
        name = next((n for n in other.datasets if alike(config, dataset, other, n)), None)
        if name is None:
            continue
        main = read_table(file.parent, "main")
        names = {m for m in main["method"].unique() if m in config.every_method}
        same = {m for m in names if same_methods(other, config, {m})}
        own = main[(main["dataset"] == name) & main["method"].isin(same)]
        return own.assign(dataset=dataset), file.parent.name
    return None


def parts_of(config: Config, dataset: str) -> dict[str, dict[str, Any]]:
    """What decides the numbers of a dataset, apart from the methods: its slices, the training, network, evaluation."""
    values = protocol(config)
    return {"data": values["datasets"][dataset]} | {
        key: values[key] for key in ("training", "network", "evaluation")
    }


def alike(config: Config, dataset: str, other: Config, name: str) -> bool:
    """Whether two configs measure a dataset in the same way."""
    return parts_of(config, dataset) == parts_of(other, name)


def difference_of(config: Config, other: Config, dataset: str) -> str:
    """In words, the first thing that `other` measures differently: 'its training has iterations 12, not 400'."""
    here, there = parts_of(config, dataset), parts_of(other, dataset)
    for part, values in there.items():
        for key in sorted({*values, *here[part]}):
            if values.get(key) != here[part].get(key):
                return plain(f"its {part} has {key} {values.get(key)}, not {here[part].get(key)}")
    return "nothing differs"
