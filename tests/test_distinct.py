"""No method is wired so that it silently equals another: on one batch, from one start, all gradients differ."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import torch
from test_conformance import batches, made

from cgs.discovery import available_methods
from cgs.engine.method import Progress
from cgs.networks.unet import UNet
from cgs.presets import VARIANTS


def gradient(name: str, folder: Path) -> torch.Tensor:
    """Gradient of the first convolution of a method's first U-Net, from the same weights for all methods."""
    method = made(name, seed=0)
    unets = [
        module
        for net_name, net in method.nets.items()
        if net_name not in method.teachers
        for module in net.modules()
        if isinstance(module, UNet)
    ]
    start = UNet(5, 4)
    torch.manual_seed(1)
    for parameter in start.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    unets[0].load_state_dict(start.state_dict())
    torch.manual_seed(2)
    sum(method.loss(batches(method, folder)(0), Progress(900, 1000)).values()).backward()
    found = unets[0].encoder[0][0].weight.grad
    assert found is not None
    return found


def test_gradients_differ(phantom: Path) -> None:
    # Fully-supervised differs from labelled-only in the labels that it sees, not in its loss.
    methods = [m for m in (*available_methods(), *VARIANTS) if m != "fully-supervised"]
    gradients = {name: gradient(name, phantom) for name in methods}
    for first, second in combinations(methods, 2):
        difference = (gradients[first] - gradients[second]).norm() / gradients[first].norm()
        assert difference > 1e-3, f"{first} and {second} learn the same"
