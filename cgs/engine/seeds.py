"""Seeds by name: every use of randomness has an axis of its own, so that a new use moves no other."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the axis `names` of run `seed`, equal on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator seeded with `derive(seed, *names)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))
