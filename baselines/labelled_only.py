"""Labelled-only: the U-Net on the labelled slices alone, the lower control of every comparison.

L = 0.5 (CE + Dice) on the labelled slices. The batch holds `labelled_batch` slices, as many labelled ones
as every other method sees.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from cgs.engine.losses import supervised
from cgs.engine.method import BACKBONES, Method, Progress
from cgs.engine.views import Batch, ViewSpec


class LabelledOnly(Method):
    """Supervised training with the few labels there are."""

    title = "Labelled only"
    reference = "control"
    backbones = BACKBONES

    @cached_property
    def views(self) -> ViewSpec:
        return ViewSpec(unlabelled=False)

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"supervised": supervised(self.nets["student"](batch.labelled.weak), batch.labels)}
