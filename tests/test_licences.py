"""Every locked package has a licence that fits an MIT project: permissive, or named here with the reason."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata

import pytest

from cgs.discovery import ROOT

FITS = re.compile(
    r"\b(MIT|0?BSD|Apache|ISC|Python|PSF|MPL|Mozilla|HPND|Unlicense|CC0|Zlib|Public Domain)", re.IGNORECASE
)
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
LOCKED = [
    *(line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line),
    "torch",
]


def licence(package: str) -> str:
    """What the metadata of an installed package says of its licence."""
    facts = metadata(package)
    classifiers = [c for c in facts.get_all("Classifier") or [] if c.startswith("License")]
    said = [facts.get("License-Expression"), (facts.get("License") or "")[:80], *classifiers]
    return " / ".join(s for s in said if s)


@pytest.mark.parametrize("package", LOCKED)
def test_the_licence_fits(package: str) -> None:
    try:
        said = licence(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not needed on this system")
    if package.lower() in EXCEPTIONS:
        return
    assert FITS.search(said) and "GPL" not in said, f"{package}: {said or 'no licence in its metadata'}"


def test_no_exception_is_stale() -> None:
    assert set(EXCEPTIONS) <= {name.lower() for name in LOCKED}


def test_medpy_is_not_imported_by_the_suite() -> None:
    for package in ("cgs", "baselines"):
        for file in (ROOT / package).rglob("*.py"):
            assert not re.search(r"^\s*(import|from) medpy", file.read_text(), re.MULTILINE), file
