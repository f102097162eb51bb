"""CTCT: a convolutional network and a transformer label the unlabelled images for each other.

Luo et al., "Semi-supervised medical image segmentation via cross teaching between CNN and transformer", MIDL 2022;
the variant of SSL4MIS.

    L_i = 0.5 (CE + Dice)(f_i(x_l), y) + lambda(t) Dice(p_i(x_u), argmax f_j(x_u)),   L = L_1 + L_2

f_1 is the shared U-Net, which is reported; f_2 is Swin-Unet. Hard labels, detached, unlabelled half only; Dice over
all classes, smoothing 1e-5. The learning rate counter is advanced before it is read.

What differs from the release: Swin-Unet starts from random weights (the release loads an ImageNet checkpoint), its
window follows the image size (7 at 224, as published), and the batch is the suite's (the release has 8 + 8).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import dice, supervised
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.networks.swin_unet import SwinUNet
from cgs.networks.unet import UNet


class CrossTeaching(Method):
    """Crossed hard pseudo-labels of a U-Net and a Swin-Unet."""

    title = "CTCT"
    reference = "Luo et al., MIDL 2022"

    class Options(Method.Options):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the crossed loss after its ramp-up.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        # Six times the U-Net's width: 96 channels beside the published 16.
        transformer = SwinUNet(task.classes, task.size, 6 * task.width)
        return {"unet": UNet(task.classes, task.width), "transformer": transformer}

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        return initial * (1.0 - progress.iteration / progress.iterations) ** power

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        images = torch.cat([batch.labelled.weak, batch.unlabelled.weak])
        first, second = (net(images) for net in self.nets.values())
        count, weight = len(batch.labels), progress.ramp(self.options.lambda_max)
        own = supervised(first[:count], batch.labels) + supervised(second[:count], batch.labels)
        crossed = self.taught(first[count:], second[count:]) + self.taught(second[count:], first[count:])
        return {"supervised": own, "crossed": weight * crossed}

    @staticmethod
    def taught(student: Tensor, teacher: Tensor) -> Tensor:
        """Dice of the student's softmax to the teacher's arg-max; both are logits (B, C, H, W)."""
        return dice(student.float().softmax(1), teacher.argmax(1), smooth=1e-5)
