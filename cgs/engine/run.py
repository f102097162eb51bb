"""The files of one training: log, checkpoint, weights, provenance, failure."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import platform
import re
import sys
import zipfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cgs.digest import source_digest
from cgs.errors import SuiteError
from cgs.files import atomic_path, cannot_write, read_json, to_disk, write_json, write_text

WEIGHTS = {"best": "weights.safetensors", "last": "weights-last.safetensors"}
COMPLETE = ".complete.json"
"""A copy of the provenance of a complete run: Snakemake deletes a job's outputs before it starts the job again."""


def fingerprint(values: Any) -> str:
    """A digest of plain JSON values: a checkpoint with another one belongs to another training."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_content(network: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a network, initial weights named by their SHA-256: what they hold counts, not their place."""
    weights = network["weights"]
    return network | {"weights": digest_of(Path(weights))} if weights and Path(weights).is_file() else network


def weights_of(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """A copy of the state of networks as `<network>.<tensor>`, on the CPU."""
    return {
        f"{name}.{key}": value.detach().to("cpu", copy=True).contiguous()
        for name, net in networks.items()
        for key, value in net.state_dict().items()
    }


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors without pickle."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors))  # Writing by itself, the library hides what the system said.


class Log:
    """`log.jsonl`: one line per logged iteration or validation; a resumed run drops what it repeats."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, iteration: int) -> None:
        """Keep only the lines up to `iteration`; none where it is 0."""
        lines = []
        if iteration and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["iteration"] <= iteration:
                        lines.append(line)
                except ValueError:
                    break  # The last line of a killed run may be half written.
        write_text(self.path, "".join(line + "\n" for line in lines))

    def write(self, entry: dict[str, Any]) -> None:
        """Append a line. Raises CannotWrite."""
        try:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def to_disk(self) -> None:
        """Make sure of the lines that a checkpoint takes for granted."""
        if self.path.is_file():
            to_disk(self.path)


def save_checkpoint(path: Path, values: dict[str, Any]) -> None:
    """Write values for `load_checkpoint`. By way of memory, because torch's writer hides what the system says."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, mark: str) -> dict[str, Any] | None:
    """The checkpoint at `path` if it is whole and carries the fingerprint `mark`, else None, with a word on stderr.

    Only tensors and plain values are read (`weights_only`). A damaged file or one of another training
    means that the training starts anew.
    """
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ):
        print(f"{path} is damaged; the training starts anew.", file=sys.stderr)
        return None
    if values.get("fingerprint") != mark:
        print(f"{path} is of other options, data or source; the training starts anew.", file=sys.stderr)
        return None
    return values


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files that a complete run leaves beside its provenance."""
    return {name: (folder / name).stat().st_size for name in (*WEIGHTS.values(), "log.jsonl")}


def complete_already(folder: Path, mark: str) -> dict[str, Any] | None:
    """The provenance of the training with the fingerprint `mark` if `folder` holds all of it, else None."""
    try:
        facts: dict[str, Any] = read_json(folder / COMPLETE)
        whole = facts["fingerprint"] == mark and facts["bytes"] == sizes(folder)
    except (SuiteError, KeyError, TypeError, OSError):
        return None
    return facts if whole else None


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    try:
        own = version("cgs-bench")
    except PackageNotFoundError:  # A checkout runs without being installed.
        own = "checkout"
    return {
        "cgs-bench": own,
        "python": platform.python_version(),
        "torch": torch.__version__,  # With the build, which the package's own version may leave out.
        **{name: version(name) for name in ("numpy", "scipy")},
        "cuda": str(torch.version.cuda),
    }


def training_digest(module: str) -> str:
    """Digest of all source that a training of the method in `module` runs: the method's and the engine's."""
    both = source_digest(module) + source_digest("cgs.engine.train")
    return hashlib.sha256(both.encode()).hexdigest()


def now() -> str:
    """UTC time as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_failure(folder: Path, sentence: str, traceback: str | None, provenance: dict[str, Any]) -> None:
    """Write failure.json and a provenance.json that says so; the report shows both."""
    iteration = provenance.get("iterations")
    write_json(
        folder / "failure.json",
        {"sentence": sentence, "iteration": iteration, "traceback": traceback, "when": now()},
    )
    write_json(folder / "provenance.json", {"status": "failed", **provenance})


def machine() -> str:
    """Operating system, processors and their kind, without the host's name.

    Kernels are chosen by the kind of processor: another one rounds otherwise, and a training drifts apart.
    """
    kind = [torch.backends.cpu.get_cpu_capability()]
    if (facts := Path("/proc/cpuinfo")).is_file():
        found = dict(re.findall(r"^(cpu family|model)\s*: (\w+)$", facts.read_text(), re.M))
        kind += [f"{name.removeprefix('cpu ')} {value}" for name, value in found.items()]
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores ({', '.join(kind)})"
