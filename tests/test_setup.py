"""The set-up files agree with each other."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
import yaml
from packaging.requirements import Requirement

from cgs.discovery import ROOT


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ]", requirement)[0].lower().replace("_", "-")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_names_the_same_packages() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    plain = [p for p in listed if isinstance(p, str)]
    nested = [p for entry in listed if isinstance(entry, dict) for p in entry["pip"]]
    conda = {p for p in (*plain, *nested) if name_of(p) not in ("python", "pip")}
    assert conda == set(project()["dependencies"])
    assert f"python{project()['requires-python']}" in plain


def locked_names() -> set[str]:
    """The packages of the lock, and torch, which pyproject.toml pins."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {name_of(x) for x in lines if "==" in x} | {"torch"}


def test_the_lock_holds_every_package_exactly_and_by_digest() -> None:
    text = re.sub(r"^#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    entry = r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(f"({entry})+", text), "only name==version with digests"
    wanted = project()["dependencies"] + project()["optional-dependencies"]["dev"]
    assert {name_of(p) for p in wanted} <= locked_names()
    assert "torch==2.13.0" in project()["dependencies"]


def test_the_lock_holds_what_the_packages_need_in_turn() -> None:
    """On every Python that the Makefile accepts. CUDA's packages come with the torch of a GPU machine alone."""
    locked = locked_names()
    exact = dict(
        re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )
    if any(version(name) != exact[name] for name in ("numpy", "pandas", "snakemake")):
        pytest.skip("other releases than the lock's are installed")
    for python in ("3.11", "3.12", "3.13"):
        here = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
        needed, waiting = set(), [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]
        while waiting:
            name = name_of(waiting.pop())
            if name in needed or name.startswith(("nvidia-", "cuda-", "triton")):
                continue
            needed.add(name)
            try:
                below = map(Requirement, requires(name) or [])
            except PackageNotFoundError:  # Needed on another Python only: the lock must name it all the same.
                continue
            waiting += [r.name for r in below if r.marker is None or r.marker.evaluate(here)]
        assert needed <= locked, f"Python {python}: {sorted(needed - locked)}"


def test_no_file_names_a_registry_or_this_machine() -> None:
    files = [
        ROOT / n for n in ("Makefile", "requirements.lock", "environment.yml", "pyproject.toml", "README.md")
    ]
    for file in [*files, *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"pypi|anaconda\.org|debian\.org|--index-url", file.read_text()), file


def test_citation_is_whole() -> None:
    values = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert values["version"] == project()["version"]
    assert values["references"][0]["doi"] == "10.1109/TMI.2025.3557537"
