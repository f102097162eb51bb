"""Datasets: less usual damage, which must still be one sentence and never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_data import folder, made_slice, prepared, replace, slice_file, write_h5

from cgs.data.audit import BLOCK, duplicates
from cgs.data.source import check_pair
from cgs.data.store import list_cases, load_case, load_slices
from cgs.errors import SuiteError

__all__ = ["folder"]  # The fixture of the two layouts.

CASE = "patient004_frame02"
SHAPE = (40, 30)


def train_case_in_val(source: Path) -> None:
    """A case of the training list that the validation list names too."""
    write_h5(source / "data" / "patient002_frame01.h5", *made_slice(9, (2, 20, 25)))
    (source / "val.list").write_text("patient002_frame01\n")


BAD: dict[str, Callable[[Path], object]] = {
    r"patient002_frame01 is also in train_slices\.list": train_case_in_val,
    r"label values \[nan\]": lambda f: replace(f, label=np.full(SHAPE, np.nan)),
    r"image \(complex128\).* must hold real numbers": lambda f: replace(f, image=np.full(SHAPE, 0.5 + 1j)),
    r"label \(\|S1\) must hold real numbers": lambda f: replace(f, label=np.full(SHAPE, b"a")),
    r"\[-0\.0005, ": lambda f: replace(f, image=made_slice(1)[0] - made_slice(1)[0].min() - np.float32(5e-4)),
    r"is damaged or no HDF5 file": lambda f: slice_file(f).write_bytes(b""),
}


@pytest.mark.parametrize("sentence", BAD)
def test_damage_in_the_source_is_one_sentence(folder: Path, tmp_path: Path, sentence: str) -> None:
    BAD[sentence](folder)
    with pytest.raises(SuiteError, match=sentence) as info:
        prepared(folder, tmp_path / "out")
    assert "\n" not in str(info.value)
    assert not (tmp_path / "out" / "source.json").exists()


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "cases.csv", f"cases/{CASE}.npz"])
def test_an_emptied_file_is_one_sentence(folder: Path, tmp_path: Path, file: str) -> None:
    out = prepared(folder, tmp_path / "out")
    (out / file).write_bytes(b"")  # What a crash of the machine leaves of a file that was just renamed.
    with pytest.raises(SuiteError, match="cannot be read"):
        load_slices(out)
        list_cases(out, "val")
        load_case(out, CASE)


def test_labels_of_another_size_are_refused(folder: Path, tmp_path: Path) -> None:
    out = prepared(folder, tmp_path / "out")
    shape = np.load(out / "labels.npy").shape
    np.save(out / "labels.npy", np.zeros((6, 16, 16), np.uint8))
    with pytest.raises(SuiteError, match=r"labels\.npy has \d+ bytes instead of \d+"):
        load_slices(out)
    np.save(out / "labels.npy", np.zeros((shape[0], shape[1] * 2, shape[2] // 2), np.uint8))
    with pytest.raises(SuiteError, match="do not fit"):
        load_slices(out)


def test_rounding_beyond_one_is_accepted() -> None:
    check_pair(np.full(SHAPE, 1 + 1e-6), np.zeros(SHAPE, np.uint8), 2, 3, "here")


def test_duplicates_across_blocks_are_found_once_and_in_order() -> None:
    """Two copies whose rows lie in different blocks, the second patient's row first in one of them."""
    count = BLOCK + 10
    rng = np.random.default_rng(0)
    images = rng.random((count, 8, 8)).astype(np.float32)
    patients = np.array(["b"] * BLOCK + ["a"] * 10)
    images[BLOCK + 1], images[BLOCK + 3] = images[5], images[7]
    names = [f"s{i}" for i in range(count)]
    rows = pd.DataFrame({"slice": names, "patient": patients, "split": "train"})
    found = duplicates(rows, images, np.zeros(images.shape, np.uint8))
    assert [(d["patients"], d["slices"]) for d in found] == [(["a", "b"], 2)]
    assert found[0]["examples"] == [[f"s{BLOCK + 1}", "s5"], [f"s{BLOCK + 3}", "s7"]]
