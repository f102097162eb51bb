"""SS-Net: outputs that resist an adversarial push, and features of the classes that lie apart.

Wu et al., "Exploring smoothness and class-separation for semi-supervised medical image segmentation", MICCAI 2022;
the released 2D script.

    L = Dice(p(x_l), y) + lambda(t) [ L_vat + 0.1 (L_cs(x_l, y) + L_cs(x_u, argmax f(x_u))) ]
    L_vat = softDice(p(x + 6 r), p(x)) on all images, r the direction that raises it most (one power step, xi = 10)
    L_cs  = 1/C sum_c mean_ij w_i v_j (1 - cos(q_i, m_j)),  q_i a pixel of class c, m_j the memory of c

q is an MLP's prediction from an MLP's projection of the last decoder feature. The memory of a class holds up to 32
projections of labelled pixels that were right, chosen anew in each iteration among those that the class's selector
scores lowest; background has none. w_i are the selector's scores of the pixels, normalised to mean 1. In the release
the weights v_j of the memory are 1 by a slip (a wrong axis); `memory_weights` gives the intended ones.

Dice smoothing 1e-10, no cross-entropy, no learning rate decay. The adversarial passes leave the running statistics of
the batch norms alone. Only the U-Net is kept for inference.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import dice, in_float32
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.networks.unet import UNet, frozen_statistics

SLOTS = 32
"""Memory vectors of a class at most."""


def mlp(width_in: int, hidden: int, width_out: int, slope: float = 0.0) -> nn.Sequential:
    """Linear, batch norm, (leaky) ReLU, linear; on (N, width_in)."""
    return nn.Sequential(
        nn.Linear(width_in, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(slope), nn.Linear(hidden, width_out)
    )


class SeparatingNet(nn.Module):
    """The U-Net with per-pixel MLPs: projection, prediction, and two selectors for each class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        size = 2 * width
        self.unet = UNet(classes, width)
        self.projection, self.prediction = mlp(width, size, size), mlp(size, size, size)
        self.pixel_selectors = nn.ModuleList(mlp(size, size, 1, 0.2) for _ in range(classes))
        self.memory_selectors = nn.ModuleList(mlp(size, size, 1, 0.2) for _ in range(classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.unet(x)
        return logits


def pixels(features: Tensor) -> Tensor:
    """(B, F, H, W) to (B * H * W, F)."""
    return features.movedim(1, -1).flatten(0, -2)


def scores(selector: nn.Module, vectors: Tensor) -> Tensor:
    """Sigmoid scores (N,) of vectors (N, F)."""
    return selector(vectors).float().squeeze(1).sigmoid()


@torch.no_grad()
def remember(net: SeparatingNet, features: Tensor, labels: Tensor, right: Tensor) -> dict[int, Tensor]:
    """New memories of the classes that have pixels with a right prediction: at most SLOTS projections each.

    features (N, F), labels (N,), right (N,) bool. Background gets none.
    """
    net.projection.eval()
    memories = {}
    for c in range(1, len(net.pixel_selectors)):
        vectors = features[right & (labels == c)]
        if not len(vectors):
            continue
        vectors = net.projection(vectors)
        if len(vectors) > SLOTS:
            vectors = vectors[scores(net.pixel_selectors[c], vectors).argsort(stable=True)[:SLOTS]]
        memories[c] = vectors
    net.projection.train()
    return memories


def separation(
    net: SeparatingNet,
    features: Tensor,
    labels: Tensor,
    memory: dict[int, Tensor],
    memory_weights: bool = False,
) -> Tensor:
    """L_cs of pixels with features (N, F) and labels (N,)."""
    predicted = net.prediction(net.projection(features))
    total = predicted.new_zeros(())
    for c, vectors in memory.items():
        mine = predicted[labels == c]
        if len(mine) < 2 or len(vectors) < 2:
            continue
        score = scores(net.pixel_selectors[c], mine.detach())
        weight = len(score) * score / score.sum()
        slots = F.normalize(vectors.float(), dim=1)
        other = torch.ones_like(slots[:, 0])
        if memory_weights:
            score = scores(net.memory_selectors[c], slots)
            other = len(score) * score / score.sum()
        # mean_j v_j (1 - q.m_j) is mean(v) - q . mean(v m): no table of all pairs.
        with in_float32(mine):
            distance = other.mean() - F.normalize(mine.float(), dim=1) @ (other.unsqueeze(1) * slots).mean(0)
        total = total + (weight * distance).mean()
    return total / len(net.pixel_selectors)


def unit(direction: Tensor) -> Tensor:
    """Every image's direction (B, ...) at unit length."""
    return direction / (direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.dim() - 1)) + 1e-8)


def adversarial_direction(
    net: Callable[[Tensor], Tensor], images: Tensor, target: Tensor, start: Tensor, xi: float = 10.0
) -> Tensor:
    """Unit direction (B, 1, H, W) that moves the softmax of `net` away from `target`: one power step from `start`."""
    direction = unit(start).requires_grad_()
    distance = dice(net(images + xi * direction).float().softmax(1), target)
    return unit(torch.autograd.grad(distance, direction)[0])


class SmoothnessAndSeparation(Method):
    """Virtual adversarial smoothness and prototype contrast."""

    title = "SS-Net"
    reference = "Wu et al., MICCAI 2022"

    class Options(Method.Options):
        lambda_max: float = Field(
            0.1, ge=0, description="Weight of the unlabelled terms after their ramp-up."
        )
        contrast_weight: float = Field(0.1, ge=0, description="Weight of the class separation among them.")
        radius: float = Field(6.0, gt=0, description="Length of the adversarial push per image.")
        memory_weights: bool = Field(False, description="Weigh memory vectors, as intended; released: all 1.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"student": SeparatingNet(task.classes, task.width)}

    def begin(self, labels: Tensor) -> None:
        self.memory: dict[int, Tensor] = {}

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        return initial

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        net = self.nets["student"]
        assert isinstance(net, SeparatingNet)
        images, count = torch.cat([batch.labelled.weak, batch.unlabelled.weak]), len(batch.labels)
        features = net.unet.features(images)
        logits = net.unet.out(features)
        guess, labels = logits.argmax(1), batch.labels.flatten()
        known, unknown = pixels(features[:count]), pixels(features[count:])
        self.memory |= remember(net, known.detach(), labels, guess[:count].flatten() == labels)
        contrast = separation(net, known, labels, self.memory, self.options.memory_weights)
        contrast = contrast + separation(
            net, unknown, guess[count:].flatten(), self.memory, self.options.memory_weights
        )
        weight = progress.ramp(self.options.lambda_max)
        return {
            "supervised": dice(logits[:count].float().softmax(1), batch.labels),
            "smoothness": weight * self.smoothness(net, images, batch.noise),
            "separation": weight * self.options.contrast_weight * contrast,
        }

    def smoothness(self, net: nn.Module, images: Tensor, noise: torch.Generator) -> Tensor:
        """L_vat of images (B, 1, H, W)."""
        with torch.no_grad():
            target = net(images).float().softmax(1)
        start = torch.rand(images.shape, generator=noise, device=images.device) - 0.5
        with frozen_statistics(net):
            push = self.options.radius * adversarial_direction(net, images, target, start)
            return dice(net(images + push).float().softmax(1), target)

    def state(self) -> dict[str, Tensor]:
        return {str(c): vectors for c, vectors in self.memory.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.memory = {int(c): vectors for c, vectors in state.items()}

    def inference(self) -> dict[str, nn.Module]:
        student = self.nets["student"]
        assert isinstance(student, SeparatingNet)
        return {"student": student.unet}
