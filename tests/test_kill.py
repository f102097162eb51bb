"""A training that is killed outright leaves nothing that looks whole, and ends with the same bits when resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import small_config

from cgs.discovery import ROOT
from cgs.engine.train import Busy, alone
from cgs.plan import Cell


def start(folder: Path) -> subprocess.Popen[str]:
    cell = ["--dataset", "phantom", "--labelled", "1", "--method", "mean-teacher", "--seed", "0"]
    command = [sys.executable, "-m", "cgs", "train", "--config", "config.yaml", *cell]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def test_kill_9_then_resume(tmp_path: Path) -> None:
    config = small_config(training={"iterations": 60, "validate_every": 20, "checkpoint_every": 1})
    folders = [tmp_path / "left alone", tmp_path / "killed"]
    runs = [f / "results/small/runs/phantom/1/mean-teacher/0" for f in folders]
    for folder in folders:
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert start(folders[0]).wait(120) == 0

    for kill in range(3):
        process = start(folders[1])
        checkpoint, seen = runs[1] / "last.ckpt", None
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        deadline = time.monotonic() + 100
        while seen is None and process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                seen = kill
            time.sleep(0.01 * (kill + 1))
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert not (runs[1] / "provenance.json").exists()

    process = start(folders[1])
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "resumed at iteration" in printed
    for name in ("weights.safetensors", "weights-last.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


def test_two_processes_never_train_one_run(run_cell: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "a" / "small" / "runs" / "phantom" / "1" / "cps" / "0"
    with alone(folder, Cell("phantom", "1", "cps", 0)):
        with pytest.raises(Busy, match="phantom/1/cps/0: another process is training this run"):
            run_cell("cps")
        assert [p.name for p in folder.iterdir()] == [".lock"], "nothing is recorded"
    assert (run_cell("cps") / "provenance.json").is_file()
