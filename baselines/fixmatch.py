"""FixMatch: confident pseudo-labels from the weak view supervise the strong view.

Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020.
There is no official medical 2D code and the CGS paper does not say which variant it used. Ours is the skeleton
of CGS without specialists:

    L = (CE + Dice)(x_l, y) + lambda(t) (CE_m + Dice_m)(strong x_u, argmax q), m = [max q > tau],

q the softmax of an averaged teacher (train mode, parameters averaged) on the weak view; Dice smoothing 1e-10.
The teacher is evaluated. With `cutmix: box`, CGS's tau and its lambda_max it is CGS without specialists.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import cross_entropy_and_dice
from cgs.engine.method import BACKBONES, Method, Progress, confident
from cgs.engine.views import Batch, ViewSpec, mix


class FixMatch(Method):
    """Thresholded pseudo-labels of an averaged teacher."""

    title = "FixMatch"
    reference = "Sohn et al., NeurIPS 2020"
    teachers = {"teacher": "student"}
    backbones = BACKBONES

    class Options(Method.Options):
        tau: float = Field(0.95, ge=0, lt=1, description="Confidence that a pseudo-label needs.")
        lambda_max: float = Field(0.1, ge=0, description="Weight of the unlabelled loss after its ramp-up.")
        cutmix: Literal["none", "box", "released"] = Field("none", description="CutMix on strong views.")
        dice_mask: bool = Field(True, description="The mask acts on Dice too, not only on cross-entropy.")
        merged_passes: bool = Field(
            False, description="One student pass over labelled weak and unlabelled strong images only."
        )

    options: Options

    @cached_property
    def views(self) -> ViewSpec:
        return ViewSpec(strong=1, cutmix=self.options.cutmix, accompanied=True)

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        strong, partner = batch.unlabelled.strong[0], None
        if batch.partner is not None and batch.partner_labelled is not None:  # First, as in CGS.
            strong = mix(strong, batch.partner.strong[0], batch.keep[0])
            partner = self.teach(batch.partner_labelled.weak, batch.partner.weak)
        probabilities = self.teach(batch.labelled.weak, batch.unlabelled.weak)
        if partner is not None:
            probabilities = mix(probabilities, partner, batch.keep[0])
        on_labelled, on_strong = self.study(batch, strong)
        confidence, labels = probabilities.max(1)
        unlabelled = cross_entropy_and_dice(
            on_strong, labels, confidence > self.options.tau, dice_mask=self.options.dice_mask
        )
        return {
            "supervised": cross_entropy_and_dice(on_labelled, batch.labels),
            "unlabelled": progress.ramp(self.options.lambda_max) * unlabelled,
        }

    def study(self, batch: Batch, strong: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits on the weak labelled and the strong unlabelled images.

        Weak and strong views pass separately, each with its other half for the batch statistics, as in CGS;
        with `merged_passes`, only what the loss needs passes, at once.
        """
        student, weak, count = self.nets["student"], batch.labelled.weak, len(batch.labels)
        if self.options.merged_passes:
            logits = student(torch.cat([weak, strong]))
            return logits[:count], logits[count:]
        on_labelled = student(torch.cat([weak, batch.unlabelled.weak]))[:count]
        return on_labelled, student(torch.cat([batch.labelled.strong[0], strong]))[count:]

    @torch.no_grad()
    def teach(self, labelled: Tensor, unlabelled: Tensor) -> Tensor:
        """The teacher's softmax on the unlabelled images; the labelled ones share the batch statistics."""
        logits = self.nets["teacher"](torch.cat([labelled, unlabelled]))[len(labelled) :]
        return logits.float().softmax(1)

    def taught_labels(self, images: Tensor) -> dict[str, Tensor]:
        return {"teacher": confident(self.nets["teacher"](images), self.options.tau)}

    def inference(self) -> dict[str, nn.Module]:
        return {"teacher": self.nets["teacher"]}
