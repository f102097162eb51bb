"""Everything about a GPU that the suite's defaults rest on, in one command and under ten minutes.

    python benchmarks/gpu.py [--device cuda] [--size 224] [--seconds 8] [--rounds 20] [--markdown FILE]

1. CGS, an iteration of 12 + 12 slices, with the same arithmetic as the release and with merged passes, in float32, tf32
   and bfloat16, deterministic or not; then as one captured graph (a frozen iteration: what launches and the host
   cost). Minutes are those of 30,000 iterations; launches and waits for the device are counted in one iteration.
2. CGS with merged passes in 1, 2, 4, 8 processes at once: iterations a second of all together. The best number is the
   one for `training.gpu_slots` and the profile's `gpu_slots`.
3. Every method, by benchmarks/cost.py --save, so that `python -m cgs targets` knows the device.

Each measurement is a process of its own; one that fails is a row that says so. No Snakemake and no data are needed. On
a CPU (--device cpu) it only shows that it works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from iteration import MIDDLE, Iteration

from cgs.analysis.cost import RESULTS
from cgs.config import TrainingConfig
from cgs.engine.device import describe, prepare_torch
from cgs.engine.method import Progress
from cgs.files import write_text

HERE = Path(__file__).resolve().parent
CONCURRENT = [1, 2, 4, 8]


def settings() -> list[dict[str, Any]]:
    """What part 1 compares."""
    rows = [
        {"merged": merged, "precision": precision, "deterministic": deterministic, "graph": False}
        for merged in (False, True)
        for precision in ("float32", "tf32", "bfloat16")
        for deterministic in (True, False)
    ]
    captured = {"precision": "bfloat16", "deterministic": False, "graph": True}
    return [*rows, *({"merged": merged, **captured} for merged in (False, True))]


def measure(values: dict[str, Any]) -> dict[str, float]:
    """One setting in this process: milliseconds of an iteration, peak megabytes, launches and waits."""
    training = TrainingConfig(precision=values["precision"], deterministic=values["deterministic"])
    prepare_torch(training)
    device = torch.device(values["device"])
    merged = values["merged"]
    iteration = Iteration("cgs", values["size"], 12, device, training=training, merged_passes=merged)
    for _ in range(5):
        iteration()
    run = captured(iteration) if values["graph"] else iteration
    counted = {} if values["graph"] else count(iteration)
    synchronise(device)
    begin, done = time.perf_counter(), 0
    while done < 10 or time.perf_counter() - begin < values["seconds"]:
        for _ in range(10):
            run()
        synchronise(device)
        done += 10
    spent = (time.perf_counter() - begin) / done
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"ms": 1000 * spent, "megabytes": peak / 1e6, **counted}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def captured(iteration: Iteration) -> torch.cuda.CUDAGraph | Any:
    """Forward, backward, optimiser step and average of one fixed batch as a graph; calling it replays it."""
    batch, progress = iteration.batches(iteration.done), Progress(MIDDLE, 2 * MIDDLE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            iteration.step(batch, progress)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        iteration.step(batch, progress)
    return graph.replay


def count(iteration: Iteration) -> dict[str, float]:
    """Kernel launches of one iteration, and how often the host waits for the device in it."""
    if iteration.device.type != "cuda":
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        iteration()
    torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchroniz" in str(w.message) for w in caught)
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        iteration()
        torch.cuda.synchronize()
    launches = sum(e.count for e in profile.key_averages() if "LaunchKernel" in e.key)
    return {"launches": launches, "waits": waits}


def start(values: dict[str, Any]) -> subprocess.Popen[str]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--measure", json.dumps(values)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, float] | str:
    """What it measured, or the last line of its error."""
    out, error = process.communicate()
    if process.returncode:
        return error.strip().splitlines()[-1] if error.strip() else f"exit code {process.returncode}"
    found: dict[str, float] = json.loads(out)
    return found


def settings_table(common: dict[str, Any]) -> list[str]:
    """Part 1 as Markdown."""
    lines = [
        "| passes | arithmetic | deterministic | graph | ms | 30,000 (min) | MB | launches | waits |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in settings():
        passes = "merged" if row["merged"] else "same"
        ticks = ["yes" if row[k] else "no" for k in ("deterministic", "graph")]
        found = result(start({**common, **row}))
        if isinstance(found, str):
            numbers = f"failed: {found} | | | | |"
        else:
            counts = " | ".join(str(int(found[k])) if k in found else "" for k in ("launches", "waits"))
            minutes = found["ms"] * 30 / 60
            numbers = f"{found['ms']:.2f} | {minutes:.1f} | {found['megabytes']:.0f} | {counts} |"
        lines.append(f"| {passes} | {row['precision']} | {' | '.join(ticks)} | {numbers}")
        print(lines[-1], flush=True)
    return lines


def concurrency_table(common: dict[str, Any]) -> list[str]:
    """Part 2 as Markdown."""
    lines = [
        "| processes | iterations a second, all together | 30,000 iterations an hour |",
        "|---:|---:|---:|",
    ]
    row = {"merged": True, "precision": "bfloat16", "deterministic": False, "graph": False}
    for processes in CONCURRENT:
        found = [result(p) for p in [start({**common, **row}) for _ in range(processes)]]
        failed = [f for f in found if isinstance(f, str)]
        if failed:
            lines.append(f"| {processes} | failed: {failed[0]} | |")
        else:
            rate = sum(1000 / f["ms"] for f in found if not isinstance(f, str))
            lines.append(f"| {processes} | {rate:.1f} | {rate * 3600 / 30000:.1f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=8, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=20, help="iterations of every method in part 3")
    parser.add_argument("--markdown", help="default: benchmarks/results/<device>.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure))))
        return
    common = {"device": options.device, "size": options.size, "seconds": options.seconds}
    name = describe(torch.device(options.device))
    lines = [*settings_table(common), "", *concurrency_table(common)]
    place = options.markdown or str(RESULTS / f"{name.lower().replace(' ', '-')}.md")
    explained = (__doc__ or "").split("\n\n", 2)[2].strip()
    command = f"python benchmarks/gpu.py --size {options.size} --seconds {options.seconds:g}"
    where = f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {datetime.now(UTC):%Y-%m-%d}"
    heading = [
        f"# {name}",
        "",
        *textwrap.wrap(f"Measured by `{command}` on {where}.", 120),
        "",
        explained,
        "",
    ]
    write_text(place, "\n".join([*heading, *lines]) + "\n")
    print(f"The tables are in {place}", flush=True)
    cost = [str(HERE / "cost.py"), "--device", options.device, "--size", str(options.size), "--save"]
    subprocess.run([sys.executable, *cost, "--rounds", str(options.rounds)], check=True)


if __name__ == "__main__":
    main()
