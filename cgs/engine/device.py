"""The device of a training: its choice, its arithmetic, and its share of a GPU."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cgs.errors import SuiteError

if TYPE_CHECKING:
    from cgs.config import TrainingConfig


@contextmanager
def lease(training: TrainingConfig) -> Iterator[torch.device]:
    """Yield the device to train on; on "auto" and "cuda", a free slot of a GPU.

    Snakemake counts GPU slots but assigns no GPU. A slot is a locked file: the system releases it with
    the process, so a killed run never blocks one. Raises SuiteError when no slot is free.
    """
    wanted = training.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and not torch.cuda.is_available():
        raise SuiteError(f"training.device is {wanted} but torch sees no GPU; use auto or cpu.")
    if wanted != "cuda":
        yield torch.device(wanted)
        return
    folder = Path(tempfile.gettempdir()) / f"cgs-gpu-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for slot in range(training.gpu_slots):  # Spread over the GPUs before sharing one.
        for gpu in range(torch.cuda.device_count()):
            with open(folder / f"{gpu}-{slot}.lock", "w") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield torch.device("cuda", gpu)
                return
    raise SuiteError(
        f"All {training.gpu_slots} x {torch.cuda.device_count()} GPU slots are taken by other trainings; wait "
        "for one to end, or raise training.gpu_slots."
    )


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


def keep_memory() -> None:
    """Let the C library keep freed memory instead of returning it to the system.

    By default glibc gives every large tensor back when it is freed and has the next one zeroed anew, page by page:
    at 256 x 256 pixels that is half of an iteration's time on the CPU. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def prepare_torch(training: TrainingConfig) -> None:
    """Set threads, determinism, memory and the arithmetic of matrix products for this process."""
    keep_memory()
    torch.set_num_threads(training.threads)
    if training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # As torch.use_deterministic_algorithms(True), which imports a compiler first: 1.3 s of every start.
        torch.set_deterministic_debug_mode("error")
        # Nothing here reads what it has not written; filling every new tensor first would only cost time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not training.deterministic
    tf32 = training.precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def arithmetic(training: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """The context in which losses are computed: bfloat16 autocast where the config asks for it."""
    if training.precision == "bfloat16":
        # No cache of cast weights: a method may step networks of its own inside the loss.
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
    return nullcontext()


def describe(device: torch.device) -> str:
    """The device in words, for provenance."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def energy(device: torch.device) -> float | None:
    """Joules that the GPU has used since its driver started, by NVML; None where nothing tells.

    It is the whole GPU's, whatever runs on it.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml  # Of the optional nvidia-ml-py.
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()  # By UUID: NVML does not heed CUDA_VISIBLE_DEVICES.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except (pynvml.NVMLError, AttributeError):  # No NVML, a GPU that does not count, one part of a GPU.
        return None


class EnergyMeter:
    """Joules of one training over all its parts; None as soon as a part is not known.

    Trainings that share a GPU cannot tell their shares apart, so with several slots nothing is recorded.
    """

    def __init__(self, device: torch.device, slots: int) -> None:
        self.device, self.before = device, 0.0 if slots == 1 else None
        self.begin = energy(device)

    def joules(self) -> float | None:
        """What the training has used so far."""
        now = energy(self.device)
        if self.before is None or self.begin is None or now is None:
            return None
        return self.before + now - self.begin
