"""TransUNet (R50+ViT-B/16): a ResNet-50, a vision transformer on its last map and a convolutional decoder.

Chen et al., "TransUNet: transformers make strong encoders for medical image segmentation", arXiv 2102.04306, 2021.

Images are (B, 1 or 3, S, S), S a multiple of 16; one channel is repeated to three. The ResNet gives three skips,
(B, 64, S/2, S/2), (B, 256, S/4, S/4) and (B, 512, S/8, S/8), and the map (B, 1024, S/16, S/16), whose pixels become
(S/16)^2 tokens of 768 channels for twelve transformer blocks. The decoder doubles the size four times (256, 128, 64
and 16 channels). At size 224 and four classes the network has 105,276,356 parameters.

The published results start from weights that Google trained on ImageNet-21k (R50+ViT-B_16.npz). They are not part of
this package: without a file of them the whole network starts at random.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from cgs.errors import SuiteError
from cgs.networks.unet import DoubleBilinear

UNITS = (3, 4, 9)
"""Units of the ResNet's stages, at 1/4, 1/8 and 1/16 of the size."""
WIDTH = 64
"""Channels of the ResNet's root; stage i has 2^i WIDTH inside a unit and four times as many after it."""
HIDDEN, MLP, HEADS, BLOCKS = 768, 3072, 12, 12
DROPOUT = 0.1
"""Of the embedding and of the MLPs; attention has none."""
DECODER = (256, 128, 64, 16)
"""Channels of the decoder's blocks, coarse to fine."""
SKIPS = (8 * WIDTH, 4 * WIDTH, WIDTH, 0)
"""Channels of the skip that each of them takes."""


class StandardConv(nn.Conv2d):
    """Convolution without bias whose kernels have mean 0 and variance 1, each output channel's on its own."""

    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, size, stride, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        kernel = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return nn.functional.conv2d(x, kernel, None, self.stride, self.padding)


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation of 32 groups of channels."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class Projection(nn.Module):
    """1x1 convolution of the input of a unit that changes the channels; a group of the norm is one channel."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = StandardConv(channels_in, channels_out, 1, stride)
        self.gn = nn.GroupNorm(channels_out, channels_out)  # With torch's own epsilon, as released.

    def forward(self, x: Tensor) -> Tensor:
        return self.gn(self.conv(x))


class Unit(nn.Module):
    """Bottleneck of 1x1, 3x3 (with the stride) and 1x1 convolutions: (B, i, H, W) to (B, o, H / s, W / s)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        inner = channels_out // 4
        self.conv1, self.gn1 = StandardConv(channels_in, inner, 1), group_norm(inner)
        self.conv2, self.gn2 = StandardConv(inner, inner, 3, stride), group_norm(inner)
        self.conv3, self.gn3 = StandardConv(inner, channels_out, 1), group_norm(channels_out)
        self.project = (
            nn.Identity() if channels_in == channels_out else Projection(channels_in, channels_out, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu(self.gn1(self.conv1(x)), inplace=True)
        y = nn.functional.relu(self.gn2(self.conv2(y)), inplace=True)
        return nn.functional.relu(self.project(x) + self.gn3(self.conv3(y)), inplace=True)


class Stage(nn.Sequential):
    """Units of stage `index`; every stage but the first halves the size."""

    def __init__(self, index: int) -> None:
        channels = 4 * WIDTH * 2**index
        first = Unit(WIDTH if index == 0 else channels // 2, channels, 1 if index == 0 else 2)
        super().__init__(first, *(Unit(channels, channels) for _ in range(UNITS[index] - 1)))


class ResNet(nn.Module):
    """Images (B, 3, S, S) to the map (B, 1024, S/16, S/16) and the three skips, coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gn = StandardConv(3, WIDTH, 7, 2), group_norm(WIDTH)
        self.stages = nn.ModuleList(Stage(index) for index in range(len(UNITS)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        half = nn.functional.relu(self.gn(self.conv(x)), inplace=True)
        quarter = self.stages[0](nn.functional.max_pool2d(half, 3, 2))
        eighth = self.stages[1](quarter)
        # Pooling without padding leaves S/4 - 1 rows and columns: the skip gets zeros below and on the right.
        short = half.shape[-1] // 2 - quarter.shape[-1]
        return self.stages[2](eighth), [eighth, nn.functional.pad(quarter, (0, short, 0, short)), half]


class Attention(nn.Module):
    """Multi-head self-attention: (B, n, d) to the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.project = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.project(attended.transpose(1, 2).flatten(2))


def mlp() -> nn.Sequential:
    """Two linear layers with GELU between them and dropout after each, initialised as released."""
    layers = nn.Linear(HIDDEN, MLP), nn.Linear(MLP, HIDDEN)
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(layer.bias, std=1e-6)
    return nn.Sequential(layers[0], nn.GELU(), nn.Dropout(DROPOUT), layers[1], nn.Dropout(DROPOUT))


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)): (B, n, d) to the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.attention = Attention()
        self.norm_mlp = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.mlp = mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class ConvUnit(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class DecoderBlock(nn.Module):
    """Double the size, concatenate [up, skip] where there is a skip, two ConvUnits."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.up = DoubleBilinear()
        self.conv = nn.Sequential(
            ConvUnit(channels_in + channels_skip, channels_out), ConvUnit(channels_out, channels_out)
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        return self.conv(x if skip is None else torch.cat([x, skip], dim=1))


class TransUNet(nn.Module):
    """TransUNet: images (B, channels, size, size) to logits (B, classes, size, size).

    `size` is a multiple of 16, `channels` 1 or 3; `weights` is Google's R50+ViT-B_16.npz for the ResNet and the
    transformer, the decoder starts at random in any case.
    """

    def __init__(self, classes: int, size: int, channels: int = 1, weights: Path | None = None) -> None:
        super().__init__()
        if size % 16 or size < 32:  # At 16 the last map is one pixel, and normalisation leaves nothing of it.
            raise ValueError(f"the size of TransUNet must be a multiple of 16 from 32 on, not {size}")
        if channels not in (1, 3):
            raise ValueError(f"TransUNet takes one or three channels, not {channels}")
        self.size, self.channels, self.grid = size, channels, size // 16
        self.resnet = ResNet()
        self.embed = nn.Conv2d(16 * WIDTH, HIDDEN, 1)
        self.position = nn.Parameter(torch.zeros(1, self.grid**2, HIDDEN))
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.widen = ConvUnit(HIDDEN, 2 * DECODER[0])
        before = (2 * DECODER[0], *DECODER[:-1])
        self.decoder = nn.ModuleList(
            DecoderBlock(i, s, o) for i, s, o in zip(before, SKIPS, DECODER, strict=True)
        )
        self.out = nn.Conv2d(DECODER[-1], classes, 3, padding=1)
        if weights is not None:
            load_checkpoint(self, weights)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The transformer's map (B, 768, size / 16, size / 16) and the skips, coarse to fine."""
        x, skips = self.resnet(x.expand(-1, 3, -1, -1))
        tokens = self.dropout(self.embed(x).flatten(2).transpose(1, 2) + self.position)
        encoded = self.norm(self.blocks(tokens))
        return encoded.transpose(1, 2).unflatten(2, (self.grid, self.grid)), skips

    def features(self, x: Tensor) -> Tensor:
        """Last decoder feature (B, 16, H, W), the input of the output convolution."""
        if x.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(
                f"this TransUNet takes {self.channels} x {self.size} x {self.size} images, not {tuple(x.shape[1:])}"
            )
        x, skips = self.encode(x)
        x = self.widen(x)
        for block, skip in zip(self.decoder, [*skips, None], strict=True):
            x = block(x, skip)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))


Place = tuple[str, Tensor, tuple[int, ...]]
"""Key of an array of the checkpoint, the parameter (or part of one) that it belongs to, and the array's shape."""


def _conv(key: str, conv: nn.Conv2d) -> Place:
    """Kernels are stored as (height, width, in, out)."""
    channels_out, channels_in, height, width = conv.weight.shape
    return key, conv.weight, (height, width, channels_in, channels_out)


def _norm(key: str, norm: nn.GroupNorm | nn.LayerNorm) -> Iterator[Place]:
    yield f"{key}/scale", norm.weight, tuple(norm.weight.shape)
    yield f"{key}/bias", norm.bias, tuple(norm.bias.shape)


def _unit_places(key: str, unit: Unit) -> Iterator[Place]:
    pairs = (unit.conv1, unit.gn1), (unit.conv2, unit.gn2), (unit.conv3, unit.gn3)
    for i, (conv, norm) in enumerate(pairs, 1):
        yield _conv(f"{key}/conv{i}/kernel", conv)
        yield from _norm(f"{key}/gn{i}", norm)
    if isinstance(unit.project, Projection):
        yield _conv(f"{key}/conv_proj/kernel", unit.project.conv)
        yield from _norm(f"{key}/gn_proj", unit.project.gn)


def _attention_places(key: str, attention: Attention) -> Iterator[Place]:
    """Query, key, value and output are stored apart, with the heads as an axis of their own."""
    head = HIDDEN // HEADS
    parts = zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    for name, (weight, bias) in zip(("query", "key", "value"), parts, strict=True):
        yield f"{key}/{name}/kernel", weight, (HIDDEN, HEADS, head)
        yield f"{key}/{name}/bias", bias, (HEADS, head)
    yield f"{key}/out/kernel", attention.project.weight, (HEADS, head, HIDDEN)
    yield f"{key}/out/bias", attention.project.bias, (HIDDEN,)


def _block_places(key: str, block: Block) -> Iterator[Place]:
    yield from _norm(f"{key}/LayerNorm_0", block.norm_attention)
    yield from _attention_places(f"{key}/MultiHeadDotProductAttention_1", block.attention)
    yield from _norm(f"{key}/LayerNorm_2", block.norm_mlp)
    for i, layer in enumerate(m for m in block.mlp if isinstance(m, nn.Linear)):
        dense = f"{key}/MlpBlock_3/Dense_{i}"
        yield f"{dense}/kernel", layer.weight, (layer.in_features, layer.out_features)
        yield f"{dense}/bias", layer.bias, (layer.out_features,)


def _places(net: TransUNet) -> Iterator[Place]:
    """Where every array of the checkpoint goes, but for the position embedding."""
    yield _conv("conv_root/kernel", net.resnet.conv)
    yield from _norm("gn_root", net.resnet.gn)
    keys = [f"block{i}/unit{j}" for i, units in enumerate(UNITS, 1) for j in range(1, units + 1)]
    for key, unit in zip(keys, (m for m in net.resnet.modules() if isinstance(m, Unit)), strict=True):
        yield from _unit_places(key, unit)
    yield _conv("embedding/kernel", net.embed)
    yield "embedding/bias", net.embed.get_parameter("bias"), (HIDDEN,)
    for i, block in enumerate(m for m in net.blocks if isinstance(m, Block)):
        yield from _block_places(f"Transformer/encoderblock_{i}", block)
    yield from _norm("Transformer/encoder_norm", net.norm)


def _arranged(array: NDArray[Any], like: Tensor) -> Tensor:
    """The array in torch's layout: HWIO to OIHW, (in, out) to (out, in), vectors flat."""
    if like.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif like.ndim == 2:
        array = array.reshape(like.shape[::-1]).T
    return torch.from_numpy(array).reshape(like.shape)


def _position(array: NDArray[Any], grid: int) -> Tensor:
    """Position embedding (1, grid^2, d) of the stored one (1, 1 + g^2, d), whose class token is dropped."""
    side = round((array.shape[1] - 1) ** 0.5)
    squares = array[0, 1:].reshape(side, side, -1)
    if side != grid:
        squares = ndimage.zoom(squares, (grid / side, grid / side, 1), order=1)
    return torch.from_numpy(squares).reshape(1, grid**2, -1)


def _stored(arrays: np.lib.npyio.NpzFile, key: str, path: Path) -> NDArray[Any]:
    if key not in arrays:
        raise SuiteError(
            f"{path} lacks the array {key}; give R50+ViT-B_16.npz as published for ImageNet-21k."
        )
    return arrays[key]


def _unfit(path: Path, key: str, shape: tuple[int, ...], expected: str) -> SuiteError:
    return SuiteError(
        f"The array {key} of {path} has the shape {shape}, not {expected}; give R50+ViT-B_16.npz as published "
        "for ImageNet-21k."
    )


def _fill(net: TransUNet, arrays: np.lib.npyio.NpzFile, path: Path) -> None:
    for key, parameter, shape in _places(net):
        array = _stored(arrays, key, path)
        if array.shape not in (
            shape,
            (1, 1, 1, *shape),
        ):  # The vectors of group norms may be four-dimensional.
            raise _unfit(path, key, array.shape, str(shape))
        parameter.copy_(_arranged(array, parameter))
    key = "Transformer/posembed_input/pos_embedding"
    array = _stored(arrays, key, path)
    if array.shape not in {(1, 1 + side**2, HIDDEN) for side in range(1, 129)}:
        raise _unfit(path, key, array.shape, f"(1, 1 + g^2, {HIDDEN})")
    net.position.copy_(_position(array, net.grid))


@torch.no_grad()
def load_checkpoint(net: TransUNet, path: Path) -> None:
    """Fill the ResNet and the transformer from Google's R50+ViT-B_16.npz."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            _fill(net, arrays, path)
    except FileNotFoundError:
        raise SuiteError(
            f"{path} does not exist; put R50+ViT-B_16.npz (ImageNet-21k) there or train without weights."
        ) from None
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        raise SuiteError(
            f"{path} is no readable npz ({error}); put R50+ViT-B_16.npz (ImageNet-21k) there again."
        ) from None
