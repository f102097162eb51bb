"""DHC: CPS whose two networks weigh the classes differently, by difficulty and by distribution.

Wang and Li, "Dual-debiased heterogeneous co-training framework for class-imbalanced semi-supervised medical image
segmentation", MICCAI 2023. The release is 3D, and how the CGS paper ported it is not said; this is our 2D port: two
shared U-Nets with Kaiming initialisation, the suite's optimiser and batch, mu over iterations.

    L = sum over i in {A, B} of  wCE(f_i(x_l), y) - mean over foreground c of w_c (2 TP + 1) / (2 TP + FP + FN + 1)
                                 + mu(t) wCE(f_i(x), argmax f_j(x))  on labelled and unlabelled images
    wCE = sum w_y CE / sum w_y,   mu(t) = 0.1 exp(-5 (1 - max(t - 1, 0) / T)^2)

A weighs by difficulty, from its hard Dice d_c on labelled images: classes that are learnt slowly and badly weigh more.
B weighs by distribution, from the counts n_c of its labels for unlabelled images: rare classes weigh more, and the
most frequent one not at all. Both are moving averages that live as long as the training. The prediction is the mean
of both networks' logits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import one_hot
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.networks.unet import UNet


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Pixels of each class (C,) float32 in integer label maps of any shape."""
    return torch.stack([(labels == c).sum() for c in range(classes)]).float()


def distribution_weights(counts: Tensor) -> Tensor:
    """C log(max n / n_c) / max_c log(max n / n_c) of class counts (C,), 1e-8 added to counts; 0 if all are equal."""
    rarity = torch.log((counts.max() + 1e-8) / (counts + 1e-8))
    return len(counts) * rarity / rarity.max().clamp(min=1e-8)


def hard_dice(labels: Tensor, reference: Tensor, classes: int) -> Tensor:
    """(2 TP + 1e-8) / (2 TP + FP + FN + 2e-8) of each class over the batch: 0.5 where both lack it. (C,)"""
    mine, theirs = one_hot(labels, classes), one_hot(reference, classes)
    over = (0, 2, 3)
    return (2 * (mine * theirs).sum(over) + 1e-8) / (mine.sum(over) + theirs.sum(over) + 2e-8)


class DifficultyWeights:
    """DiffDW: class weights from how badly and how slowly each class is learnt."""

    momentum = 49 / 50

    def __init__(self, classes: int, device: torch.device | None = None) -> None:
        self.last = torch.full((classes,), 1e-8, device=device)
        self.learnt, self.unlearnt = torch.zeros_like(self.last), torch.zeros_like(self.last)
        self.badness = torch.ones_like(self.last)

    def update(self, dice: Tensor) -> Tensor:
        """Take in the hard Dice (C,) of an iteration and give the weights (C,), the largest of them C."""
        change, ratio = dice - self.last, torch.log(dice / self.last)
        self.learnt = self._average(self.learnt, change.clamp(min=0) * ratio)
        self.unlearnt = self._average(self.unlearnt, change.clamp(max=0) * ratio)
        self.badness = self._average(self.badness, 1 - dice)
        self.last = dice
        weights = ((self.unlearnt + 1e-8) / (self.learnt + 1e-8)) ** 0.2 * self.badness
        return weights / weights.max() * len(dice)

    def _average(self, old: Tensor, new: Tensor) -> Tensor:
        return self.momentum * old + (1 - self.momentum) * new


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """sum w_y CE / sum w_y; 0 where all weights are. logits (B, C, H, W), labels (B, H, W), weights (C,)."""
    of_pixel = weights[labels]
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * of_pixel).sum() / of_pixel.sum().clamp(min=1e-8)


def weighted_dice(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """-mean over foreground classes of w_c (2 TP + 1) / (2 TP + FP + FN + 1); may lie far below 0."""
    p, target, over = logits.float().softmax(1), one_hot(labels, logits.shape[1]), (0, 2, 3)
    overlap = (2 * (p * target).sum(over) + 1) / (p.sum(over) + target.sum(over) + 1)
    return -(weights * overlap)[1:].mean()


class DualDebiasedCoTraining(Method):
    """CPS with class weights by difficulty and by distribution."""

    title = "DHC"
    reference = "Wang and Li, MICCAI 2023"

    class Options(Method.Options):
        mu_max: float = Field(0.1, ge=0, description="Weight of the crossed loss after its ramp-up.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {
            n: UNet(task.classes, task.width) for n in ("difficulty", "distribution")
        }
        for net in nets.values():
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
        return nets

    def begin(self, labels: Tensor) -> None:
        self.difficulty = DifficultyWeights(self.task.classes, labels.device)
        self.rarity = distribution_weights(class_counts(labels, self.task.classes))

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        images = torch.cat([batch.labelled.weak, batch.unlabelled.weak])
        count, classes = len(batch.labels), self.task.classes
        first, second = (net(images) for net in self.nets.values())
        label_1, label_2 = first.argmax(1), second.argmax(1)
        hard = self.difficulty.update(hard_dice(label_1[:count], batch.labels, classes))
        new = distribution_weights(class_counts(label_2[count:], classes))
        self.rarity = 0.99 * self.rarity + 0.01 * new
        own = [
            weighted_cross_entropy(f[:count], batch.labels, w) + weighted_dice(f[:count], batch.labels, w)
            for f, w in ((first, hard), (second, self.rarity))
        ]
        crossed = weighted_cross_entropy(first, label_2, hard) + weighted_cross_entropy(
            second, label_1, self.rarity
        )
        return {"supervised": own[0] + own[1], "crossed": self.mu(progress) * crossed}

    def state(self) -> dict[str, Tensor]:
        return {"rarity": self.rarity, **vars(self.difficulty)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        state = dict(state)
        self.rarity = state.pop("rarity")
        vars(self.difficulty).update(state)

    def mu(self, progress: Progress) -> float:
        """mu(t); the release updates it one unit late."""
        done = max(progress.iteration - 1, 0) / progress.iterations
        return self.options.mu_max * math.exp(-5 * (1 - done) ** 2)

    def inference(self) -> dict[str, nn.Module]:
        return dict(self.nets)

    def predict(self, images: Tensor) -> Tensor:
        first, second = (net(images) for net in self.nets.values())
        return 0.5 * (first + second)
