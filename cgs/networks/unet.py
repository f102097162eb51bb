"""The shared 2D U-Net (SSL4MIS / PyMIC lineage) that every method of the benchmark trains.

Five levels, two 3x3 convolutions a level with batch normalisation and LeakyReLU(0.01), element-wise
dropout after the first of them, 2x2 max-pooling down, 1x1 convolution and bilinear up-sampling with
aligned corners up. At width 16 and four classes it has 1,813,764 parameters.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Dropout probability of the encoder levels, full resolution first; the decoder has none."""


class ConvBlock(nn.Sequential):
    """3x3 conv, BN, LeakyReLU, dropout, 3x3 conv, BN, LeakyReLU."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(0.01),
            nn.Dropout(dropout),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(0.01),
        )


@lru_cache(maxsize=64)
def _double_matrix(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(2n, n) matrix of linear interpolation from n to 2n samples with aligned end points."""
    position = torch.arange(2 * n, dtype=torch.float64) * (n - 1) / (2 * n - 1)
    low = position.floor().long().clamp(max=max(n - 2, 0))
    weight = position - low
    matrix = torch.zeros(2 * n, n, dtype=torch.float64)
    rows = torch.arange(2 * n)
    matrix[rows, low] = 1 - weight
    matrix[rows, (low + 1).clamp(max=n - 1)] += weight
    return matrix.to(device, dtype)


class DoubleBilinear(nn.Module):
    """Bilinear x2 up-sampling with aligned corners, as two matrix products.

    torch's own kernel adds gradients atomically on CUDA; two products are bit-equal from run to run.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # The native kernel is deterministic here, and faster.
            return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        rows = _double_matrix(x.shape[-2], x.device, x.dtype)
        columns = _double_matrix(x.shape[-1], x.device, x.dtype)
        return rows @ x @ columns.T


class UpBlock(nn.Module):
    """Halve the channels, double the size, concatenate [skip, up], ConvBlock."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, channels_skip, 1)
        self.up = DoubleBilinear()
        self.conv = ConvBlock(2 * channels_skip, channels_out, 0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(self.reduce(x))], dim=1))


class UNet(nn.Module):
    """2D U-Net: images (B, channels, H, W) to logits (B, classes, H, W); H and W multiples of 16."""

    def __init__(self, classes: int, width: int = 16, channels: int = 1) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        before = [channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            ConvBlock(i, o, p) for i, o, p in zip(before, widths, DROPOUT, strict=True)
        )
        self.decoder = nn.ModuleList(
            UpBlock(widths[level + 1], widths[level], widths[level]) for level in (3, 2, 1, 0)
        )
        self.out = nn.Conv2d(width, classes, 3, padding=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of the five levels, full resolution first."""
        levels = [self.encoder[0](x)]
        for block in self.encoder[1:]:
            levels.append(block(nn.functional.max_pool2d(levels[-1], 2)))
        return levels

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Last decoder feature (B, width, H, W) from the encoder's levels."""
        x = levels[-1]
        for block, skip in zip(self.decoder, reversed(levels[:-1]), strict=True):
            x = block(x, skip)
        return x

    def features(self, x: Tensor) -> Tensor:
        """Last decoder feature (B, width, H, W), the input of the output convolution."""
        return self.decode(self.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))
