"""What the fuzz tests share: how many examples, how files are damaged, and what every mistake must look like.

`CGS_FUZZ_EXAMPLES=5000 pytest tests/test_fuzz_data.py` tries that many random examples in every test; without it, a
few that are the same on every machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from cgs.errors import SuiteError

EXAMPLES = int(os.environ.get("CGS_FUZZ_EXAMPLES") or 0)
INTERESTING = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
    b"\0\0\0\x80",
    b"\n",
    b'"',
    b",",
    b"nan",
    b"-1",
)
AWKWARD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "nan", "NA", "null", "=1+1", "a\nb", "a\0b", "\ud800", "../../x", "<script>", "1e5", "x" * 300]
    ),
)
"""Plain values that no field expects."""

JSON = st.recursive(
    AWKWARD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """The settings of a test: so many examples, always the same ones, unless the environment asks for others."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A way to damage a file: bytes changed, cut, put in, repeated or replaced, one to four times."""
    part = st.floats(0, 1, exclude_max=True)
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "flip", "flip", "set", "cut", "insert", "repeat", "drop", "zero"]),
                part,
                part,
                st.integers(1, 255),
                st.sampled_from(INTERESTING) | st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def damage(data: bytes) -> bytes:
        for kind, first, second, value, block in steps:
            at = int(first * len(data))
            end = at + int(second * min(len(data) - at, 600))
            if kind == "flip" and data:
                data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
            elif kind == "set":
                data = data[:at] + block + data[at + len(block) :]
            elif kind == "cut":
                data = data[:at]
            elif kind == "insert":
                data = data[:at] + block + data[at:]
            elif kind == "repeat":
                data = data[:end] + data[at:end] + data[end:]
            elif kind == "drop":
                data = data[:at] + data[end:]
            elif kind == "zero":
                data = data[:at] + bytes(end - at) + data[end:]
        return data

    return damage


@contextmanager
def said() -> Iterator[list[str]]:
    """Let a SuiteError of one line through, as the only exception; the list then holds its sentence."""
    sentences: list[str] = []
    try:
        yield sentences
    except SuiteError as error:
        sentences.append(str(error))
        assert_sentence(str(error))


def assert_sentence(text: str) -> None:
    """One line that a terminal shows as it is."""
    assert text and text.isprintable(), repr(text)
    assert text.endswith((".", "?")), text
