"""The whole workflow on a tiny phantom, from a copy of the project: what runs, what runs again, what fails well."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import small_config

from cgs.config import TAKEN
from cgs.discovery import ROOT
from cgs.errors import SuiteError
from cgs.workplan import work_plan


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with a tiny config of three methods."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("cgs", "baselines", "workflow", "profiles", "config"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "benchmarks" / "results", folder / "benchmarks" / "results")
    config = small_config(
        name="tiny",
        methods=["cgs", "cps", "labelled-only", "fully-supervised"],
        training={"iterations": 4, "validate_every": 2, "checkpoint_every": 2},
    )
    values = config.model_dump(mode="json")
    values["datasets"]["phantom"]["labelled"] = [1]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return folder


def snakemake(project: Path, *options: str, start: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Snakemake in the folder `start`, by default the project."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *options]
    # The copy comes first on the path of every process, before the installed project.
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    place = start or project
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)


def planned(project: Path, *options: str) -> dict[str, int]:
    """Jobs by rule that a dry run would do."""
    done = snakemake(project, "-n", *(options or ("--configfile", "tiny.yaml")))
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    if "Nothing to be done" in text:
        return {}
    table = text[text.rindex("Job stats:") :]
    jobs: dict[str, int] = {}
    for name, count in re.findall(r"^([\w-]+) +(\d+)$", table, re.M):
        if name != "total":  # There is a rule train_<method> for every method.
            rule = "train" if name.startswith("train_") else name
            jobs[rule] = jobs.get(rule, 0) + int(count)
    return jobs


def edit(project: Path, name: str, old: str, new: str) -> None:
    path = project / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ALL = {"prepare": 1, "train": 4, "predict": 4, "evaluate": 4, "tables": 1, "page": 1, "all": 1}


def test_the_workflow(project: Path) -> None:
    assert planned(project) == ALL
    done = snakemake(project, "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    started = re.findall(r"train phantom/\w+/([\w-]+)/0", done.stdout + done.stderr)
    priorities = work_plan(yaml.safe_load((project / "tiny.yaml").read_text()))["priorities"]
    longest = sorted(priorities, key=priorities.__getitem__, reverse=True)
    # The first two start together, and Snakemake names them in either order.
    assert {*started[:2]} == {*longest[:2]} and started[2:] == longest[2:], "longest first"
    assert longest[0] == "cgs"
    page = (project / "reports" / "tiny" / "index.html").read_text()
    assert "4 of 4 trainings complete" in page
    assert planned(project) == {}
    done = snakemake(project, "--configfile", "tiny.yaml", "--report", "snakemake.html")
    assert done.returncode == 0 and "Scores of every method" in (project / "snakemake.html").read_text()

    edit(project, "baselines/cps.py", "count, weight", "# A comment.\n        count, weight")
    edit(project, "baselines/cps.py", "Crossed hard pseudo-labels", "Crossed, hard pseudo-labels")
    assert planned(project) == {}, "a comment or a docstring must repeat nothing"

    edit(project, "baselines/cps.py", "own = [supervised(", "own = [2 * supervised(")
    again = {"train": 1, "predict": 1, "evaluate": 1, "tables": 1, "page": 1, "all": 1}
    assert planned(project) == again, "a changed loss must repeat its own method and nothing else"

    edit(project, "cgs/evaluation/conventions.py", '"hd95": 50.0', '"hd95": 60.0')
    after = planned(project)
    assert (after["train"], after["predict"], after["evaluate"]) == (1, 1, 4), "a metric never retrains"
    edit(project, "cgs/evaluation/conventions.py", '"hd95": 60.0', '"hd95": 50.0')

    # The changed method now fails: it is recorded, the rest stands, the report renders and says so.
    edit(project, "baselines/cps.py", "own = [2 * supervised(", "own = [(1 / 0) * supervised(")
    done = snakemake(project, "--configfile", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    run = project / "results" / "tiny" / "runs" / "phantom" / "1" / "cps" / "0"
    assert "ZeroDivisionError" in json.loads((run / "failure.json").read_text())["sentence"]
    page = (project / "reports" / "tiny" / "index.html").read_text()
    assert "3 of 4 trainings complete" in page
    assert "CPS, seed 0 failed: ZeroDivisionError: division by zero" in page
    assert "0 of 1" in page

    # `retry` forgets the failure without a change of the source.
    command = [sys.executable, "-m", "cgs", "retry", "--config", "tiny.yaml"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    assert "phantom/1/cps/0 will be trained again" in done.stdout
    assert planned(project) == again


def test_the_default_is_the_paper(project: Path) -> None:
    """All of it is planned, with or without the data; a part is what its name says."""
    whole, part = planned(project, "--quiet", "reason"), planned(project, "table-acdc")
    # CGS, thirteen baselines and labelled-only at each ratio, and one fully-supervised; three seeds each.
    main = {"acdc": 15 * 2 * 3 + 3, "segthor": 15 * 2 * 3 + 3, "synapse": 15 * 3 + 3}
    assert part["train"] == main["acdc"] and part["prepare"] == 1
    assert whole["train"] > sum(main.values()) and whole["prepare"] == 4 and whole["ensemble"] == 3 * 2 * 3
    chosen = planned(project, "--config", "datasets=acdc")
    assert main["acdc"] < chosen["train"] < whole["train"] and chosen["prepare"] == 2


def test_it_can_be_started_in_any_folder(project: Path, tmp_path: Path) -> None:
    """The default config and the profile are those of the checkout."""
    file = str(project / "Snakefile")
    default = snakemake(project, "-n", "-s", file, "table-acdc", "--quiet", "reason", start=tmp_path)
    assert default.returncode == 0 and "profiles/default" in default.stderr, default.stderr
    assert re.search(r"^train_cgs +6$", default.stdout + default.stderr, re.M)


def acdc_layout(folder: Path) -> None:
    """What is looked at before anything runs: the lists, and that the files which they name are there."""
    (folder / "data").mkdir(parents=True)
    names = {"val": ["patient008_frame01"], "test": ["patient009_frame01"]}
    names["train_slices"] = [f"patient00{n}_frame01_slice_0" for n in range(1, 8)]
    for file, cases in names.items():
        (folder / f"{file}.list").write_text("\n".join(cases))
        for name in cases:
            (folder / "data" / f"{name}.h5").touch()


def test_what_is_no_dataset_is_said_before_anything_runs(project: Path) -> None:
    """A folder or file that is there but holds something else would end a night's work after hours."""
    acdc_layout(project / "whole")
    (project / "empty").mkdir()
    (project / "photo.zip").write_bytes(b"GIF89a" * 100)
    with tarfile.open(project / "cut.tar.gz", "w:gz") as file:
        file.add(project / "whole", "whole")
    acdc_layout(project / "partial")
    (project / "partial" / "data" / "patient008_frame01.h5").unlink()
    both = ("--config", "segthor=empty", "synapse=photo.zip")
    done = snakemake(project, *both, "acdc=whole")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "The dataset segthor cannot be read: empty lacks 40 of the 40 patients, first Patient_01"
        in done.stderr
    )
    assert "The dataset synapse cannot be read: photo.zip is damaged or neither .zip nor" in done.stderr
    assert "To go on with what is there: --config datasets=acdc,acdc-384" in done.stderr
    done = snakemake(project, "table-acdc", "--config", "acdc=partial")
    said = "partial/val.list names patient008_frame01 but partial/data/patient008_frame01.h5 does not exist"
    assert done.returncode == 1 and said in done.stderr
    assert not (project / "results" / "paper" / "runs").exists()
    values = yaml.safe_load((project / "config/paper.yaml").read_text())
    for file, fault in (("cut.tar.gz", None), ("photo.zip", "cannot be read")):
        found = work_plan(values | {"acdc": str(project / file)})["missing"].get("acdc")
        assert found is None if fault is None else fault in found


def test_data_is_prepared_before_anything_else(project: Path) -> None:
    """Its priority is above those of all methods, however many there are."""
    rules = (project / "workflow" / "rules" / "data.smk").read_text()
    own = int(re.search(r"priority: (\d+)", rules)[1])
    others = [
        int(n) for n in re.findall(r"priority: (\d+)", (project / "workflow/rules/evaluate.smk").read_text())
    ]
    values = yaml.safe_load((project / "config" / "paper.yaml").read_text())
    assert own > max(others) > max(work_plan(values)["priorities"].values())


def test_missing_datasets_are_said_before_anything_runs(project: Path) -> None:
    acdc_layout(project / "there")
    done = snakemake(project, "--config", "acdc=there")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said
    for name in ("segthor", "synapse"):
        assert f"The dataset {name} is not given.\n  Get " in said and f"--config {name}=PATH" in said
    assert "The dataset acdc is" not in said
    assert "To go on with what is there: --config datasets=acdc,acdc-384" in said
    done = snakemake(project, "table-acdc", "--config", "acdc=nowhere")
    assert "The dataset acdc is not at nowhere" in done.stderr and "segthor" not in done.stderr
    done = snakemake(project, "-n", "--config", "datasets=adcd")
    assert "no dataset 'adcd'; there are acdc, segthor, synapse, acdc-384." in done.stderr
    assert "lock" not in snakemake(project, "-n", "table-acdc").stderr.lower()


def test_no_experiment_takes_the_name_of_a_rule() -> None:
    files = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    rules = {name for file in files for name in re.findall(r"^rule (\w+):", file.read_text(), re.M)}
    assert len(rules) > 5 and rules <= set(TAKEN)


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        ({"datasets": ["phantom"]}, (), "datasets: Input should be a valid dictionary"),
        ({"datasets": "phantom"}, (), "datasets: Input should be a valid dictionary"),
        ({"experiments": ["x"]}, ("datasets=phantom",), "experiments: Input should be a valid dictionary"),
    ],
)
def test_a_list_where_a_mapping_belongs_is_one_sentence(
    project: Path, changes: dict[str, Any], words: tuple[str, ...], said: str
) -> None:
    values = yaml.safe_load((project / "tiny.yaml").read_text()) | changes
    (project / "wrong.yaml").write_text(yaml.safe_dump(values))
    extra = ("--config", *words) if words else ()
    done = snakemake(project, "-n", "--configfile", "wrong.yaml", *extra)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr
    assert "plan.smk" not in done.stderr


def test_a_part_runs_alone(project: Path) -> None:
    values = yaml.safe_load((project / "tiny.yaml").read_text()) | {
        "name": "parts",
        "methods": ["labelled-only", "fully-supervised"],
        "ensembles": {"both": {"members": ["labelled-only", "cgs"], "rule": "average"}},
        "experiments": {"together": {"title": "Together <b>", "methods": ["cgs", "both"], "row": "A8"}},
    }
    (project / "parts.yaml").write_text(yaml.safe_dump(values))
    expected = {"prepare": 1, "train": 2, "predict": 2, "ensemble": 1, "evaluate": 3, "part_together": 1}
    assert planned(project, "together", "--configfile", "parts.yaml") == {**expected, "together": 1}
    done = snakemake(project, "together", "--configfile", "parts.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (project / "reports" / "parts" / "together" / "index.html").read_text()
    assert "A8: Together &lt;b&gt;" in page and "2 of 2 trainings complete" in page
    rest = planned(project, "--configfile", "parts.yaml")
    assert (rest["train"], rest["evaluate"], rest.get("ensemble", 0)) == (1, 1, 0)
    # Without one of its members an ensemble is a failed run, not a crash.
    run = project / "results" / "parts" / "runs" / "phantom" / "1"
    provenance = run / "cgs" / "0" / "provenance.json"
    provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"status": "failed"}))
    command = [sys.executable, "-m", "cgs", "ensemble", "--config", "parts.yaml", "--dataset", "phantom"]
    command += ["--labelled", "1", "--method", "both", "--seed", "0"]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    subprocess.run(command, cwd=project, env=environment, check=True)
    failure = json.loads((run / "both" / "0" / "failure.json").read_text())
    assert failure["sentence"] == "Its member phantom/1/cgs/0 has failed."


def test_two_at_once_and_a_killed_one(project: Path) -> None:
    """A second Snakemake in one folder is refused; one that was killed is unlocked and goes on."""
    values = yaml.safe_load((project / "tiny.yaml").read_text())
    values |= {"name": "twice", "methods": ["labelled-only"]}
    values["training"] |= {"iterations": 200, "checkpoint_every": 1}
    (project / "twice.yaml").write_text(yaml.safe_dump(values))
    run = project / "results" / "twice" / "runs" / "phantom" / "1" / "labelled-only" / "0"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "twice.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, **quiet) as first:
        try:
            deadline = time.monotonic() + 120
            while not (run / "last.ckpt").exists():
                assert first.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(first.pid, signal.SIGSTOP)  # Or it might end before the second has even started.
            second = snakemake(project, "--configfile", "twice.yaml")
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode == 1 and "Directory cannot be locked" in second.stderr
    assert snakemake(project, "--configfile", "twice.yaml").returncode == 1, "what was killed leaves its lock"
    assert snakemake(project, "--configfile", "twice.yaml", "--unlock").returncode == 0
    done = snakemake(project, "--configfile", "twice.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    log = project / "results" / "twice" / "logs" / "train" / "phantom" / "1" / "labelled-only" / "0.txt"
    assert "resumed at iteration" in log.read_text()

    facts = (run / "provenance.json").read_bytes()
    source, tomorrow = run.parents[4] / "data" / "phantom" / "source.json", time.time() + 86400
    os.utime(source, (tomorrow, tomorrow))
    assert planned(project, "--configfile", "twice.yaml") == {}, "a clock that jumps is harmless"
    source.write_text(json.dumps(json.loads(source.read_text())))  # Made anew, with nothing new in it.
    done = snakemake(project, "--configfile", "twice.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete already" in log.read_text() and (run / "provenance.json").read_bytes() == facts


def test_the_demo_plans(project: Path) -> None:
    assert planned(project, "--configfile", "config/demo.yaml")["train"] == 13


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("iterations:", "iteration:", "unknown key 'training.iteration'; did you mean 'iterations'?"),
        ("- cps", "- cbs", "method 'cbs' does not exist; did you mean 'cps'?"),
        ("- 1\n", "- 7\n", "datasets.phantom.labelled: 7 labelled patients are more than the 6"),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence(project: Path, old: str, new: str, sentence: str) -> None:
    text = (project / "tiny.yaml").read_text()
    assert old in text
    (project / "bad.yaml").write_text(text.replace(old, new))
    done = snakemake(project, "-n", "--configfile", "bad.yaml")
    assert done.returncode == 1
    own = [x for x in done.stderr.splitlines() if not x.startswith("Using workflow specific profile")]
    assert len(own) == 1
    assert sentence in own[0]


def test_missing_data_is_one_sentence(project: Path) -> None:
    done = snakemake(project, "--configfile", "config/acdc-cpu.yaml", "--config", "acdc=nowhere")
    assert done.returncode == 1
    assert "The dataset acdc is not at nowhere" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("place", ["results", "results/blocked", "reports"])
def test_an_unwritable_folder_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Snakemake itself would end with a traceback when it scans such a folder."""
    monkeypatch.chdir(tmp_path)
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text("a file where a folder should be")
    values = small_config(name="blocked").model_dump(mode="json")
    with pytest.raises(SuiteError, match=f"^{place} is no folder that can be written"):
        work_plan(values)
