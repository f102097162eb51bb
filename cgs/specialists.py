"""The ideas of CGS as pure functions: read this file to read the paper.

Wang et al., "Balancing Multi-Target Semi-Supervised Medical Image Segmentation With Collaborative
Generalist and Specialists", IEEE TMI 2025, arXiv 2504.00862.

Notation: B images of H x W, C classes with background, K = C - 1 targets. The generalist has logits
(B, C, H, W). Specialist k has three classes, {0 background, 1 its target k, 2 the remaining targets}; all
specialists together have logits (B, K, 3, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cgs.engine.losses import cross_entropy, dice, one_hot
from cgs.engine.views import mix

BACKGROUND, TARGET, REMAINING = 0, 1, 2


def redefine_labels(labels: Tensor, targets: int, outputs: int = 3) -> Tensor:
    """Labels as each specialist sees them: (B, H, W) in 0..K to (B, K, H, W) in 0..2.

    Specialist k: 0 where the label is 0, 1 where it is k, 2 where it is a remaining target. With
    `outputs` = 2 (the binary head of ablation A1): 1 where the label is k, else 0.
    """
    own = torch.arange(1, targets + 1, device=labels.device).view(1, targets, 1, 1)
    labels = labels.unsqueeze(1)
    is_own = (labels == own).long()
    if outputs == 2:
        return is_own
    return torch.where(is_own.bool(), TARGET, torch.where(labels > 0, REMAINING, BACKGROUND))


def fuse_specialists(probabilities: Tensor) -> Tensor:
    """One pseudo-label from all specialists: (B, K, outputs, H, W) softmax to (B, H, W) in 0..K.

    The score of background is the mean over specialists of their background, the score of target k is
    specialist k's own; the label is the arg-max. Class 0 of a binary head is all but its target, so near 1 in
    all other heads on a target's pixel: there background is what even the surest head leaves over (the minimum).
    """
    background = probabilities[:, :, BACKGROUND]
    binary = probabilities.shape[2] == 2
    background = background.amin(dim=1, keepdim=True) if binary else background.mean(dim=1, keepdim=True)
    return torch.cat([background, probabilities[:, :, TARGET]], dim=1).max(dim=1).indices


def detect_inter_head_errors(specialist_labels: Tensor, outputs: int = 3) -> Tensor:
    """IHED: (B, H, W) bool, True where the specialists agree.

    specialist_labels (B, K, H, W) in 0..2. They agree where all say background, or where exactly one says
    target and all the others remaining: the labels then add up to 0 or 2K - 1. Binary heads agree where
    at most one says target.
    """
    total = specialist_labels.sum(dim=1)
    if outputs == 2:
        return total <= 1
    return (total == 0) | (total == 2 * specialist_labels.shape[1] - 1)


def consensus(generalist_label: Tensor, fused_label: Tensor) -> tuple[Tensor, Tensor]:
    """Label and mask where generalist and specialists agree; the label is 0 elsewhere. All (B, H, W)."""
    agree = generalist_label == fused_label
    return torch.where(agree, generalist_label, torch.zeros_like(generalist_label)), agree


@dataclass
class PseudoLabels:
    """What the teacher says about the unlabelled images, after CutMix.

    generalist, fused, agreed (B, H, W) in 0..K; specialists (B, K, H, W) in 0..2; masks (B, H, W) bool:
    confident (generalist's probability above tau), error_free (IHED), agreement (consensus).
    """

    generalist: Tensor
    specialists: Tensor
    fused: Tensor
    agreed: Tensor
    confident: Tensor
    error_free: Tensor
    agreement: Tensor


@torch.no_grad()
def pseudo_labels(
    generalist_logits: Tensor,
    specialist_logits: Tensor,
    tau: float,
    *,
    ihed: bool = True,
    partner: tuple[Tensor, Tensor] | None = None,
    keep: Tensor | None = None,
) -> PseudoLabels:
    """Pseudo-labels and masks from the teacher's logits, mixed with those of the CutMix partners.

    generalist_logits (B, C, H, W), specialist_logits (B, K, outputs, H, W); `partner` the same two for the
    partner images; tau in [0, 1). Mixing the probabilities and then labelling equals labelling and then
    mixing, since every step works on single pixels.
    """
    general = generalist_logits.float().softmax(dim=1)
    special = specialist_logits.float().softmax(dim=2)
    if partner is not None:
        general = mix(general, partner[0].float().softmax(dim=1), keep)
        special = mix(special, partner[1].float().softmax(dim=2), keep)
    confidence, label = general.max(dim=1)
    labels = special.max(
        dim=2
    ).indices  # The first of equals, like argmax, which is ten times slower on the CPU.
    fused = fuse_specialists(special)
    agreed, agreement = consensus(label, fused)
    error_free = detect_inter_head_errors(labels, special.shape[2])
    return PseudoLabels(
        label,
        labels,
        fused,
        agreed,
        confidence > tau,
        error_free if ihed else torch.ones_like(error_free),
        agreement,
    )


def specialist_losses(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, dice_mask: bool = True
) -> Tensor:
    """CE + Dice of every specialist, all heads at once: (K,).

    logits (B, K, outputs, H, W), labels (B, K, H, W), mask (B, H, W) bool or None. The same terms as
    `cgs.engine.losses.cross_entropy_and_dice` head by head.
    """
    logits = logits.float()
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), reduction="none").view_as(labels)
    if mask is not None:
        losses = losses * mask.unsqueeze(1)
    entropy = losses.mean(dim=(0, 2, 3))
    p = logits.softmax(dim=2)
    values = torch.arange(logits.shape[2], device=logits.device).view(1, 1, -1, 1, 1)
    g = (labels.unsqueeze(2) == values).float()
    kept = mask[:, None, None].float() if mask is not None and dice_mask else 1.0
    over = (0, 3, 4)
    intersection = (p * g * kept).sum(over)
    squares = (p.square() * kept).sum(over) + (g * kept).sum(over)
    return entropy + (1 - (2 * intersection + 1e-10) / (squares + 1e-10)).mean(dim=1)


def generalist_loss(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, dice_mask: bool = True
) -> Tensor:
    """CE + Dice of the generalist; scalar. logits (B, C, H, W), labels and mask (B, H, W)."""
    target = one_hot(labels, logits.shape[1])
    probabilities = logits.float().softmax(dim=1)
    return cross_entropy(logits, labels, mask) + dice(probabilities, target, mask if dice_mask else None)


def supervised_loss(generalist: Tensor, specialists: Tensor, labels: Tensor) -> Tensor:
    """L_s = l(generalist, y) + (1/K) sum_k l(specialist k, R_k(y)), l = CE + Dice."""
    own = redefine_labels(labels, specialists.shape[1], specialists.shape[2])
    return generalist_loss(generalist, labels) + specialist_losses(specialists, own).mean()


def unsupervised_losses(
    generalist: Tensor, specialists: Tensor, labels: PseudoLabels, dice_mask: bool = True
) -> dict[str, tuple[Tensor, Tensor]]:
    """The three cross-consistency terms as {name: (generalist's, specialists' (K,))}.

    self           each head learns from itself: the generalist where it is confident, the specialists where
                   no inter-head error is detected
    bidirectional  specialists teach the generalist, and the generalist the specialists
    consensus      both learn from what both say
    """
    targets, outputs = specialists.shape[1:3]

    def pair(general: Tensor, g_mask: Tensor, special: Tensor, s_mask: Tensor) -> tuple[Tensor, Tensor]:
        return (
            generalist_loss(generalist, general, g_mask, dice_mask),
            specialist_losses(specialists, special, s_mask, dice_mask),
        )

    from_generalist = redefine_labels(labels.generalist, targets, outputs)
    from_consensus = redefine_labels(labels.agreed, targets, outputs)
    return {
        "self": pair(labels.generalist, labels.confident, labels.specialists, labels.error_free),
        "bidirectional": pair(labels.fused, labels.error_free, from_generalist, labels.confident),
        "consensus": pair(labels.agreed, labels.agreement, from_consensus, labels.agreement),
    }
