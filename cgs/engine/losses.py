"""Loss terms that several methods share, and the schedules of their weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, H, W) integer labels to (B, classes, H, W) float32."""
    values = torch.arange(classes, device=labels.device).view(1, -1, 1, 1)
    return (labels.unsqueeze(1) == values).float()


def cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over ALL pixels of mask x cross-entropy: masked pixels count in the denominator.

    logits (B, C, H, W), labels (B, H, W) integer, mask (B, H, W) bool or None. Scalar.
    """
    # Unreduced, then averaged: torch's reducing 2D kernel adds atomically on CUDA and differs from run to run.
    losses = F.cross_entropy(logits.float(), labels.long(), reduction="none")
    if mask is not None:
        losses = losses * mask
    return losses.mean()


def dice_per_class(
    probabilities: Tensor, target: Tensor, mask: Tensor | None = None, smooth: float = 1e-10
) -> Tensor:
    """Soft Dice loss of each class (C,), background too: 1 - (2 sum pg + e) / (sum pp + sum gg + e).

    probabilities (B, C, H, W); target (B, H, W) integer labels or (B, C, H, W) probabilities; sums run
    over batch and pixels. `mask` (B, H, W) removes pixels from all three sums. Values in [0, 1].
    """
    if target.dim() == 3:
        target = one_hot(target, probabilities.shape[1])
    kept = 1.0 if mask is None else mask.unsqueeze(1).float()
    over = (0, 2, 3)
    intersection = (probabilities * target * kept).sum(over)
    squares = (probabilities.square() * kept).sum(over) + (target.square() * kept).sum(over)
    return 1 - (2 * intersection + smooth) / (squares + smooth)


def dice(probabilities: Tensor, target: Tensor, mask: Tensor | None = None, smooth: float = 1e-10) -> Tensor:
    """The mean of `dice_per_class`. Scalar in [0, 1]."""
    return dice_per_class(probabilities, target, mask, smooth).mean()


def cross_entropy_and_dice(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    dice_mask: bool = True,
    smooth: float = 1e-10,
) -> Tensor:
    """CE + Dice, both under `mask`; with `dice_mask` False, only the cross-entropy is masked."""
    probabilities = logits.float().softmax(dim=1)
    return cross_entropy(logits, labels, mask) + dice(
        probabilities, labels, mask if dice_mask else None, smooth
    )


def supervised(logits: Tensor, labels: Tensor) -> Tensor:
    """0.5 (CE + Dice), the supervised loss of the SSL4MIS baselines (Dice smoothing 1e-5)."""
    return 0.5 * cross_entropy_and_dice(logits, labels, smooth=1e-5)


def ramp(maximum: float, iteration: int, iterations: int, steps: int = 200) -> float:
    """Sigmoid ramp-up: maximum * exp(-5 (1 - min(s, steps) / steps)^2), s = floor(200 t / T).

    `iteration` t is 0-based, `iterations` T is the whole training: the ramp is relative to the budget. It ends
    after `steps` of its 200 units; a unit is the 150 iterations of the released codes where T is 30,000.
    """
    step = min(iteration * 200 // iterations, steps)
    return maximum * math.exp(-5.0 * (1.0 - step / steps) ** 2)


def in_float32(like: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of `like`: for matrix products inside a loss."""
    return torch.autocast(like.device.type, enabled=False)


def ema_decay(iteration: int, decay: float = 0.99) -> float:
    """min(1 - 1/(t+1), decay): iteration 0 copies the student."""
    return min(1.0 - 1.0 / (iteration + 1), decay)
