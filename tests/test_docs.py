"""The docs are true: the method that they walk through passes the contract, the files that they name exist."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cgs.discovery import ROOT, available_methods
from cgs.errors import SuiteError
from cgs.skeleton import new_baseline

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout as a user has it, without results."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "results", "reports", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file of a checkout that a user may be said to touch."""
    made = ("results", "reports", ".snakemake", ".pytest_cache", "__pycache__", ".hypothesis")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(made) & set(path.relative_to(folder).parts)
    }


def test_adding_a_baseline_as_the_page_says(checkout: Path) -> None:
    """Every block of the page in its order: commands are run, code and config go where the page says."""
    before = contents(checkout)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
    }
    text = (ROOT / "docs" / "adding-a-baseline.md").read_text()
    ran = []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.S):
        if language == "python":
            (checkout / "baselines" / "ict.py").write_text(block)
        elif language == "yaml":
            (checkout / block.split("\n")[0].removeprefix("# ")).write_text(block)
        else:
            command = ["bash", "-euc", block]
            done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            ran.append(done.stdout + done.stderr)
    after = contents(checkout)
    assert {k for k in after if after[k] != before.get(k)} == {"baselines/ict.py", "config/mine.yaml"}
    assert before.keys() <= after.keys()
    assert re.search(r"\d+ passed", ran[0]) and "failed" not in ran[0]
    assert "ICT" in (checkout / "reports" / "mine" / "index.html").read_text()


def test_adding_a_dataset_as_the_page_says(checkout: Path) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
    }
    text = (ROOT / "docs" / "adding-a-dataset.md").read_text()
    said = ""
    for language, place, block in re.findall(r"```(\w+) ?([\w./-]*)\n(.*?)```", text, re.S):
        if language == "sh":
            command = ["bash", "-euc", block]
            done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
        else:
            (checkout / place).write_text(block)
    assert "12 training slices have no label" in said
    report = (checkout / "reports" / "my-organs" / "index.html").read_text()
    assert "adrenal gland" in report and "abdominal CT" in report
    scores = pd.read_csv(checkout / "results/my-organs/tables/main.csv")
    assert (
        set(scores["method"]) == {"cgs", "labelled-only", "fully-supervised"}
        and (scores["failed"] == 0).all()
    )


def test_new_baseline_refuses_what_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "baselines").mkdir()
    path = new_baseline("my-method-2", tmp_path)
    assert path == tmp_path / "baselines" / "my_method_2.py" and "class MyMethod2(Method)" in path.read_text()
    for name, why in (
        ("cps", "exists"),
        ("My Method", "does not fit"),
        ("../x", "does not fit"),
        ("2x", "does not fit"),
        ("none", "means something"),
        ("mc-net-plus", "exists"),
    ):
        with pytest.raises(SuiteError, match=why):
            new_baseline(name, tmp_path)
    assert [p.name for p in (tmp_path / "baselines").iterdir()] == ["my_method_2.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_options_exist(page: Path) -> None:
    text = page.read_text()
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    for link in re.findall(r"\]\(([^)#]+)\)", prose):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
    assert "@" not in prose, "an unfilled placeholder"


def test_methods_page_speaks_of_every_method() -> None:
    text = (ROOT / "docs" / "methods.md").read_text().lower()
    from cgs.titles import title_of

    for method in available_methods():
        assert title_of(method).lower() in text or method in text, method
