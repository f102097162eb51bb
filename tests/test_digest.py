"""Source digests: what changes them and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgs.digest import _read, source_digest

FILES = {
    "cgs/__init__.py": '"""Package."""\n',
    "cgs/losses.py": '"""Losses."""\n\n\ndef loss(x):\n    """Twice."""\n    return 2 * x\n',
    "cgs/unused.py": "VALUE = 1\n",
    "cgs/config.py": "VALUE = 1\n",
    "baselines/__init__.py": "",
    "baselines/first.py": (
        "from typing import TYPE_CHECKING\nfrom cgs.losses import loss\n"
        "if TYPE_CHECKING:\n    from cgs.config import VALUE\n\n\ndef run():\n    return loss(1)\n"
    ),
    "baselines/second.py": "def run():\n    from . import third\n    return third.run()\n",
    "baselines/third.py": "def run():\n    return 3\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def changed(tree: Path, name: str, old: str, new: str) -> set[str]:
    """The modules whose digest changes when `old` becomes `new` in a file."""
    modules = ["baselines.first", "baselines.second", "baselines.third", "cgs.losses"]
    before = {m: source_digest(m, tree) for m in modules}
    path = tree / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    _read.cache_clear()
    return {m for m in modules if source_digest(m, tree) != before[m]}


def test_comments_docstrings_and_layout_do_not_count(tree: Path) -> None:
    assert changed(tree, "cgs/losses.py", '"""Twice."""', '"""Two times."""\n    # A comment.\n') == set()
    assert changed(tree, "cgs/losses.py", "2 * x", "(2*x)") == set()
    assert changed(tree, "cgs/losses.py", '"""Losses."""', "") == set()


def test_a_changed_loss_counts_where_it_is_used(tree: Path) -> None:
    assert changed(tree, "cgs/losses.py", "2 * x", "3 * x") == {"cgs.losses", "baselines.first"}


def test_a_changed_baseline_touches_no_other(tree: Path) -> None:
    assert changed(tree, "baselines/first.py", "loss(1)", "loss(2)") == {"baselines.first"}


def test_imports_inside_functions_and_relative_ones_count(tree: Path) -> None:
    assert changed(tree, "baselines/third.py", "return 3", "return 4") == {
        "baselines.second",
        "baselines.third",
    }


def test_what_is_imported_for_types_alone_does_not_count(tree: Path) -> None:
    assert changed(tree, "cgs/config.py", "VALUE = 1", "VALUE = 2") == set()
    assert changed(tree, "cgs/unused.py", "VALUE = 1", "VALUE = 2") == set()


def test_the_place_of_the_tree_does_not_count(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "deeper"
    for name, text in FILES.items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text(text)
    assert source_digest("baselines.first", tree) == source_digest("baselines.first", other)


def test_every_method_depends_on_the_engine_and_not_on_the_config() -> None:
    from cgs.digest import module_path
    from cgs.discovery import ROOT, available_methods, module_of

    for method in available_methods():
        assert module_path(module_of(method), ROOT)
        seen, waiting = set(), [module_of(method), "cgs.engine.train"]
        while waiting:
            name = waiting.pop()
            path = module_path(name, ROOT)
            if path and name not in seen:
                seen.add(name)
                waiting += _read(path, name)[1]
        assert {"cgs.engine.losses", "cgs.engine.views", "cgs.data.store"} <= seen
        assert not seen & {
            "cgs.config",
            "cgs.presets",
            "cgs.engine.display",
            "cgs.report.page",
            "cgs.evaluation.metrics",
        }
