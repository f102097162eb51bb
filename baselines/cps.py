"""CPS: two networks label the unlabelled images for each other.

Chen et al., "Semi-supervised semantic segmentation with cross pseudo supervision", CVPR 2021; the 2D variant
of SSL4MIS.

    L_i = 0.5 (CE + Dice)(f_i(x_l), y) + lambda(t) CE(f_i(x_u), argmax f_j(x_u)),   L = L_1 + L_2

Hard labels, detached, no threshold, unlabelled half only. Two SGD optimisers with equal settings are one over
both networks. The learning rate counter is advanced before it is read. Network 1 is reported.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import cross_entropy, supervised
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.networks.unet import UNet


class CrossPseudoSupervision(Method):
    """Crossed hard pseudo-labels of two networks."""

    title = "CPS"
    reference = "Chen et al., CVPR 2021"

    class Options(Method.Options):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the crossed loss after its ramp-up.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {name: UNet(task.classes, task.width) for name in ("first", "second")}

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        return initial * (1.0 - progress.iteration / progress.iterations) ** power

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        images = torch.cat([batch.labelled.weak, batch.unlabelled.weak])
        first, second = (net(images) for net in self.nets.values())
        count, weight = len(batch.labels), progress.ramp(self.options.lambda_max)
        own = supervised(first[:count], batch.labels) + supervised(second[:count], batch.labels)
        crossed = cross_entropy(first[count:], second[count:].argmax(1)) + cross_entropy(
            second[count:], first[count:].argmax(1)
        )
        return {"supervised": own, "crossed": weight * crossed}

    def inference(self) -> dict[str, nn.Module]:
        return {"first": self.nets["first"]}
