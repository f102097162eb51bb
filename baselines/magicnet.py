"""MagicNet: parts of images swapped across the batch and seen alone, with one anatomy to agree on.

Chen et al., "MagicNet: semi-supervised multi-organ segmentation via magic-cube partition and recovery", CVPR 2023. The
release is 3D, and how the CGS paper ported it is not said; this is our 2D port: tiles instead of cubes, 4 x 4 of them.

    L = [CE(P) + Dice(P) + Dice(P_cross) + Dice(P_within)] / 4 (x_l) + 0.1 L_loc + lambda(t) Dice(P_cross(x_u), yhat)

P: softmax on whole images. P_cross: at every position the tiles are permuted across the batch, the mixed images pass,
their last features are put back and classified. P_within: every tile passes alone, its features are put together and
classified. L_loc: an MLP on a tile's deepest feature says where in its image the tile lies.
yhat: arg-max of the averaged teacher on noisy images, after iteration 100 blended with the logits within,

    z = (1 - w) z_teacher + w z_within,  w = n_c / max n of the teacher's class c, n the counts of recent labels,

so that frequent classes take what the tiles say and rare ones what the teacher says. Dice smoothing 1e-10.

Decided for the port: the shared U-Net, whose batch norms track whole images only (the original has instance norm);
tiles padded with zeros to a multiple of 16 pixels; logits within from the pass of the loss, detached (the release
decodes once more without gradient); tiles put back where they were (the release mirrors some);
an MLP of 256 x width hidden units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import cross_entropy, dice
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch, noisy
from cgs.networks.unet import UNet, frozen_statistics

GRID = 4
"""Tiles along each side of an image."""


def to_tiles(images: Tensor) -> Tensor:
    """(B, F, H, W) to (GRID^2, B, F, H / GRID, W / GRID), position by position in reading order."""
    batch, channels, height, width = images.shape
    tiles = images.reshape(batch, channels, GRID, height // GRID, GRID, width // GRID)
    return tiles.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)


def from_tiles(tiles: Tensor) -> Tensor:
    """The inverse of `to_tiles`."""
    positions = tiles.unflatten(0, (GRID, GRID)).permute(2, 3, 0, 4, 1, 5)
    return positions.flatten(4, 5).flatten(2, 3)


def shuffle(images: Tensor, order: Tensor) -> Tensor:
    """Position p of image i of the result is that of image order[p, i]; order (GRID^2, B)."""
    positions = torch.arange(len(order), device=images.device).unsqueeze(1)
    return from_tiles(to_tiles(images)[positions, order])


def padded_side(side: int) -> int:
    """The next multiple of 16: what the U-Net can halve four times."""
    return -(-side // 16) * 16


def alone(net: UNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Every tile through the network by itself.

    Gives the last features, put together (B, width, H, W), and the deepest ones (B, GRID^2, F), flattened.
    """
    tiles = to_tiles(images)
    side, count = tiles.shape[-1], len(images)
    more = padded_side(side) - side
    levels = net.encode(F.pad(tiles.flatten(0, 1), (0, more, 0, more)))
    features = net.decode(levels)[:, :, :side, :side]
    deepest = levels[-1].flatten(1).unflatten(0, (-1, count)).transpose(0, 1)
    return from_tiles(features.unflatten(0, (-1, count))), deepest


def location_loss(locator: nn.Module, deepest: Tensor) -> Tensor:
    """L_loc: the mean over images of the NLL of the positions of their tiles. deepest (B, GRID^2, F).

    The locator sees one image at a time: its batch norm compares the tiles of that image.
    """
    where = torch.arange(deepest.shape[1], device=deepest.device)
    return torch.stack([F.cross_entropy(locator(tiles).float(), where) for tiles in deepest]).mean()


def blend(teacher: Tensor, within: Tensor, counts: Tensor) -> Tensor:
    """Blended logits (B, C, H, W); counts (C,) of recent labels."""
    weight = (counts / counts.max().clamp(min=1))[teacher.argmax(1)].unsqueeze(1)
    return (1 - weight) * teacher + weight * within


class MagicNet(Method):
    """Partition and recovery of tiles, across images and within them."""

    title = "MagicNet"
    reference = "Chen et al., CVPR 2023"
    teachers = {"teacher": "student"}

    class Options(Method.Options):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the consistency after its ramp-up.")
        location_weight: float = Field(0.1, ge=0, description="Weight of the location loss.")
        blend_after: int = Field(100, ge=0, description="Last iteration without blending.")
        refresh_every: int = Field(20, ge=1, description="Iterations whose labels are counted together.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        deepest = 16 * task.width * (padded_side(task.size // GRID) // 16) ** 2
        hidden = 256 * task.width
        locator = nn.Sequential(
            nn.Linear(deepest, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, GRID**2)
        )
        return {"student": UNet(task.classes, task.width), "locator": locator}

    def begin(self, labels: Tensor) -> None:
        self.counts = torch.zeros(self.task.classes, device=labels.device)
        self.gathered = torch.zeros_like(self.counts)

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        return initial * (1.0 - progress.iteration / progress.iterations) ** power

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        net, labels, count = self.nets["student"], batch.labels, len(batch.labels)
        assert isinstance(net, UNet)
        images = torch.cat([batch.labelled.weak, batch.unlabelled.weak])
        whole = net(images)[:count]
        with frozen_statistics(net):
            order = torch.rand(GRID**2, len(images), generator=batch.noise, device=images.device).argsort(1)
            recovered = shuffle(net.features(shuffle(images, order)), order.argsort(1))
            within_features, deepest = alone(net, images)
        cross = net.out(recovered).float().softmax(1)
        within = net.out(within_features)
        pseudo = self.pseudo_label(batch, within[count:].detach(), progress)
        supervised = [cross_entropy(whole, labels)] + [
            dice(p, labels)
            for p in (whole.float().softmax(1), cross[:count], within[:count].float().softmax(1))
        ]
        return {
            "supervised": torch.stack(supervised).mean(),
            "location": self.options.location_weight * location_loss(self.nets["locator"], deepest),
            "consistency": progress.ramp(self.options.lambda_max) * dice(cross[count:], pseudo),
        }

    @torch.no_grad()
    def pseudo_label(self, batch: Batch, within: Tensor, progress: Progress) -> Tensor:
        """yhat (B, H, W) from the teacher and the logits within (B, C, H, W); keeps count of the labels."""
        logits = self.nets["teacher"](noisy(batch.unlabelled.weak, batch.noise))
        if progress.iteration > self.options.blend_after:
            logits = blend(logits, within, self.counts)
        label = logits.argmax(1)
        self.gathered = self.gathered + torch.stack([(label == c).sum() for c in range(len(self.counts))])
        if progress.iteration % self.options.refresh_every == 0:
            self.counts, self.gathered = self.gathered, torch.zeros_like(self.gathered)
        return label

    def state(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "gathered": self.gathered}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.counts, self.gathered = state["counts"], state["gathered"]
