"""The work plan that Snakemake follows: every run with its parameters and the digest of its source."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from cgs.analysis.cost import priorities, target_names
from cgs.config import ENSEMBLE, Config, parse_config
from cgs.data.archive import check_opens
from cgs.data.prepare import how_to_get, open_source
from cgs.dataset_config import DatasetConfig, FilesBase
from cgs.digest import source_digest
from cgs.discovery import ROOT, module_of
from cgs.engine.method import method_of
from cgs.engine.run import by_content, training_digest
from cgs.engine.train import INCIDENTAL
from cgs.errors import SuiteError
from cgs.paths import Paths
from cgs.plan import Cell, cells, members, trainings
from cgs.titles import method_titles


def work_plan(values: dict[str, Any]) -> dict[str, Any]:
    """Check a config and list its work as plain JSON values.

    Every dataset and run carries the parameters and the source digest that its result depends on: a job is
    repeated when one of them changes, and only then.
    Raises SuiteError with one sentence before any job starts.
    """
    config = parse_config(values)
    for folder in (Paths(config.name).root, Paths(config.name).report.parent):
        check_writable(folder)
    dump = config.model_dump(mode="json")
    cuda = config.training.device.startswith("cuda") or (
        config.training.device == "auto" and torch.cuda.is_available()
    )
    return {
        "name": config.name,
        "config": dump,
        "config_file": str(Paths(config.name).resolved_config),
        "device": "cuda" if cuda else "cpu",
        "threads": config.training.threads,
        "datasets": {name: data_plan(name, dump) for name in config.datasets},
        "missing": missing_datasets(config),
        "runs": run_plans(config, dump),
        "ensembles": ensemble_plans(config),
        "promptable": promptable_plans(config),
        "targets": target_plans(config),
        "priorities": priorities(config),
        "digests": {
            "predict": source_digest("cgs.evaluation.predict"),
            "ensemble": source_digest("cgs.evaluation.ensemble"),
            "prompt": source_digest("cgs.evaluation.promptable"),
            "evaluate": source_digest("cgs.evaluation.score"),
            "tables": source_digest("cgs.analysis.tables"),
            "report": source_digest("cgs.report.page") + files_digest(ROOT / "cgs" / "report" / "templates"),
        },
        "evaluation": dump["evaluation"],
        "report_params": {
            **{key: dump[key] for key in ("report", "reference", "methods", "experiments")},
            "titles": method_titles(config),
        },
    }


def files_digest(folder: Path) -> str:
    """Digest of files which no import names: splits of datasets, templates of the report."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def check_writable(folder: Path) -> None:
    """Raise SuiteError with one sentence unless `folder` exists, or could be made, and can be written."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise SuiteError(
            f"{existing} is no folder that can be written; mend that, or start in another folder."
        )


def missing_datasets(config: Config) -> dict[str, str]:
    """Datasets whose files are not where the config says, or not what it says, with what to do for each."""
    found = {name: why_not(name, dataset) for name, dataset in config.datasets.items()}
    return {name: sentence for name, sentence in found.items() if sentence}


def why_not(name: str, dataset: DatasetConfig) -> str | None:
    """Why a dataset cannot be read, as far as that is seen without reading it: its layout, or whether it opens."""
    if not isinstance(dataset, FilesBase):
        return None
    if not dataset.found:
        return how_to_get(name, dataset)
    try:
        if dataset.path is not None and dataset.path.is_dir():
            open_source(name, dataset, dataset.path)
        elif dataset.path is not None:
            check_opens(dataset.path)
    except SuiteError as error:
        return f"The dataset {name} cannot be read: {error}"
    return None


def data_plan(name: str, dump: dict[str, Any]) -> dict[str, Any]:
    """Parameters and digest of one dataset; how many labels are used later does not change its slices."""
    params = {k: v for k, v in dump["datasets"][name].items() if k not in ("labelled", "main_table")}
    splits = files_digest(ROOT / "cgs" / "data" / "splits")
    return {"params": params, "digest": source_digest("cgs.data.prepare") + splits}


def run_plans(config: Config, dump: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per training."""
    protocol = {k: v for k, v in dump["training"].items() if k not in INCIDENTAL}
    methods = {}
    for name in dict.fromkeys(cell.method for cell in trainings(config)):
        base, _ = config.method_and_options(name)
        # Built as it will be trained: what does not fit ends here, not in the night.
        options = method_of(config, name, classes=2, size=64).options.model_dump(mode="json")
        network = by_content(config.network_of(name).model_dump(mode="json"))
        params = {"method": base, "options": options, "training": protocol, "network": network}
        methods[name] = {"digest": training_digest(module_of(base)), "params": params}
    return [{**vars(cell), **methods[cell.method]} for cell in trainings(config)]


def ensemble_plans(config: Config) -> list[dict[str, Any]]:
    """One entry per ensemble's cell, with the trainings that it is made of."""
    found = [c for c in cells(config) if config.method_and_options(c.method)[0] == ENSEMBLE]
    return [
        {
            **vars(cell),
            "rule": config.ensembles[cell.method].rule,
            "members": [list(map(str, vars(member).values())) for member in members(config, cell)],
        }
        for cell in found
    ]


def promptable_plans(config: Config) -> list[dict[str, Any]]:
    """One entry per promptable model's cell, with its options and the files that it is made of."""
    found = [(c, config.promptable[c.method]) for c in cells(config) if c.method in config.promptable]
    files = {cell: (model.code.rpartition(":")[0], str(model.weights)) for cell, model in found}
    return [
        {**vars(c), **m.model_dump(mode="json"), "files": [f for f in files[c] if Path(f).is_file()]}
        for c, m in found
    ]


def target_plans(config: Config) -> dict[str, dict[str, Any]]:
    """What each named target needs: the datasets and the results of a part of the config."""

    def key(cell: Cell) -> list[str]:
        return [str(value) for value in vars(cell).values()]

    parts = {name: config.only(name) for name in target_names(config)}
    return {
        name: {"datasets": list(part.datasets), "runs": [key(c) for c in cells(part)]}
        for name, part in parts.items()
    }
