"""How the costs grow: tables, and one figure of curves.

    python benchmarks/scaling.py [--device cpu] [--rounds 5] [--parts iteration concurrency metrics]
                                 [--markdown FILE --figure FILE]

`iteration` times one CGS iteration (12 + 12 slices of 64 x 64, three targets, one thread) and its peak memory while one
quantity varies: targets K, image size, batch, number of training slices. `concurrency` times the same iterations in 1,
2, 4 ... processes at once. `metrics` scores volumes of growing size. Expected: time and memory linear in pixels and
images; in K a constant (the U-Net) plus a share for every head; independent of the number of training slices, whose
memory alone grows; concurrent runs as fast as one until the cores are taken; metrics linear in the surface, and in the
slices that hold foreground. `growth` is the exponent of the time between a row and the one before.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from iteration import Iteration
from matplotlib.figure import Figure

from cgs.config import TrainingConfig
from cgs.engine.device import describe, prepare_torch
from cgs.evaluation.conventions import score_volume
from cgs.files import atomic_path, write_text

AXES: dict[str, list[int]] = {
    "targets": [1, 2, 4, 8, 16],
    "size": [32, 64, 128, 192],
    "batch": [3, 6, 12, 24],
    "slices": [150, 600, 2400, 9600],
}
BASE = {"targets": 3, "size": 64, "batch": 12, "slices": 150}
SIDES = [64, 128, 256, 512]

Rows = list[tuple[int, float, float]]
"""Value of what varies, seconds, megabytes."""


def resident(field: str) -> int:
    """Bytes that /proc/self/status gives: VmRSS, resident now, or VmHWM, at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def one(values: dict[str, Any]) -> dict[str, float]:
    """Median seconds of an iteration and peak megabytes beyond an idle process; run in a process of its own."""
    device = torch.device(values["device"])
    before = resident("VmRSS")
    setting = {k: values[k] for k in BASE}
    iteration = Iteration("cgs", setting.pop("size"), setting.pop("batch"), device, **setting)
    iteration(), iteration()
    seconds = statistics.median(iteration.seconds() for _ in range(values["rounds"]))
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if cuda else resident("VmHWM") - before
    return {"seconds": seconds, "megabytes": peak / 1e6}


def start(values: dict[str, Any]) -> subprocess.Popen[str]:
    """`one` in a new process."""
    command = [sys.executable, __file__, "--one", json.dumps(values)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, float]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"A measurement failed with exit code {process.returncode}; its error is above.")
    found: dict[str, float] = json.loads(out)
    return found


def iteration_rows(axis: str, common: dict[str, Any]) -> Rows:
    """One quantity varies, the others stay."""
    rows = []
    for value in AXES[axis]:
        measured = result(start({**BASE, **common, axis: value}))
        rows.append((value, measured["seconds"], measured["megabytes"]))
    return rows


def concurrency_rows(common: dict[str, Any], most: int) -> Rows:
    """Seconds until each of N processes has done one iteration, divided by N; memory of all."""
    rows = []
    for count in [2**i for i in range(int(math.log2(most)) + 1)]:
        found = [result(p) for p in [start({**BASE, **common}) for _ in range(count)]]
        seconds = statistics.mean(f["seconds"] for f in found) / count
        rows.append((count, seconds, sum(f["megabytes"] for f in found)))
    return rows


def metrics_rows(rounds: int) -> Rows:
    """Both conventions on side / 4 slices of side x side voxels: four balls and displaced predictions of them."""
    rows = []
    for side in SIDES:
        shape = (side // 4, side, side)
        z, y, x = (np.arange(n, dtype=np.float32).reshape(-1, *[1] * (2 - i)) for i, n in enumerate(shape))
        volumes = np.zeros((2, *shape), np.uint8)
        for target in range(1, 5):
            for shift, volume in zip((0, side // 64), volumes, strict=True):
                cy, cx = side * (0.3 + 0.4 * (target % 2)), side * (0.3 + 0.4 * (target // 3)) + shift
                ball = (4 * (z - side / 8)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < (side * 0.15) ** 2
                volume[ball] = target
        spent = []
        for _ in range(rounds):
            begin = time.process_time()
            score_volume(volumes[0], volumes[1], 5, (2.5, 1.0, 1.0), 2.0)
            spent.append(time.process_time() - begin)
        rows.append((side, statistics.median(spent), volumes.nbytes / 1e6))
    return rows


def growth(rows: Rows) -> list[str]:
    """Exponent b of time ~ value^b from each row to the next."""
    return [
        "",
        *(f"{math.log(s1 / s0) / math.log(v1 / v0):.2f}" for (v0, s0, _), (v1, s1, _) in pairwise(rows)),
    ]


def table(name: str, rows: Rows) -> list[str]:
    """Markdown."""
    lines = [f"| {name} | ms | growth | MB |", "|---:|---:|---:|---:|"]
    numbers = zip(rows, growth(rows), strict=True)
    return lines + [f"| {v} | {1000 * s:.1f} | {g} | {m:.0f} |" for (v, s, m), g in numbers]


def draw(parts: dict[str, Rows], path: str) -> None:
    """Time against what varies, one panel a part, both axes logarithmic."""
    figure = Figure(figsize=(3.2 * len(parts), 3), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for panel, (name, rows) in zip(panels, parts.items(), strict=True):
        panel.loglog([v for v, _, _ in rows], [s for _, s, _ in rows], "o-", base=2)
        panel.set_xlabel(name)
        panel.set_xticks([v for v, _, _ in rows], [str(v) for v, _, _ in rows])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--most", type=int, default=max(2, 2 * (os.cpu_count() or 1)), help="processes at once"
    )
    parser.add_argument("--parts", nargs="+", default=["iteration", "concurrency", "metrics"])
    parser.add_argument("--markdown", help="also write the tables into this file")
    parser.add_argument("--figure", help="also draw the curves into this SVG file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    prepare_torch(TrainingConfig(threads=1))
    if options.one:
        print(json.dumps(one(json.loads(options.one))))
        return
    common = {"device": options.device, "rounds": options.rounds}
    found: dict[str, Rows] = {}
    if "iteration" in options.parts:
        found |= {axis: iteration_rows(axis, common) for axis in AXES}
    if "concurrency" in options.parts:
        found["processes at once, per iteration"] = concurrency_rows(common, options.most)
    if "metrics" in options.parts:
        found["metrics, side of the volume"] = metrics_rows(options.rounds)
    lines = [line for name, rows in found.items() for line in [*table(name, rows), ""]]
    print("\n".join(lines))
    if options.markdown:
        explained = (__doc__ or "").split("\n\n", 2)[2].strip()
        where = f"{describe(torch.device(options.device))}, {os.cpu_count()} cores, torch {torch.__version__}"
        measured = f"Measured by `python benchmarks/scaling.py` on {where}, {datetime.now(UTC):%Y-%m-%d}."
        text = ["# How the costs grow", "", *textwrap.wrap(measured, 120), "", explained, "", *lines]
        write_text(options.markdown, "\n".join(text).rstrip() + "\n")
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
