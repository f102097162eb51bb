"""Results of several machines in one folder: what is the same stays, what is new comes, what differs is refused."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from cgs.config import load_config
from cgs.errors import SuiteError
from cgs.files import atomic_path
from cgs.runfiles import read_facts

UNFINISHED = ("last.ckpt", ".lock", "messages.txt")
"""Files of a run that are not taken along."""
TIMES = (
    "started",
    "finished",
    "seconds",
    "bytes",
    "energy_joules",
    "peak_memory_bytes",
    "machine",
    "device",
    "threads",
    "versions",
    "config",
)
"""What two runs of the same cell may differ in although they computed the same."""


def merge(sources: Sequence[Path], target: Path) -> str:
    """Copy the finished runs of `sources` (folders that hold results/<config>) into `target`; a sentence of what came.

    Nothing is copied unless everything fits: the configs must be the same but for places and devices, and a run that
    is in two folders must have the same weights and scores in both. Raises SuiteError with one sentence.
    """
    runs: dict[Path, Path] = {}
    configs: dict[str, tuple[Path, object]] = {}
    places = [*sources] if not target.is_dir() else [target, *sources]
    for source in places:
        found = sorted(source.glob("results/*/config.yaml"))
        if not found and source != target:
            raise SuiteError(
                f"{source} holds no results/<config>/config.yaml; give the folder that a run was started in."
            )
        for file in found:
            check_config(file, configs)
            for folder in finished(file.parent):
                name = folder.relative_to(source)
                if name in runs:
                    check_same(runs[name], folder)
                else:
                    runs[name] = folder
    fresh = [(name, folder) for name, folder in runs.items() if folder != target / name]
    for name, folder in fresh:
        check_weights(target / name, folder)
    for name, folder in fresh:
        copy_run(folder, target / name)
    for file, _ in configs.values():
        place = target / "results" / file.parent.name / "config.yaml"
        if not place.is_file():
            copy_file(file, place)
    return f"{len(fresh)} runs came, {len(runs) - len(fresh)} were there; {target} holds {len(runs)}."


def check_config(file: Path, configs: dict[str, tuple[Path, object]]) -> None:
    """Raise SuiteError unless configs of one name are the same but for places and what changes no number."""
    values = load_config(file).model_dump(mode="json")
    for dataset in values["datasets"].values():
        for key in ("path", "url", "sha256"):
            dataset.pop(key, None)
    for key in ("device", "gpu_slots", "threads"):
        values["training"].pop(key, None)
    for entry in (values["network"], *(v["network"] for v in values["variants"].values() if v["network"])):
        entry.pop("weights", None)  # Their runs name its digest.
    for model in values["promptable"].values():
        for key in ("code", "weights"):
            model.pop(key)
    name = file.parent.name
    first, known = configs.setdefault(name, (file, values))
    if known != values:
        raise SuiteError(f"{first} and {file} differ; results of different configs are not merged.")


def finished(config: Path) -> Iterator[Path]:
    """The run folders with an end: complete and scored, or failed and recorded."""
    for file in sorted((config / "runs").glob("*/*/*/*/provenance.json")):
        if (file.parent / "scores.csv").is_file() or (file.parent / "failure.json").is_file():
            yield file.parent


def check_same(first: Path, second: Path) -> None:
    """Raise SuiteError where two folders of one run hold different results."""
    facts = [{k: v for k, v in read_facts(f).items() if k not in TIMES} for f in (first, second)]
    files = ("weights.safetensors", "weights-last.safetensors", "scores.csv", "failure.json")
    same = facts[0] == facts[1] and all(
        (first / name).is_file() == (second / name).is_file()
        and (
            name == "failure.json"
            or not (first / name).is_file()
            or filecmp.cmp(first / name, second / name, False)
        )
        for name in files
    )
    if not same:
        raise SuiteError(f"{first} and {second} hold different results of one run; remove one of them.")


def check_weights(place: Path, folder: Path) -> None:
    """Raise SuiteError where `place` holds a trained run without scores that is another one than `folder`."""
    for name in ("weights.safetensors", "weights-last.safetensors"):
        own, other = place / name, folder / name
        there = (place / "provenance.json").is_file() and own.is_file() and other.is_file()
        if there and not filecmp.cmp(own, other, False):
            raise SuiteError(f"{place} and {folder} hold different results of one run; remove one of them.")


def copy_run(folder: Path, place: Path) -> None:
    """Copy a run, provenance.json last: without it the run does not count."""
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.name not in UNFINISHED]
    for file in sorted(files, key=lambda f: f.name == "provenance.json"):
        copy_file(file, place / file.name)


def copy_file(file: Path, place: Path) -> None:
    with atomic_path(place) as temporary:
        shutil.copyfile(file, temporary)
