"""Seconds to read a CT archive to slices and cases, against decompressing it and nothing else.

    python benchmarks/data.py [--processes 1 2] [--folder DIR] [--markdown FILE]

Forty patients of SegTHOR's structure are made (180 x 512 x 512 voxels, int16, an anatomy with noise, gzipped).
`decompress` unpacks the forty images and labels in one process and keeps nothing; `prepare` is what `python -m cgs
prepare` does: it reads, checks, windows, resizes and writes. Wall seconds; `memory` is the most that all processes
together held at a time. Expected: prepare costs little more than decompression, a share of it for each process, and
memory does not grow with the number of patients.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import tempfile
import textwrap
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip

from cgs.data.prepare import prepare
from cgs.data.segthor import SPLIT
from cgs.dataset_config import SegthorConfig
from cgs.files import write_text

SHAPE = (512, 512, 180)


def save(file: Path, array: np.ndarray) -> None:
    """A gzipped NIfTI file, by the faster compressor."""
    image = nibabel.Nifti1Image(array, np.diag([-0.98, -0.98, 2.5, 1.0]))
    file.write_bytes(igzip.compress(image.to_bytes()))


def archive(folder: Path) -> list[Path]:
    """Forty patients of different build under the names of the split list."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, SHAPE).astype(np.int16)
    x, y, z = np.ogrid[:512, :512, :180]
    files = []
    for line in SPLIT.read_text().split()[1:]:
        patient = line.split(",")[0]
        (folder / patient).mkdir()
        (cx, cy), (rx, ry) = rng.uniform(220, 290, 2), rng.uniform(110, 200, 2)
        body = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        image = (
            np.where(body, np.int16(40), np.int16(-1000)) + np.roll(noise, int(rng.integers(512)), 0) * body
        )
        label = np.zeros(SHAPE, np.uint8)
        for target in range(1, 5):
            label[(x - 150 - 40 * target) ** 2 + (y - 256) ** 2 + (3 * z - 270) ** 2 < 100 * target**2] = (
                target
            )
        label[250:254, 250:254, 20:150] = 1
        for name, array in ((f"{patient}.nii.gz", image), ("GT.nii.gz", label)):
            save(folder / patient / name, array)
            files.append(folder / patient / name)
    return files


class Peak:
    """The largest memory at a time of this process and those that it started, in MB, looked at ten times a second."""

    def __init__(self) -> None:
        self.most, self.over = 0.0, threading.Event()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()

    def _watch(self) -> None:
        while not self.over.wait(0.1):
            pids = [os.getpid(), *(p.pid for p in multiprocessing.active_children() if p.pid)]
            self.most = max(self.most, sum(map(unshared, pids)))

    def end(self) -> float:
        self.over.set()
        self.watcher.join()
        return self.most


def unshared(pid: int) -> float:
    """Megabytes of a process that no file backs."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # It has just ended.
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, os.cpu_count() or 1])
    parser.add_argument("--folder", help="where the archive is made (default: the temporary folder; 12 GB)")
    parser.add_argument("--markdown", help="also write the table into this file")
    options = parser.parse_args()
    rows = ["| what | processes | s | s a patient | memory (MB) |", "|---|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        files = archive(folder)
        size = sum(f.stat().st_size for f in files[:2]) / 1e6
        for what, module in (("decompress, gzip", gzip), ("decompress, isal", igzip)):
            start = time.perf_counter()
            for file in files:
                module.decompress(file.read_bytes())
            seconds = time.perf_counter() - start
            rows.append(f"| {what} | 1 | {seconds:.1f} | {seconds / 40:.2f} | |")
        for processes in options.processes:
            begin = time.perf_counter()
            peak = Peak()
            prepare("segthor", SegthorConfig(path=folder), folder / "out", max(processes, 1))
            seconds = time.perf_counter() - begin
            rows.append(f"| prepare | {processes} | {seconds:.1f} | {seconds / 40:.2f} | {peak.end():.0f} |")
    print("\n".join([f"{size:.0f} MB a patient, gzipped", *rows]))
    if options.markdown:
        import torch  # Not before: every process that reads would import it too.

        from cgs.engine.device import describe

        explained = (__doc__ or "").split("\n\n", 2)[2].strip()
        measured = (
            f"Measured by `python benchmarks/data.py` on {describe(torch.device('cpu'))}, {os.cpu_count()} cores, "
            f"{datetime.now(UTC):%Y-%m-%d}; {size:.0f} MB a patient, gzipped."
        )
        text = ["# Reading a CT archive", "", *textwrap.wrap(measured, 120), "", explained, "", *rows]
        write_text(options.markdown, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
