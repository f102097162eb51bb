"""The datasets of a campaign: which are there, and reading them while trainings on others run. No torch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cgs.config import Config
from cgs.dataset_config import DatasetConfig, FilesBase
from cgs.errors import SuiteError, plain
from cgs.files import read_json
from cgs.locks import held
from cgs.paths import Paths


def is_prepared(paths: Paths, name: str) -> bool:
    """Whether a dataset has been read: `source.json` is written last."""
    return (paths.data(name) / "source.json").is_file()


def check_prepared(dataset: DatasetConfig, facts: dict[str, Any], where: str, mend: str) -> None:
    """Raise SuiteError where `facts`, the source.json of a prepared dataset, are of other parameters than `dataset`'s.

    A training takes its size from the data, so it would stand under a wrong name. `where` begins the sentence, `mend`
    ends it.
    """
    made, wanted = facts.get("parameters"), dataset.model_dump(mode="json")
    for key, value in made.items() if isinstance(made, dict) else ():
        if wanted.get(key) != value:
            has = f"was prepared with {key} {value}, but the config has {key} {wanted.get(key)}"
            raise SuiteError(f"{where} {plain(has)}; {mend}.")


def prepared(config: Config, paths: Paths, name: str) -> bool:
    """Whether a dataset has been read as the config says. Raises SuiteError where it was read in another way."""
    if is_prepared(paths, name):
        folder = paths.data(name)
        mend = "delete the folder and start again"
        check_prepared(config.datasets[name], read_json(folder / "source.json"), str(folder), mend)
    return is_prepared(paths, name)


def without_data(config: Config, paths: Paths, names: Iterable[str], demanded: Sequence[str]) -> list[str]:
    """Those of `names` that cannot be trained on; says of each how to give it.

    Raises SuiteError with that sentence for one that is `demanded`, and where all are missing; also where one was
    prepared in another way than the config says.
    """
    names = list(names)
    missing = {}
    for name in names:
        dataset = config.datasets[name]
        if not prepared(config, paths, name) and isinstance(dataset, FilesBase) and not dataset.found:
            where = "is not given" if dataset.path is None else f"is not at {dataset.path}"
            missing[name] = (
                f"The dataset {name} {where}; it needs {dataset.how}: --path {dataset.files_of or name}=PATH, or its "
                "pack as --data PARTS"
            )
    for name, sentence in missing.items():
        if name in demanded or len(missing) == len(names):
            raise SuiteError(f"{sentence}.")
        print(f"{sentence}. It is skipped.", flush=True)
    return list(missing)


@dataclass
class Reading:
    """A `prepare` that has been started, and the lock that keeps other shards from doing the same."""

    name: str
    process: subprocess.Popen[bytes]
    lock: int


@dataclass
class Preparation:
    """Reads `names` one after the other in processes of their own, each of which may use all cores.

    `start(name, messages)` starts one, which leads a group. `refused` gets the sentence of each that could not be read.
    """

    names: list[str]
    paths: Paths
    start: Callable[[str, IO[bytes]], subprocess.Popen[bytes]]
    refused: dict[str, str] = field(default_factory=dict)
    running: Reading | None = None

    def messages(self, name: str) -> Path:
        """Where it says what it does; Snakemake's has it there too."""
        return self.paths.root / "logs" / "prepare" / f"{name}.txt"

    def ready(self, name: str) -> bool:
        """Whether trainings on it can start."""
        return is_prepared(self.paths, name) and (self.running is None or self.running.name != name)

    def advance(self) -> None:
        """See what has ended, and start the next one that nobody else is reading."""
        if self.running is not None:
            if self.running.process.poll() is None:
                return
            self.ended(self.running)
        for name in self.names:
            if name in self.refused or is_prepared(self.paths, name):
                continue
            lock = held(lock_of(self.paths, name))
            if lock is not None and not is_prepared(self.paths, name):
                print(f"{name}: being read", flush=True)
                self.messages(name).parent.mkdir(parents=True, exist_ok=True)
                with self.messages(name).open("wb") as said:
                    self.running = Reading(name, self.start(name, said), lock)
                return
            if lock is not None:
                os.close(lock)

    def ended(self, reading: Reading) -> None:
        """Note how one ended, and let go of it."""
        if reading.process.returncode:
            said = self.messages(reading.name).read_text(errors="replace").strip()
            sentence = (
                said.removeprefix("cgs prepare: ") or f"Reading {reading.name} broke off without a word."
            )
            self.refused[reading.name] = sentence
            print(sentence, flush=True)
        os.close(reading.lock)
        self.running = None

    def stop(self) -> None:
        """End what is being read, with the processes of its own, and remove what it leaves."""
        reading, self.running = self.running, None
        if reading is None:
            return
        if reading.process.poll() is None:
            os.killpg(reading.process.pid, signal.SIGTERM)
        reading.process.wait()
        if not is_prepared(self.paths, reading.name):
            shutil.rmtree(self.paths.data(reading.name), ignore_errors=True)
        os.close(reading.lock)


def lock_of(paths: Paths, name: str) -> Path:
    """The lock of whoever writes a prepared dataset."""
    place = paths.root / f".{name}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
