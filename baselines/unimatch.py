"""UniMatch: a weak view teaches two strong views and a view perturbed in its features.

Yang et al., "Revisiting weak-to-strong consistency in semi-supervised semantic segmentation", CVPR 2023; the medical
variant of its release.

    L = (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2,   L_x = 0.5 (CE + Dice)(f(x_l), y)

L_s1, L_s2, L_fp are Dice alone (smoothing 1e-5) over the pixels whose label has a confidence of at least tau. Each
strong view has colour jitter, a Gaussian blur with p 0.5 and a CutMix box with p 0.5; the box takes images, labels
and confidences of a second batch, labelled by the network in eval mode. The labels of the batch itself come from
the same pass on [x_l; weak x_u] that the losses use, detached. L_fp decodes those features again after dropout of
half of the channels at every encoder level. No teacher, no ramp.

What differs from the release: the suite's sampler and budget, and selection on validation alone. `specialists`
attaches CGS to the strong views.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import dice, supervised
from cgs.engine.method import Method, Progress, Task, confident
from cgs.engine.views import Batch, ViewSpec, mix
from cgs.networks.specialists import CollaborativeNet
from cgs.plugin import Outputs, PlugInOptions, generalist, part, run, specialist_terms, unet


def with_perturbed_features(net: nn.Module, images: Tensor) -> tuple[Outputs, Tensor]:
    """Outputs for images, and logits decoded from the same features after channel dropout, in one decoding."""
    base = generalist(net)
    levels = [torch.cat([level, F.dropout2d(level, 0.5)]) for level in base.encode(images)]
    plain, perturbed = base.decode(levels).chunk(2)
    logits = base.out(torch.cat([plain, perturbed]))
    special = net.specialists(plain) if isinstance(net, CollaborativeNet) else None
    return (logits[: len(images)], special), logits[len(images) :]


def label_loss(logits: Tensor, labels: Tensor, confidence: Tensor, tau: float) -> Tensor:
    """Dice over the pixels with at least `tau` confidence. logits (B, C, H, W), the others (B, H, W)."""
    return dice(logits.float().softmax(1), labels, confidence >= tau, smooth=1e-5)


class UniMatch(Method):
    """Two strong views and perturbed features, taught by one weak view."""

    title = "UniMatch"
    reference = "Yang et al., CVPR 2023"

    class Options(PlugInOptions):
        tau: float = Field(0.95, ge=0, lt=1, description="Confidence that a pseudo-label needs.")

    options: Options

    @cached_property
    def views(self) -> ViewSpec:
        return ViewSpec(strong=2, blur=0.5, quantised=True, cutmix="box", cutmix_share=0.5)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"student": unet(task, self.options)}

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert batch.partner is not None
        net, count, tau = self.nets["student"], len(batch.labels), self.options.tau
        partner = self.label_partner(batch.partner.weak)
        weak, perturbed = with_perturbed_features(
            net, torch.cat([batch.labelled.weak, batch.unlabelled.weak])
        )
        own = part(weak, slice(count, None))
        confidence, labels = own[0].detach().float().softmax(1).max(1)
        other = partner[0].float().softmax(1).max(1)
        pairs = zip(batch.unlabelled.strong, batch.partner.strong, batch.keep, strict=True)
        strong = run(net, torch.cat([mix(*views) for views in pairs]))
        streams = [part(strong, slice(i * len(labels), (i + 1) * len(labels))) for i in (0, 1)]
        on_strong = [
            label_loss(s[0], mix(labels, other[1], keep), mix(confidence, other[0], keep), tau)
            for s, keep in zip(streams, batch.keep, strict=True)
        ]
        terms = {
            "supervised": 0.5 * supervised(weak[0][:count], batch.labels),
            "strong": 0.125 * torch.stack(on_strong).sum(),
            "perturbed": 0.25 * label_loss(perturbed[count:], labels, confidence, tau),
        }
        labelled = part(weak, slice(count))
        attached = [
            specialist_terms(self.options, progress, labelled, batch.labels, s, own, partner, keep)
            for s, keep in zip(streams, batch.keep, strict=True)
        ]
        return terms | {name: 0.5 * (attached[0][name] + attached[1][name]) for name in attached[0]}

    @torch.no_grad()
    def label_partner(self, images: Tensor) -> Outputs:
        """Outputs for the CutMix partners, in eval mode."""
        net = self.nets["student"].eval()
        outputs = run(net, images)
        net.train()
        return outputs

    def taught_labels(self, images: Tensor) -> dict[str, Tensor]:
        return {"weak view": confident(run(self.nets["student"], images)[0], self.options.tau)}

    def inference(self) -> dict[str, nn.Module]:
        return {"student": generalist(self.nets["student"])}
