"""The files of one training: log, checkpoint, weights, provenance, failure."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import zipfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from cgs.digest import source_digest
from cgs.files import atomic_path, write_json, write_text

WEIGHTS = {"best": "weights.safetensors", "last": "weights-last.safetensors"}


def fingerprint(values: Any) -> str:
    """A digest of plain JSON values: a checkpoint with another one belongs to another training."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def save_weights(path: Path, networks: dict[str, nn.Module]) -> None:
    """Write the state of networks as `<network>.<tensor>`, without pickle."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, net in networks.items()
        for key, value in net.state_dict().items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


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
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")


def save_checkpoint(path: Path, values: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(values, temporary)


def load_checkpoint(path: Path, mark: str) -> dict[str, Any] | None:
    """The checkpoint at `path` if it is whole and carries the fingerprint `mark`, else None.

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
        return None
    return values if values.get("fingerprint") == mark else None


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("torch", "numpy", "scipy")
    try:
        own = version("cgs-bench")
    except PackageNotFoundError:  # A checkout runs without being installed.
        own = "checkout"
    return {
        "cgs-bench": own,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
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
    """Operating system and processor count, without the host's name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
