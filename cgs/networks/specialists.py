"""The generalist U-Net with one specialist head per target (CGS, section "specialist heads").

All K heads are one grouped convolution pair, so that their cost stays almost flat in K.
"""

from __future__ import annotations

from torch import Tensor, nn

from cgs.networks.transunet import TransUNet
from cgs.networks.unet import UNet


class SpecialistHeads(nn.Module):
    """K heads on one feature map: (B, width, H, W) to logits (B, K, outputs, H, W).

    Each head is a 1x1 convolution, batch normalisation, LeakyReLU and a 3x3 convolution to `outputs`
    classes: {background, target, remaining targets} for a specialist head, {rest, target} for a binary
    one. 739 parameters a head at width 16 with three outputs.
    """

    def __init__(self, width: int, heads: int, outputs: int = 3) -> None:
        super().__init__()
        self.heads, self.outputs = heads, outputs
        self.layers = nn.Sequential(
            nn.Conv2d(width, heads * width, 1),
            nn.BatchNorm2d(heads * width),
            nn.LeakyReLU(0.01, inplace=True),
            nn.Conv2d(heads * width, heads * outputs, 3, padding=1, groups=heads),
        )

    def forward(self, features: Tensor) -> Tensor:
        logits = self.layers(features)
        batch, _, height, width = logits.shape
        return logits.reshape(batch, self.heads, self.outputs, height, width)


class CollaborativeNet(nn.Module):
    """Generalist (the shared U-Net, or another network of its kind) and specialists on its last decoder feature."""

    def __init__(
        self, classes: int, width: int, outputs: int = 3, generalist: UNet | TransUNet | None = None
    ) -> None:
        super().__init__()
        self.generalist = generalist or UNet(classes, width)
        self.specialists = SpecialistHeads(self.generalist.out.in_channels, classes - 1, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Generalist logits (B, C, H, W) and specialist logits (B, K, outputs, H, W), K = C - 1."""
        features = self.generalist.features(x)
        return self.generalist.out(features), self.specialists(features)


def split(outputs: tuple[Tensor, Tensor], first: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cut both outputs along the batch after `first` images."""
    general, special = outputs
    return (general[:first], special[:first]), (general[first:], special[first:])
