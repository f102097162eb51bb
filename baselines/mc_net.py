"""MC-Net and MC-Net+: decoders that differ in their up-sampling must agree, and be sure.

Wu et al., "Semi-supervised left atrium segmentation with mutual consistency training", MICCAI 2021 (two decoders),
and "Mutual consistency learning for semi-supervised medical image segmentation", Medical Image Analysis 2022 (three:
MC-Net+, here `decoders: 3`); the released 2D script.

    L = sum_i Dice(p_i(x_l), y) + lambda(t + 1) sum_{i != j} mean (p_i - sh(p_j))^2  on labelled and unlabelled
    sh(p) = p^(1/T) / (p^(1/T) + (1 - p)^(1/T)),  T = 0.1, per channel, not normalised over classes

One encoder; decoder 1 up-samples bilinearly and is the shared U-Net, which is reported; decoder 2 by transposed
convolutions, decoder 3 by nearest neighbours. Kept as released: no cross-entropy, no learning rate decay, gradients
through the sharpened side too, and a Dice without the factor 2 (`released_dice`), whose minimum is 0.5.
"""

from __future__ import annotations

from itertools import permutations
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import dice, one_hot
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.networks.unet import Decoder, UNet, Up


class Branch(nn.Module):
    """A decoder with an output convolution of its own."""

    def __init__(self, classes: int, width: int, up: Up) -> None:
        super().__init__()
        self.decoder = Decoder(width, up)
        self.out = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        logits: Tensor = self.out(self.decoder(levels)[-1])
        return logits


class MutualNet(nn.Module):
    """The U-Net with one or two more decoders: (B, 1, H, W) to two or three logits (B, C, H, W)."""

    def __init__(self, classes: int, width: int, decoders: int) -> None:
        super().__init__()
        ups: tuple[Up, ...] = ("transposed", "nearest")
        self.unet = UNet(classes, width)
        self.branches = nn.ModuleList(Branch(classes, width, up) for up in ups[: decoders - 1])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels = self.unet.encode(x)
        return (self.unet.out(self.unet.decode(levels)), *(branch(levels) for branch in self.branches))


def sharpen(p: Tensor, temperature: float = 0.1) -> Tensor:
    """sh(p) of probabilities of any shape."""
    sharp = p ** (1 / temperature)
    return sharp / (sharp + (1 - p) ** (1 / temperature))


def half_dice(probabilities: Tensor, labels: Tensor) -> Tensor:
    """1 - sum pg / (sum pp + sum gg + 1e-10), the mean over classes: Dice without its factor 2, as released."""
    target, over = one_hot(labels, probabilities.shape[1]), (0, 2, 3)
    squares = probabilities.square().sum(over) + target.sum(over)
    return (1 - (probabilities * target).sum(over) / (squares + 1e-10)).mean()


class MutualConsistency(Method):
    """Agreement of decoders with each other's sharpened outputs."""

    title = "MC-Net"
    reference = "Wu et al., MICCAI 2021; Medical Image Analysis 2022"

    class Options(Method.Options):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the consistency after its ramp-up.")
        decoders: Literal[2, 3] = Field(2, description="2: MC-Net; 3: MC-Net+.")
        released_dice: bool = Field(True, description="Dice without the factor 2, as released.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"student": MutualNet(task.classes, task.width, self.options.decoders)}

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        return initial

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        count = len(batch.labels)
        outputs = self.nets["student"](torch.cat([batch.labelled.weak, batch.unlabelled.weak]))
        maps = [o.float().softmax(1) for o in outputs]
        overlap = half_dice if self.options.released_dice else dice
        own = torch.stack([overlap(p[:count], batch.labels) for p in maps]).sum()
        pairs = permutations(maps, 2)
        consistency = torch.stack([(p - sharpen(q)).square().mean() for p, q in pairs]).sum()
        following = Progress(progress.iteration + 1, progress.iterations)
        return {"supervised": own, "consistency": following.ramp(self.options.lambda_max) * consistency}

    def inference(self) -> dict[str, nn.Module]:
        student = self.nets["student"]
        assert isinstance(student, MutualNet)
        return {"student": student.unet}
