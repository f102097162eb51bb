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


def test_the_packages_of_a_module_count(tree: Path) -> None:
    baselines = {"baselines.first", "baselines.second", "baselines.third"}
    assert changed(tree, "cgs/__init__.py", '"""Package."""', "VALUE = 1") == {
        "cgs.losses",
        "baselines.first",
    }
    (tree / "baselines" / "__init__.py").write_text("VALUE = 1\n")
    assert changed(tree, "baselines/__init__.py", "VALUE = 1", "VALUE = 2") == baselines


def test_what_is_imported_outside_type_checking_counts(tree: Path) -> None:
    changed(tree, "baselines/first.py", "if TYPE_CHECKING:", "if not TYPE_CHECKING:")
    assert changed(tree, "cgs/config.py", "VALUE = 1", "VALUE = 2") == {"baselines.first"}


def test_every_python_gives_the_same_digest(tmp_path: Path) -> None:
    """The value is the same on Python 3.11 to 3.13, whose own dumps of this tree differ."""
    (tmp_path / "cgs").mkdir()
    (tmp_path / "cgs" / "odd.py").write_text(
        "class A:\n    x: int = 0\n\n    async def f(self, /, *a, k=None, **b):\n"
        "        return f\"{a!r:>3} {b['x']}\", {**b}, [None, ..., 1j, 0.1], lambda: ()\n"
    )
    assert (
        source_digest("cgs.odd", tmp_path)
        == "1043439f140ba39fff8b72b48095d6d0690f551b4e08564811ca07a4018d027c"
    )


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
