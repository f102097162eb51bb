"""What must not happen whatever lies on the disk: unpickling, touching files of others, believing a header."""

from __future__ import annotations

import ast
import gzip
import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from conftest import small_config
from test_tables import make_run

from cgs import bounds
from cgs.analysis.kept import read_table
from cgs.analysis.tables import write_tables
from cgs.data.nifti import read_nifti
from cgs.data.pack import opened
from cgs.data.prepare import prepare
from cgs.data.source import read_h5
from cgs.discovery import ROOT
from cgs.errors import SuiteError
from cgs.files import read_json
from cgs.merge import copy_run
from cgs.paths import Paths
from cgs.plan import cells
from cgs.report.page import render

UNPICKLES = {"pickle.load", "pickle.loads", "pickle.Unpickler", "pandas.read_pickle", "pd.read_pickle"} | {
    f"{module}.{name}"
    for module in ("dill", "cloudpickle", "joblib", "marshal", "shelve")
    for name in ("load", "loads", "open")
}
UNSAFE_YAML = {
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.unsafe_load_all",
    "yaml.full_load_all",
}


def dangers(source: str) -> list[str]:
    """Calls in a source that may run what a file says, with their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        safe_loader = options.get("Loader", "").endswith("SafeLoader")
        if (
            name in UNPICKLES
            or name in ("eval", "exec")
            or (name in UNSAFE_YAML and not safe_loader)
            or (name == "torch.load" and options.get("weights_only") != "True")
            or options.get("allow_pickle", "False") != "False"
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("folder", ["cgs", "baselines", "benchmarks"])
def test_nothing_unpickles(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert {
        str(f.relative_to(ROOT)): found for f in files if (found := dangers(f.read_text(encoding="utf-8")))
    } == {}


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(f)", "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=flag)", "torch.load(p)",
        "torch.load(p, weights_only=False)", "pd.read_pickle(p)", "yaml.load(f)", "yaml.load(f, Loader=yaml.Loader)",
        "eval(t)",
    ],
)  # fmt: skip
def test_the_search_finds(line: str) -> None:
    assert dangers(line)


def test_the_search_lets_through() -> None:
    assert not dangers("torch.load(p, weights_only=True); np.load(p); yaml.load(f, Loader=yaml.SafeLoader)")


# --- bounds ------------------------------------------------------------------------------------------------


def peak_of(work: Any) -> int:
    """Bytes that were taken at once while `work` was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(SuiteError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def huge_nifti(path: Path) -> None:
    data = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float64), np.eye(4)).to_bytes())
    header = np.frombuffer(data, nibabel.Nifti1Header.template_dtype, 1)
    header["dim"][0, 1:4] = 32767
    path.write_bytes(gzip.compress(bytes(data)))


def huge_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in ("image", "label"):
            file.create_dataset(name, (10**6, 10**6), "f4", chunks=(64, 64))


def huge_npz(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", header.getvalue())


def load_npz(path: Path) -> None:
    try:
        bounds.load_npz(path)
    except ValueError as error:
        raise SuiteError(str(error)) from None


@pytest.mark.parametrize(
    ("make", "read"),
    [(huge_nifti, read_nifti), (huge_h5, read_h5), (huge_npz, load_npz)],
    ids=["nifti", "hdf5", "npz"],
)
def test_a_header_that_claims_terabytes_takes_no_memory(tmp_path: Path, make: Any, read: Any) -> None:
    make(tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 10**5
    assert peak_of(lambda: read(tmp_path / "x")) < 5 * 10**6


def test_every_reader_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are lowered to see them work."""
    for module in ("bounds", "data.nifti", "data.source"):
        monkeypatch.setattr(f"cgs.{module}.LARGEST", 1000)
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4)), tmp_path / "a.nii")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(SuiteError, match="more than the 1,000 bytes"):
            read_nifti(tmp_path / name)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = file["label"] = np.zeros((40, 40))
    with pytest.raises(SuiteError, match="its header claims 40 x 40 values"):
        read_h5(tmp_path / "a.h5")
    np.savez(tmp_path / "a.npz", image=np.zeros((40, 40)))
    with pytest.raises(ValueError, match="its header claims 40 x 40 values"):
        bounds.load_npz(tmp_path / "a.npz")
    monkeypatch.setattr("cgs.files.TABLE", 100)
    (tmp_path / "a.json").write_text("[" + "1," * 100 + "1]")
    with pytest.raises(SuiteError, match="more than the 100 bytes"):
        read_json(tmp_path / "a.json")
    (tmp_path / "scores.csv.gz").write_bytes(gzip.compress(b"a\n" * 1000))
    with pytest.raises(SuiteError, match="more than the 100 bytes"):
        read_table(tmp_path, "scores")


def test_a_pack_has_a_bound(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cgs.data.pack import pack

    parts = pack(phantom, tmp_path / "p", 60)
    monkeypatch.setattr("cgs.data.pack.LARGEST", 1000)
    with pytest.raises(SuiteError, match="more than the 1,000 bytes"), opened(parts):
        pass


def test_hdf5_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    """A dataset whose values lie in other files would be read from wherever it says, or as zeros."""
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros((4, 4))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"], file["label"] = h5py.ExternalLink(tmp_path / "other.h5", "image"), np.zeros((4, 4))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("image", (8, 8), "u1", external=[(str(tmp_path / "secret"), 0, 64)])
        file["label"] = np.zeros((8, 8))
    layout = h5py.VirtualLayout((4, 4), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "gone.h5"), "image", (4, 4))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("image", layout)
        file["label"] = np.zeros((4, 4))
    for name, sentence in (
        ("link", "lies in another file"),
        ("raw", "in other files"),
        ("virtual", "in other files"),
    ):
        with pytest.raises(SuiteError, match=sentence):
            read_h5(tmp_path / f"{name}.h5")


@pytest.mark.parametrize(
    ("unit", "sentence"), [("meter", "in metres"), ("micron", "in micrometres"), ("mm", ""), ("unknown", "")]
)
def test_the_unit_of_the_spacing(tmp_path: Path, unit: str, sentence: str) -> None:
    """A spacing in metres would make every distance a thousand times too small."""
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    if sentence:
        with pytest.raises(SuiteError, match=f"gives lengths {sentence}; save it in millimetres"):
            read_nifti(tmp_path / "a.nii")
    else:
        assert read_nifti(tmp_path / "a.nii")[1] == (1, 1, 1)


# --- symbolic links ----------------------------------------------------------------------------------------


def test_results_that_are_links(phantom: Path, tmp_path: Path) -> None:
    """Results and runs may lie on another disk: tables and report are written there, and the links stay."""
    disk = tmp_path / "disk"
    for name in ("results", "run", "reports"):
        (disk / name).mkdir(parents=True)
    for name in ("results", "reports"):
        (tmp_path / name).symlink_to(disk / name)
    config = small_config(methods=["cgs"])
    paths = Paths("small", tmp_path / "results", tmp_path / "reports")
    paths.data("phantom").parent.mkdir(parents=True)
    paths.data("phantom").symlink_to(phantom)
    run = paths.run("phantom", "1", "cgs", 0)
    run.parent.mkdir(parents=True)
    run.symlink_to(disk / "run")
    for cell in cells(config):
        make_run(cell, paths)
    before = sorted(phantom.rglob("*"))
    write_tables(config, paths)
    assert render(config, paths).is_file()
    assert run.is_symlink() and (tmp_path / "results").is_symlink() and paths.data("phantom").is_symlink()
    assert sorted(phantom.rglob("*")) == before
    assert sorted(p.name for p in (disk / "run").iterdir()) == ["log.jsonl", "provenance.json", "scores.csv"]
    copy_run(run, tmp_path / "copied")
    assert not (tmp_path / "copied" / "scores.csv").is_symlink()


def test_preparing_into_a_link_keeps_what_else_is_there(tmp_path: Path) -> None:
    """Only files of the dataset's own names are replaced behind a link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "mine.txt").write_text("mine")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    prepare("phantom", small_config().datasets["phantom"], tmp_path / "data", 1)
    assert (tmp_path / "data").is_symlink() and (tmp_path / "disk" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "disk" / "source.json").is_file()


def test_cases_that_are_a_link_are_not_deleted(tmp_path: Path) -> None:
    """A folder of cases that is a link is refused, and what it leads to stays."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "mine.npz").write_text("mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cases").symlink_to(tmp_path / "disk")
    with pytest.raises((SuiteError, OSError)):
        prepare("phantom", small_config().datasets["phantom"], tmp_path / "data", 1)
    assert (tmp_path / "disk" / "mine.npz").read_text() == "mine"
    assert os.listdir(tmp_path / "disk") == ["mine.npz"]
