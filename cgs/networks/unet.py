"""The shared 2D U-Net (SSL4MIS / PyMIC lineage) that every method of the benchmark trains.

Five levels, two 3x3 convolutions a level with batch normalisation and LeakyReLU(0.01), element-wise
dropout after the first of them, 2x2 max-pooling down, 1x1 convolution and bilinear up-sampling with
aligned corners up. At width 16 and four classes it has 1,813,764 parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Dropout probability of the encoder levels, full resolution first; the decoder has none."""


class Dropout(nn.Module):
    """Element-wise dropout of feature maps (B, C, H, W); on the CPU with 16 random bits an element.

    torch draws a whole float an element there, on one thread. The probability is rounded to a multiple of 2^-16 and
    what stays is scaled by exactly its inverse, so that the mean does not move.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return nn.functional.dropout(x, self.probability, self.training)
        dropped = round(self.probability * 2**16)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = torch.empty_like(x, dtype=torch.bool)  # In the memory layout of x.
        flat = kept.permute(0, 2, 3, 1) if kept.is_contiguous(memory_format=torch.channels_last) else kept
        torch.ge(bits.view(torch.int16)[: x.numel()].view(flat.shape), dropped - 2**15, out=flat)
        return torch.where(kept, x, 0.0).mul_(2**16 / (2**16 - dropped))


class ConvBlock(nn.Sequential):
    """3x3 conv, BN, LeakyReLU, dropout, 3x3 conv, BN, LeakyReLU."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(
                0.01, inplace=True
            ),  # In place: the convolution needs the result, nothing the input.
            Dropout(dropout) if dropout else nn.Identity(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(0.01, inplace=True),
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


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Nearest-neighbour up-sampling of (B, C, H, W) by a whole factor.

    Expanding instead of torch's kernel: its gradient is a sum in a fixed order on every device.
    """
    batch, channels, height, width = x.shape
    wide = x[:, :, :, None, :, None].expand(-1, -1, -1, factor, -1, factor)
    return wide.reshape(batch, channels, height * factor, width * factor)


class DoubleNearest(nn.Module):
    """Nearest-neighbour x2 up-sampling."""

    def forward(self, x: Tensor) -> Tensor:
        return enlarge(x, 2)


Up = Literal["bilinear", "transposed", "nearest"]
"""How a decoder doubles the size: a 1x1 convolution and bilinear or nearest, or one transposed convolution."""


class UpBlock(nn.Module):
    """Halve the channels, double the size, concatenate [skip, up], ConvBlock."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int, up: Up = "bilinear") -> None:
        super().__init__()
        self.reduce: nn.Module
        self.up: nn.Module
        if up == "transposed":
            self.reduce = nn.ConvTranspose2d(channels_in, channels_skip, 2, stride=2)
            self.up = nn.Identity()
        else:
            self.reduce = nn.Conv2d(channels_in, channels_skip, 1)
            self.up = DoubleBilinear() if up == "bilinear" else DoubleNearest()
        self.conv = ConvBlock(2 * channels_skip, channels_out, 0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(self.reduce(x))], dim=1))


class Decoder(nn.ModuleList):
    """The four up-blocks, coarse to fine; `up` says how they double the size."""

    def __init__(self, width: int, up: Up = "bilinear") -> None:
        widths = [width * 2**level for level in range(5)]
        super().__init__(
            UpBlock(widths[level + 1], widths[level], widths[level], up) for level in (3, 2, 1, 0)
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Features of the four levels, at 1/8, 1/4, 1/2 and full resolution, from the encoder's five."""
        x, features = levels[-1], []
        for block, skip in zip(self, reversed(levels[:-1]), strict=True):
            x = block(x, skip)
            features.append(x)
        return features


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Within it, the batch norms of a network in train mode use batch statistics but do not track them."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class UNet(nn.Module):
    """2D U-Net: images (B, channels, H, W) to logits (B, classes, H, W); H and W multiples of 16."""

    def __init__(self, classes: int, width: int = 16, channels: int = 1) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        before = [channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            ConvBlock(i, o, p) for i, o, p in zip(before, widths, DROPOUT, strict=True)
        )
        self.decoder = Decoder(width)
        self.out = nn.Conv2d(width, classes, 3, padding=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of the five levels, full resolution first."""
        levels = [self.encoder[0](x)]
        for block in self.encoder[1:]:
            levels.append(block(nn.functional.max_pool2d(levels[-1], 2)))
        return levels

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Last decoder feature (B, width, H, W) from the encoder's levels."""
        last: Tensor = self.decoder(levels)[-1]
        return last

    def features(self, x: Tensor) -> Tensor:
        """Last decoder feature (B, width, H, W), the input of the output convolution."""
        return self.decode(self.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))
