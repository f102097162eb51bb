"""The config: generated files do not drift, and every mistake is one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cgs.__main__ import main
from cgs.config import load_config, parse_config
from cgs.dataset_config import training_patients
from cgs.discovery import ROOT
from cgs.engine.method import load_method, options_of
from cgs.errors import SuiteError
from cgs.plan import cells
from cgs.presets import presets
from cgs.schema import generate
from cgs.workplan import work_plan

GOOD = {
    "name": "x",
    "datasets": {"phantom": {"kind": "phantom", "labelled": [2]}},
    "methods": ["cgs", "fully-supervised"],
}


def fault(**changes: object) -> str:
    with pytest.raises(SuiteError) as info:
        parse_config({**GOOD, **changes}, "file.yaml")
    sentence = str(info.value)
    assert sentence.startswith("file.yaml: ")
    assert "\n" not in sentence
    return sentence


def test_generated_files_do_not_drift() -> None:
    for path, text in generate(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale: run python -m cgs schema"


@pytest.mark.parametrize("name", presets())
def test_presets_load_as_what_they_were_made_from(name: str) -> None:
    assert load_config(ROOT / "config" / name) == presets()[name][1]


def test_unknown_keys_suggest_the_nearest() -> None:
    assert "unknown key 'method'; did you mean 'methods'?" in fault(method=["cgs"])
    training = fault(training={"iteration": 5})
    assert "unknown key 'training.iteration'; did you mean 'iterations'?" in training
    dataset = fault(datasets={"phantom": {"kind": "phantom", "labeled": [3]}})
    assert "unknown key 'datasets.phantom.labeled'; did you mean 'labelled'?" in dataset


def test_unknown_method_suggests_the_nearest() -> None:
    assert "method 'fixmach' does not exist; did you mean 'fixmatch'?" in fault(methods=["fixmach"])
    assert "method 'cgz'" in fault(variants={"v": {"extends": "cgz"}})


def test_impossible_values() -> None:
    too_many = fault(datasets={"phantom": {"kind": "phantom", "labelled": [21]}})
    assert "21 labelled patients are more than the 20 training patients" in too_many
    too_many = fault(datasets={"acdc": {"kind": "acdc", "labelled": [71]}})
    assert "71 labelled patients are more than the 70" in too_many
    assert "training.iterations" in fault(training={"iterations": 0})
    assert "named more than once: cgs" in fault(methods=["cgs", "cgs"])
    assert "datasets.phantom.size" in fault(datasets={"phantom": {"kind": "phantom", "size": 50}})
    assert "never reaches a method" in fault(variants={"a": {"extends": "b"}, "b": {"extends": "a"}})
    assert "has the name of a method but extends cps" in fault(variants={"cgs": {"extends": "cps"}})
    assert "name" in fault(name="With Spaces")


def test_labelled_is_held_against_the_list_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "train_slices.list").write_text("patient001_frame01_slice_1\npatient002_frame01_slice_1\n")
    sentence = fault(datasets={"acdc": {"kind": "acdc", "path": str(tmp_path), "labelled": [3]}})
    assert "3 labelled patients are more than the 2 training patients" in sentence


def test_a_dataset_name_at_the_top_gives_its_path() -> None:
    values = {**GOOD, "datasets": {"acdc": {"kind": "acdc"}}, "acdc": "some/where"}
    assert parse_config(values).datasets["acdc"].path == Path("some/where")  # type: ignore[union-attr]


def test_variants_extend_and_override() -> None:
    variants = {
        "a": {"extends": "cgs", "ihed": False, "tau": 0.5},
        "b": {"extends": "a", "tau": 0.7},
        "cgs": {"extends": "cgs", "lambda_max": 0.1},
    }
    config = parse_config({**GOOD, "variants": variants})
    assert config.method_and_options("b") == ("cgs", {"lambda_max": 0.1, "ihed": False, "tau": 0.7})
    assert config.method_and_options("cgs") == ("cgs", {"lambda_max": 0.1})
    assert config.method_and_options("cps") == ("cps", {})


def test_option_mistakes_are_found_before_any_job() -> None:
    with pytest.raises(SuiteError, match="v: unknown option 'ihad'; did you mean 'ihed'"):
        options_of(load_method("cgs"), {"ihad": True}, "v")
    with pytest.raises(SuiteError, match=r"tau: .*given: 3"):
        options_of(load_method("cgs"), {"tau": 3}, "v")


def test_fully_supervised_is_one_cell_a_seed() -> None:
    config = parse_config(
        {**GOOD, "datasets": {"phantom": {"kind": "phantom", "labelled": [1, 2]}}, "seeds": [0, 1]}
    )
    names = [(c.labelled, c.method, c.seed) for c in cells(config)]
    assert names == [
        ("1", "cgs", 0),
        ("1", "cgs", 1),
        ("2", "cgs", 0),
        ("2", "cgs", 1),
        ("all", "fully-supervised", 0),
        ("all", "fully-supervised", 1),
    ]


def test_work_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = work_plan(GOOD)
    assert json.loads(json.dumps(plan)) == plan
    assert len(plan["runs"]) == 1 * 3 + 3
    assert parse_config(plan["config"]) == parse_config(GOOD)
    assert not list(tmp_path.iterdir()), "planning must not touch the config of a run in progress"
    other = work_plan({**GOOD, "training": {"log_every": 7}})
    assert [r["params"] for r in other["runs"]] == [r["params"] for r in plan["runs"]]
    other = work_plan({**GOOD, "training": {"momentum": 0.5}})
    assert other["runs"][0]["params"] != plan["runs"][0]["params"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "not readable YAML"),
        ("- a", "must be a mapping"),
        ("name: x\ndatasets: {}\nmethods: [cgs]", "datasets"),
        ("name: x", "'datasets' is missing"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SuiteError, match=sentence):
        load_config(tmp_path / "c.yaml")


def test_the_command_line_prints_a_sentence_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--config", "absent.yaml"]) == 1
    printed = capsys.readouterr()
    assert (
        printed.err
        == "cgs tables: The config absent.yaml does not exist; config/ holds the ones that ship.\n"
    )
    demo = str(ROOT / "config" / "demo.yaml")
    arguments = ["--labelled", "2", "--method", "cgs", "--seed", "0"]
    assert main(["train", "--config", demo, "--dataset", "phantm", *arguments]) == 1
    assert "no dataset 'phantm'; did you mean 'phantom'?" in capsys.readouterr().err
    arguments[1] = "99"
    assert main(["train", "--config", demo, "--dataset", "phantom", *arguments]) == 1
    most = training_patients(load_config(demo).datasets["phantom"])
    assert f"--labelled 99: give a number of patients from 1 to {most}, or all." in capsys.readouterr().err


def test_a_path_can_be_given_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "config" / "paper.yaml")
    assert main(["prepare", "--config", config, "--dataset", "acdc", "--path", str(tmp_path / "gone")]) == 1
    assert f"The dataset acdc is not at {tmp_path / 'gone'}" in capsys.readouterr().err
    demo = str(ROOT / "config" / "demo.yaml")
    assert main(["prepare", "--config", demo, "--dataset", "phantom", "--path", str(tmp_path)]) == 1
    assert "unknown key 'datasets.phantom.path'" in capsys.readouterr().err
