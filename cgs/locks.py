"""Locks of the system: files that one process at a time, or several sharers, hold until they end."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def held(path: Path, *, shared: bool = False, wait: bool = False) -> int | None:
    """A descriptor that holds the lock `path` until it or its process ends; None where others hold it.

    `shared` holders keep out only others that are not; with `wait`, until the others have let go. Started programs do
    not inherit it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def alone_or_in_parts(folder: Path, part: int, parts: int) -> str | None:
    """Hold `folder` for one of so many parts of a work, until this process ends; else who is there already.

    Parts of one division may work side by side. Nobody else may: parts of another division overlap.
    """
    own = "" if parts == 1 else f"-{part}-of-{parts}"
    if held(folder / f".campaign{own}.lock") is None:
        return f"shard {part}/{parts} of a campaign" if own else "another campaign"
    for path in sorted(folder.glob(".campaign*.lock")):
        found = path.name.removeprefix(".campaign").removesuffix(".lock").split("-of-")
        if found[-1] == (str(parts) if own else ""):
            continue
        probe = held(path, shared=True)  # Shared: others that only look must not seem to hold it.
        if probe is None:
            return f"shard {found[0][1:]}/{found[1]} of a campaign" if len(found) == 2 else "another campaign"
        os.close(probe)
    return None
