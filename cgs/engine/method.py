"""What a method is: the contract between the one training loop and every file in `baselines/`.

A method says which views it needs, which networks it trains, what its loss is and how it predicts. The
engine draws the batches, keeps the teachers, steps the optimiser, logs, validates, saves and resumes. A
method never reads a file and never sees the label of an unlabelled slice.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from cgs.discovery import available_methods, module_of
from cgs.engine.losses import ema_decay, ramp
from cgs.engine.views import Batch, ViewSpec
from cgs.errors import SuiteError, did_you_mean, sentence
from cgs.networks.transunet import TransUNet
from cgs.networks.unet import UNet

if TYPE_CHECKING:
    from cgs.config import Config


@dataclass(frozen=True)
class Task:
    """What is to be segmented, by what.

    C classes with background, image size in pixels, width of the networks; `network` is "unet" or "transunet", and
    `weights` what the latter starts from.
    """

    classes: int
    size: int
    width: int = 16
    network: str = "unet"
    weights: Path | None = None

    @property
    def targets(self) -> int:
        """K = C - 1 target classes."""
        return self.classes - 1


@dataclass(frozen=True)
class Progress:
    """Where a training is: 0-based `iteration` of `iterations` in the stage called `stage`."""

    iteration: int
    iterations: int
    stage: str = "train"

    def ramp(self, maximum: float, steps: int = 200) -> float:
        """The sigmoid ramp-up of `cgs.engine.losses.ramp` at this iteration."""
        return ramp(maximum, self.iteration, self.iterations, steps)

    def share(self, fraction: float) -> int:
        """`fraction` of this stage in iterations: delays keep their proportion on short budgets."""
        return round(fraction * self.iterations)


@dataclass(frozen=True)
class Stage:
    """A part of a training: its length as a multiple of the config's iterations.

    `from_best` starts it from what was best on validation in the stage before: weights, optimisers and what the
    method's `state` gave. The teachers then start as copies of their students.
    """

    name: str = "train"
    length: float = 1.0
    from_best: bool = False


NOT_LABELLED = 255
"""Stands for a pixel without a pseudo-label."""

BACKBONES = ("unet", "transunet")


def backbone(task: Task) -> UNet | TransUNet:
    """The network of a task: `features` gives its last decoder feature, `out` the logits of it."""
    if task.network == "transunet":
        return TransUNet(task.classes, task.size, weights=task.weights)
    return UNet(task.classes, task.width)


class Method:
    """One way to learn from labelled and unlabelled slices. Subclass it in one file of `baselines/`.

    Class attributes to set: `title` (as the table shows it), `reference` (paper), `Options` (a pydantic
    model: the method's hyper-parameters with ranges and descriptions, the only place of their defaults)
    and `views`. Set `teachers` to {name: student} for networks that the engine keeps as averages, and
    `self_stepped` to the names of networks that the method trains itself, with `optimisers` of its own. A method
    that takes its networks from `backbone` says so by `backbones = BACKBONES`.
    """

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

    title: ClassVar[str]
    reference: ClassVar[str]
    teachers: ClassVar[Mapping[str, str]] = {}
    self_stepped: ClassVar[tuple[str, ...]] = ()
    stages: ClassVar[tuple[Stage, ...]] = (Stage(),)
    backbones: ClassVar[tuple[str, ...]] = ("unet",)

    def __init__(self, task: Task, options: BaseModel | None = None) -> None:
        self.task = task
        self.options = options if options is not None else self.Options()
        self.nets: dict[str, nn.Module] = {}  # Filled by the engine: trained networks and teachers.
        self.own: dict[str, torch.optim.Optimizer] = {}  # Likewise: what `optimisers` gave.

    @cached_property
    def views(self) -> ViewSpec:
        """The views that a batch must hold."""
        return ViewSpec()

    @property
    def average_buffers(self) -> bool:
        """Whether teachers average batch-norm statistics too; if not, they keep their own."""
        return False

    def teacher_decay(self, progress: Progress) -> float:
        """a of teacher <- a teacher + (1 - a) student: min(1 - 1/(t+1), 0.99), so iteration 0 copies."""
        return ema_decay(progress.iteration)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The networks to train, by name. Called again, with another seed, to initialise the teachers."""
        return {"student": backbone(task)}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers of the `self_stepped` networks; made once, kept in `self.own` and in checkpoints."""
        return {}

    def begin(self, labels: Tensor) -> None:
        """Called once before training, with the label maps (N, H, W) uint8 of all labelled slices."""

    def learning_rate(self, progress: Progress, initial: float, power: float) -> float:
        """Learning rate in force during an iteration: polynomial decay, set after each step.

        The iteration counter is read before it is advanced, so iterations 0 and 1 both run at `initial`.
        """
        done = max(progress.iteration - 1, 0) / progress.iterations
        return initial * (1.0 - done) ** power

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Named, weighted terms (scalars); the engine adds them up, logs each and steps."""
        raise NotImplementedError

    def taught_labels(self, images: Tensor) -> dict[str, Tensor]:
        """The pseudo-labels that the method would learn from on weak views, by kind; only to watch their quality.

        images (B, 1, H, W) to label maps (B, H, W) in 0..K, or NOT_LABELLED where a pixel would teach nothing. The
        networks are as in training; what they do to batch statistics and random numbers is undone. {}: none.
        """
        return {}

    def inference(self) -> dict[str, nn.Module]:
        """The networks that `predict` uses; only these are saved as weights. The first trained one by default."""
        return dict([next(iter(trained_nets(self).items()))])

    def predict(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 1, H, W); networks are in eval mode, without gradient."""
        return next(iter(self.inference().values()))(images)

    def state(self) -> dict[str, Tensor]:
        """Whatever else must survive a checkpoint (memories, running weights). Tensors only."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""


def options_of(method: type[Method], values: Mapping[str, object], where: str) -> BaseModel:
    """Check option values of a method. Raises SuiteError with one sentence."""
    try:
        return method.Options.model_validate(dict(values))
    except ValidationError as error:
        known = sorted(method.Options.model_fields)
        parts = [
            f"unknown option {item['loc'][0]!r}"
            + (did_you_mean(str(item["loc"][0]), known) if known else "; it has no options")
            if item["type"] == "extra_forbidden"
            else f"{'.'.join(map(str, item['loc']))}: {item['msg']} (given: {item['input']!r})"
            for item in error.errors()
        ]
        raise SuiteError(sentence(f"{where}: {'; '.join(parts)}")) from None


def load_method(name: str) -> type[Method]:
    """The one Method subclass that the module of `name` defines."""
    module = importlib.import_module(module_of(name))
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise SuiteError(
            f"{module.__file__} must define exactly one subclass of Method, but defines {len(found)}."
        )
    return found[0]


def all_methods() -> dict[str, type[Method]]:
    """Every method of the suite by name."""
    return {name: load_method(name) for name in available_methods()}


def confident(logits: Tensor, tau: float) -> Tensor:
    """Labels (B, H, W) of logits (B, C, H, W) where their probability is above `tau`, NOT_LABELLED elsewhere."""
    confidence, labels = logits.float().softmax(1).max(1)
    return torch.where(confidence > tau, labels, NOT_LABELLED)


def method_of(config: Config, name: str, classes: int, size: int) -> Method:
    """A method or variant of a config, without networks yet. Raises SuiteError where it cannot have that network."""
    base, values = config.method_and_options(name)
    kind, network = load_method(base), config.network_of(name)
    if network.kind not in kind.backbones:
        raise SuiteError(f"{name}: {kind.title} is made for the U-Net; it has no version for {network.kind}.")
    task = Task(classes, size, network.width, network.kind, network.weights)
    return kind(task, options_of(kind, values, f"variants.{name}"))


def build(method: Method, seeded: Callable[[str], None], device: torch.device) -> None:
    """Make the networks and teachers of `method` on `device`; `seeded(axis)` seeds torch before each."""
    seeded("init")
    nets = method.networks(method.task)
    if method.teachers:
        seeded("init teacher")
        fresh = method.networks(method.task)
        for teacher, student in method.teachers.items():
            nets[teacher] = fresh[student].requires_grad_(False)
    for net in nets.values():
        net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.nets = nets
    method.own = method.optimisers()


def trained_nets(method: Method) -> dict[str, nn.Module]:
    """The networks that the engine's optimiser steps: no teachers, none that the method steps itself."""
    others = {*method.teachers, *method.self_stepped}
    return {name: net for name, net in method.nets.items() if name not in others}


def trained_parameters(method: Method) -> list[nn.Parameter]:
    """The parameters of all `trained_nets`."""
    return [p for net in trained_nets(method).values() for p in net.parameters()]


def parameters_in_training(method: Method) -> int:
    """How many parameters learn, those that the method steps itself among them; teachers are not counted."""
    learn = (net for name, net in method.nets.items() if name not in method.teachers)
    return sum(p.numel() for net in learn for p in net.parameters())
