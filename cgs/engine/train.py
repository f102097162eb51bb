"""The one training loop. It knows the `Method` contract and no method."""

from __future__ import annotations

import copy
import fcntl
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cgs.data.store import SCALE, Slices, list_cases, load_case, load_slices
from cgs.engine.average import Average
from cgs.engine.device import EnergyMeter, arithmetic, describe, lease, prepare_torch
from cgs.engine.method import (
    Method,
    Progress,
    Stage,
    build,
    method_of,
    parameters_in_training,
    trained_parameters,
)
from cgs.engine.pseudo_labels import Quality
from cgs.engine.run import (
    COMPLETE,
    WEIGHTS,
    Log,
    by_content,
    complete_already,
    fingerprint,
    load_checkpoint,
    machine,
    now,
    record_failure,
    save_checkpoint,
    save_weights,
    sizes,
    training_digest,
    versions,
    weights_of,
)
from cgs.engine.seeds import derive, generator
from cgs.engine.validate import Validation
from cgs.engine.views import Batch, BatchMaker
from cgs.errors import CannotWrite, SuiteError
from cgs.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgs.config import Config, TrainingConfig
    from cgs.engine.display import Display
    from cgs.paths import Paths
    from cgs.plan import Cell

# These change how a training runs, not what it computes: a resumed run may have other values.
INCIDENTAL = {"device", "gpu_slots", "threads", "checkpoint_every", "log_every", "pseudo_label_slices"}


class Interrupted(SuiteError):
    """The run was asked to stop; its checkpoint is written and the same command goes on from it."""

    def __init__(self, signal_number: int, iteration: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(
            f"Stopped by {signal.Signals(signal_number).name} at iteration {iteration}; the same command resumes "
            "there."
        )


def train(
    config: Config,
    cell: Cell,
    paths: Paths,
    show: Callable[[str, int, int], Display],
    *,
    keep_failure: bool = False,
) -> bool:
    """Train one cell to its run folder; resume where an earlier attempt stopped. True when complete.

    `show(title, iterations done, iterations in all)` makes the display of the progress.
    With `keep_failure`, a run that fails is recorded (failure.json) and False is returned, so that the
    other runs and the report go on; otherwise its error is raised. Being interrupted always raises.
    """
    folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    with alone(folder, cell):
        return train_alone(config, cell, paths, folder, show, keep_failure)


class Diverged(SuiteError):
    """The loss is not finite any more."""


class Busy(SuiteError):
    """Another process trains the same run: nothing has failed, and nothing is recorded."""

    exit_code = 75


@contextmanager
def alone(folder: Path, cell: Cell) -> Iterator[None]:
    """Hold the run's folder for this process; the system lets go of it when the process ends.

    A cluster may start a job again while the process of a node that it lost is still at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{cell}: another process is training this run; wait for it to end.") from None
        yield


def train_alone(
    config: Config,
    cell: Cell,
    paths: Paths,
    folder: Path,
    show: Callable[[str, int, int], Display],
    keep_failure: bool,
) -> bool:
    """`train`, with the folder held."""
    (folder / "failure.json").unlink(missing_ok=True)
    facts: dict[str, Any] = {
        "dataset": cell.dataset,
        "labelled": cell.labelled,
        "method": cell.method,
        "seed": cell.seed,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "machine": machine(),
        "threads": config.training.threads,
        "started": now(),
    }
    try:
        with lease(config.training) as device:
            facts["device"] = describe(device)
            prepare_torch(config.training)
            Trainer(config, cell, paths, device, facts).run(show)
    except (Interrupted, CannotWrite):
        raise  # Nothing is wrong with the training: it goes on when it may, or when there is room.
    except Exception as error:
        if not keep_failure:
            raise
        sentence, trace = explain(error, config.training)
        diverged = isinstance(error, Diverged)
        record_failure(folder, sentence, trace, {**facts, "diverged": diverged, "finished": now()})
        print(f"{cell}: {sentence}", file=sys.stderr)
        return False
    return True


def explain(error: Exception, training: TrainingConfig) -> tuple[str, str | None]:
    """One sentence about an error, and its traceback where the sentence does not say it all."""
    if isinstance(error, SuiteError):
        return str(error), None
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        # Torch begins with the place in its own source.
        reason = str(error).partition("\n")[0].rpartition("] . ")[2]
        sentence = (
            f"The device ran out of memory ({reason}); lower training.gpu_slots or the batch sizes "
            f"({training.labelled_batch} + {training.unlabelled_batch})."
        )
        return sentence, None
    return f"{type(error).__name__}: {error}", traceback.format_exc()


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them, so that an iteration can end in peace."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Step:
    """What learns from a batch: forward, backward, optimiser step, average of the teachers."""

    def __init__(self, method: Method, training: TrainingConfig, device: torch.device) -> None:
        self.method, self.training, self.device = method, training, device
        self.optimiser = torch.optim.SGD(
            trained_parameters(method),
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            foreach=True,
        )
        self.averages = [
            Average(method.nets[teacher], method.nets[student], method.average_buffers)
            for teacher, student in method.teachers.items()
        ]

    def __call__(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Learn from a batch. Returns the loss terms, detached, still on the device."""
        rate = self.method.learning_rate(progress, self.training.learning_rate, self.training.poly_power)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with arithmetic(self.training, self.device):
            terms = self.method.loss(batch, progress)
        total = torch.stack([t.float() for t in terms.values()]).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self.optimiser.step()
        for average in self.averages:
            average.update(self.method.teacher_decay(progress))
        return {name: term.detach() for name, term in terms.items()}


class Trainer:
    """One training: its data on the device, its method, optimiser, teachers, log and checkpoints."""

    def __init__(
        self, config: Config, cell: Cell, paths: Paths, device: torch.device, facts: dict[str, Any]
    ) -> None:
        self.training, self.cell, self.device, self.facts = config.training, cell, device, facts
        self.folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
        data = paths.data(cell.dataset)
        slices = load_slices(data)
        base, _ = config.method_and_options(cell.method)
        self.method = method_of(config, cell.method, slices.classes, slices.size)
        build(self.method, self.seed_torch, device)
        self.noise = generator(cell.seed, "noise", device=device)
        self.batches = self.batch_maker(slices)
        self.targets = slices.targets
        cases = [load_case(data, case) for case in list_cases(data, "val")]
        self.validation = Validation(cases, slices.size, slices.classes, device) if cases else None
        self.quality = self.quality_of(slices)
        self.step = Step(self.method, self.training, device)
        self.optimiser = self.step.optimiser
        self.log = Log(self.folder / "log.jsonl")
        self.stages = [(s, max(round(s.length * self.training.iterations), 1)) for s in self.method.stages]
        self.total = sum(length for _, length in self.stages)
        self.done, self.seconds = 0, 0.0
        self.meter = EnergyMeter(device, self.training.gpu_slots)
        self.best: dict[str, float] = {"dice": -1.0, "iteration": 0}
        # Written at the end, and until then in the checkpoint: one file holds what must agree.
        self.best_weights: dict[str, Tensor] = {}
        self.last_dice = float("nan")
        self.best_state: dict[str, Any] = {}  # Networks and optimiser, for a next stage that starts there.
        self.describe_run(data, base, by_content(config.network_of(cell.method).model_dump(mode="json")))
        self.seed_torch("dropout")

    def seed_torch(self, axis: str) -> None:
        """Seed torch's own generators (initialisation, dropout) for one axis."""
        torch.manual_seed(derive(self.cell.seed, axis))

    def describe_run(self, data: Path, base: str, network: dict[str, Any]) -> None:
        """Complete the facts for provenance, and mark what a checkpoint must agree with."""
        source = read_json(data / "source.json")
        self.facts |= {
            "base_method": base,
            "options": self.method.options.model_dump(mode="json"),
            "network": network,
            "source_digest": training_digest(type(self.method).__module__),
        }
        self.facts |= {
            "parameters_training": parameters_in_training(self.method),
            "parameters_inference": sum(
                p.numel() for net in self.method.inference().values() for p in net.parameters()
            ),
        }
        protocol = {k: v for k, v in self.facts["config"]["training"].items() if k not in INCIDENTAL}
        keys = ("dataset", "labelled", "method", "seed", "base_method", "options", "source_digest")
        facts = [self.facts[k] for k in keys]
        self.mark = fingerprint([facts, protocol, network, source])

    def batch_maker(self, slices: Slices) -> BatchMaker:
        """Move the slices to the device, once."""
        wanted: int | str = self.cell.labelled if self.cell.labelled == "all" else int(self.cell.labelled)
        # Left as stored: half the memory, and on the CPU not even read before they are needed.
        images = torch.from_numpy(slices.images.view(np.int16)).to(self.device)
        labels = torch.from_numpy(slices.labels).to(self.device)
        sizes = (self.training.labelled_batch, self.training.unlabelled_batch)
        labelled, unlabelled = (
            torch.from_numpy(np.asarray(i, dtype=np.int64))
            for i in (slices.labelled_indices(wanted), slices.unlabelled_indices(wanted))
        )
        self.method.begin(labels[labelled.to(self.device)])
        if self.method.views.unlabelled and not len(unlabelled):
            raise SuiteError(
                f"{self.cell}: no unlabelled slices are left with {wanted} labelled patients; give a smaller number."
            )
        return BatchMaker(
            images, labels, labelled, unlabelled, self.method.views, sizes, self.cell.seed, self.noise
        )

    def quality_of(self, slices: Slices) -> Quality | None:
        """What watches the pseudo-labels, on unlabelled slices spread evenly over the list."""
        wanted: int | str = self.cell.labelled if self.cell.labelled == "all" else int(self.cell.labelled)
        known = np.flatnonzero(slices.manifest["labelled_rank"].notna())
        rows = np.intersect1d(slices.unlabelled_indices(wanted), known)
        count = min(self.training.pseudo_label_slices, len(rows))
        if not count:
            return None
        chosen = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
        images = torch.from_numpy(slices.images[chosen].astype(np.float32) / SCALE).unsqueeze(1)
        return Quality(images, torch.from_numpy(slices.labels[chosen]), self.targets, self.device)

    def run(self, show: Callable[[str, int, int], Display]) -> None:
        """Train from the checkpoint, or the start, to the end; write weights and provenance.

        What is complete already is not trained again, for whatever reason it is asked for: remove the folder for that.
        """
        if (facts := complete_already(self.folder, self.mark)) is not None:
            write_json(self.folder / "provenance.json", facts)
            print(f"{self.cell}: complete already.", file=sys.stderr)
            return
        self.resume()
        with caught_signals() as signals, show(str(self.cell), self.done, self.total) as display:
            begin = 0
            for stage, length in self.stages:
                if self.done < begin + length:
                    self.run_stage(stage, begin, length, signals, display)
                begin += length
        self.finish()

    def run_stage(self, stage: Stage, begin: int, length: int, signals: list[int], display: Display) -> None:
        """Iterate through what is left of one stage."""
        if self.done == begin:
            self.begin_stage(stage)
        clock = time.perf_counter() - self.seconds
        while self.done < begin + length:
            terms = self.iterate(Progress(self.done - begin, length, stage.name))
            self.done += 1
            self.facts["iterations"] = self.done  # A failure names it.
            self.seconds = time.perf_counter() - clock
            display.iteration(self.done)
            if self.done % self.training.log_every == 0:
                self.log_terms(terms, display)
            if self.done % self.training.validate_every == 0 or self.done == begin + length:
                self.validate(display)
            if signals or self.done % self.training.checkpoint_every == 0 or self.done == begin + length:
                self.finite(terms)  # A state that went wrong must not replace the last good one.
                self.save()
            if signals:
                raise Interrupted(signals[0], self.done)

    def begin_stage(self, stage: Stage) -> None:
        """Start a stage: from the best state of the one before where it says so; selection starts anew."""
        if stage.from_best:
            if self.best_state:  # Without validation cases there is none: go on from the last state.
                self.put_back(self.best_state)
            for teacher, student in self.method.teachers.items():
                self.method.nets[teacher].load_state_dict(self.method.nets[student].state_dict())
        self.best, self.best_state = {"dice": -1.0, "iteration": 0}, {}

    def iterate(self, progress: Progress) -> dict[str, Tensor]:
        """One iteration: draw a batch and learn from it. Returns its terms, still on the device."""
        return self.step(self.batches(self.done), progress)

    def finite(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The terms as numbers; waits for the device. Raises SuiteError where their sum is not finite."""
        values = dict(zip(terms, torch.stack([t.float() for t in terms.values()]).tolist(), strict=True))
        if not np.isfinite(sum(values.values())):
            raise Diverged(
                f"The loss is {sum(values.values())} at iteration {self.done} ({values}); lower "
                "training.learning_rate, or use float32. last.ckpt holds the checkpoint before, if there was one."
            )
        return values

    def log_terms(self, terms: dict[str, Tensor], display: Display) -> None:
        """Log the latest loss."""
        values = self.finite(terms)
        loss = sum(values.values())
        rate = self.optimiser.param_groups[0]["lr"]
        self.log.write(
            {
                "iteration": self.done,
                "loss": loss,
                "terms": values,
                "learning_rate": rate,
                "seconds": round(self.seconds, 3),
            }
        )
        display.logged(loss)

    def validate(self, display: Display) -> None:
        """Score pseudo-labels and validation cases; keep the weights when the mean Dice is the best so far."""
        found = self.quality(self.method) if self.quality else {}
        if found:
            entry = {"iteration": self.done, "pseudo_labels": found, "seconds": round(self.seconds, 3)}
            self.log.write(entry)
        if self.validation is None:
            return
        per_target = self.validation(self.method)
        score = float(per_target.mean())
        named = {name: float(v) for name, v in zip(self.targets, per_target, strict=True)}
        self.log.write(
            {
                "iteration": self.done,
                "validation": {"dice": score, "per_target": named},
                "seconds": round(self.seconds, 3),
            }
        )
        self.last_dice = score
        if score > self.best["dice"]:
            self.best = {"dice": score, "iteration": self.done}
            self.best_weights = weights_of(self.method.inference())
            if self.continued():
                self.best_state = copy.deepcopy(self.learnt())
        display.validated(self.done, score, self.best["dice"], self.seconds)

    def continued(self) -> bool:
        """Whether a later stage starts from the best state of the present one."""
        begin = 0
        for (_, length), (following, _) in pairwise(self.stages):
            begin += length
            if self.done <= begin:
                return following.from_best
        return False

    def learnt(self) -> dict[str, Any]:
        """All that training has changed: networks, optimisers, the method's own state."""
        return {
            "nets": {name: net.state_dict() for name, net in self.method.nets.items()},
            "optimiser": self.optimiser.state_dict(),
            "own": {name: optimiser.state_dict() for name, optimiser in self.method.own.items()},
            "state": self.method.state(),
        }

    def put_back(self, learnt: dict[str, Any]) -> None:
        """Undo what training has changed since `learnt`."""
        for name, state in learnt["nets"].items():
            self.method.nets[name].load_state_dict(state)
        self.optimiser.load_state_dict(learnt["optimiser"])
        for name, state in learnt["own"].items():
            self.method.own[name].load_state_dict(state)
        self.method.load_state({k: v.to(self.device, copy=True) for k, v in learnt["state"].items()})

    def save(self) -> None:
        """Write everything that the next iteration depends on."""
        cuda = self.device.type == "cuda"
        values = {
            "fingerprint": self.mark,
            "done": self.done,
            "seconds": self.seconds,
            "energy": self.meter.joules(),
            "best": self.best,
            "best_state": self.best_state,
            "best_weights": self.best_weights,
            "last_dice": self.last_dice,
            **self.learnt(),
            "device": self.device.type,
            "noise": self.noise.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        self.log.to_disk()
        save_checkpoint(self.folder / "last.ckpt", values)

    def resume(self) -> None:
        """Go on from `last.ckpt` where it belongs to this training; otherwise start a clean folder."""
        values = load_checkpoint(self.folder / "last.ckpt", self.mark)
        if values is None:
            for name in ("last.ckpt", *WEIGHTS.values(), "provenance.json", COMPLETE):
                (self.folder / name).unlink(missing_ok=True)
            self.log.rewind(0)
            return
        self.done, self.seconds, self.best = values["done"], values["seconds"], values["best"]
        self.best_state, self.best_weights = values["best_state"], values["best_weights"]
        self.last_dice = values["last_dice"]
        self.meter.before = values.get("energy")
        self.put_back(values)
        torch.set_rng_state(values["torch"])
        if values["device"] == self.device.type:
            self.noise.set_state(values["noise"])
        else:  # The state of another kind of generator fits no other.
            self.noise.manual_seed(derive(self.cell.seed, "noise", self.done))
            print(
                f"{self.cell}: the checkpoint is of another device; its random numbers change.",
                file=sys.stderr,
            )
        if self.device.type == "cuda" and values["cuda"] is not None:
            torch.cuda.set_rng_state(values["cuda"], self.device)
        self.log.rewind(self.done)
        print(f"{self.cell}: resumed at iteration {self.done} of {self.total}", file=sys.stderr)

    def finish(self) -> None:
        """Write the last weights and the provenance; the resume point has served its purpose."""
        last = weights_of(self.method.inference())
        if self.validation is None:  # Nothing to select by: the last checkpoint is the result.
            self.best_weights, self.best = last, {"dice": float("nan"), "iteration": self.done}
        save_weights(self.folder / WEIGHTS["best"], self.best_weights)
        save_weights(self.folder / WEIGHTS["last"], last)
        self.log.to_disk()
        peak = (
            torch.cuda.max_memory_allocated(self.device)
            if self.device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        dice, last_dice = (float(v) if np.isfinite(v) else None for v in (self.best["dice"], self.last_dice))
        joules = self.meter.joules()
        facts = {
            "status": "complete",
            **self.facts,
            "seconds": round(self.seconds, 2),
            **({"energy_joules": round(joules, 1)} if joules is not None else {}),
            "peak_memory_bytes": peak,
            "iterations": self.total,
            "best_iteration": int(self.best["iteration"]),
            "best_validation_dice": dice,
            "last_validation_dice": last_dice,
            "fingerprint": self.mark,
            "bytes": sizes(self.folder),
            "finished": now(),
        }
        write_json(self.folder / COMPLETE, facts)
        write_json(self.folder / "provenance.json", facts)
        (self.folder / "last.ckpt").unlink(missing_ok=True)
