"""A training that is killed outright leaves nothing that looks whole, and ends with the same bits when resumed."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import small_config

from cgs.config import TrainingConfig
from cgs.discovery import ROOT
from cgs.engine.device import lease
from cgs.engine.train import Busy, alone
from cgs.errors import SuiteError
from cgs.plan import Cell


def start(folder: Path) -> subprocess.Popen[str]:
    cell = ["--dataset", "phantom", "--labelled", "1", "--method", "mean-teacher", "--seed", "0"]
    command = [sys.executable, "-m", "cgs", "train", "--config", "config.yaml", *cell]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_progress(process: subprocess.Popen[str], checkpoint: Path) -> None:
    """Return when the run has written a checkpoint since it was started."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
            return
        time.sleep(0.005)
    raise AssertionError("the run ended, or hung, before it could be killed")


def test_kill_9_then_resume(tmp_path: Path) -> None:
    """Killed at random moments: while it starts, loads, resumes, trains, writes. CGS_KILLS says how often."""
    kills, chance = int(os.environ.get("CGS_KILLS", "4")), random.Random(0)
    config = small_config(
        training={"iterations": 60 + 40 * kills, "validate_every": 20, "checkpoint_every": 1}
    )
    folders = [tmp_path / "left alone", tmp_path / "killed"]
    runs = [f / "results/small/runs/phantom/1/mean-teacher/0" for f in folders]
    for folder in folders:
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert start(folders[0]).wait(300 + 10 * kills) == 0

    for kill in range(kills):
        process = start(folders[1])
        if kill % 2:
            time.sleep(chance.uniform(0, 3))
        else:
            wait_for_progress(process, runs[1] / "last.ckpt")
            time.sleep(chance.uniform(0, 0.2))
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
        assert not (runs[1] / "provenance.json").exists()

    process = start(folders[1])
    _, printed = process.communicate(timeout=300 + 10 * kills)
    assert process.returncode == 0
    assert "resumed at iteration" in printed
    for name in ("weights.safetensors", "weights-last.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    times = re.compile(r', "seconds": [0-9.]+')
    logs = [times.sub("", (run / "log.jsonl").read_text()) for run in runs]
    assert logs[0] == logs[1]


def test_two_processes_never_train_one_run(run_cell: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "a" / "small" / "runs" / "phantom" / "1" / "cps" / "0"
    with alone(folder, Cell("phantom", "1", "cps", 0)):
        with pytest.raises(Busy, match="phantom/1/cps/0: another process is training this run"):
            run_cell("cps")
        assert [p.name for p in folder.iterdir()] == [".lock"], "nothing is recorded"
    assert (run_cell("cps") / "provenance.json").is_file()


HOLDER = """
import sys, time
import torch
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 2
from cgs.config import TrainingConfig
from cgs.engine.device import lease
with lease(TrainingConfig(device="cuda")) as device:
    print(device, flush=True)
    time.sleep(300)
"""
"""A process that holds a slot of one of two GPUs, which this machine need not have."""


def holder(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start one; the device that it got."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_gpu_slot_is_free_again_when_its_holder_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    training = TrainingConfig(device="cuda")
    processes = []
    try:
        for expected in ("cuda:0", "cuda:1"):
            process, device = holder(tmp_path)
            processes.append(process)
            assert device == expected, "each its own GPU before one is shared"
        with pytest.raises(SuiteError, match="All 1 x 2 GPU slots are taken"), lease(training):
            pass
        processes[1].send_signal(signal.SIGKILL)
        processes[1].wait()
        with lease(training) as device:
            assert device == torch.device("cuda:1")
            with pytest.raises(SuiteError, match="slots are taken"), lease(training):
                pass
        with lease(training) as device:
            assert device == torch.device("cuda:1"), "one that ends well lets go too"
        with lease(training), lease(TrainingConfig(device="cuda", gpu_slots=2)) as device:
            assert device == torch.device("cuda:0"), "a second slot of each, where the config has two"
    finally:
        for process in processes:
            process.kill()
            process.wait()
