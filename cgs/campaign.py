"""The trainings of a config on one machine for a limited time: the next missing ones, several at once, resumed.

For a GPU that is rented by the hour, or lent for minutes. No Snakemake: each training is one `python -m cgs train
--score`. No torch either, so that it starts at once.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cgs.analysis.held import read_held
from cgs.config import Config, parse_config
from cgs.discovery import ROOT
from cgs.errors import SuiteError
from cgs.files import write_json
from cgs.locks import alone_or_in_parts, held
from cgs.paths import Paths
from cgs.plan import ALL, FULLY_LABELLED, Cell, cells, members, trainings
from cgs.preparation import Preparation, check_prepared, lock_of, without_data
from cgs.runfiles import read_facts, read_failure

GRACE = 20.0
"""Seconds before the end of the time at which trainings are asked to write their checkpoints."""


FIRST = ("labelled-only", "unimatch", "bcp", "fixmatch")
"""The methods that say most beside the reference: the lower bound, then the strongest in the literature."""


def in_order_of_value(config: Config, chosen: Sequence[str] = ()) -> list[Cell]:
    """The trainings of `config`, most telling first: main tables before experiments, by seed, few labels before more.

    Within those the config's reference method, `FIRST`, the others as listed, the upper bound. `chosen` is an order of
    methods of the user's own, which also leaves out all others and knows no main tables.
    """
    planned = trainings(config)
    known = list(dict.fromkeys(cell.method for cell in planned))
    ranks = [config.reference, *FIRST]
    methods = list(chosen) or sorted(
        known, key=lambda m: (m in FULLY_LABELLED, ranks.index(m) if m in ranks else len(ranks))
    )
    unknown = [m for m in methods if m not in known]
    if unknown:
        raise SuiteError(f"The config does not compare {unknown[0]}; it has {', '.join(known)}.")
    numbers = sorted({int(cell.labelled) for cell in planned if cell.labelled != ALL})
    seeds = list(dict.fromkeys([*config.seeds, *(cell.seed for cell in planned)]))

    def value(cell: Cell) -> tuple[bool, int, int, int]:
        ratio = 0 if cell.labelled == ALL else numbers.index(int(cell.labelled))
        main = config.datasets[cell.dataset].main_table and cell.method in config.methods
        return not (chosen or main), seeds.index(cell.seed), ratio, methods.index(cell.method)

    return sorted((c for c in planned if c.method in methods), key=value)


def share_of(ordered: Sequence[Cell], part: int, parts: int) -> list[Cell]:
    """One of `parts` shares of `ordered`, in its order.

    Dealt out dataset by dataset, so that the shares are even too where only some of the datasets are at hand.
    """
    dealt = set(sorted(ordered, key=lambda cell: cell.dataset)[part - 1 :: parts])
    return [cell for cell in ordered if cell in dealt]


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let a job scheduler's SIGTERM, and the SIGHUP of a terminal that goes away, end this process as Ctrl-C does.

    By themselves they would end it alone and leave its trainings behind. One that is ignored, as under nohup, stays so.
    """
    signals = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, lambda number, _: sys.exit(128 + number)) for s in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Running:
    """A training that has been started."""

    cell: Cell
    process: subprocess.Popen[bytes]
    started: float


class Campaign:
    """Runs cells in `out`, at most `slots` at once, until none is left or the time is over.

    `out` holds what `snakemake` would write in the folder it is started in (results/<config>/...), so either can go on
    with what the other began. Other shards may work there too. Raises SuiteError where whoever is at work there might
    do the same trainings.
    """

    def __init__(self, config: Config, out: Path, slots: int, shard: tuple[int, int] = (1, 1)) -> None:
        self.config, self.out, self.slots = config, out, slots
        self.refused: list[str] = []
        self.paths = Paths(config.name, out / "results", out / "reports")
        out.mkdir(parents=True, exist_ok=True)
        if other := alone_or_in_parts(out, *shard):
            raise SuiteError(
                f"{other[0].upper()}{other[1:]} is at work in {out}; wait for it, or give another --out."
            )
        # Places and slots are those of a machine: shards do not read each other's.
        self.file = self.paths.resolved_config
        if shard[1] > 1:
            self.file = self.file.with_name(f"config-{shard[0]}-of-{shard[1]}.yaml")
        writing = held(out / ".config.lock", wait=True)
        for file in {self.paths.resolved_config, self.file}:
            write_json(file, config.model_dump(mode="json"))
        if writing is not None:
            os.close(writing)

    def folder(self, cell: Cell) -> Path:
        return self.paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)

    def done(self, cell: Cell) -> bool:
        """Scored, or failed and recorded: `retry` forgets a failure."""
        folder = self.folder(cell)
        return (folder / "scores.csv").is_file() or (folder / "failure.json").is_file()

    def unpack(self, parts: Sequence[Path]) -> None:
        """Put the dataset of a pack in its place, unless it is there. Raises SuiteError for one of another config."""
        from cgs.data.pack import described, unpack

        facts = described(parts, list(self.config.datasets))
        name = str(facts["dataset"])
        check_prepared(self.config.datasets[name], facts, str(parts[0]), "pack it with this config")
        lock = held(lock_of(self.paths, name), wait=True)
        unpack(parts, self.paths.data(name))
        if lock is not None:
            os.close(lock)

    def launch(self, *words: str, said: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a command of the suite in `out`, its messages in `said`."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        config = str(self.file.relative_to(self.out))
        return subprocess.Popen(
            [sys.executable, "-m", "cgs", *words, "--config", config],
            cwd=self.out,
            env={**os.environ, "PYTHONPATH": path},
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops its own in order.
        )

    def start(self, cell: Cell) -> Running:
        """Train and score a cell in a process of its own, its messages in its folder."""
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "messages.txt", "ab") as log:
            process = self.launch("train", *named(cell), "--score", "--record-failure", said=log)
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
        """Run `todo` until `end` (time.monotonic()), in order where the data is ready; returns how many are left.

        `refused` gets the sentences of datasets that could not be read. Raises SuiteError if a training broke off.
        """
        waiting = [cell for cell in todo if not self.done(cell)]
        names = list(dict.fromkeys(cell.dataset for cell in waiting))
        data = Preparation(
            names, self.paths, lambda name, said: self.launch("prepare", "--dataset", name, said=said)
        )
        running: list[Running] = []
        sound = True
        try:
            while (waiting or running) and time.monotonic() < end:
                data.advance()
                waiting = [cell for cell in waiting if cell.dataset not in data.refused]
                ready = {name for name in names if data.ready(name)} if sound else set()
                for cell in [c for c in waiting if c.dataset in ready][: self.slots - len(running)]:
                    waiting.remove(cell)
                    running.append(self.start(cell))
                ended = [r for r in running if r.process.poll() is not None]
                running = [r for r in running if r not in ended]
                sound = min(map(self.report, ended), default=True) and sound
                if not sound and not running:
                    break
                time.sleep(0.2)
        finally:
            data.stop()
            for r in running:
                r.process.terminate()
            for r in running:
                r.process.wait()
                sound = self.report(r) and sound
        if not sound:
            raise SuiteError(
                "A training broke off without a record of its failure; its messages are named above."
            )
        self.refused = [*data.refused.values()]
        return sum(not self.done(cell) for cell in todo)

    def combine(self, ensembles: Sequence[Cell], end: float) -> None:
        """Predict and score the ensembles whose members are all there, until `end`. Raises SuiteError if one cannot."""
        while (lock := held(self.out / ".combine.lock")) is None:  # Another shard is at it.
            if time.monotonic() >= end:
                return
            time.sleep(0.5)
        for cell in ensembles:
            parts = [self.folder(member) for member in members(self.config, cell)]
            if self.done(cell) or not all((part / "predictions.npz").is_file() for part in parts):
                continue
            for step in ("ensemble", "evaluate"):
                with tempfile.TemporaryFile() as said:
                    process = self.launch(step, *named(cell), said=said)
                    try:
                        process.wait(max(end - time.monotonic(), 0) if math.isfinite(end) else None)
                    except subprocess.TimeoutExpired:
                        return  # Their files are whole or absent; the next call makes them.
                    finally:
                        process.kill()
                        process.wait()
                    if process.returncode:
                        said.seek(0)
                        raise SuiteError(f"{cell}: {said.read().decode(errors='replace').strip()}")
            print(f"{cell}: combined from {len(parts)} trainings", flush=True)
        os.close(lock)


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
    packed: Sequence[Path] = (),
) -> None:
    """Run what is missing of `config` and say what is left.

    `only` names datasets (default: those that are given); `shard` (I, N) is the I-th of N shares of the trainings;
    `have` are folders that `collect` wrote, whose cells are not run again; `places` the folders of datasets whose path
    the config does not give, `packed` the parts of one that `pack` wrote.
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
    known = read_held(config, cells(config), have).cells
    wanted = [c for c in in_order_of_value(config, methods) if not only or c.dataset in only]
    wanted = share_of(wanted, *shard)
    work = Campaign(config, out.absolute(), slots, shard)
    if packed:
        work.unpack(packed)
    needed = dict.fromkeys(c.dataset for c in wanted if c not in known and not work.done(c))
    missing = without_data(config, work.paths, needed, only)
    wanted = [c for c in wanted if c.dataset not in missing]
    ensembles = [c for c in cells(config) if c.method in config.ensembles and c not in known]
    with ending_in_order():
        left = work.run([c for c in wanted if c not in known], end)
        work.combine(
            [c for c in ensembles if (not only or c.dataset in only) and c.dataset not in missing], end
        )
    print(
        f"{len(wanted) - left} of {len(wanted)} trainings are done"
        + ("; the same command goes on." if left else ".")
    )
    if work.refused:
        raise SuiteError(" ".join(work.refused))
