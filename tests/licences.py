"""The licences of all locked packages, from their metadata: `python tests/licences.py` writes docs/licences.md."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata, requires

from cgs.discovery import ROOT
from cgs.files import write_text

LIST = ROOT / "docs" / "licences.md"
HEADING = """# Licences

Every package of `requirements.lock`, and torch, with what its metadata says of its licence. Made by
`python tests/licences.py`; `tests/test_licences.py` fails on a licence that does not fit an MIT project, and when this
list is old.

| package | version | licence |
|---|---|---|
"""

EXCEPTIONS = {
    "docutils": "public domain and BSD for what is used; one of its tools is under the GPL",
    "medpy": "GPL; imported by tests and a benchmark only, as the reference of the metrics, and not distributed here",
    "conda-inject": "MIT by its repository; its metadata says nothing",
    "snakemake-interface-common": "MIT by its repository; its metadata says nothing",
    "snakemake-interface-logger-plugins": "MIT by its repository; its metadata says nothing",
    "snakemake-interface-report-plugins": "MIT by its repository; its metadata says nothing",
    "snakemake-interface-scheduler-plugins": "MIT by its repository; its metadata says nothing",
    "snakemake-interface-storage-plugins": "MIT by its repository; its metadata says nothing",
}
"""Packages that are let in for a reason."""


def locked() -> dict[str, str]:
    """Package to version, of the lock and torch."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(" ")[0].split("==") for line in lines if "==" in line)
    torch = next(r for r in requires("cgs-bench") or [] if r.startswith("torch=="))
    return dict(sorted({**found, "torch": torch.split("==")[1]}.items(), key=lambda item: item[0].lower()))


def licence(package: str) -> str:
    """What the metadata of an installed package says of its licence. Raises PackageNotFoundError."""
    facts = metadata(package)
    classifiers = [c.split(" :: ")[-1] for c in facts.get_all("Classifier") or [] if c.startswith("License")]
    said = [facts.get("License-Expression"), (facts.get("License") or "").split("\n")[0][:80], *classifiers]
    return " / ".join(dict.fromkeys(re.sub(r"\s+", " ", s) for s in said if s))


def known(package: str) -> str:
    if package in EXCEPTIONS:
        return EXCEPTIONS[package]
    try:
        return licence(package) or "not said"
    except PackageNotFoundError:
        return "not installed here"


if __name__ == "__main__":
    rows = [f"| {name} | {version} | {known(name)} |" for name, version in locked().items()]
    write_text(LIST, HEADING + "\n".join(rows) + "\n")
