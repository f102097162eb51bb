"""What every method costs: parameters, passes, time and memory of an iteration.

    python benchmarks/cost.py [--size 64] [--batch 12] [--rounds 7] [--device cpu] [--markdown docs/cost.md] [--save]

All methods (fully-supervised is labelled-only with more labels) are built on random slices with three targets and
take iterations in turn (a round each), so that other work on the machine meets all alike. The time is the median of
the rounds relative to labelled-only, batch and optimiser step included, in the middle of a 30,000-iteration training;
the max step that CauSSL takes every 60 iterations counts one sixtieth. BCP trains a third longer than the others,
which is not in its time. Passes are counted in images through an encoder (of tiles: by their area), relative to a
labelled batch: `forward` all of them, `backward` those whose gradient flows back. Peak memory is measured in a
process of its own for each method: on the CPU how far its resident memory rose during three iterations, on CUDA what
torch had allocated. With `--save`, the seconds go to benchmarks/results/, where `python -m cgs targets` finds them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import torch
from iteration import Iteration
from torch import Tensor, nn

from cgs.analysis.cost import RESULTS
from cgs.config import TrainingConfig
from cgs.engine.device import describe, prepare_torch
from cgs.engine.method import parameters_in_training
from cgs.files import write_json, write_text
from cgs.networks.swin_unet import SwinUNet
from cgs.networks.unet import UNet
from cgs.presets import METHODS, VARIANTS


def passes(iteration: Iteration, size: int, batch: int) -> tuple[float, float]:
    """Images that go forward through an encoder, and backward, in one iteration; in labelled batches."""
    counted: Counter[str] = Counter()

    def forward(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        images = given[0].shape[0] * given[0].shape[-1] ** 2 / size**2
        counted["forward"] += images
        if out.requires_grad:
            out.register_hook(lambda gradient: counted.update({"backward": images}))

    hooks = []
    for net in iteration.method.nets.values():
        for module in net.modules():
            if isinstance(module, UNet | SwinUNet):
                first = module.encoder[0] if isinstance(module, UNet) else module.embed
                hooks.append(first.register_forward_hook(forward))
    iteration()
    for hook in hooks:
        hook.remove()
    return counted["forward"] / batch, counted["backward"] / batch


def peak_bytes(name: str, size: int, batch: int, device: torch.device) -> int:
    """Peak memory of three iterations in this process."""
    iteration = Iteration(name, size, batch, device)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew from here.
    before = resident("VmRSS")
    for _ in range(3):
        iteration()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes that /proc/self/status gives: VmRSS, resident now, or VmHWM, at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_apart(name: str, options: argparse.Namespace) -> int:
    """`peak_bytes` in a process of its own."""
    arguments = ["--size", str(options.size), "--batch", str(options.batch), "--device", options.device]
    command = [sys.executable, __file__, "--peak", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def table(
    names: list[str], options: argparse.Namespace, device: torch.device
) -> tuple[list[str], dict[str, float], dict[str, float]]:
    """The rows of the table as Markdown; seconds of an iteration, and length of all stages, by method."""
    iterations = {name: Iteration(name, options.size, options.batch, device) for name in names}
    counted = {
        name: passes(it, options.size, options.batch) for name, it in iterations.items()
    }  # Warms up too.
    spent: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, iteration in iterations.items():
            spent[name].append(iteration.seconds())
    mean = {name: statistics.median(seconds) for name, seconds in spent.items()}
    iterations["caussl"].done = 60
    mean["caussl"] += (iterations["caussl"].seconds() - mean["caussl"]) / 60
    unit = mean["labelled-only"]
    rows = [
        "| method | parameters in training | at inference | forward | backward | time | peak memory (MB) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, iteration in iterations.items():
        method = iteration.method
        trained = parameters_in_training(method)
        kept = sum(p.numel() for net in method.inference().values() for p in net.parameters())
        forward, backward = counted[name]
        peak = peak_apart(name, options) / 1e6
        numbers = f"{forward:g} | {backward:g} | {mean[name] / unit:.1f} | {peak:.0f}"
        rows.append(f"| {name} | {trained:,} | {kept:,} | {numbers} |")
    rows += ["", f"Labelled-only: {1000 * unit:.0f} ms an iteration."]
    lengths = {name: sum(s.length for s in it.method.stages) for name, it in iterations.items()}
    return rows, mean, lengths


def save(
    options: argparse.Namespace, device: torch.device, seconds: dict[str, float], lengths: dict[str, float]
) -> None:
    """Write what `cgs.analysis.cost.Measured` reads."""
    name = describe(device)
    slug = "cpu" if device.type == "cpu" else name.lower().replace(" ", "-")
    facts = {
        "device": name,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "threads": 1,
    }
    facts |= {"precision": "float32", "size": options.size, "batch": options.batch, "width": 16}
    rounded = {k: round(v, 5) for k, v in seconds.items()}
    write_json(RESULTS / f"iteration-{slug}.json", {**facts, "seconds": rounded, "lengths": lengths})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--markdown", help="also write the table into this file")
    parser.add_argument("--save", action="store_true", help="keep the seconds for `python -m cgs targets`")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    prepare_torch(TrainingConfig(threads=1))
    device = torch.device(options.device)
    if options.peak:
        print(peak_bytes(options.peak, options.size, options.batch, device))
        return
    names = [name for name in METHODS if name != "fully-supervised"]
    rows, seconds, lengths = table([*names, *VARIANTS], options, device)
    if options.save:
        save(options, device, seconds, lengths)
    where = f"{describe(device)}, one thread" if device.type == "cpu" else describe(device)
    command = (
        f"python benchmarks/cost.py --size {options.size} --batch {options.batch} --rounds {options.rounds}"
    )
    measured = (
        f"Measured by `{command}` on {where}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}: "
        f"{options.size} x {options.size} pixels, batch {options.batch} + {options.batch}, three targets, width 16, "
        "float32."
    )
    explained = (__doc__ or "").split("\n\n", 2)[2].strip()
    heading = ["# Cost of an iteration", "", *textwrap.wrap(measured, 120), "", *explained.splitlines(), ""]
    print("\n".join(rows))
    if options.markdown:
        write_text(options.markdown, "\n".join([*heading, *rows]) + "\n")


if __name__ == "__main__":
    main()
