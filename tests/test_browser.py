"""The report in a real browser: no errors, no requests, no sideways scroll, sorting, printing, accessibility.

Needs a Chromium (CHROMIUM, or `chromium` on the path); the accessibility test also axe-core's axe.min.js (AXE). Both
are skipped with a notice elsewhere; `.ci/run` installs them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import small_config
from test_tables import make_run

from cgs.analysis.tables import write_tables
from cgs.paths import Paths
from cgs.plan import cells
from cgs.presets import METHODS
from cgs.report.page import render

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
AXE = os.environ.get("AXE")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium; apt-get install chromium, or set CHROMIUM"
)
VIEWS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1600, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all sixteen methods on made-up scores, with experiments."""
    from cgs.data.prepare import prepare

    folder = tmp_path_factory.mktemp("browser")
    paths = Paths("small", folder / "results", folder / "reports")
    config = small_config(
        methods=METHODS,
        seeds=[0, 1],
        experiments={
            "ablation-ihed": {"title": "Inter-head error detection", "row": "A3", "methods": ["cgs", "cps"]},
            "class-level": {
                "title": "Gain",
                "row": "L1",
                "view": "classes",
                "methods": ["labelled-only", "cgs"],
            },
            "balance": {"title": "Balance", "row": "L3", "view": "balance"},
        },
    )
    prepare("phantom", config.datasets["phantom"], paths.data("phantom"))
    for cell in cells(config):
        make_run(cell, paths)
    write_tables(config, paths)
    return render(config, paths)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Any]:
    """opened(**view) opens the page and fails the test at the end for any error or request."""
    troubles: list[str] = []
    contexts = []

    def open_page(**view: Any) -> Any:
        context = browser.new_context(**view)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda r: troubles.append(r.url) if not r.url.startswith(("file:", "data:")) else None,
        )
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_scrolls_sideways_and_nothing_is_fetched(opened: Any, view: str) -> None:
    page = opened(**VIEWS[view])
    width = VIEWS[view]["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").inner_text()
    assert page.locator("svg[role=img]").count() > 5


def test_tables_sort_by_a_click_and_by_keyboard(opened: Any) -> None:
    page = opened(**VIEWS["wide"])
    table = page.locator("table").first
    head = table.locator("thead th").nth(1)
    column = "rows => rows.map(r => parseFloat(r.cells[1].textContent.replace(/[^0-9.]/g, ' ').trim()))"

    def values() -> list[float]:
        return table.locator("tbody tr").evaluate_all(column)

    before = table.locator("tbody th").all_inner_texts()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending" and values() == sorted(values(), reverse=True)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending" and values() == sorted(values())
    table.locator("thead th").nth(0).locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert sorted(table.locator("tbody th").all_inner_texts()) == sorted(before)


def test_it_reads_without_scripts(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("thead button").count() == 0 and "CGS" in page.locator("table").first.inner_text()
    context.close()


def test_it_prints_to_pdf(opened: Any) -> None:
    page = opened(**VIEWS["wide"])
    pdf = page.pdf(format="A4")
    assert pdf[:5] == b"%PDF-" and len(pdf) > 20_000


def test_every_link_of_the_page_leads_somewhere(opened: Any) -> None:
    page = opened(**VIEWS["wide"])
    for link in page.locator("nav a").all():
        assert page.locator(f"[id='{(link.get_attribute('href') or '')[1:]}']").count() == 1


@pytest.mark.skipif(AXE is None, reason="no axe-core; npm pack axe-core, and set AXE to its axe.min.js")
@pytest.mark.parametrize("view", VIEWS)
def test_accessibility_has_no_serious_finding(opened: Any, view: str) -> None:
    page = opened(**VIEWS[view])
    page.add_script_tag(content=Path(AXE or "").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    grave = [
        f"{v['id']}: {v['nodes'][0]['html'][:120]} {v['nodes'][0].get('failureSummary', '')}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert grave == []


def test_the_page_is_small(report: Path) -> None:
    assert report.stat().st_size < 5_000_000, "5 MB is the bound, 10 MB an error for any config"
