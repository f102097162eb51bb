"""Every locked package has a licence that fits an MIT project: permissive, or named here with the reason."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError

import pytest
from licences import EXCEPTIONS, LIST, licence, locked

from cgs.discovery import ROOT

FITS = re.compile(
    r"\b(MIT|0?BSD|Apache|ISC|Python|PSF|MPL|Mozilla|HPND|Unlicense|CC0|Zlib|Public Domain)", re.IGNORECASE
)
LOCKED = list(locked())


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


def test_the_list_is_of_the_lock() -> None:
    listed = re.findall(r"^\| (\S+) \| (\S+) \|", LIST.read_text(encoding="utf-8"), re.MULTILINE)[1:]
    assert dict(listed) == locked(), "run python tests/licences.py"
