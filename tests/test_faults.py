"""A power cut in the middle of a write, a full disk, too little memory: no traceback, no wrong number, nothing lost."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import small_config

from cgs.__main__ import main
from cgs.discovery import ROOT

CELL = ["--dataset", "phantom", "--labelled", "1", "--method", "labelled-only", "--seed", "0"]
STEPS = {
    "prepare": ["--dataset", "phantom", "--processes", "1"],
    "train": CELL,
    "predict": CELL,
    "evaluate": CELL,
    "tables": [],
    "report": [],
}
CONFIG = "results/small/config.yaml"
DATA = "results/small/data/phantom"
RUN = "results/small/runs/phantom/1/labelled-only/0"
TABLES = "results/small/tables"
CUTS = int(os.environ.get("CGS_CUTS", "3"))


def run(step: str) -> int:
    return main([step, "--config", CONFIG, *STEPS[step]])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a small config leaves."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(methods=["labelled-only"])
    (folder / CONFIG).parent.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert [run(step) for step in STEPS] == [0] * len(STEPS)
    finally:
        os.chdir(before)
    return folder


def files(folder: Path) -> list[tuple[str, str]]:
    """A file of every kind with the first step that reads it."""
    case = sorted(p.name for p in (folder / DATA / "cases").iterdir())[-1]
    kinds = {
        "train": [
            CONFIG,
            *(f"{DATA}/{n}" for n in ("source.json", "images.npy", "labels.npy", "manifest.csv")),
            f"{RUN}/.complete.json",
            f"{RUN}/weights-last.safetensors",
            f"{RUN}/log.jsonl",
        ],
        "predict": [
            *(f"{DATA}/{n}" for n in ("cases.csv", f"cases/{case}")),
            *(f"{RUN}/{n}" for n in ("provenance.json", "weights.safetensors")),
        ],
        "evaluate": [f"{RUN}/predictions.npz"],
        "tables": [f"{RUN}/scores.csv", f"{RUN}/log.jsonl", f"{DATA}/audit.json"],
        "report": [f"{TABLES}/{n}" for n in ("main.csv", "runs.csv", "overlays.npz", "provenance.json")],
    }
    return [(step, name) for step, names in kinds.items() for name in names]


def cuts(size: int, name: str) -> list[int]:
    """Lengths to cut a file to: nothing, all but one byte, and at random."""
    chance = random.Random(name)
    return [0, size - 1, *(chance.randrange(size) for _ in range(CUTS - 2))]


@pytest.mark.parametrize("place", range(20))
def test_a_file_that_was_cut_off_is_found_out(
    place: int,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the step that reads it: one sentence, or the same numbers as before, or a table that says what it lacks."""
    every = files(finished)
    assert len(every) == 20
    step, name = every[place]
    main_table = (finished / TABLES / "main.csv").read_bytes()
    for number, length in enumerate(cuts((finished / name).stat().st_size, name)):
        copy = tmp_path / str(number)
        shutil.copytree(finished, copy)
        os.truncate(copy / name, length)
        monkeypatch.chdir(copy)
        capsys.readouterr()
        for following in list(STEPS)[list(STEPS).index(step) :]:
            code = run(following)
            printed = capsys.readouterr().err
            assert "Traceback" not in printed
            if code:
                assert code == 1 and printed.strip().count("\n") == 0, printed
                break
        else:
            said = (copy / "reports/small/index.html").read_text()
            same = (copy / TABLES / "main.csv").read_bytes() == main_table
            assert same or "has no result" in said or "Missing or empty tables: main" in said, (name, length)
            if name.endswith("log.jsonl") and step == "tables":
                assert "Its log was cut off" in said
        shutil.rmtree(copy)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("notice: no file system can be mounted here; the test of a full disk skips")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def command(step: str, folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """A step as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = (sys.executable, "-m", "cgs", step, "--config", CONFIG, *STEPS[step], *words)
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, **options
    )  # type: ignore[call-overload]


def fill(disk: Path, room: int) -> None:
    """Fill the disk but for `room` bytes."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"x" * max(free - room, 0))


def test_a_full_disk_stops_in_order_and_goes_on(small_disk: Path, finished: Path) -> None:
    """Wherever it runs full: one sentence, no failure on record, what was there stays, and the end is the same."""
    shutil.copytree(finished / DATA, small_disk / DATA)
    shutil.copy(finished / CONFIG, small_disk / CONFIG)
    shutil.rmtree(small_disk / RUN, ignore_errors=True)
    kept = None
    for room in (0, 4096, 100_000, 300_000, 600_000, 900_000):
        fill(small_disk, room)
        done = command("train", small_disk, "--record-failure")
        (small_disk / "filler").unlink()
        if done.returncode == 0:
            break
        assert done.returncode == 1 and "No space left on device" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        names = {p.name for p in (small_disk / RUN).glob("*")} if (small_disk / RUN).is_dir() else set()
        assert not names & {"provenance.json", "failure.json"}
        assert not [n for n in names if ".tmp" in n]
        checkpoint = small_disk / RUN / "last.ckpt"
        kept = checkpoint.stat().st_mtime_ns if checkpoint.exists() else kept
    assert done.returncode or kept is not None
    assert command("train", small_disk).returncode == 0
    for step in ("predict", "evaluate", "tables", "report"):
        assert command(step, small_disk).returncode == 0
        outputs = {p: p.read_bytes() for p in (small_disk / "results").rglob("*") if p.is_file()}
        fill(small_disk, 0)
        assert command(step, small_disk).returncode == 1
        assert {p: p.read_bytes() for p in outputs} == outputs
        (small_disk / "filler").unlink()
    for name in ("weights.safetensors", "weights-last.safetensors", "scores.csv"):
        assert (small_disk / RUN / name).read_bytes() == (finished / RUN / name).read_bytes()


def test_too_little_memory_is_recorded_with_advice(finished: Path, tmp_path: Path) -> None:
    """The run fails with the figure; its exit code lets the others go on."""
    shutil.copytree(finished / DATA, tmp_path / DATA)
    config = small_config(methods=["labelled-only"], network={"width": 64})
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config.model_dump(mode="json")))

    peak = "print(next(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmPeak')))"
    loaded = subprocess.run(  # How much there is before anything is trained depends on the build of torch.
        [sys.executable, "-c", f"import cgs.engine.train; {peak}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    limit = 1024 * int(loaded.stdout) + 2**28

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = command("train", tmp_path, "--record-failure", preexec_fn=bounded)
    assert done.returncode == 0, done.stderr
    failure = json.loads((tmp_path / RUN / "failure.json").read_text())
    assert "ran out of memory" in failure["sentence"] and "bytes" in failure["sentence"]
    assert failure["traceback"] is None
