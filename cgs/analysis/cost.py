"""How long trainings take: an extrapolation from measured seconds an iteration. No torch.

`benchmarks/cost.py` measures every method on a device and writes `benchmarks/results/iteration-<device>.json`. A
training is that many iterations, its stages included, in proportion to pixels, images and the width of the network.
Reading the data, validation and prediction are left out; they are a few percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cgs.config import Config
from cgs.discovery import ROOT
from cgs.files import read_json
from cgs.plan import FULLY_LABELLED, Cell, trainings

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Measured:
    """Seconds an iteration of each method on one device, and what was measured.

    `seconds` and `lengths` (all stages, as a multiple of the config's iterations) by method or variant; `size` in
    pixels, `batch` slices of each kind, `width` of the network; `threads` and `precision` of the training.
    """

    device: str
    date: str
    torch: str
    threads: int
    precision: str
    size: int
    batch: int
    width: int
    seconds: dict[str, float]
    lengths: dict[str, float]

    def training(self, config: Config, cell: Cell) -> float:
        """Estimated seconds of one training of `config`.

        A variant that was not measured counts as what it extends, a method that was not as the slowest.
        """
        training = config.training
        name = self.known(config, cell.method)
        pixels = (config.datasets[cell.dataset].size / self.size) ** 2
        images = (training.labelled_batch + training.unlabelled_batch) / (2 * self.batch)
        width = config.network.width / self.width
        seconds = self.seconds[name] if name else max(self.seconds.values())
        length = self.lengths[name] if name else 1.0
        return seconds * length * training.iterations * pixels * images * width

    def known(self, config: Config, method: str) -> str | None:
        """The measured name that stands for `method`."""
        base, options = config.method_and_options(method)
        if method in self.seconds and (method == base) == (not options):
            return method
        if base in FULLY_LABELLED:  # Labelled-only with more labels.
            return "labelled-only" if "labelled-only" in self.seconds else None
        return base if base in self.seconds else None


def measurements(folder: Path = RESULTS) -> list[Measured]:
    """What has been measured, the CPU first."""
    files = sorted(folder.glob("iteration-*.json"), key=lambda f: (f.name != "iteration-cpu.json", f.name))
    return [Measured(**read_json(file)) for file in files]


def priorities(config: Config) -> dict[str, int]:
    """A rank for each method of `config`, the longest training highest: long runs started last would end alone."""
    devices = measurements()
    methods = list(dict.fromkeys(cell.method for cell in trainings(config)))
    if not devices:
        return dict.fromkeys(methods, 1)
    dataset = next(iter(config.datasets))
    lengths = {m: devices[-1].training(config, Cell(dataset, "1", m, 0)) for m in methods}
    return {method: rank for rank, method in enumerate(sorted(lengths, key=lengths.__getitem__), start=1)}


@dataclass(frozen=True)
class Target:
    """A part of the work: its name, its trainings, and their hours on each measured device."""

    name: str
    runs: int
    hours: list[float]


def targets(config: Config, devices: list[Measured]) -> list[Target]:
    """The named targets with all trainings that each needs, and the whole config, which trains each once."""
    groups = {name: trainings(config.only(name)) for name in target_names(config)}
    groups["all"] = trainings(config)
    return [
        Target(name, len(group), [sum(d.training(config, c) for c in group) / 3600 for d in devices])
        for name, group in groups.items()
    ]


def target_names(config: Config) -> list[str]:
    """The main tables, then the experiments."""
    return [*(f"table-{name}" for name in config.main_datasets), *config.experiments]


def description(config: Config, target: str) -> str:
    """A target in a few words."""
    if target in config.experiments:
        experiment = config.experiments[target]
        return f"{experiment.row} {experiment.title}".strip()
    return "everything, once" if target == "all" else f"main table of {target.removeprefix('table-')}"


def table(config: Config) -> str:
    """The targets as text, with what the hours rest on."""
    devices = measurements()
    heads = [
        d.device if d.device.startswith("NVIDIA") else f"{d.device}, {d.threads} thread" for d in devices
    ]
    rows = [["target", "trainings", *(f"hours ({head})" for head in heads), "what it is"]]
    rows += [
        [t.name, str(t.runs), *(f"{h:,.1f}" for h in t.hours), description(config, t.name)]
        for t in targets(config, devices)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            v.ljust(w) if i in (0, len(row) - 1) else v.rjust(w)
            for i, (v, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    lines.append("`snakemake <target>` makes one alone, with a report of its own; targets share trainings.")
    if any(config.network_of(c.method).kind != "unet" for c in trainings(config)):
        lines.append(
            "TransUNet was not measured: its trainings are counted as those of the U-Net, which are shorter."
        )
    for device in devices:
        lines.append(
            f"{device.device}: measured on {device.date} at {device.size} x {device.size} pixels, batch "
            f"{device.batch} + {device.batch}, {device.precision}; one training at a time. The hours extrapolate "
            "from there."
        )
    if not any(d.device.startswith("NVIDIA") for d in devices):
        lines.append("No GPU has been measured here; python benchmarks/gpu.py does it.")
    return "\n".join(lines)
