"""The work plan that Snakemake follows: every run with its parameters and the digest of its source."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from cgs.analysis.cost import priorities
from cgs.config import Config, parse_config
from cgs.digest import source_digest
from cgs.discovery import ROOT, module_of
from cgs.engine.method import load_method, options_of
from cgs.engine.run import training_digest
from cgs.engine.train import INCIDENTAL
from cgs.errors import SuiteError
from cgs.paths import Paths
from cgs.plan import cells


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
        "runs": run_plans(config, dump),
        "priorities": priorities(config),
        "digests": {
            "predict": source_digest("cgs.evaluation.predict"),
            "evaluate": source_digest("cgs.evaluation.score"),
            "tables": source_digest("cgs.analysis.tables"),
            "report": source_digest("cgs.report.page") + templates_digest(),
        },
        "evaluation": dump["evaluation"],
        "report_params": {"report": dump["report"], "reference": config.reference},
    }


def templates_digest() -> str:
    """Digest of the report's templates, which no import names."""
    files = sorted((ROOT / "cgs" / "report" / "templates").iterdir())
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


def data_plan(name: str, dump: dict[str, Any]) -> dict[str, Any]:
    """Parameters and digest of one dataset; how many labels are used later does not change its slices."""
    params = {k: v for k, v in dump["datasets"][name].items() if k != "labelled"}
    return {"params": params, "digest": source_digest("cgs.data.prepare")}


def run_plans(config: Config, dump: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per training."""
    protocol = {k: v for k, v in dump["training"].items() if k not in INCIDENTAL}
    methods = {}
    for name in config.methods:
        base, values = config.method_and_options(name)
        options = options_of(load_method(base), values, f"variants.{name}").model_dump(mode="json")
        params = {"method": base, "options": options, "training": protocol, "network": dump["network"]}
        methods[name] = {"digest": training_digest(module_of(base)), "params": params}
    return [
        {
            "dataset": cell.dataset,
            "labelled": cell.labelled,
            "method": cell.method,
            "seed": cell.seed,
            **methods[cell.method],
        }
        for cell in cells(config)
    ]
