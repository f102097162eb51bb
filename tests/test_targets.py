"""The cost model: its arithmetic, what it does not know, and the command."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import small_config

from cgs.analysis.cost import Measured, measurements, priorities, table, targets
from cgs.discovery import ROOT
from cgs.plan import Cell

MEASURED = Measured(
    "a processor",
    "2026-01-01",
    "2.13.0",
    threads=1,
    precision="float32",
    size=32,
    batch=4,
    width=8,
    seconds={"cgs": 6.0, "bcp": 2.0, "labelled-only": 1.0, "mc-net": 3.0, "mc-net-plus": 4.0},
    lengths={"cgs": 1.0, "bcp": 1.5, "labelled-only": 1.0, "mc-net": 1.0, "mc-net-plus": 1.0},
)


def cell(method: str) -> Cell:
    return Cell("phantom", "1", method, 0)


def test_seconds_are_iterations_times_pixels_images_width_and_stages() -> None:
    config = small_config(methods=["cgs", "bcp"], training={"iterations": 10})
    size = config.datasets["phantom"].size
    images = config.training.labelled_batch + config.training.unlabelled_batch
    scale = 10 * (size / 32) ** 2 * images / 8 * config.network.width / 8
    assert MEASURED.training(config, cell("cgs")) == pytest.approx(6 * scale)
    assert MEASURED.training(config, cell("bcp")) == pytest.approx(2 * 1.5 * scale)


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("fully-supervised", "labelled-only"),
        ("mc-net-plus", "mc-net-plus"),
        ("cgs-sharp", "cgs"),
        ("unimatch", None),
    ],
)
def test_what_was_not_measured_counts_as_what_it_is_most_like(method: str, known: str | None) -> None:
    variants = {
        "mc-net-plus": {"extends": "mc-net", "decoders": 3},
        "cgs-sharp": {"extends": "cgs", "tau": 0.5},
    }
    config = small_config(methods=[method], variants=variants)
    assert MEASURED.known(config, method) == known
    stands = replace(MEASURED, seconds=MEASURED.seconds | {"slowest": 9.0})
    expected = stands.seconds[known or "slowest"] / 9.0
    slowest = replace(stands, seconds={"slowest": 9.0}).training(config, cell(method))
    assert stands.training(config, cell(method)) == pytest.approx(expected * slowest)


def test_targets_add_up() -> None:
    """Each target has its own sum; what two targets share counts once in all."""
    experiments = {"taus": {"title": "Taus", "methods": ["cgs", "cps"], "labelled": [1]}}
    config = small_config(methods=["cgs", "fully-supervised", "labelled-only"], experiments=experiments)
    table, taus, every = targets(config, [MEASURED])
    assert [t.name for t in (table, taus, every)] == ["table-phantom", "taus", "all"]
    assert (table.runs, taus.runs, every.runs) == (5, 2, 6)
    shared = MEASURED.training(config, Cell("phantom", "1", "cgs", 0)) / 3600
    assert every.hours[0] == pytest.approx(table.hours[0] + taus.hours[0] - shared)


def test_every_method_of_the_paper_is_measured() -> None:
    """On the processor of the shipped results; and the ranks are a permutation with CGS above the control."""
    config = small_config(methods=["cgs", "labelled-only", "unimatch"])
    first = measurements()[0]
    assert all(first.known(config, m) == m for m in config.methods)
    ranks = priorities(config)
    assert sorted(ranks.values()) == [1, 2, 3]
    assert ranks["labelled-only"] == 1


def test_without_measurements_nothing_is_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgs.analysis.cost.measurements", lambda: [])
    config = small_config(methods=["cgs", "cps"])
    assert priorities(config) == {"cgs": 1, "cps": 1}
    assert "hours" not in table(config)


def test_the_command_needs_no_torch() -> None:
    code = "import sys; from cgs.__main__ import main; main(['targets']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "table-acdc" in done.stdout and "ablation-ihed" in done.stdout
    assert "everything, once" in done.stdout
