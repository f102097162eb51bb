"""The energy of a training: what the GPU tells is recorded, summed over resumed parts; what it does not is left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cgs.engine.device as device_module
from cgs.engine.device import energy
from cgs.engine.train import Trainer

CUDA = torch.device("cuda", 0)


class NVMLError(Exception):
    """As pynvml raises it."""


def fake_nvml(millijoules: Callable[[str], int]) -> Any:
    """What `energy` uses of pynvml, with a counter of its own."""
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=millijoules,
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))


@pytest.mark.usefixtures("gpu")
def test_joules_are_those_of_the_gpu_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml({"GPU-1234": 5_500}.__getitem__))
    assert energy(CUDA) == 5.5
    assert energy(torch.device("cpu")) is None


@pytest.mark.usefixtures("gpu")
def test_what_tells_nothing_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> int:
        raise NVMLError("not supported")

    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(refuse))
    assert energy(CUDA) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # Importing it fails.
    assert energy(CUDA) is None


def counting(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Every reading of the counter is `step` joules after the one before."""

    def readings() -> Iterator[float]:
        total = 1000.0
        while True:
            yield total
            total += step

    source = readings()
    monkeypatch.setattr(device_module, "energy", lambda _: next(source))


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
    return facts


def test_parts_of_a_training_add_up(run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    counting(monkeypatch, 10.0)
    # Begin, three checkpoints, end: four steps.
    assert facts_of(run_cell("cgs"))["energy_joules"] == 40.0

    save = Trainer.save

    def die(trainer: Trainer) -> None:
        save(trainer)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", die)
    with pytest.raises(KeyboardInterrupt):
        run_cell("cgs", place="b")
    monkeypatch.setattr(Trainer, "save", save)
    # One step before the first checkpoint; begin, two checkpoints, end after it: three.
    assert facts_of(run_cell("cgs", place="b"))["energy_joules"] == 40.0


def test_unknown_and_shared_energy_is_not_recorded(
    run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "energy_joules" not in facts_of(run_cell("labelled-only"))
    counting(monkeypatch, 10.0)
    shared = run_cell("labelled-only", place="b", training={"gpu_slots": 2})
    assert "energy_joules" not in facts_of(shared)
