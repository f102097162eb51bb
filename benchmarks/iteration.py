"""One method with its batches, optimiser and teachers, on made slices: what the benchmarks time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # A checkout works without being installed.

from cgs.config import TrainingConfig
from cgs.engine.method import Method, Progress, Task, build, load_method, options_of
from cgs.engine.seeds import generator
from cgs.engine.train import Step
from cgs.engine.views import BatchMaker
from cgs.presets import VARIANTS

MIDDLE = 15000


class Iteration:
    """Calling it does one iteration in the middle of a 30,000-iteration training.

    `name` is a method or a variant; `size` in pixels; `batch` slices of each kind; `slices` training slices, of which
    the first two batches are labelled; `options` of the method beside those of the variant.
    """

    def __init__(
        self,
        name: str,
        size: int,
        batch: int,
        device: torch.device,
        *,
        targets: int = 3,
        slices: int | None = None,
        training: TrainingConfig | None = None,
        **options: object,
    ) -> None:
        base, values = (VARIANTS[name]["extends"], VARIANTS[name]) if name in VARIANTS else (name, {})
        kind = load_method(str(base))
        chosen = {k: v for k, v in values.items() if k != "extends"} | options
        self.method: Method = kind(Task(targets + 1, size, 16), options_of(kind, chosen, name))
        build(self.method, lambda axis: torch.manual_seed(len(axis)), device)
        draw = torch.Generator().manual_seed(0)
        count = slices or 6 * batch
        images = torch.rand(count, size, size, generator=draw).to(device)
        labels = torch.randint(0, targets + 1, images.shape, generator=draw, dtype=torch.uint8).to(device)
        parts = torch.arange(2 * batch), torch.arange(2 * batch, count)
        noise = generator(0, "noise", device=device)
        self.batches = BatchMaker(images, labels, *parts, self.method.views, (batch, batch), 0, noise)
        self.method.begin(labels[: 2 * batch])
        self.step = Step(self.method, training or TrainingConfig(), device)
        self.done, self.device = 1, device  # Not on a multiple of 60: CauSSL's max step is rare.

    def __call__(self) -> None:
        self.step(self.batches(self.done), Progress(MIDDLE + self.done, 2 * MIDDLE))
        self.done += 1

    def seconds(self) -> float:
        """Wall seconds of one iteration, waiting for the device."""
        start = time.perf_counter()
        self()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start
