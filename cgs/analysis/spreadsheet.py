"""Tables that people open in a spreadsheet: no cell of them is a formula."""

from __future__ import annotations

import pandas as pd

ACTIVE = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Beginnings of a cell that a spreadsheet would compute."""


def inert(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with an apostrophe before every text that begins like a formula; numbers stay what they are."""

    def cell(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(ACTIVE) else value

    text = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{str(name): table[name].map(cell) for name in text})
