"""The docs are true: the method that they walk through passes the contract, the files that they name exist."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest
import torch

from cgs.discovery import ROOT, available_methods
from cgs.engine.method import Method, Progress, Task, build
from cgs.engine.seeds import generator
from cgs.engine.views import BatchMaker

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_method_of_the_walk_through_works() -> None:
    text = (ROOT / "docs" / "adding-a-baseline.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code
    module = types.ModuleType("walk")
    exec(compile(code[1], "adding-a-baseline.md", "exec"), module.__dict__)
    kinds = [
        v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Method) and v is not Method
    ]
    assert len(kinds) == 1
    method = kinds[0](Task(3, 32, 4))
    build(method, lambda axis: torch.manual_seed(0), torch.device("cpu"))
    images = torch.rand(10, 32, 32)
    labels = (3 * images).to(torch.uint8).clamp(max=2)
    parts = (torch.arange(4), torch.arange(4, 10))
    batch = BatchMaker(images, labels, *parts, method.views, (4, 4), 0, generator(0, "noise"))(0)
    terms = method.loss(batch, Progress(500, 1000))
    assert set(terms) == {"supervised", "entropy"}
    assert 0 < float(terms["entropy"].detach()) < 0.1 * torch.log(torch.tensor(3.0))


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
