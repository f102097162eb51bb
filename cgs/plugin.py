"""CGS as a plug-in: specialists, IHED and cross-consistency beside the loss of another method.

Wang et al., IEEE TMI 2025, report that CGS helps other methods; how they attached it is not said. Our reading: the
host keeps its loss, which takes the place of the generalist's self-training, and gets what CGS adds:

    L_host + (1/K) sum_k l(specialist k, R_k(y)) + lambda(t) [ bidirectional + consensus + specialists' self ]

The pseudo-labels come from wherever the host takes its own (an averaged teacher, the other network, the weak view).
Only the generalist is kept for inference. A host says `class Options(PlugInOptions)`, makes its networks with `unet`,
runs them with `run`, and adds `specialist_terms` to its loss.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.method import Method, Progress, Task
from cgs.networks.specialists import CollaborativeNet
from cgs.networks.unet import UNet
from cgs.specialists import pseudo_labels, redefine_labels, specialist_losses, unsupervised_losses

Outputs = tuple[Tensor, Tensor | None]
"""Logits (B, C, H, W), and those of the specialists (B, K, 3, H, W) where there are any."""


class PlugInOptions(Method.Options):
    """The options that every host has."""

    specialists: bool = Field(False, description="Attach CGS's specialists, IHED and cross-consistency.")
    specialists_lambda: float = Field(
        0.1, ge=0, description="Weight of the attached cross-consistency after its ramp-up."
    )
    specialists_tau: float = Field(
        0.9, ge=0, lt=1, description="Confidence that a pseudo-label of the generalist needs there."
    )
    specialists_ihed: bool = Field(True, description="Inter-head error detection there.")


def unet(task: Task, options: PlugInOptions) -> nn.Module:
    """The shared U-Net, with specialists where they are asked for."""
    return (CollaborativeNet if options.specialists else UNet)(task.classes, task.width)


def generalist(net: nn.Module) -> UNet:
    """The U-Net that is kept for inference."""
    kept = net.generalist if isinstance(net, CollaborativeNet) else net
    assert isinstance(kept, UNet)
    return kept


def run(net: nn.Module, images: Tensor) -> Outputs:
    """Outputs of a network of `unet`."""
    return net(images) if isinstance(net, CollaborativeNet) else (net(images), None)


def part(outputs: Outputs, which: slice) -> Outputs:
    """The outputs of some images of the batch."""
    general, special = outputs
    return general[which], None if special is None else special[which]


def specialist_terms(
    options: PlugInOptions,
    progress: Progress,
    labelled: Outputs,
    labels: Tensor,
    student: Outputs,
    teacher: Outputs,
    partner: Outputs | None = None,
    keep: Tensor | None = None,
) -> dict[str, Tensor]:
    """What CGS adds to a host's loss; nothing where the specialists are not asked for.

    labelled: student outputs on the labelled images with `labels` (B, H, W); student: on the unlabelled images;
    teacher: whatever labels those, without gradient, CutMixed with `partner` under `keep` where given.
    """
    if not options.specialists:
        return {}
    own, special, taught = labelled[1], student[1], teacher[1]
    assert own is not None and special is not None and taught is not None
    mixed = None
    if partner is not None:
        assert partner[1] is not None
        mixed = (partner[0], partner[1])
    pseudo = pseudo_labels(
        teacher[0],
        taught,
        options.specialists_tau,
        ihed=options.specialists_ihed,
        partner=mixed,
        keep=keep,
    )
    losses = unsupervised_losses(student[0], special, pseudo)
    general = losses["bidirectional"][0] + losses["consensus"][0]
    specialists = torch.stack([s.mean() for _, s in losses.values()]).sum()
    return {
        "specialists": specialist_losses(own, redefine_labels(labels, own.shape[1])).mean(),
        "cross_consistency": progress.ramp(options.specialists_lambda) * (general + specialists),
    }
