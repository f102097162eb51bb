"""Fully supervised: the U-Net with the labels of all training slices, the upper control.

L = 0.5 (CE + Dice). It is trained once per dataset and seed and stands above every label ratio; it differs
from `labelled-only` in nothing but the labels it may see.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from cgs.engine.losses import supervised
from cgs.engine.method import Method, Progress
from cgs.engine.views import Batch, ViewSpec


class FullySupervised(Method):
    """Supervised training with every label."""

    title = "Fully supervised"
    reference = "control"

    @cached_property
    def views(self) -> ViewSpec:
        return ViewSpec(unlabelled=False)

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"supervised": supervised(self.nets["student"](batch.labelled.weak), batch.labels)}
