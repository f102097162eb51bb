"""What was made fast computes what the plain way computes."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from cgs.discovery import ROOT
from cgs.engine.device import keep_memory
from cgs.engine.method import Progress, Task, build, load_method, options_of
from cgs.engine.seeds import generator
from cgs.engine.views import BatchMaker, intensities
from cgs.networks.unet import Dropout
from cgs.specialists import fuse_specialists, pseudo_labels

CPU = torch.device("cpu")


@pytest.mark.parametrize("teacher_mode", ["train", "eval"])
def test_merged_passes_compute_the_same_loss_where_batches_share_no_statistics(teacher_mode: str) -> None:
    """In float64 with networks in eval mode, an image's output does not depend on what passes with it."""
    images = torch.rand(24, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.randint(0, 4, images.shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    parts = torch.arange(8), torch.arange(8, 24)
    found = []
    for merged in (False, True):
        kind = load_method("cgs")
        values = {"merged_passes": merged, "teacher_mode": teacher_mode, "tau": 0.2}
        method = kind(Task(4, 32, 4), options_of(kind, values, "test"))
        build(method, lambda axis: torch.manual_seed(len(axis)), CPU)
        for net in method.nets.values():
            net.double().eval()
        batch = BatchMaker(images, labels, *parts, method.views, (4, 4), 0, generator(0, "noise"))(0)
        terms = method.loss(batch, Progress(9, 10))
        sum(terms.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in method.nets["student"].parameters()])
        found.append((terms, gradient))
    (plain, one), (merged_terms, two) = found
    for name, term in plain.items():
        assert term.item() == pytest.approx(merged_terms[name].item(), rel=1e-12)
    assert (one - two).norm() < 1e-10 * one.norm()


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout(probability: float, layout: torch.memory_format) -> None:
    """As many elements as stated are dropped, independently; the rest is scaled; the gradient has the same mask."""
    torch.manual_seed(0)
    x = torch.ones(4, 8, 64, 50).contiguous(memory_format=layout).requires_grad_()
    y = Dropout(probability)(x)
    assert y.is_contiguous(memory_format=layout)
    dropped = y == 0
    spread = (probability * (1 - probability) / x.numel()) ** 0.5
    assert dropped.float().mean().item() == pytest.approx(probability, abs=5 * spread)
    scale = 2**16 / (2**16 - round(probability * 2**16))
    assert torch.equal(y[~dropped], torch.full_like(y[~dropped], scale))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    for axis in range(4):  # Neighbours know nothing of one another.
        a, b = dropped.narrow(axis, 1, x.shape[axis] - 1), dropped.narrow(axis, 0, x.shape[axis] - 1)
        both = (a & b).float().mean().item()
        assert both == pytest.approx(probability**2, abs=5 * (probability**2 / a.numel()) ** 0.5)
    again = Dropout(probability)(x) == 0
    assert not torch.equal(dropped, again)
    assert Dropout(probability).eval()(x) is x


def test_dropout_of_any_count_of_elements() -> None:
    for shape in ((1, 1, 1, 1), (1, 3, 1, 1), (2, 1, 3, 1), (3, 5, 7, 1)):
        assert Dropout(0.5)(torch.ones(shape, dtype=torch.float64)).shape == shape


def test_the_label_of_equals_is_the_first() -> None:
    """As argmax has it, which the release uses."""
    equal = torch.full((1, 3, 3, 2, 2), 1 / 3)
    labels = pseudo_labels(torch.zeros(1, 4, 2, 2), equal.log(), 0.9)
    assert not labels.specialists.any() and not labels.generalist.any()
    draw = torch.randint(0, 3, (2, 3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    scores = torch.cat([draw[:, :, 0].mean(1, keepdim=True), draw[:, :, 1]], 1)
    assert torch.equal(fuse_specialists(draw), scores.argmax(1))


def test_binary_heads_say_background_where_none_says_target() -> None:
    """Class 0 of a binary head is all but its target: the others' 0.99 on it must not outvote the surest head."""
    own = torch.tensor([0.6, 0.01, 0.01]), torch.tensor([0.4, 0.01, 0.01]), torch.tensor([0.7, 0.9, 0.01])
    heads = torch.stack([torch.stack([1 - p, p], 1) for p in own], -1).unsqueeze(0).unsqueeze(3)
    assert fuse_specialists(heads).flatten().tolist() == [1, 0, 2]


def test_stored_intensities_are_exact() -> None:
    stored = np.arange(65536, dtype=np.uint16)
    found = intensities(torch.from_numpy(stored.view(np.int16)))
    assert np.array_equal(found.numpy(), stored.astype(np.float32) / 65535)
    assert torch.equal(intensities(found), found)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
def test_freed_memory_is_kept() -> None:
    """The pages of freed tensors serve the next ones: after some rounds hardly any is asked of the system."""
    code = (
        "import resource, torch\n"
        "from cgs.engine.device import keep_memory\n"
        "{keep}\n"
        "for round in range(8):\n"
        "    if round == 4:\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    kept = [torch.empty({size}, dtype=torch.uint8).fill_(1) for _ in range({count})]\n"
        "    del kept\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )

    def pages(keep: str, size: int, count: int) -> int:
        command = [sys.executable, "-c", code.format(keep=keep, size=size, count=count)]
        return int(subprocess.check_output(command, cwd=ROOT, text=True))

    # The same bytes. Above 32 MiB the C library by itself keeps nothing; below, that depends on what lies above it.
    kept, plain = pages(f"{keep_memory.__name__}()", 20_000_000, 4), pages("", 40_000_000, 2)
    # Where an aligned block fits is chance: the heap may grow once more in a late round.
    assert 3 * kept < plain
