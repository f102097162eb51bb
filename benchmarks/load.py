"""Five thousand runs through the workflow: planning, tables, report. No run is trained; its files are made up.

    python benchmarks/load.py [--runs 5000] [--folder DIR] [--markdown FILE]

Fifteen methods at two label ratios on three phantoms, with as many seeds as it takes. Processor seconds and the largest
memory of one process, of each step in a process of its own. Exits with 1 where a bound is exceeded (BOUNDS, for 5,000
runs; they grow in proportion).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from cgs.config import Config, parse_config
from cgs.data.prepare import prepare
from cgs.data.store import list_cases, load_case
from cgs.discovery import ROOT
from cgs.evaluation.conventions import METRICS
from cgs.evaluation.score import COLUMNS
from cgs.files import write_json, write_text
from cgs.paths import Paths
from cgs.plan import Cell, cells
from cgs.presets import METHODS

BOUNDS = {
    "snakemake -n, nothing done": (120, 2.0),
    "snakemake -n, all done": (120, 2.0),
    "tables": (300, 4.0),
    "report": (60, 2.0),
}
"""Processor seconds and GiB of memory that 5,000 runs may take."""
PAGE = 10e6
"""Bytes of the page, at most."""


def config_of(runs: int) -> Config:
    """About `runs` trainings."""
    phantom = {"kind": "phantom", "size": 32, "labelled": [1, 2], "train_patients": 4, "slices": 8}
    phantom |= {"val_patients": 1, "test_patients": 10}
    per_seed = 3 * (2 * (len(METHODS) - 1) + 1)
    return parse_config(
        {
            "name": "load",
            "datasets": dict.fromkeys(("one", "two", "three"), phantom),
            "methods": METHODS,
            "seeds": list(range(round(runs / per_seed))),
            "network": {"width": 4},
        }
    )


def make_run(cell: Cell, paths: Paths, config: Config, shapes: dict[str, tuple[int, ...]]) -> None:
    """What a finished run leaves, made up."""
    rng = np.random.default_rng(abs(hash(str(cell))) % 2**32)
    folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    folder.mkdir(parents=True)
    facts = {"status": "complete", "seconds": 3600.0, "best_iteration": 200, "best_validation_dice": 0.8}
    (folder / "provenance.json").write_text(
        json.dumps({**facts, "source_digest": cell.method, "device": "none"})
    )
    log = [{"iteration": i, "loss": 1.0, "terms": {"supervised": 1.0}} for i in range(300, 30001, 300)]
    log += [
        {"iteration": i, "validation": {"dice": 0.5, "per_target": {"large": 0.5}}}
        for i in range(1000, 30001, 1000)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    selections = config.evaluation.selections
    volumes = {f"{s}/{case}": np.zeros(shape, np.uint8) for s in selections for case, shape in shapes.items()}
    np.savez_compressed(folder / "predictions.npz", **volumes)
    metrics = [(c, m) for c in config.evaluation.conventions for m in METRICS[c]]
    key = (cell.dataset, cell.labelled, cell.method, cell.seed)
    rows = [
        (*key, selection, case, case, target, *metric, round(rng.uniform(), 6))
        for selection in selections
        for case in shapes
        for target in ("large", "medium", "small", "tiny")
        for metric in metrics
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "scores.csv", index=False)


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Processor seconds, and GiB of memory of the largest process, of a command that must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "r = resource.getrusage(resource.RUSAGE_CHILDREN); print(r.ru_utime + r.ru_stime, r.ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds, kilobytes = map(float, done.stdout.split()[-2:])
    return seconds, kilobytes / 2**20


def steps(config: Config, folder: Path) -> dict[str, tuple[float, float]]:
    """Every measurement, by name."""
    paths = Paths(config.name, folder / "results", folder / "reports")
    write_json(folder / "load.json", config.model_dump(mode="json"))
    plan = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", "--snakefile", str(ROOT / "Snakefile")]
    plan += ["--workflow-profile", str(ROOT / "profiles" / "default"), "--configfile", "load.json"]
    found = {"snakemake -n, nothing done": measured(plan, folder)}
    for name, dataset in config.datasets.items():
        prepare(name, dataset, paths.data(name), 1)
        shapes = {
            case: load_case(paths.data(name), case).label.shape
            for case in list_cases(paths.data(name), "test")
        }
        for cell in cells(config):
            if cell.dataset == name:
                make_run(cell, paths, config, shapes)
    write_json(paths.resolved_config, config.model_dump(mode="json"))
    own = [sys.executable, "-m", "cgs"]
    for step in ("tables", "report"):
        found[step] = measured([*own, step, "--config", "load.json"], folder)
    found["snakemake -n, all done"] = measured([*plan, "--rerun-triggers", "mtime"], folder)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    options = parser.parse_args()
    config = config_of(options.runs)
    runs = len(cells(config))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        found = steps(config, folder)
        page = (folder / "reports/load/index.html").stat().st_size
        tables = sum(p.stat().st_size for p in (folder / "results/load/tables").iterdir())
    share = max(runs / 5000, 0.1)  # What starting costs does not shrink.
    lines = [
        f"{runs} runs, {datetime.now(UTC):%Y-%m-%d}, one process at a time.",
        "",
        "| step | processor seconds | bound | GiB | bound |",
        "|---|---:|---:|---:|---:|",
    ]
    excess = page > PAGE
    for step, (seconds, memory) in found.items():
        bound, room = (value * share for value in BOUNDS[step])
        excess |= seconds > bound or memory > max(room, 1)
        lines.append(f"| {step} | {seconds:.0f} | {bound:.0f} | {memory:.1f} | {max(room, 1):.1f} |")
    lines += ["", f"Page: {page / 1e6:.1f} MB. Tables: {tables / 1e6:.0f} MB."]
    print("\n".join(lines))
    if options.markdown:
        write_text(options.markdown, "\n".join(lines) + "\n")
    return int(excess)


if __name__ == "__main__":
    sys.exit(main())
