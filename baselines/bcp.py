"""BCP: labelled and unlabelled images copied into each other, in both directions.

Bai et al., "Bidirectional copy-paste for semi-supervised medical image segmentation", CVPR 2023.

Stage 1, pre-training on labelled halves a, b (a third of the iterations): input a M + b (1 - M), labels alike.
Stage 2 starts from the best weights of stage 1, the teacher too:

    inputs  x1 = u_a M + l_a (1 - M),  x2 = l_b M + u_b (1 - M);  pixels with pseudo-labels weigh 0.5, others 1
    L = sum over x1, x2 of 0.5 (CE + Dice),  each the weighted sum over its two regions; Dice smoothing 1e-10

M is 0 in one rectangle of 2/3 of the height and width at a random place, the same for the whole batch. Pseudo-labels:
arg-max of the teacher in train mode, of which each class keeps its largest 8-connected component in every slice. The
teacher averages parameters and batch-norm statistics with 0.99 throughout. No learning rate decay, no ramp.

Until late 2023 the release ignored the mask in the Dice of the background; here it is mended (`mask_background`).
The components are found per target, for any number of them, on the host. Both halves have as many images as half of the
smaller one of the labelled and the unlabelled batch; an odd image is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn

from cgs.engine.losses import dice_per_class
from cgs.engine.method import Method, Progress, Stage
from cgs.engine.views import Batch


def rectangle_mask(size: int, draw: torch.Generator, device: torch.device) -> Tensor:
    """(size, size) bool, False in a rectangle of floor(2/3 size) squared at a random place."""
    side = 2 * size // 3
    top, left = torch.randint(0, size - side, (2,), generator=draw, device=device)
    line = torch.arange(size, device=device)
    rows, columns = ((line >= start) & (line < start + side) for start in (top, left))
    return ~(rows[:, None] & columns[None, :])


def largest_components(labels: Tensor, classes: int) -> Tensor:
    """Label maps (B, H, W) with only the largest 8-connected component of every target; the rest is background."""
    found = labels.cpu().numpy()
    kept = np.zeros_like(found)
    for image, out in zip(found, kept, strict=True):
        for target in range(1, classes):
            parts, _ = ndimage.label(image == target, structure=np.ones((3, 3)))
            sizes = np.bincount(parts.ravel())[1:]
            if len(sizes):
                out[parts == sizes.argmax() + 1] = target  # The first one on ties.
    return torch.from_numpy(kept).to(labels.device)


def region_loss(logits: Tensor, labels: Tensor, region: Tensor, mask_background: bool = True) -> Tensor:
    """0.5 (CE + Dice) over the pixels of `region` (H, W) bool. logits (B, C, H, W), labels (B, H, W)."""
    inside = region.expand_as(labels)
    losses = nn.functional.cross_entropy(logits.float(), labels.long(), reduction="none")
    entropy = (losses * inside).sum() / (inside.sum() + 1e-16)
    probabilities = logits.float().softmax(1)
    overlap = dice_per_class(probabilities, labels, inside)
    if not mask_background:
        overlap = torch.cat([dice_per_class(probabilities, labels)[:1], overlap[1:]])
    return 0.5 * (entropy + overlap.mean())


class BidirectionalCopyPaste(Method):
    """Copy-paste between labelled and unlabelled images."""

    title = "BCP"
    reference = "Bai et al., CVPR 2023"
    teachers = {"teacher": "student"}
    stages = (Stage("pretrain", 1 / 3), Stage("train", from_best=True))

    class Options(Method.Options):
        pseudo_weight: float = Field(0.5, ge=0, description="Weight of pixels with pseudo-labels.")
        mask_background: bool = Field(True, description="The mask acts on the Dice of the background too.")

    options: Options

    @property
    def average_buffers(self) -> bool:
        return True

    def teacher_decay(self, progress: Progress) -> float:
        return 0.99

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        return initial

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        labelled, labels, unlabelled = batch.labelled.weak, batch.labels, batch.unlabelled.weak
        half = min(len(labelled), len(unlabelled)) // 2
        first, second = slice(half), slice(half, 2 * half)
        mask = rectangle_mask(labels.shape[-1], batch.noise, labels.device)
        if progress.stage == "pretrain":
            outside, inside = self.pasted(
                labelled[first], labelled[second], labels[first], labels[second], mask
            )
            return {"supervised": outside + inside}
        pseudo = [self.pseudo_labels(unlabelled[images]) for images in (first, second)]
        taught_1, true_1 = self.pasted(unlabelled[first], labelled[first], pseudo[0], labels[first], mask)
        true_2, taught_2 = self.pasted(labelled[second], unlabelled[second], labels[second], pseudo[1], mask)
        return {
            "supervised": true_1 + true_2,
            "pseudo": self.options.pseudo_weight * (taught_1 + taught_2),
        }

    def pasted(
        self, outer: Tensor, inner: Tensor, outer_labels: Tensor, inner_labels: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses of the student outside and inside the rectangle of `inner` pasted into `outer`."""
        logits = self.nets["student"](torch.where(mask, outer, inner))
        return (
            region_loss(logits, outer_labels, mask, self.options.mask_background),
            region_loss(logits, inner_labels, ~mask, self.options.mask_background),
        )

    def taught_labels(self, images: Tensor) -> dict[str, Tensor]:
        return {"teacher": self.pseudo_labels(images)}

    @torch.no_grad()
    def pseudo_labels(self, images: Tensor) -> Tensor:
        """The teacher's labels (B, H, W), cleaned."""
        return largest_components(self.nets["teacher"](images).argmax(1), self.task.classes)
