"""The one exception that users are meant to see, and how it suggests a mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SuiteError(Exception):
    """Bad input or a run that cannot go on: one sentence that says what, where and how to mend it.

    The command line prints the message alone, without a traceback, and exits with 1.
    """


def sentence(text: str) -> str:
    """`text` with a full stop, unless it ends as a question."""
    return text if text.endswith("?") else f"{text}."


def plain(reason: object) -> str:
    """What a library says, or a name from a file, as part of one line: nothing in it moves a terminal's cursor."""
    words = " ".join(str(reason).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?', or the list of known names where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


class CannotWrite(SuiteError):
    """A file could not be written, for want of room or rights: nothing is wrong with what was to be written."""
