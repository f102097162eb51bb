"""What is to be run: asked of `python -m cgs plan`, which checks the whole config before any job starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from cgs.files import write_text


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


PLAN = work_plan(config)
CONFIG = PLAN["config_file"]
RESULTS = f"results/{PLAN['name']}"
REPORT = f"reports/{PLAN['name']}/index.html"
RUNS = {
    (r["dataset"], r["labelled"], r["method"], str(r["seed"])): r for r in PLAN["runs"]
}


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


def of_every_run(name):
    """The file called `name` of every run."""
    return [at(Path("runs", *run, name).as_posix()) for run in RUNS]


wildcard_constraints:
    dataset="[a-z0-9-]+",
    labelled=r"\d+|all",
    method="[a-z0-9-]+",
    seed=r"\d+",
