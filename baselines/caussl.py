"""CauSSL, CPS flavour: two networks that teach each other and are kept independent in their weights.

Miao et al., "CauSSL: causality-inspired semi-supervised learning for medical image segmentation", ICCV 2023. Only 3D
code was released; this is its CPS flavour on two shared U-Nets.

    D(1|2) = mean over convolutions of mean over output channels n of cos^2(row n of A1 W2, row n of W1)
    max step, every 60 iterations: 60 Adam steps on A1, A2 that raise D with the networks fixed
    min step: L_i = 0.5 (CE + Dice)(f_i(x_l), y) + 0.3 c(t) CE(f_i(x_u), argmax f_j(x_u)) + 3 D(i|j),  W_j detached
    c(t) = 0.1 exp(-5 (1 - min(s, 40) / 40)^2), s = floor(200 t / T)

W are convolution weights as matrices (out x rest), A square matrices that try to predict one network's rows from the
other's. The crossed term starts after 400, the dependence after 500 of 30,000 iterations (our choice: the release has
these numbers in 5,000) and its first max step. Network 1 is reported.

What differs from the release: 2D, Dice over all classes, the protocol's learning rate decay, and one backward pass of
L_1 + L_2 (the release steps network 1 before it uses its graph again, which torch refuses).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import cross_entropy, in_float32, supervised
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch
from cgs.networks.unet import UNet


def weight_rows(net: nn.Module) -> list[Tensor]:
    """Every convolution's weights as a matrix (out, rest), in the order of the network."""
    return [m.weight.flatten(1) for m in net.modules() if isinstance(m, nn.Conv2d)]


def dependence(own: Sequence[Tensor], other: Sequence[Tensor], mixing: Sequence[Tensor]) -> Tensor:
    """D(own | other): mean squared cosine of the rows of A W_other and of W_own, over rows and layers."""
    with in_float32(own[0]):
        cosines = [
            nn.functional.cosine_similarity(a @ w2, w1, dim=1).square().mean()
            for w1, w2, a in zip(own, other, mixing, strict=True)
        ]
        return torch.stack(cosines).mean()


class Mixing(nn.ParameterList):
    """The matrices A of one network, one for each of its convolutions."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(1e-3 * torch.randn(len(w), len(w)) for w in weight_rows(net))


class CausalityInspired(Method):
    """CPS with a min-max game for independent weights."""

    title = "CauSSL"
    reference = "Miao et al., ICCV 2023"
    self_stepped = ("first_mixing", "second_mixing")

    class Options(Method.Options):
        crossed_weight: float = Field(0.3, ge=0, description="Weight of the crossed loss, times its ramp.")
        dependence_weight: float = Field(3.0, ge=0, description="Weight of the dependence.")
        crossed_delay: float = Field(
            400 / 30000, ge=0, le=1, description="Share of the training before the crossed loss."
        )
        dependence_delay: float = Field(
            500 / 30000, ge=0, le=1, description="Share of the training before the dependence."
        )
        period: int = Field(60, ge=1, description="Iterations between two max steps.")
        max_steps: int = Field(60, ge=1, description="Adam steps of one max step.")
        max_rate: float = Field(0.02, gt=0, description="Learning rate of Adam in the max step.")

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {n: UNet(task.classes, task.width) for n in ("first", "second")}
        return nets | {f"{name}_mixing": Mixing(net) for name, net in nets.items()}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        rate = self.options.max_rate
        return {n: torch.optim.Adam(self.nets[n].parameters(), lr=rate) for n in self.self_stepped}

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        t, delay = progress.iteration, progress.share(self.options.dependence_delay)
        if t > delay and t % self.options.period == 0:
            self.maximise()
        images = torch.cat([batch.labelled.weak, batch.unlabelled.weak])
        first, second = self.nets["first"](images), self.nets["second"](images)
        count = len(batch.labels)
        own = supervised(first[:count], batch.labels) + supervised(second[:count], batch.labels)
        terms = {"supervised": own}
        if t > progress.share(self.options.crossed_delay):
            crossed = cross_entropy(first[count:], second[count:].argmax(1)) + cross_entropy(
                second[count:], first[count:].argmax(1)
            )
            terms["crossed"] = self.options.crossed_weight * progress.ramp(0.1, steps=40) * crossed
        if t >= (delay // self.options.period + 1) * self.options.period:  # The first max step is done.
            both = self.dependence_of("first", "second") + self.dependence_of("second", "first")
            terms["dependence"] = self.options.dependence_weight * both
        return terms

    def dependence_of(self, own: str, other: str) -> Tensor:
        """D(own | other) with a gradient for the own network alone."""
        fixed = [w.detach() for w in weight_rows(self.nets[other])]
        mixing = [a.detach() for a in self.nets[f"{own}_mixing"].parameters()]
        return dependence(weight_rows(self.nets[own]), fixed, mixing)

    def maximise(self) -> None:
        """The max step: fit the mixing matrices to the present weights."""
        rows = {n: [w.detach() for w in weight_rows(self.nets[n])] for n in ("first", "second")}
        for own, other in (("first", "second"), ("second", "first")):
            optimiser, mixing = self.own[f"{own}_mixing"], list(self.nets[f"{own}_mixing"].parameters())
            for _ in range(self.options.max_steps):
                optimiser.zero_grad()
                (-dependence(rows[own], rows[other], mixing)).backward()
                optimiser.step()
