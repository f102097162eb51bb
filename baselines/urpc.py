"""URPC: predictions at four scales agree, the more the surer they are.

Luo et al., "Efficient semi-supervised gross target volume of nasopharyngeal carcinoma segmentation via
uncertainty rectified pyramid consistency", MICCAI 2021; the 2D variant of SSL4MIS.

    L = mean over scales s of 0.5 (CE + Dice)(f_s(x_l), y) + lambda(t) L_c,   pbar = mean of the softmax maps p_s
    D_s = sum_c pbar_c (log pbar_c - log p_s,c),   w_s = exp(-D_s)
    L_c = mean over s of [ mean((pbar - p_s)^2 w_s) / (mean(w_s) + 1e-8) + mean(D_s) ]  on x_u

Nothing is detached. Auxiliary heads sit after the first three up-blocks; in training their inputs are perturbed:
dropout at 1/8, the most active positions removed at 1/4, multiplicative noise at 1/2 of the resolution. Left out
is a head on the bottleneck that the release creates and never uses. Only the U-Net is kept for inference.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import supervised
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.networks.unet import UNet, enlarge


def drop_active(features: Tensor) -> Tensor:
    """Zero the positions whose mean over channels is at least r times the image's maximum, r ~ U(0.7, 0.9)."""
    attention = features.mean(1, keepdim=True)
    share = 0.7 + 0.2 * torch.rand((), device=features.device)
    return features * (attention < share * attention.amax((2, 3), keepdim=True))


def multiply_noise(features: Tensor) -> Tensor:
    """x + x n, n ~ U(-0.3, 0.3) of shape (C, H, W), the same for all images of the batch."""
    return features + features * (0.6 * torch.rand(features.shape[1:], device=features.device) - 0.3)


class PyramidNet(nn.Module):
    """The U-Net with three auxiliary heads: (B, 1, H, W) to four logits (B, C, H, W), the main one first."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.unet = UNet(classes, width)
        self.heads = nn.ModuleList(nn.Conv2d(width * n, classes, 3, padding=1) for n in (8, 4, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        *coarse, full = self.unet.decoder(self.unet.encode(x))
        if self.training:
            eighth, quarter, half = coarse
            coarse = [F.dropout(eighth, 0.5), drop_active(quarter), multiply_noise(half)]
        auxiliary = [head(f) for head, f in zip(self.heads, coarse, strict=True)]
        return (self.unet.out(full), *(enlarge(a, n) for a, n in zip(auxiliary, (8, 4, 2), strict=True)))


def pyramid_consistency(outputs: tuple[Tensor, ...]) -> Tensor:
    """L_c per scale (S,) of S logits (B, C, H, W)."""
    logs = torch.stack([o.float().log_softmax(1) for o in outputs])
    # The logarithm of the mean, from logarithms: a probability that underflows gives no infinity.
    log_mean = logs.logsumexp(0) - math.log(len(outputs))
    mean = log_mean.exp()
    divergence = (mean * (log_mean - logs)).sum(2, keepdim=True)
    weight = (-divergence).exp()
    over = (1, 2, 3, 4)
    distance = ((mean - logs.exp()).square() * weight).mean(over)
    return distance / (weight.mean(over) + 1e-8) + divergence.mean(over)


class UncertaintyRectifiedPyramidConsistency(Method):
    """Consistency of four scales, weighted by their certainty."""

    title = "URPC"
    reference = "Luo et al., MICCAI 2021"

    class Options(Method.Options):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the consistency after its ramp-up.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"student": PyramidNet(task.classes, task.width)}

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        count = len(batch.labels)
        outputs = self.nets["student"](torch.cat([batch.labelled.weak, batch.unlabelled.weak]))
        own = torch.stack([supervised(o[:count], batch.labels) for o in outputs]).mean()
        consistency = pyramid_consistency(tuple(o[count:] for o in outputs)).mean()
        return {
            "supervised": own,
            "consistency": progress.ramp(self.options.lambda_max) * consistency,
        }

    def inference(self) -> dict[str, nn.Module]:
        student = self.nets["student"]
        assert isinstance(student, PyramidNet)
        return {"student": student.unet}
