"""A campaign runs what is missing, stops in time and goes on; packs are lossless; what is collected merges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import small_config

from cgs.analysis.experiments import strict_mean
from cgs.analysis.kept import REFERENCE, complete_cells, matching, read_table
from cgs.analysis.reference import collect
from cgs.campaign import in_order_of_value
from cgs.config import Config, parse_config
from cgs.data.pack import dataset_name, pack, unpack
from cgs.data.prepare import prepare
from cgs.discovery import ROOT
from cgs.errors import SuiteError
from cgs.files import read_json
from cgs.merge import merge
from cgs.plan import Cell, cells


def run(folder: Path, config: Config, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "cgs", "campaign", "--config", "config.yaml", "--out", "out", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_order_of_value() -> None:
    config = small_config(methods=["cps", "cgs", "labelled-only", "fully-supervised"], seeds=[3, 1])
    found = [str(c).removeprefix("phantom/") for c in in_order_of_value(config)]
    assert found[:4] == ["1/cgs/3", "1/labelled-only/3", "1/cps/3", "all/fully-supervised/3"]
    assert len(found) == len(set(found)) and all(c.endswith("/1") for c in found[len(found) // 2 :])
    assert [c.method for c in in_order_of_value(config, ["cps"])] == ["cps"] * 4
    with pytest.raises(SuiteError, match="does not compare dhc"):
        in_order_of_value(config, ["dhc"])


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


def test_sigterm_stops_the_trainings_too(tmp_path: Path) -> None:
    config = small_config(methods=["labelled-only"], training={"iterations": 30000})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "cgs", "campaign", "--config", "config.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and "started" in process.stdout.readline()
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").rglob("log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        said = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped, goes on next time" in said and list((tmp_path / "out").rglob("last.ckpt"))


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
    assert dataset_name(parts, ["phantom"]) == "phantom"
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
        dataset_name(parts, ["acdc"])
    with pytest.raises(SuiteError, match="does not exist"):
        unpack([tmp_path / "nothing.000"], tmp_path / "fourth")
    assert json.loads((tmp_path / "copy" / "source.json").read_text())["dataset"] == "phantom"


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
    mean = strict_mean(dice.groupby(["labelled", "method", "selection"])["value"])
    lead = main[(main["metric"] == "dice") & (main["convention"] == "field")]
    for row in lead.to_dict("records"):
        if row["seeds"] == 1:
            assert row["mean"] == pytest.approx(
                mean[row["labelled"], row["method"], row["selection"]], abs=1e-6
            )
    assert all(d["path"] is None for d in facts["config"]["datasets"].values() if "path" in d)
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 10**7
    assert {"devices", "versions", "started", "finished"} <= set(facts)
