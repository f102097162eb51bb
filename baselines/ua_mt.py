"""UA-MT: Mean Teacher that believes its teacher only where it is certain.

Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation", MICCAI
2019; the 2D variant of SSL4MIS.

    U = -sum_c p log(p + 1e-6), p = mean of the softmax maps of T = 8 noisy teacher passes with dropout
    L = 0.5 (CE + Dice)(x_l, y) + lambda(t) sum(m (p_s - p_t)^2) / (2 sum(m) + 1e-16), m = [U < H(t)]
    H(t) = (0.75 + 0.25 exp(-5 (1 - t/T_max)^2)) ln 2

Kept from the binary original, as released: ln 2 and the factor 2 although there are more classes.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from cgs.engine.losses import supervised
from cgs.engine.method import Method, Progress
from cgs.engine.views import Batch, noisy


def threshold(progress: Progress) -> float:
    """H(t), the entropy below which a pixel counts."""
    return (0.75 + 0.25 * math.exp(-5.0 * (1 - progress.iteration / progress.iterations) ** 2)) * math.log(2)


def uncertainty(passes: Tensor) -> Tensor:
    """Entropy (B, H, W) of the mean softmax of teacher logits (T, B, C, H, W)."""
    mean = passes.float().softmax(2).mean(0)
    return -(mean * (mean + 1e-6).log()).sum(1)


def masked_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """sum(m (p_s - p_t)^2) / (2 sum(m) + 1e-16) of logits (B, C, H, W) under a mask (B, H, W)."""
    distance = (student.float().softmax(1) - teacher.float().softmax(1)).square()
    return (mask.unsqueeze(1) * distance).sum() / (2 * mask.sum() + 1e-16)


class UncertaintyAwareMeanTeacher(Method):
    """Mean Teacher with a mask of certain pixels."""

    title = "UA-MT"
    reference = "Yu et al., MICCAI 2019"
    teachers = {"teacher": "student"}

    class Options(Method.Options):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the consistency after its ramp-up.")
        passes: int = Field(8, ge=2, multiple_of=2, description="Stochastic teacher passes.")

    options: Options

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        count, images = len(batch.labels), batch.unlabelled.weak
        logits = self.nets["student"](torch.cat([batch.labelled.weak, images]))
        with torch.no_grad():
            teacher = self.nets["teacher"]
            taught = teacher(noisy(images, batch.noise))
            # As released: each forward takes the images twice, so T passes are T/2 forwards.
            twice = [
                teacher(noisy(images.repeat(2, 1, 1, 1), batch.noise))
                for _ in range(self.options.passes // 2)
            ]
            mask = uncertainty(torch.cat([t.unflatten(0, (2, -1)) for t in twice])) < threshold(progress)
        weight = progress.ramp(self.options.lambda_max)
        return {
            "supervised": supervised(logits[:count], batch.labels),
            "consistency": weight * masked_distance(logits[count:], taught, mask),
        }
