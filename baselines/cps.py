"""CPS: two networks label the unlabelled images for each other.

Chen et al., "Semi-supervised semantic segmentation with cross pseudo supervision", CVPR 2021; the 2D variant
of SSL4MIS.

    L_i = 0.5 (CE + Dice)(f_i(x_l), y) + lambda(t) CE(f_i(x_u), argmax f_j(x_u)),   L = L_1 + L_2

Hard labels, detached, no threshold, unlabelled half only. Two SGD optimisers with equal settings are one over
both networks. The learning rate counter is advanced before it is read. Network 1 is reported. `specialists` attaches
CGS: each network has specialists and learns from the pseudo-labels of the other.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import cross_entropy, supervised
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.plugin import PlugInOptions, generalist, part, run, specialist_terms, unet


class CrossPseudoSupervision(Method):
    """Crossed hard pseudo-labels of two networks."""

    title = "CPS"
    reference = "Chen et al., CVPR 2021"

    class Options(PlugInOptions):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the crossed loss after its ramp-up.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {name: unet(task, self.options) for name in ("first", "second")}

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        return initial * (1.0 - progress.iteration / progress.iterations) ** power

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        images = torch.cat([batch.labelled.weak, batch.unlabelled.weak])
        outputs = [run(net, images) for net in self.nets.values()]
        count, weight = len(batch.labels), progress.ramp(self.options.lambda_max)
        first, second = (part(o, slice(count, None)) for o in outputs)
        own = [supervised(o[0][:count], batch.labels) for o in outputs]
        crossed = [cross_entropy(a, b.argmax(1)) for a, b in ((first[0], second[0]), (second[0], first[0]))]
        pairs = ((outputs[0], first, second), (outputs[1], second, first))
        attached = [
            specialist_terms(self.options, progress, part(o, slice(count)), batch.labels, student, teacher)
            for o, student, teacher in pairs
        ]
        return {"supervised": own[0] + own[1], "crossed": weight * (crossed[0] + crossed[1])} | {
            name: attached[0][name] + attached[1][name] for name in attached[0]
        }

    def taught_labels(self, images: Tensor) -> dict[str, Tensor]:
        return {f"{name} network": run(net, images)[0].argmax(1) for name, net in self.nets.items()}

    def inference(self) -> dict[str, nn.Module]:
        return {"first": generalist(self.nets["first"])}
