"""What is to be run: asked of `python -m cgs plan`, which checks the whole config before any job starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from cgs.files import write_json


envvars:
    "PATH",


# Jobs call `python`: the one that runs Snakemake, unless a conda environment of their own comes first.
os.environ["PATH"] = os.pathsep.join(
    [os.path.dirname(sys.executable), os.environ["PATH"]]
)


def work_plan(values):
    """The work plan of a config; ends Snakemake with one sentence where the config is wrong."""
    command = [sys.executable, "-m", "cgs", "plan"]
    done = subprocess.run(
        command, input=json.dumps(values, default=str), capture_output=True, text=True
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        sys.stderr.flush()
        # Snakemake would wrap an exception in its own report of the Snakefile's line.
        os._exit(done.returncode)
    return json.loads(done.stdout)


def chosen_datasets(values):
    """`--config datasets=a,b` keeps those datasets of the config file."""
    names = values["datasets"]
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    entries = {}
    for file in workflow.configfiles:
        own = yaml.safe_load(Path(file).read_text()).get("datasets") or {}
        if not isinstance(own, dict):
            return values  # The plan says what is wrong with it.
        entries.update(own)
    unknown = [name for name in names if name not in entries]
    if unknown:
        sys.stderr.write(
            f"--config datasets: no dataset {unknown[0]!r}; there are {', '.join(entries)}.\n"
        )
        sys.stderr.flush()
        os._exit(1)
    kept = {name: entries[name] for name in names}
    # Entries that use the files of one that is kept stay too, and experiments lose what is not there.
    kept.update(
        {
            n: e
            for n, e in entries.items()
            if isinstance(e, dict) and e.get("files_of") in kept
        }
    )
    experiments = {}
    given = values.get("experiments") or {}
    if not isinstance(given, dict) or not all(
        isinstance(e, dict) for e in given.values()
    ):
        return {**values, "datasets": kept}
    for name, experiment in given.items():
        left = [d for d in experiment.get("datasets") or [] if d in kept]
        if left or not experiment.get("datasets"):
            experiments[name] = {**experiment, "datasets": left}
    return {**values, "datasets": kept, "experiments": experiments}


if isinstance(config.get("datasets"), (str, list)):
    config = chosen_datasets(config)

PLAN = work_plan(config)
CONFIG = PLAN["config_file"]
RESULTS = f"results/{PLAN['name']}"
REPORT = f"reports/{PLAN['name']}/index.html"
RUNS = {
    (r["dataset"], r["labelled"], r["method"], str(r["seed"])): r for r in PLAN["runs"]
}
ENSEMBLES = {
    (r["dataset"], r["labelled"], r["method"], str(r["seed"])): r
    for r in PLAN["ensembles"]
}
PROMPTABLE = {
    (r["dataset"], r["labelled"], r["method"], str(r["seed"])): r
    for r in PLAN["promptable"]
}
TARGETS = PLAN["targets"]


def run_of(wildcards):
    """The plan's entry for a training."""
    return RUNS[wildcards.dataset, wildcards.labelled, wildcards.method, wildcards.seed]


def cell_of(wildcards):
    """The command line options that name a training."""
    return " ".join(
        f"--{name} {getattr(wildcards, name)}"
        for name in ("dataset", "labelled", "method", "seed")
    )


def at(path):
    """A file of this config."""
    return f"{RESULTS}/{path}"


def at_run(name):
    """A file of the run that the wildcards name."""
    return at(f"runs/{{dataset}}/{{labelled}}/{{method}}/{{seed}}/{name}")


def of_runs(runs, name):
    """The file called `name` of each of those runs."""
    return [at(Path("runs", *run, name).as_posix()) for run in runs]


def of_every_run(name):
    """The file called `name` of every run, and of what is not trained."""
    return of_runs([*RUNS, *ENSEMBLES, *PROMPTABLE], name)


def audits(datasets):
    """The audits of those datasets."""
    return [at(f"data/{dataset}/audit.json") for dataset in datasets]


def needed_datasets():
    """The datasets that the targets of the command line need."""
    wanted = set(workflow.dag_settings.targets) - {"all"}
    if not wanted:
        return set(PLAN["datasets"])
    found = set()
    for target in wanted:
        parts = set(Path(target).parts)
        found |= set(TARGETS[target]["datasets"]) if target in TARGETS else parts
        found |= {d for part in parts & set(TARGETS) for d in TARGETS[part]["datasets"]}
    return found & set(PLAN["datasets"])


def refuse_missing_datasets():
    """End before any job starts where a dataset that is needed is not there."""
    missing = {d: text for d, text in PLAN["missing"].items() if d in needed_datasets()}
    if not missing:
        return
    said = {d: t for d, t in missing.items() if files_of(d) not in missing}
    there = [d for d in PLAN["datasets"] if d not in PLAN["missing"]]
    sys.stderr.write("\n" + "\n".join(said.values()) + "\n")
    if there:
        names = ",".join(there)
        sys.stderr.write(f"To go on with what is there: --config datasets={names}\n")
    sys.stderr.flush()
    workflow.persistence.unlock()  # Ending here skips what Snakemake would do for that.
    os._exit(1)


def files_of(dataset):
    """The entry whose files a dataset uses, where it has none of its own."""
    return PLAN["config"]["datasets"][dataset].get("files_of")


def any_of(names):
    """A wildcard constraint: one of those names; what matches nothing where there is none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    dataset="[a-z0-9-]+",
    labelled=r"\d+|all",
    method="[a-z0-9-]+",
    seed=r"\d+",
