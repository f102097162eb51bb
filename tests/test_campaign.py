"""A campaign runs what is missing, stops in time and goes on; packs are lossless; what is collected merges."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from conftest import small_config

from cgs.__main__ import main, reference_of
from cgs.analysis.experiments import strict_mean
from cgs.analysis.held import read_held
from cgs.analysis.kept import REFERENCE, complete_cells, matching, read_table
from cgs.analysis.reference import collect
from cgs.campaign import Campaign, in_order_of_value, share_of
from cgs.config import Config, load_config, parse_config
from cgs.data.pack import described, pack, unpack
from cgs.data.prepare import prepare
from cgs.discovery import ROOT
from cgs.errors import SuiteError
from cgs.files import read_json
from cgs.locks import alone_or_in_parts
from cgs.merge import merge
from cgs.paths import Paths
from cgs.plan import Cell, cells
from cgs.preparation import Preparation


def run(folder: Path, config: Config, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "cgs", "campaign", "--config", "config.yaml", "--out", "out", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_order_of_value() -> None:
    config = small_config(methods=["fully-supervised", "cps", "cgs", "labelled-only"], seeds=[3, 1])
    found = [str(c).removeprefix("phantom/") for c in in_order_of_value(config)]
    assert found[:4] == ["1/cgs/3", "1/labelled-only/3", "1/cps/3", "all/fully-supervised/3"]
    assert len(found) == len(set(found)) and all(c.endswith("/1") for c in found[len(found) // 2 :])
    assert [c.method for c in in_order_of_value(config, ["cps"])] == ["cps"] * 4
    with pytest.raises(SuiteError, match="does not compare dhc"):
        in_order_of_value(config, ["dhc"])


def test_the_papers_order() -> None:
    """Main tables with all seeds, few labels first; then what only experiments want."""
    config = load_config(ROOT / "config" / "paper.yaml")
    found = [c for c in in_order_of_value(config) if c.dataset == "acdc"]
    first = ["cgs", "labelled-only", "unimatch", "bcp", "fixmatch"]
    assert [c.method for c in found[:5]] == first and {c.labelled for c in found[:15]} == {"3"}
    assert str(found[15]) == "acdc/all/fully-supervised/0"
    assert [str(c) for c in found[16:18]] == ["acdc/7/cgs/0", "acdc/7/labelled-only/0"]
    main = [c for c in found if c.method in config.methods]
    assert found[: len(main)] == main and [c.seed for c in main] == [0] * 31 + [1] * 31 + [2] * 31
    assert found[len(main)].method == "cgs-binary-heads" and found[len(main)].seed == 0
    own = [c for c in in_order_of_value(config, ["cgs-no-ihed", "cgs"]) if c.dataset == "acdc"]
    assert [str(c) for c in own[:2]] == ["acdc/3/cgs-no-ihed/0", "acdc/3/cgs/0"], "an order of the user's own"


@pytest.mark.parametrize("parts", [1, 3, 4])
def test_shards_are_even_in_every_dataset(parts: int) -> None:
    """Also where a machine has some of the datasets alone: strides over all would give it a shard without any."""
    ordered = in_order_of_value(load_config(ROOT / "config" / "paper.yaml"))
    shards = [share_of(ordered, part, parts) for part in range(1, parts + 1)]
    assert sorted(map(str, chain(*shards))) == sorted(map(str, ordered))
    for shard in shards:
        assert shard == [c for c in ordered if c in set(shard)], "in order"
    for dataset in ("acdc", "segthor", "synapse"):
        counts = [sum(c.dataset == dataset for c in shard) for shard in shards]
        assert max(counts) - min(counts) <= 1


def test_stops_in_time_goes_on_and_is_collected(tmp_path: Path) -> None:
    config = small_config(
        methods=["cgs", "labelled-only"],
        training={"iterations": 3000, "validate_every": 1000, "checkpoint_every": 1000},
    )
    first = run(tmp_path, config, "--minutes", "0.7", "--methods", "cgs")
    assert first.returncode == 0, first.stderr
    assert "stopped, goes on next time" in first.stdout and "the same command goes on" in first.stdout
    assert list((tmp_path / "out").rglob("last.ckpt"))
    short = small_config(methods=["cgs", "labelled-only"], training={"iterations": 12})
    second = run(tmp_path, short, "--slots", "2")
    assert second.returncode == 0, second.stderr
    total = len(in_order_of_value(short))
    assert f"{total} of {total} trainings are done." in second.stdout

    target = tmp_path / "reference"
    assert f"{total} of {total}" in collect([tmp_path / "out"], target)
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    collect([tmp_path / "out"], target)
    assert before == {p.name: p.read_bytes() for p in target.iterdir()}, "collecting twice changes nothing"
    assert complete_cells(target) == set(in_order_of_value(short))
    main = read_table(target, "main")
    assert set(main["method"]) == {"cgs", "labelled-only"} and (main["failed"] == 0).all()
    assert str(tmp_path) not in (target / "provenance.json").read_text()
    found = matching(short, "phantom", tmp_path)
    assert found is not None and found[1] == "reference" and found[0]["mean"].equals(main["mean"])
    assert matching(config, "phantom", tmp_path) is None, "another budget"
    changed = small_config(
        methods=["cgs", "labelled-only"],
        training={"iterations": 12},
        variants={"cgs": {"extends": "cgs", "tau": 0.5}},
    )
    other = matching(changed, "phantom", tmp_path)
    assert other is not None and set(other[0]["method"]) == {"labelled-only"}, "other options"

    other = tmp_path / "elsewhere"
    other.mkdir()
    again = run(other, short, "--have", str(target))
    assert f"{total} of {total} trainings are done." in again.stdout and "started" not in again.stdout
    longer = small_config(methods=["labelled-only"], seeds=[7], training={"iterations": 13})
    assert run(other, longer).returncode == 0
    with pytest.raises(SuiteError, match="another protocol"):
        collect([other / "out"], target)


def own_volumes(folder: Path) -> dict[str, Any]:
    """A folder of made volumes, and its entry in a config."""
    rng = np.random.default_rng(0)
    rows = ["a,train", "b,train", "v,val", "t,test"]
    for name in (row.split(",")[0] for row in rows):
        label = rng.integers(0, 2, (16, 16, 3)).astype(np.uint8)
        for kind, array in (("images", label * 100 + rng.integers(0, 50, label.shape)), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([-1.0, -1, 3, 1]))
            nibabel.save(image, folder / kind / f"{name}.nii.gz")
    (folder / "split.csv").write_text("\n".join(["case,split", *rows]) + "\n")
    return {"kind": "folder", "size": 32, "labelled": [1], "targets": {"cyst": 1}}


def two_datasets(tmp_path: Path) -> Config:
    """`own` has files, which no config names; `segthor` has none."""
    return small_config(
        methods=["labelled-only"],
        datasets={
            "segthor": {"kind": "segthor", "size": 32, "labelled": [3]},
            "own": own_volumes(tmp_path / "files"),
        },
        training={"iterations": 4},
    )


def test_datasets_that_are_not_given_are_skipped(tmp_path: Path) -> None:
    config = two_datasets(tmp_path)
    done = run(tmp_path, config, "--path", "own=files")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 trainings are done." in done.stdout and "own/1/labelled-only/0: complete" in done.stdout
    said = [line for line in done.stdout.splitlines() if "segthor" in line]
    assert len(said) == 1 and said[0].startswith("The dataset segthor is not given; it needs ")
    assert "--path segthor=PATH, or its pack as --data PARTS. It is skipped." in said[0]
    wrong = run(tmp_path, config, "--path", "own=files", "segthor=files", "--minutes", "2")
    assert wrong.returncode == 1 and "files lacks 40 of the 40 patients" in wrong.stderr, wrong.stderr
    assert "1 of 2 trainings are done; the same command goes on." in wrong.stdout, "the other is not lost"
    refused = run(tmp_path, config, "--path", "own=files", "--only", "segthor", "own")
    assert refused.returncode == 1 and "The dataset segthor is not given; it needs" in refused.stderr
    none = run(tmp_path / "files", config)
    assert none.returncode == 1 and len(none.stderr.splitlines()) == 1 and "is not given" in none.stderr


def test_a_pack_is_enough_where_a_config_has_more_datasets(tmp_path: Path) -> None:
    """As docs/campaign.md takes ACDC alone along with the config of the paper."""
    config = two_datasets(tmp_path)
    prepare(
        "own", config.datasets["own"].model_copy(update={"path": tmp_path / "files"}), tmp_path / "read", 1
    )
    pack(tmp_path / "read", tmp_path / "own.pack", 60)
    done = run(tmp_path, config, "--data", "own.pack.000")
    assert done.returncode == 0, done.stderr
    assert "The dataset segthor is not given" in done.stdout and "1 of 1 trainings are done." in done.stdout
    assert "being read" not in done.stdout


BARE = """
import os
from importlib.machinery import PathFinder
absent, find = os.environ["ABSENT"].split(), PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.split(".")[0] in absent else find(name, path, target)
)
"""
"""A sitecustomize.py with which Python does not find the modules of ABSENT."""


def absent_without(packages: list[str]) -> str:
    """The modules here that neither `packages` nor what they depend on bring."""

    def plain(name: str) -> str:
        return name.lower().replace("_", "-")

    kept: set[str] = set()
    waiting = [*packages]
    while waiting:
        name = plain(waiting.pop())
        if name not in kept:
            kept.add(name)
            with suppress(metadata.PackageNotFoundError):
                needs = [r for r in metadata.requires(name) or [] if "extra ==" not in r]
                waiting += [re.match(r"[\w.-]+", need)[0] for need in needs]  # type: ignore[index]
    here = metadata.packages_distributions()
    own = ("cgs", "baselines")
    return " ".join(m for m, ds in here.items() if m not in own and not kept & set(map(plain, ds)))


def test_a_bare_machine_needs_what_the_page_says(tmp_path: Path) -> None:
    """Of what docs/campaign.md has installed beside a GPU's image nothing can be left out, and no more is needed.

    What its command packs there is enough to collect at home.
    """
    page = (ROOT / "docs" / "campaign.md").read_text()
    named = re.search(r"^pip install (.+)$", page, re.M)[1].split()  # type: ignore[index]
    image = ["torch", "numpy", "scipy", "pandas", "h5py"]
    config = two_datasets(tmp_path)
    config = config.model_copy(update={"datasets": {"own": config.datasets["own"]}})
    files = config.datasets["own"].model_copy(update={"path": tmp_path / "files"})
    prepare("own", files, tmp_path / "read", 1)
    pack(tmp_path / "read", tmp_path / "own.pack", 60)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(BARE)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    words = ["-m", "cgs", "campaign", "--config", "config.yaml", "--out", "out", "--data", "own.pack.000"]
    parts = "import cgs.campaign, cgs.engine.train, cgs.engine.display, cgs.evaluation.score"

    def bare(packages: list[str], *command: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "bare"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "ABSENT": absent_without(packages),
        }
        return subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = bare([*image, *named], *words)
    assert done.returncode == 0 and "own/1/labelled-only/0: complete" in done.stdout, (
        done.stdout + done.stderr
    )
    for name in named:
        lacking = bare([*image, *(n for n in named if n != name)], "-c", parts)
        assert lacking.returncode == 1 and "ModuleNotFoundError" in lacking.stderr, f"{name} is not needed"
    command = re.search(r"^tar .+$", page, re.M)[0].replace("DIR", "out")  # type: ignore[index]
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)
    (tmp_path / "home").mkdir()
    subprocess.run(["tar", "-xzf", "../home.tar.gz"], cwd=tmp_path / "home", check=True)
    left = {file.name for file in (tmp_path / "home").rglob("*") if file.is_file()}
    assert "scores.csv" in left and not {"weights.safetensors", "predictions.npz", "images.npy"} & left
    assert collect([tmp_path / "home"], tmp_path / "reference").endswith("1 of 1 trainings.")
    assert {"train", "labelled 1"} <= set(read_table(tmp_path / "reference", "balance")["group"])
    for name in ("audit.json", "labels.npy"):
        next((tmp_path / "home").rglob(name)).unlink()
        said = collect([tmp_path / "home"], tmp_path / f"without-{name}")
        assert "1 of 1 trainings. The label counts of own are not among them" in said


def test_collecting_knows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into results/reference/<config>, unless the results are of several configs."""
    monkeypatch.setattr("cgs.analysis.kept.REFERENCE", tmp_path / "reference")
    for name in ("one", "two"):
        (tmp_path / "out" / "results" / name).mkdir(parents=True)
        (tmp_path / "out" / "results" / name / "config.yaml").touch()
    with pytest.raises(SuiteError, match=r"results of one, two; collect each --into a folder"):
        reference_of([tmp_path / "out"])
    (tmp_path / "out" / "results" / "two" / "config.yaml").unlink()
    assert reference_of([tmp_path / "out"]) == tmp_path / "reference" / "one"
    assert main(["collect", str(tmp_path / "nothing")]) == 1, "nothing to collect is one sentence"


def test_trainings_go_on_while_another_dataset_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is read until the first one's training is scored, and then turns out to be damaged."""
    phantom = small_config().datasets["phantom"]
    config = small_config(
        datasets={"damaged": phantom, "phantom": phantom},
        methods=["labelled-only"],
        training={"iterations": 4},
    )
    work = Campaign(config, tmp_path / "out", 1)
    real = work.launch

    def launch(*words: str, said: Any) -> subprocess.Popen[bytes]:
        if words != ("prepare", "--dataset", "damaged"):
            return real(*words, said=said)
        scores = work.folder(Cell("phantom", "1", "labelled-only", 0)) / "scores.csv"
        script = (
            f"for i in $(seq 900); do test -f '{scores}' && echo It is damaged. && exit 1; sleep 0.1; done"
        )
        return subprocess.Popen(["sh", "-c", script], stdout=said, stderr=said, start_new_session=True)

    monkeypatch.setattr(work, "launch", launch)
    todo = in_order_of_value(config)
    assert todo[0].dataset == "damaged" and len(todo) == 4
    prepare("phantom", phantom, work.paths.data("phantom"), 1)
    assert work.run(todo, time.monotonic() + 200) == 2
    assert work.refused == ["It is damaged."]


def test_a_reading_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    paths = Paths("small", tmp_path / "results")

    def start(name: str, said: Any) -> subprocess.Popen[bytes]:
        script = f"mkdir -p '{paths.data(name)}/unpacked'; sleep 100 & echo $!; wait"
        return subprocess.Popen(["sh", "-c", script], stdout=said, start_new_session=True)

    data = Preparation(["acdc"], paths, start)
    data.advance()
    for _ in range(100):
        if data.messages("acdc").read_text().endswith("\n"):
            break
        time.sleep(0.1)
    child = int(data.messages("acdc").read_text())
    other = Preparation(["acdc"], paths, start)
    other.advance()
    assert other.running is None and not other.refused, "another shard waits for it"
    data.stop()
    assert not paths.data("acdc").exists()
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rsplit(")")[1].split()[0] == "Z", (
        "its processes end with it"
    )
    other.advance()
    assert other.running is not None, "and takes over"
    other.stop()


def test_who_may_share_a_folder(tmp_path: Path) -> None:
    for name in ("shards", "whole"):
        (tmp_path / name).mkdir()
    shards, whole = tmp_path / "shards", tmp_path / "whole"
    assert alone_or_in_parts(shards, 1, 4) is None and alone_or_in_parts(shards, 2, 4) is None
    assert alone_or_in_parts(shards, 2, 4) == "shard 2/4 of a campaign"
    assert alone_or_in_parts(shards, 1, 1) == "shard 1/4 of a campaign"
    assert alone_or_in_parts(shards, 3, 8) == "shard 1/4 of a campaign"
    assert alone_or_in_parts(whole, 1, 1) is None
    assert alone_or_in_parts(whole, 1, 1) == alone_or_in_parts(whole, 1, 4) == "another campaign"


def test_two_shards_at_once_in_one_folder(tmp_path: Path) -> None:
    """Each on its own places and slots, the data read once, every training done by one of them."""
    config = small_config(methods=["labelled-only", "cps"], training={"iterations": 30})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "cgs", "campaign", "--config", "config.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [*command, "--shard", f"{n}/2", "--slots", f"{n}"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in (1, 2)
    ]
    while not (tmp_path / "out/results/small/config-2-of-2.yaml").is_file():
        assert both[1].poll() is None
        time.sleep(0.05)
    for shard in ("2/2", "1/1"):
        refused = run(tmp_path, config, "--shard", shard)
        assert refused.returncode == 1 and "of a campaign is at work in" in refused.stderr
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("2 of 2 trainings are done." in text for text in said)
    assert "".join(said).count("being read") == 1
    assert len(list((tmp_path / "out").rglob("scores.csv"))) == 4
    slots = [
        yaml.safe_load(f.read_text())["training"]["gpu_slots"] for f in sorted(tmp_path.rglob("config-*"))
    ]
    assert slots == [1, 2]
    assert "4 of 4 trainings" in collect([tmp_path / "out"], tmp_path / "reference")


def test_ensembles_follow_their_members(tmp_path: Path) -> None:
    config = small_config(
        methods=["mean-teacher", "labelled-only"],
        datasets={"phantom": {"kind": "phantom", "labelled": [1]}},
        ensembles={"both": {"members": ["mean-teacher", "labelled-only"], "rule": "vote"}},
        experiments={"x": {"title": "X", "methods": ["both"]}},
        training={"iterations": 4},
    )
    first = run(tmp_path, config, "--methods", "mean-teacher")
    assert first.returncode == 0 and "combined" not in first.stdout, "a member is missing"
    second = run(tmp_path, config)
    assert "phantom/1/both/0: combined from 2 trainings" in second.stdout, second.stderr
    assert "2 of 2 trainings are done." in second.stdout
    assert "2 of 2 trainings" in collect([tmp_path / "out"], tmp_path / "reference")
    assert set(read_table(tmp_path / "reference", "main")["method"]) == {
        "mean-teacher",
        "labelled-only",
        "both",
    }
    third = run(tmp_path, config)
    assert third.returncode == 0 and "combined" not in third.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_trainings_too(tmp_path: Path, number: signal.Signals) -> None:
    """A job scheduler's, and that of a terminal that goes away."""
    config = small_config(methods=["labelled-only"], training={"iterations": 30000})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "cgs", "campaign", "--config", "config.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and any("started" in line for line in process.stdout)
        deadline = time.monotonic() + 60
        # Until something is logged: an empty log is there before the training heeds signals.
        while not any(f.stat().st_size for f in (tmp_path / "out").rglob("log.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        said = process.stdout.read()
    assert process.returncode == 128 + number
    assert "stopped, goes on next time" in said and list((tmp_path / "out").rglob("last.ckpt"))


@pytest.fixture(scope="module")
def two_campaigns(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The --out of a campaign after one method and after two, an ensemble of both among the results."""
    folder = tmp_path_factory.mktemp("two")
    ensemble = {"members": ["mean-teacher", "labelled-only"], "rule": "vote"}
    config = small_config(
        methods=["mean-teacher", "both", "labelled-only"],
        training={"iterations": 8, "validate_every": 4},
        ensembles={"both": ensemble},
        seeds=[0],
    )
    assert run(folder, config, "--methods", "labelled-only").returncode == 0
    shutil.copytree(folder / "out", folder / "one")
    assert run(folder, config).returncode == 0
    return folder / "one", folder / "out"


def interrupted_at(number: int) -> Callable[..., None]:
    """An `os.replace` that is interrupted the `number`-th time, counted from 0."""
    real, count = os.replace, iter(range(100))

    def replace(*names: Any) -> None:
        if next(count) == number:
            raise KeyboardInterrupt
        real(*names)

    return replace


@pytest.mark.parametrize("number", range(7))
def test_an_interrupted_collect_is_mended_by_the_next(
    two_campaigns: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever file it was about to write: the first collect of a folder, and a second that adds to it."""
    collect(two_campaigns[1:], tmp_path / "whole")
    wanted = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    for before in ([], two_campaigns[:1]):
        target = tmp_path / f"after-{len(before)}"
        if before:
            collect(before, target)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("cgs.files.os.replace", interrupted_at(number))
            collect(two_campaigns[1:], target)
        assert collect(two_campaigns[1:], target).endswith("4 of 4 trainings.")
        found = {p.name: p.read_bytes() for p in target.iterdir()}
        assert found.keys() == wanted.keys()
        if not before:
            assert found == wanted
        scores = read_table(target, "scores")
        assert len(scores) == len(read_table(tmp_path / "whole", "scores"))
        facts = [read_json(folder / "provenance.json") for folder in (target, tmp_path / "whole")]
        assert facts[0]["training_seconds"] == facts[1]["training_seconds"] > 0


def test_weights_are_kept_beside_ensembles_and_afterwards(
    two_campaigns: tuple[Path, Path], tmp_path: Path
) -> None:
    names = {f"phantom-{n}-{m}.safetensors" for n in "12" for m in ("labelled-only", "mean-teacher")}
    for target in (tmp_path / "at-once", tmp_path / "later"):
        if target.name == "later":
            collect(two_campaigns[1:], target)
            assert not (target / "weights").exists()
        collect(two_campaigns[1:], target, weights=True)
        assert {p.name for p in (target / "weights").iterdir()} == names


def test_a_smaller_campaign_takes_nothing_from_the_plan(tmp_path: Path) -> None:
    """Of datasets, methods, seeds and numbers of labelled patients that it does not know."""
    phantom = small_config().datasets["phantom"].model_dump()
    variants = {"late": {"extends": "cps", "lambda_max": 0.2}}
    large = small_config(
        datasets={"phantom": phantom, "second": phantom},
        methods=["labelled-only", "late"],
        variants=variants,
        training={"iterations": 8, "validate_every": 4},
    )
    small = small_config(methods=["cps"], seeds=[5], training={"iterations": 8, "validate_every": 4})
    for name, config, methods in (("large", large, ["late"]), ("small", small, ["cps"])):
        (tmp_path / name).mkdir()
        ended = run(tmp_path / name, config, "--methods", *methods)
        assert ended.returncode == 0, ended.stderr
    before = collect([tmp_path / "large" / "out"], tmp_path / "kept")
    after = collect([tmp_path / "small" / "out"], tmp_path / "kept")
    planned = len(in_order_of_value(large))
    done = len(in_order_of_value(large, ["late"]))
    assert before.endswith(f"{done} of {planned} trainings.")
    kept = parse_config(read_json(tmp_path / "kept" / "provenance.json")["config"])
    assert set(kept.methods) == {"labelled-only", "late", "cps"} and set(kept.datasets) == {
        "phantom",
        "second",
    }
    assert after.endswith(f"{done + 2} of {len(in_order_of_value(kept))} trainings.")
    other = small_config(
        methods=["late"],
        variants={"late": {"extends": "cps", "lambda_max": 0.3}},
        training={"iterations": 8, "validate_every": 4},
    )
    held = read_held(other, cells(other), [tmp_path / "kept"])
    assert not held.cells and all("other options" in said for said in held.refused.values())


def test_a_campaign_without_a_result_is_collected(tmp_path: Path) -> None:
    config = small_config(methods=["labelled-only"], training={"iterations": 30000})
    assert run(tmp_path, config, "--minutes", "0.34").returncode == 0
    planned = len(in_order_of_value(config))
    assert collect([tmp_path / "out"], tmp_path / "kept").endswith(f"0 of {planned} trainings.")


def test_what_is_missing_counts(tmp_path: Path) -> None:
    config = small_config(methods=["labelled-only", "cps"], training={"iterations": 12})
    assert run(tmp_path, config, "--methods", "labelled-only").returncode == 0
    collect([tmp_path / "out"], tmp_path / "reference", weights=True)
    runs = read_table(tmp_path / "reference", "runs")
    assert set(runs.loc[runs["status"] == "missing", "method"]) == {"cps"}
    assert [p.name for p in (tmp_path / "reference" / "weights").iterdir()]
    assert run(tmp_path, config).returncode == 0
    collect([tmp_path / "out"], tmp_path / "reference")
    assert (read_table(tmp_path / "reference", "runs")["status"] == "complete").all()


def test_pack_gives_back_the_same_bytes(tmp_path: Path) -> None:
    dataset = small_config().datasets["phantom"]
    prepare("phantom", dataset, tmp_path / "data", 1)
    parts = pack(tmp_path / "data", tmp_path / "p.zip", 60)
    assert described(parts, ["phantom"])["dataset"] == "phantom"
    pieces = [tmp_path / f"piece.{i}" for i in range(2)]
    whole = parts[0].read_bytes()
    pieces[0].write_bytes(whole[:1000])
    pieces[1].write_bytes(whole[1000:])
    unpack(pieces, tmp_path / "copy")
    names = sorted(p.relative_to(tmp_path / "data") for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert names and all(
        (tmp_path / "data" / n).read_bytes() == (tmp_path / "copy" / n).read_bytes() for n in names
    )
    with pytest.raises(SuiteError, match="no whole pack"):
        unpack(pieces[:1], tmp_path / "third")
    with pytest.raises(SuiteError, match="give another pack"):
        described(parts, ["acdc"])
    with pytest.raises(SuiteError, match="does not exist"):
        unpack([tmp_path / "nothing.000"], tmp_path / "fourth")
    assert json.loads((tmp_path / "copy" / "source.json").read_text())["dataset"] == "phantom"


def test_data_of_another_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training takes its size from the data: it would stand in the tables under the config's."""
    config = small_config(methods=["labelled-only"], training={"iterations": 12})
    values = config.model_dump(mode="json")
    values["datasets"]["phantom"]["size"] *= 2
    size, other = config.datasets["phantom"].size, parse_config(values)
    prepare("phantom", config.datasets["phantom"], tmp_path / "data", 1)
    parts = pack(tmp_path / "data", tmp_path / "pack", 60)
    said = f"was prepared with size {size}, but the config has size {2 * size}"
    ended = run(tmp_path, other, "--data", str(parts[0]))
    assert ended.returncode == 1 and said in ended.stderr and "pack it with this config" in ended.stderr
    assert not list((tmp_path / "out").rglob("source.json"))
    shutil.move(tmp_path / "data", Paths(config.name, tmp_path / "out" / "results").data("phantom"))
    for _ in range(2):
        ended = run(tmp_path, other)
        assert ended.returncode == 1 and said in ended.stderr and "delete the folder" in ended.stderr
    cell = ["--dataset", "phantom", "--labelled", "1", "--method", "labelled-only", "--seed", "0"]
    monkeypatch.chdir(tmp_path / "out")
    for words in (["train", *cell], ["pack", "--dataset", "phantom", "--out", "again"]):
        assert main([*words, "--config", "../config.yaml"]) == 1 and said in capsys.readouterr().err


def test_have_of_another_budget_or_nowhere_is_refused(tmp_path: Path) -> None:
    """Taken for done, its cells would never be run."""
    config = small_config(methods=["labelled-only"], training={"iterations": 12})
    assert run(tmp_path, config).returncode == 0
    collect([tmp_path / "out"], tmp_path / "kept")
    longer = small_config(methods=["labelled-only"], training={"iterations": 24})
    ended = run(tmp_path, longer, "--have", str(tmp_path / "kept"))
    assert ended.returncode == 1 and "its training has iterations 12, not 24" in ended.stderr
    ended = run(tmp_path, config, "--have", str(tmp_path / "kep"))
    assert ended.returncode == 1 and "kep is no folder that `python -m cgs collect` wrote" in ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pack", "--dataset", "phantom", "--out", "p", "--part", "0"], "--part 0: give the megabytes"),
        (["pack", "--dataset", "phantom", "--out", "p", "--part", "-5"], "--part -5: give the megabytes"),
        (["pack", "--dataset", "phantm", "--out", "p"], "did you mean 'phantom'?"),
        (["campaign", "--out", "out", "--shard", "1/²"], "--shard 1/²: give a part and their number"),
    ],
)
def test_bad_numbers_get_one_sentence(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(small_config().model_dump(mode="json")))
    assert main([*words, "--config", "config.yaml"]) == 1
    assert said in capsys.readouterr().err and not list(tmp_path.glob("p.*"))


def test_shards_are_merged_and_conflicts_refused(tmp_path: Path) -> None:
    config = small_config(methods=["labelled-only", "cps"], training={"iterations": 12})
    every = in_order_of_value(config)
    folders = [tmp_path / name for name in ("one", "two")]
    for number, folder in enumerate(folders, start=1):
        folder.mkdir()
        done = run(folder, config, "--shard", f"{number}/2")
        assert done.returncode == 0, done.stderr
        assert f"{len(every) // 2} of {len(every) // 2} trainings are done." in done.stdout
    outs = [folder / "out" for folder in folders]
    target = tmp_path / "all"
    assert merge(outs, target) == f"{len(every)} runs came, 0 were there; {target} holds {len(every)}."
    assert merge(outs, target) == f"0 runs came, {len(every)} were there; {target} holds {len(every)}."
    runs = sorted(p.parent.relative_to(target) for p in target.rglob("provenance.json"))
    assert len(runs) == len(every) and (target / "results" / "small" / "config.yaml").is_file()
    elsewhere = next(outs[0].rglob("provenance.json"))
    facts = json.loads(elsewhere.read_text())
    longer = {**facts["bytes"], "log.jsonl": facts["bytes"]["log.jsonl"] + 1}  # Its times have other digits.
    elsewhere.write_text(json.dumps(facts | {"bytes": longer, "energy_joules": 1.0, "machine": "another"}))
    assert merge(outs, target).startswith("0 runs came"), "the same run on two machines"
    unscored = next(target.rglob("scores.csv"))
    unscored.unlink()
    assert merge(outs, target).startswith("1 runs came") and unscored.is_file(), (
        "its scores were still to come"
    )
    unscored.unlink()
    weights = unscored.with_name("weights.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(SuiteError, match="hold different results of one run"):
        merge(outs, target)
    weights.write_bytes(whole)
    merge(outs, target)
    scores = next(outs[0].rglob("scores.csv"))
    scores.write_text(scores.read_text().replace("dice", "Dice", 1))
    with pytest.raises(SuiteError, match="hold different results of one run"):
        merge(outs, target)
    other = small_config(methods=["labelled-only"], training={"iterations": 13})
    (outs[1] / "results/small/config.yaml").write_text(yaml.safe_dump(other.model_dump(mode="json")))
    with pytest.raises(SuiteError, match="results of different configs are not merged"):
        merge(outs[1:], target)
    with pytest.raises(SuiteError, match="holds no results/<config>"):
        merge([tmp_path / "nothing"], target)


def test_snakemake_goes_on_in_a_merged_folder(tmp_path: Path) -> None:
    """As docs/cluster.md says: in a folder that is no checkout; what is trained is not trained again."""
    config = small_config(
        methods=["labelled-only"],
        datasets={"phantom": small_config().datasets["phantom"].model_copy(update={"labelled": (1,)})},
        training={"iterations": 4},
    )
    assert run(tmp_path, config).returncode == 0
    target = tmp_path / "all"
    merge([tmp_path / "out"], target)
    weights = next(target.rglob("weights.safetensors"))
    before = weights.stat().st_mtime_ns
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--configfile", "../config.yaml"],
        cwd=target,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = target / "results/small/logs/train/phantom/1/labelled-only/0.txt"
    assert "complete already" in log.read_text() and weights.stat().st_mtime_ns == before
    assert "1 of 1 trainings complete" in (target / "reports/small/index.html").read_text()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, small_config(), f"--shard={text}")
    assert done.returncode == 1 and "give a part and their number, as 1/4" in done.stderr


@pytest.mark.parametrize("folder", sorted(REFERENCE.glob("*/")), ids=lambda p: p.name)
def test_a_reference_that_ships_is_whole(folder: Path) -> None:
    facts = read_json(folder / "provenance.json")
    config = parse_config(facts["config"])
    done = complete_cells(folder)
    assert done and done <= set(cells(config))
    scores, main = read_table(folder, "scores"), read_table(folder, "main")
    keys = ["dataset", "labelled", "method", "seed"]
    found = {Cell(d, n, m, int(s)) for d, n, m, s in scores[keys].drop_duplicates().itertuples(index=False)}
    assert found == done
    dice = scores[(scores["metric"] == "dice") & (scores["convention"] == "field")]
    mean = strict_mean(dice.groupby(["dataset", "labelled", "method", "selection"])["value"])
    lead = main[(main["metric"] == "dice") & (main["convention"] == "field")]
    for row in lead.to_dict("records"):
        # Every seed has the same cases and targets, so the mean over all rows is the mean of means.
        key = row["dataset"], row["labelled"], row["method"], row["selection"]
        assert row["mean"] == pytest.approx(mean[key], abs=1e-6)
    assert all(d["path"] is None for d in facts["config"]["datasets"].values() if "path" in d)
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 10**7
    assert {"devices", "versions", "started", "finished"} <= set(facts)
