"""What every method must keep, found by its file alone: a new baseline inherits these tests."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_config
from torch.utils._python_dispatch import TorchDispatchMode

import cgs.engine.train as engine
from cgs.data.store import load_slices
from cgs.discovery import available_methods
from cgs.engine.device import arithmetic
from cgs.engine.losses import supervised
from cgs.engine.method import Method, Progress, Task, build, load_method, options_of, trained_parameters
from cgs.engine.seeds import generator
from cgs.engine.views import BatchMaker
from cgs.presets import VARIANTS

pytestmark = pytest.mark.parametrize("name", [*available_methods(), *VARIANTS])


def labelled_of(name: str) -> str:
    return "all" if name == "fully-supervised" else "1"


def made(name: str, classes: int = 5, size: int = 32, seed: int | None = None) -> Method:
    base, values = small_config(variants=VARIANTS).method_and_options(name)
    kind = load_method(base)
    method = kind(Task(classes, size, 4), options_of(kind, values, name))
    build(method, lambda axis: torch.manual_seed(len(axis) if seed is None else seed), torch.device("cpu"))
    return method


def batches(
    method: Method, folder: Path, labels: np.ndarray | None = None, sizes: tuple[int, int] = (4, 4)
) -> BatchMaker:
    slices = load_slices(folder)
    images = torch.from_numpy(slices.images.astype(np.float32) / 65535)
    given = torch.from_numpy(np.array(slices.labels if labels is None else labels))
    parts = [torch.from_numpy(np.asarray(f(1))) for f in (slices.labelled_indices, slices.unlabelled_indices)]
    method.begin(given[parts[0]])
    return BatchMaker(images, given, *parts, method.views, sizes, 0, generator(0, "noise"))


def same(first: Path, second: Path, name: str = "weights-last.safetensors") -> bool:
    return (first / name).read_bytes() == (second / name).read_bytes()


def test_is_described(name: str, phantom: Path) -> None:
    method = type(made(name))
    assert method.title and method.reference and (method.__doc__ or "").strip()
    for option, field in method.Options.model_fields.items():
        assert field.description, f"option {option} needs a description"
        assert not field.is_required(), f"option {option} needs a default"


def test_shapes(name: str, phantom: Path) -> None:
    method = made(name)
    with engine.torch.no_grad():
        logits = method.predict(torch.rand(3, 1, 32, 32))
    assert logits.shape == (3, 5, 32, 32)
    assert set(map(id, method.inference().values())) <= {
        id(m) for net in method.nets.values() for m in net.modules()
    }


def test_loss_is_finite_and_reaches_every_network(name: str, phantom: Path) -> None:
    method = made(name)
    terms = method.loss(batches(method, phantom)(0), Progress(600, 1000))
    total = sum(terms.values())
    assert terms and all(t.dim() == 0 for t in terms.values())
    assert torch.isfinite(total)
    total.backward()
    for net_name, net in method.nets.items():
        gradients = [p.grad for p in net.parameters()]
        if net_name in method.teachers:
            assert all(g is None for g in gradients)
        elif net_name not in method.self_stepped:
            assert any(g is not None and g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5), (5, 2)])
def test_batches_of_any_size(name: str, sizes: tuple[int, int], phantom: Path) -> None:
    method = made(name)
    terms = method.loss(batches(method, phantom, sizes=sizes)(0), Progress(600, 1000))
    assert torch.isfinite(sum(terms.values()))


def test_bfloat16_gives_the_same_loss(name: str, phantom: Path) -> None:
    """Networks in bfloat16, losses in float32: every term agrees with that of float32 to a few per cent."""
    values = []
    for precision in ("float32", "bfloat16"):
        training = small_config(training={"precision": precision}).training
        method = made(name)
        batch = batches(method, phantom)(0)
        torch.manual_seed(0)
        with arithmetic(training, torch.device("cpu")):
            terms = method.loss(batch, Progress(600, 1000))
        sum(terms.values()).backward()
        values.append({key: value.item() for key, value in terms.items()})
    plain, half = values
    scale = max(abs(v) for v in plain.values())
    for key, value in plain.items():
        assert half[key] == pytest.approx(value, rel=0.1, abs=0.02 * scale), key


def test_loss_falls(name: str, phantom: Path) -> None:
    """Fifty iterations on one batch bring the supervised loss of what the method predicts down by a fifth."""
    method = made(name)
    batch = batches(method, phantom)(0)
    optimiser = torch.optim.SGD(trained_parameters(method), lr=0.05, momentum=0.9)
    history = []
    for _ in range(50):
        # The start of a long training: unlabelled terms are small and the teacher follows at once.
        terms = method.loss(batch, Progress(0, 30000))
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        for teacher, student in method.teachers.items():
            method.nets[teacher].load_state_dict(method.nets[student].state_dict())
        with torch.no_grad():
            history.append(supervised(method.predict(batch.labelled.weak), batch.labels).item())
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])


def test_no_unlabelled_label_reaches_the_loss(name: str, phantom: Path) -> None:
    """Scrambling the labels of all unlabelled slices changes no bit of the loss."""
    slices = load_slices(phantom)
    scrambled = np.array(slices.labels)
    rest = slices.unlabelled_indices(1)
    scrambled[rest] = (scrambled[rest] + 1) % slices.classes
    values = []
    for labels in (slices.labels, scrambled):
        method = made(name)
        maker = batches(method, phantom, labels)
        torch.manual_seed(0)
        values.append(
            [{k: v.item() for k, v in method.loss(maker(t), Progress(500, 1000)).items()} for t in (0, 1)]
        )
    assert values[0] == values[1]


def test_same_seed_same_bits(name: str, run_cell: Callable[..., Path], phantom: Path) -> None:
    first, second, other = (
        run_cell(name, place, seed, labelled_of(name)) for place, seed in (("a", 0), ("b", 0), ("a", 1))
    )
    assert same(first, second) and same(first, second, "weights.safetensors")
    assert not same(first, other)


WITHOUT_DETERMINISTIC_KERNEL = re.compile(
    r"adaptive_(avg|max)_pool|avg_pool3d|max_pool3d|fractional_max_pool|max_unpool|reflection_pad|ctc_loss|embedding_bag|"
    r"histc|bincount|median|grid_sampler|cumsum|put_?\.|scatter_reduce|upsample_(linear|bicubic|trilinear)|resize_\."
)
"""What torch says it refuses on CUDA in deterministic mode, at least in part. `nll_loss2d` is asked for its reduction
below; `upsample_bilinear2d` is done in another way by torch itself there."""


class Watched(TorchDispatchMode):
    """Refuses operators that have no deterministic kernel on CUDA."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = str(func)
        assert not WITHOUT_DETERMINISTIC_KERNEL.search(called.replace("index_put", "index")), called
        if "nll_loss2d_forward" in called:
            assert args[3] == 0, "a mean or sum of nll_loss2d adds in any order; reduction='none' does not"
        return func(*args, **(kwargs or {}))


def test_nothing_without_a_deterministic_kernel_on_cuda(name: str, phantom: Path) -> None:
    """So that no method fails on a GPU in deterministic mode, where none is at hand to try it."""
    method = made(name)
    maker = batches(method, phantom)
    for stage in method.stages:
        batch = maker(0)
        with Watched():
            terms = method.loss(batch, dataclasses.replace(Progress(600, 1000), stage=stage.name))
            sum(terms.values()).backward()


def test_resume_is_bit_exact(
    name: str, run_cell: Callable[..., Path], phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies at iteration 7 of 12 and resumes at 6 ends like one that was left alone.

    With several stages it dies in the first of them, after its best validation and before the next stage starts there.
    """
    last, training = 7, {"validate_every": 1, "checkpoint_every": 3}
    if len(made(name).stages) > 1:
        last, training = 5, {**training, "iterations": 24}
        seen = iter([0.1, 0.2, 0.9, *[0.3] * 100] * 2)
        monkeypatch.setattr(engine.Validation, "__call__", lambda *_: np.full(4, next(seen)))
    whole = run_cell(name, "a", labelled=labelled_of(name), training=training)
    if len(made(name).stages) > 1:
        seen = iter([0.1, 0.2, 0.9, 0.3, 0.3, *[0.3] * 100])
    iterate = engine.Trainer.iterate

    def dying(self: engine.Trainer, progress: Progress) -> dict[str, torch.Tensor]:
        if self.done == last:
            raise KeyboardInterrupt
        return iterate(self, progress)

    monkeypatch.setattr(engine.Trainer, "iterate", dying)
    with pytest.raises(KeyboardInterrupt):
        run_cell(name, "b", labelled=labelled_of(name), training=training)
    monkeypatch.setattr(engine.Trainer, "iterate", iterate)
    resumed = run_cell(name, "b", labelled=labelled_of(name), training=training)
    assert same(whole, resumed) and same(whole, resumed, "weights.safetensors")
    entries = [
        [json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()] for f in (whole, resumed)
    ]
    for entry in [*entries[0], *entries[1]]:
        entry.pop("seconds")
    assert entries[0] == entries[1]


def test_every_progress_is_a_loss(name: str, phantom: Path) -> None:
    """First, middle and last iteration of every stage give a finite loss."""
    method = made(name)
    maker = batches(method, phantom)
    for stage in method.stages:
        for t in (0, 500, 999):
            terms = method.loss(maker(t), dataclasses.replace(Progress(t, 1000), stage=stage.name))
            assert torch.isfinite(sum(terms.values()))
