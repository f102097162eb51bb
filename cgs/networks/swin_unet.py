"""Swin-Unet, the transformer that CTCT trains beside the U-Net.

Cao et al., "Swin-Unet: Unet-like pure transformer for medical image segmentation", ECCV Workshops 2022; blocks of
Liu et al., "Swin transformer: hierarchical vision transformer using shifted windows", ICCV 2021.

Patches of 4x4 pixels, four levels of two blocks (d = width, 2 width, 4 width, 8 width channels; 3, 6, 12, 24 heads),
attention in windows of w x w tokens with a relative position bias, the second block of a level shifted by w // 2.
The decoder mirrors the finer three levels. Maps are (B, H, W, d). At width 96, size 224 and four classes it has
27,168,420 parameters. The published window of 7 belongs to 224 pixels; here w = ceil(size / 32), so that the maps hold
8x8, 4x4, 2x2 and 1x1 windows at every size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 4
DEPTH = 2
"""Blocks of a level, in the encoder and again in the decoder."""
HEADS = (3, 6, 12, 24)
"""Attention heads of the levels, finest first; each has width / 3 channels."""
DROP_PATH = 0.2
"""Rate of the encoder's last block; it grows linearly from 0 at the first."""


def cut(x: Tensor, side: int) -> Tensor:
    """Cut (B, H, W, d) into squares: (B, H / side, W / side, side, side, d)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3)


def paste(squares: Tensor) -> Tensor:
    """Inverse of `cut`: (B, H, W, side, side, d) to (B, H side, W side, d)."""
    batch, height, width, side, _, channels = squares.shape
    return squares.transpose(2, 3).reshape(batch, height * side, width * side, channels)


def relative_positions(window: int) -> Tensor:
    """Row of the bias table for every pair of a window's tokens: (t, t), t = window^2, values < (2 window - 1)^2."""
    token = torch.arange(window * window)
    row, column = token // window, token % window
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    return down * (2 * window - 1) + right


def blocked_pairs(side: int, window: int, shift: int) -> Tensor:
    """Which tokens of a window are no neighbours in the image: (windows, t, t), true where blocked.

    Rolling a map of side x side tokens by -shift brings its first rows and columns behind its last ones;
    tokens on different sides of such a seam share a window and must not see each other.
    """
    rolled = (torch.arange(side) >= side - shift).long()
    region = 2 * rolled[:, None] + rolled[None, :]
    tokens = cut(region[None, :, :, None], window).reshape(-1, window * window)
    return tokens[:, :, None] != tokens[:, None, :]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside (shifted) windows: (B, side, side, d) to the same shape.

        softmax(q k^T / sqrt(d / heads) + bias[relative position]) v

    Written out because fused kernels may choose nondeterministic gradients on CUDA; `index_select` has a
    deterministic one there (torch.use_deterministic_algorithms).
    """

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.index: Tensor
        self.blocked: Tensor
        self.register_buffer("index", relative_positions(window), persistent=False)
        self.register_buffer("blocked", blocked_pairs(side, window, shift), persistent=False)

    def bias(self) -> Tensor:
        """What is added to the attention scores: (windows, heads, t, t), minus infinity where blocked."""
        tokens = len(self.index)
        bias = self.bias_table.index_select(0, self.index.flatten()).T.reshape(self.heads, tokens, tokens)
        return bias.masked_fill(self.blocked[:, None], float("-inf"))

    def attend(self, x: Tensor) -> Tensor:
        """Attention among the t tokens of each window: (B, windows, t, d) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        weights = (self.scale * q @ k.transpose(-2, -1) + self.bias()).softmax(-1)
        return self.project((weights @ v).transpose(2, 3).flatten(3))

    def forward(self, x: Tensor) -> Tensor:
        shifted = x.roll((-self.shift, -self.shift), (1, 2))
        squares = cut(shifted, self.window)
        attended = self.attend(squares.flatten(3, 4).flatten(1, 2))
        return paste(attended.reshape(squares.shape)).roll((self.shift, self.shift), (1, 2))


class DropPath(nn.Module):
    """In training, zero whole samples of (B, H, W, d) at `rate` and divide the others by 1 - rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        return x * nn.functional.dropout(torch.ones(len(x), 1, 1, 1, device=x.device), self.rate)


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)), each branch under drop-path: (B, side, side, d) to the same."""

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, side, window, shift)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm_attention(x)))
        return x + self.drop_path(self.mlp(self.norm_mlp(x)))


class Stage(nn.Sequential):
    """The two blocks of a level, 0 the finest; without a shift where one window fills the map."""

    def __init__(self, level: int, width: int, window: int) -> None:
        side = window * 2 ** (LEVELS - 1 - level)
        shift = window // 2 if side > window else 0
        rate = DROP_PATH / (LEVELS * DEPTH - 1)
        super().__init__(
            *(
                Block(width, HEADS[level], side, window, shift * (i % 2), rate * (DEPTH * level + i))
                for i in range(DEPTH)
            )
        )


class PatchMerge(nn.Module):
    """Half the size, twice the channels: (B, H, W, d) to (B, H / 2, W / 2, 2 d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Column by column, as Swin orders the four, so that its published weights would fit.
        return self.reduce(self.norm(cut(x, 2).transpose(3, 4).flatten(3)))


class PatchExpand(nn.Module):
    """`factor` times the size: (B, H, W, before) to (B, H factor, W factor, after)."""

    def __init__(self, before: int, after: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(before, factor * factor * after, bias=False)
        self.norm = nn.LayerNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(paste(self.expand(x).unflatten(-1, (self.factor, self.factor, -1))))


def _initialise(module: nn.Module) -> None:
    """Linear layers: weights from a truncated normal of deviation 0.02, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SwinUNet(nn.Module):
    """Swin-Unet: images (B, 1 or `channels`, size, size) to logits (B, classes, size, size).

    `width` is a multiple of 3. A size that is no multiple of 32 is padded with zeros, at the bottom and on
    the right, up to the next one, and the logits are cropped.
    """

    def __init__(self, classes: int, size: int, width: int = 96, channels: int = 3) -> None:
        super().__init__()
        if width % HEADS[0]:
            raise ValueError(f"the width of Swin-Unet must be a multiple of {HEADS[0]}, not {width}")
        window = -(-size // 32)
        widths = [width * 2**level for level in range(LEVELS)]
        self.size, self.channels, self.padding = size, channels, 32 * window - size
        self.embed = nn.Conv2d(channels, width, 4, stride=4)
        self.norm_embed = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(Stage(level, widths[level], window) for level in range(LEVELS))
        self.merges = nn.ModuleList(PatchMerge(d) for d in widths[:-1])
        self.norm_encoder = nn.LayerNorm(widths[-1])
        levels = (2, 1, 0)
        self.expands = nn.ModuleList(PatchExpand(2 * widths[level], widths[level], 2) for level in levels)
        self.joins = nn.ModuleList(nn.Linear(2 * widths[level], widths[level]) for level in levels)
        self.decoder = nn.ModuleList(Stage(level, widths[level], window) for level in levels)
        self.norm_decoder = nn.LayerNorm(width)
        self.enlarge = PatchExpand(width, width, 4)
        self.out = nn.Conv2d(width, classes, 1, bias=False)
        self.apply(_initialise)

    def features(self, x: Tensor) -> Tensor:
        """Last map before the output convolution, (B, S, S, width), of padded images (B, channels, S, S)."""
        x = self.norm_embed(self.embed(x).permute(0, 2, 3, 1))
        skips = []
        for stage, merge in zip(self.encoder, self.merges, strict=False):  # The last level has no merge.
            skips.append(x)
            x = merge(stage(x))
        x = self.norm_encoder(self.encoder[-1](x))
        for expand, join, stage in zip(self.expands, self.joins, self.decoder, strict=True):
            x = stage(join(torch.cat([expand(x), skips.pop()], dim=-1)))
        return self.enlarge(self.norm_decoder(x))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(
                f"this Swin-Unet takes {self.size} x {self.size} images, not {tuple(x.shape[-2:])}"
            )
        padded = nn.functional.pad(x, (0, self.padding, 0, self.padding))
        logits = self.out(self.features(padded.expand(-1, self.channels, -1, -1)).permute(0, 3, 1, 2))
        return logits[:, :, : self.size, : self.size]
