"""How good pseudo-labels are, watched during training on labels that the loss never sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cgs.engine.method import NOT_LABELLED, Method

BATCH = 32
"""Slices labelled at once."""


@contextmanager
def undisturbed(method: Method, device: torch.device) -> Iterator[None]:
    """Within it, networks may run in train mode: batch statistics and random numbers are put back after."""
    buffers = [b for net in method.nets.values() for b in net.buffers()]
    before = [b.clone() for b in buffers]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


class Quality:
    """Compares what a method would teach on fixed unlabelled slices with their hidden labels.

    images (N, 1, S, S) float32 in [0, 1], labels (N, S, S) uint8 in 0..K.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, targets: tuple[str, ...], device: torch.device
    ) -> None:
        self.images, self.labels, self.device = images.to(device), labels.to(device), device
        self.names = ("background", *targets)

    @torch.no_grad()
    def __call__(self, method: Method) -> dict[str, dict[str, list[int]]]:
        """Four pixel counts for each kind of pseudo-label and class; {} where a method has none.

        [labelled as the class, rightly so, truly of the class, labelled among those]: precision is the second over the
        first, coverage the fourth over the third.
        """
        found: dict[str, list[Tensor]] = {}
        with undisturbed(method, self.device):
            for images, labels in zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True):
                for name, taught in method.taught_labels(images).items():
                    found.setdefault(name, []).append(self.counts(taught, labels))
        return {
            name: dict(zip(self.names, torch.stack(parts).sum(0).tolist(), strict=True))
            for name, parts in found.items()
        }

    def counts(self, taught: Tensor, labels: Tensor) -> Tensor:
        """The four counts of every class: (C, 4)."""
        rows = []
        given = taught != NOT_LABELLED
        for k in range(len(self.names)):
            said, true = taught == k, labels == k
            rows.append(torch.stack([said.sum(), (said & true).sum(), true.sum(), (given & true).sum()]))
        return torch.stack(rows)
