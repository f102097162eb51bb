"""CGS: a generalist and K specialists that teach each other.

Wang et al., IEEE TMI 2025, doi 10.1109/TMI.2025.3557537, arXiv 2504.00862. The formulas are in
`cgs/specialists.py`; this file says which network sees which images. L = L_s + lambda(t) L_u with

    L_u = sum over terms of [ generalist's loss + (1/K) sum_k specialist k's loss ]

The defaults are the paper's values and the intended behaviour of the released code. Two of that code's
defects are options: `dice_mask: false` (its Dice masks have no effect) and `cutmix: released` (an indexing
slip); its arg-max over the wrong axis in IHED cannot run and is not offered.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.method import BACKBONES, NOT_LABELLED, Method, Progress, Task, backbone
from cgs.engine.views import Batch, ViewSpec, mix
from cgs.networks.specialists import CollaborativeNet, split
from cgs.specialists import pseudo_labels, supervised_loss, unsupervised_losses

Outputs = tuple[Tensor, Tensor]


class CGS(Method):
    """Collaborative Generalist and Specialists."""

    title = "CGS"
    reference = "Wang et al., IEEE TMI 2025, arXiv 2504.00862"
    teachers = {"teacher": "student"}
    backbones = BACKBONES

    class Options(Method.Options):
        tau: float = Field(0.9, ge=0, lt=1, description="Confidence that a generalist pseudo-label needs.")
        lambda_max: float = Field(2.0, ge=0, description="Weight of L_u at the end of its ramp-up.")
        ihed: bool = Field(True, description="Inter-head error detection on the specialists' labels.")
        head: Literal["specialist", "binary"] = Field(
            "specialist", description="Specialist heads (target, remaining, background) or binary ones."
        )
        self_training: bool = Field(True, description="Heads learn from their own pseudo-labels.")
        bidirectional: bool = Field(True, description="Generalist and specialists teach each other.")
        consensus: bool = Field(True, description="Both learn from what both say.")
        cutmix: Literal["box", "released", "none"] = Field("box", description="CutMix on strong views.")
        dice_mask: bool = Field(True, description="Masks act on Dice too, not only on cross-entropy.")
        teacher_mode: Literal["train", "eval"] = Field(
            "train",
            description="train: batch statistics and dropout in the teacher, as released; eval: averaged "
            "statistics, no dropout (collapses on small budgets, see docs/methods.md).",
        )
        merged_passes: bool = Field(
            False,
            description="Only images that a loss needs pass, at once: labelled weak and unlabelled strong ones "
            "through the student, unlabelled weak ones and their partners through the teacher. Half the work; "
            "other batch statistics.",
        )

    options: Options

    @cached_property
    def views(self) -> ViewSpec:
        return ViewSpec(strong=1, cutmix=self.options.cutmix, accompanied=not self.options.merged_passes)

    @property
    def average_buffers(self) -> bool:
        return self.options.teacher_mode == "eval"

    def networks(self, task: Task) -> dict[str, nn.Module]:
        outputs = 3 if self.options.head == "specialist" else 2
        return {"student": CollaborativeNet(task.classes, task.width, outputs, backbone(task))}

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        keep = batch.keep[0] if batch.keep else None
        own, partner = self.teach(batch)
        labels = pseudo_labels(*own, self.options.tau, ihed=self.options.ihed, partner=partner, keep=keep)
        strong = batch.unlabelled.strong[0]
        if batch.partner is not None:
            strong = mix(strong, batch.partner.strong[0], keep)
        weak_labelled, strong_unlabelled = self.study(batch, strong)
        weight = progress.ramp(self.options.lambda_max)
        terms = unsupervised_losses(*strong_unlabelled, labels, self.options.dice_mask)
        chosen = {
            "self": self.options.self_training,
            "bidirectional": self.options.bidirectional,
            "consensus": self.options.consensus,
        }
        return {"supervised": supervised_loss(*weak_labelled, batch.labels)} | {
            name: weight * (general + special.mean())
            for name, (general, special) in terms.items()
            if chosen[name]
        }

    @torch.no_grad()
    def teach(self, batch: Batch) -> tuple[Outputs, Outputs | None]:
        """The teacher's logits on the weak unlabelled images and on their CutMix partners.

        In train mode the labelled images go with them, partners first, for the sake of the batch statistics;
        with `merged_passes`, images and partners go together and alone.
        """
        teacher = self.nets["teacher"]
        if self.options.teacher_mode == "eval":
            teacher.eval()
        own = batch.unlabelled.weak
        if self.options.teacher_mode == "eval" or self.options.merged_passes:
            if batch.partner is None:
                return teacher(own), None
            return split(teacher(torch.cat([own, batch.partner.weak])), len(own))
        partner = None
        if batch.partner is not None and batch.partner_labelled is not None:
            partner = self.last(teacher, batch.partner_labelled.weak, batch.partner.weak)
        return self.last(teacher, batch.labelled.weak, own), partner

    def taught_labels(self, images: Tensor) -> dict[str, Tensor]:
        general, special = self.nets["teacher"](images)
        labels = pseudo_labels(general, special, self.options.tau, ihed=self.options.ihed)
        return {
            "generalist": torch.where(labels.confident, labels.generalist, NOT_LABELLED),
            "specialists": torch.where(labels.error_free, labels.fused, NOT_LABELLED),
            "consensus": torch.where(labels.agreement, labels.agreed, NOT_LABELLED),
        }

    @staticmethod
    def last(net: nn.Module, first: Tensor, second: Tensor) -> Outputs:
        """Outputs for `second` of one pass over [first; second]."""
        return split(net(torch.cat([first, second])), len(first))[1]

    def study(self, batch: Batch, strong: Tensor) -> tuple[Outputs, Outputs]:
        """The student's logits on the weak labelled and on the (mixed) strong unlabelled images.

        Weak and strong views pass separately, each with its other half, which enters no loss but shares the
        batch statistics; with `merged_passes`, only what a loss needs passes, at once.
        """
        student = self.nets["student"]
        labelled = batch.labelled
        if self.options.merged_passes:
            return split(student(torch.cat([labelled.weak, strong])), len(labelled.weak))
        weak, _ = split(student(torch.cat([labelled.weak, batch.unlabelled.weak])), len(labelled.weak))
        return weak, self.last(student, labelled.strong[0], strong)

    def inference(self) -> dict[str, nn.Module]:
        teacher = self.nets["teacher"]
        assert isinstance(teacher, CollaborativeNet)
        return {"generalist": teacher.generalist}
