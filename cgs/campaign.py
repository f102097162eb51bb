"""The trainings of a config on one machine for a limited time: the next missing ones, several at once, resumed.

For a GPU that is rented by the hour, or lent for minutes. No Snakemake: each training is one `python -m cgs train
--score`. No torch either, so that it starts at once.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgs.analysis.kept import complete_cells
from cgs.config import Config, parse_config
from cgs.discovery import ROOT
from cgs.errors import SuiteError
from cgs.files import write_json
from cgs.paths import Paths
from cgs.plan import ALL, Cell, cells, members, trainings
from cgs.runfiles import read_facts, read_failure

GRACE = 20.0
"""Seconds before the end of the time at which trainings are asked to write their checkpoints."""


def in_order_of_value(config: Config, chosen: Sequence[str] = ()) -> list[Cell]:
    """The trainings of `config`, most telling first: by seed, main tables before experiments, few labels before more.

    Within those, the methods in the order of `chosen`, which also leaves out all others; without it the config's
    reference method first, labelled-only next, then as listed.
    """
    planned = trainings(config)
    known = list(dict.fromkeys(cell.method for cell in planned))
    methods = list(chosen) or sorted(known, key=lambda m: (m != config.reference, m != "labelled-only"))
    unknown = [m for m in methods if m not in known]
    if unknown:
        raise SuiteError(f"The config does not compare {unknown[0]}; it has {', '.join(known)}.")
    numbers = sorted({int(cell.labelled) for cell in planned if cell.labelled != ALL})
    seeds = list(dict.fromkeys([*config.seeds, *(cell.seed for cell in planned)]))

    def value(cell: Cell) -> tuple[int, bool, int, int]:
        ratio = 0 if cell.labelled == ALL else numbers.index(int(cell.labelled))
        extra = not (config.datasets[cell.dataset].main_table and cell.method in config.methods)
        return seeds.index(cell.seed), extra, ratio, methods.index(cell.method)

    return sorted((c for c in planned if c.method in methods), key=value)


@dataclass
class Running:
    """A training that has been started."""

    cell: Cell
    process: subprocess.Popen[bytes]
    started: float


class Campaign:
    """Runs cells in `out`, at most `slots` at once, until none is left or the time is over.

    `out` holds what `snakemake` would write in the folder it is started in (results/<config>/...), so either can go on
    with what the other began. Raises SuiteError where another campaign is at work in `out`.
    """

    def __init__(self, config: Config, out: Path, slots: int) -> None:
        self.config, self.out, self.slots = config, out, slots
        self.paths = Paths(config.name, out / "results", out / "reports")
        out.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(out / ".campaign.lock", os.O_WRONLY | os.O_CREAT)  # Held until this process ends.
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SuiteError(
                f"Another campaign is at work in {out}; wait for it, or give another --out."
            ) from None
        write_json(self.paths.resolved_config, config.model_dump(mode="json"))

    def folder(self, cell: Cell) -> Path:
        return self.paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)

    def done(self, cell: Cell) -> bool:
        """Scored, or failed and recorded: `retry` forgets a failure."""
        folder = self.folder(cell)
        return (folder / "scores.csv").is_file() or (folder / "failure.json").is_file()

    def command(self, *words: str) -> list[str]:
        config = self.paths.resolved_config.relative_to(self.out)
        return [sys.executable, "-m", "cgs", *words, "--config", str(config)]

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, "PYTHONPATH": path}

    def prepare(self, datasets: Sequence[str]) -> None:
        """Read the datasets that are not there yet, before several trainings would at once."""
        for name in datasets:
            if (self.paths.data(name) / "source.json").is_file():
                continue
            done = subprocess.run(
                self.command("prepare", "--dataset", name),
                cwd=self.out,
                env=self.environment(),
                stderr=subprocess.PIPE,
            )
            if done.returncode:
                raise SuiteError(done.stderr.decode(errors="replace").strip().removeprefix("cgs prepare: "))

    def start(self, cell: Cell) -> Running:
        """Train and score a cell in a process of its own, its messages in its folder."""
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "messages.txt", "ab") as log:
            process = subprocess.Popen(
                self.command("train", *named(cell), "--score", "--record-failure"),
                cwd=self.out,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops its trainings in order.
            )
        print(f"{cell}: started", flush=True)
        return Running(cell, process, time.monotonic())

    def report(self, run: Running) -> bool:
        """Say how a training ended. True when it did what it could: completed, or recorded its failure."""
        minutes = (time.monotonic() - run.started) / 60
        folder, code = self.folder(run.cell), run.process.returncode
        if (folder / "failure.json").is_file():
            print(f"{run.cell}: failed: {read_failure(folder)}", flush=True)
        elif self.done(run.cell):
            dice = read_facts(folder).get("best_validation_dice")
            said = "" if dice is None else f", validation Dice {100 * dice:.1f}"
            print(f"{run.cell}: complete after {minutes:.1f} minutes{said}", flush=True)
        elif code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            print(f"{run.cell}: stopped, goes on next time", flush=True)
        else:
            print(f"{run.cell}: ended with exit code {code}; see {folder / 'messages.txt'}", flush=True)
            return False
        return True

    def run(self, todo: Sequence[Cell], end: float) -> int:
        """Run `todo` in order until `end` (time.monotonic()); returns the number of cells that are left.

        Raises SuiteError if one broke off.
        """
        waiting = [cell for cell in todo if not self.done(cell)]
        running: list[Running] = []
        sound = True
        # Without a handler, a job scheduler's SIGTERM would end this process alone and leave its trainings behind.
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            while (waiting or running) and time.monotonic() < end:
                while waiting and sound and len(running) < self.slots:
                    running.append(self.start(waiting.pop(0)))
                ended = [r for r in running if r.process.poll() is not None]
                running = [r for r in running if r not in ended]
                sound = min(map(self.report, ended), default=True) and sound
                if not sound and not running:
                    break
                time.sleep(0.2)
        finally:
            for r in running:
                r.process.terminate()
            for r in running:
                r.process.wait()
                sound = self.report(r) and sound
            signal.signal(signal.SIGTERM, before)
        if not sound:
            raise SuiteError(
                "A training broke off without a record of its failure; its messages are named above."
            )
        return sum(not self.done(cell) for cell in todo)

    def combine(self, ensembles: Sequence[Cell], end: float) -> None:
        """Predict and score the ensembles whose members are all there, until `end`. Raises SuiteError if one cannot."""
        for cell in ensembles:
            parts = [self.folder(member) for member in members(self.config, cell)]
            if self.done(cell) or not all((part / "predictions.npz").is_file() for part in parts):
                continue
            for step in ("ensemble", "evaluate"):
                try:
                    done = subprocess.run(
                        self.command(step, *named(cell)),
                        cwd=self.out,
                        env=self.environment(),
                        stderr=subprocess.PIPE,
                        timeout=max(end - time.monotonic(), 0) if math.isfinite(end) else None,
                    )
                except subprocess.TimeoutExpired:
                    return  # Their files are whole or absent; the next call makes them.
                if done.returncode:
                    raise SuiteError(f"{cell}: {done.stderr.decode(errors='replace').strip()}")
            print(f"{cell}: combined from {len(parts)} trainings", flush=True)


def named(cell: Cell) -> list[str]:
    """A cell as the options of a command."""
    return [w for key, value in vars(cell).items() for w in (f"--{key}", str(value))]


def campaign(
    config: Config,
    out: Path,
    *,
    minutes: float,
    slots: int,
    only: Sequence[str] = (),
    methods: Sequence[str] = (),
    have: Sequence[Path] = (),
    shard: tuple[int, int] = (1, 1),
    places: dict[str, Path] | None = None,
) -> None:
    """Run what is missing of `config` and say what is left.

    `only` names datasets (default: all); `shard` (I, N) takes every N-th training from the I-th on; `have` are folders
    that `collect` wrote, whose cells are not run again; `places` the folders of datasets whose path the config does not
    give.
    """
    unknown = [d for d in only if d not in config.datasets]
    if unknown:
        raise SuiteError(f"The config has no dataset {unknown[0]}; it has {', '.join(config.datasets)}.")
    values = config.model_dump(mode="json")
    for name, place in (places or {}).items():
        values["datasets"][name]["path"] = str(place.absolute())
    values["training"]["gpu_slots"] = slots
    config = parse_config(values)
    end = time.monotonic() + 60 * minutes - GRACE
    known = {cell for folder in have for cell in complete_cells(folder)}
    wanted = [c for c in in_order_of_value(config, methods) if not only or c.dataset in only]
    wanted = wanted[shard[0] - 1 :: shard[1]]
    todo = [c for c in wanted if c not in known]
    work = Campaign(config, out.absolute(), slots)
    work.prepare(list(dict.fromkeys(c.dataset for c in todo)))
    left = work.run(todo, end)
    ensembles = [c for c in cells(config) if c.method in config.ensembles and c not in known]
    work.combine([c for c in ensembles if not only or c.dataset in only], end)
    print(
        f"{len(wanted) - left} of {len(wanted)} trainings are done"
        + ("; the same command goes on." if left else ".")
    )
