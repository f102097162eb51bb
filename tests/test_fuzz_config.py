"""Configs against arbitrary mutations: one sentence, or a config that says the same when it is read again."""

from __future__ import annotations

import copy
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import JSON, assert_sentence, damages, fuzzed, said
from hypothesis import given
from hypothesis import strategies as st

from cgs.__main__ import main
from cgs.analysis.cost import description, target_names
from cgs.config import Config, load_config, parse_config
from cgs.dataset_config import KINDS, MISSING, check_target
from cgs.discovery import ROOT, available_methods
from cgs.errors import SuiteError
from cgs.plan import cells, trainings
from cgs.presets import presets
from cgs.workplan import work_plan

FULL: dict[str, Any] = {
    "name": "x",
    "datasets": {
        "phantom": {"kind": "phantom", "labelled": [2], "size": 32, "train_patients": 5},
        "acdc": {"kind": "acdc", "path": "some/where", "labelled": [3, 7], "main_table": False},
        "again": {"kind": "acdc", "files_of": "acdc", "size": 256},
        "synapse": {
            "kind": "synapse",
            "window": [-125, 275],
            "url": "http://localhost/x.zip",
            "sha256": "a" * 64,
        },
        "mine": {"kind": "folder", "path": "f", "targets": {"liver": 1, "spleen": 4}, "labelled": [1]},
        "segthor": {"kind": "segthor"},
    },
    "methods": ["cgs", "labelled-only", "fully-supervised", "both", "sam"],
    "reference": "cgs",
    "variants": {
        "no-ihed": {"extends": "cgs", "ihed": False},
        "wide": {"extends": "no-ihed", "network": {"width": 32}},
    },
    "ensembles": {"both": {"members": ["cgs", "no-ihed"], "rule": "vote"}},
    "promptable": {"sam": {"code": "sam.py:load", "weights": "sam.pth", "prompt": "point"}},
    "experiments": {
        "a1": {
            "title": "First",
            "methods": ["no-ihed", "cgs"],
            "labelled": [2],
            "seeds": [5],
            "datasets": ["phantom"],
        },
        "a2": {"title": "Second", "methods": ["wide"], "view": "cost"},
    },
    "seeds": [0, 1],
    "network": {"kind": "unet", "width": 16},
    "training": {"iterations": 10, "device": "cpu", "learning_rate": 0.01, "deterministic": False},
    "evaluation": {
        "conventions": ["field", "strict"],
        "selections": ["last", "best"],
        "nsd_tolerance_mm": 2.0,
    },
    "report": {"title": "Title", "overlay_cases": 2},
}
KEYS = sorted(
    {*Config.model_fields, *(k for kind in KINDS.values() for k in kind.model_fields), "extends", "nan", ""}
)
WORDS = st.one_of(
    JSON,
    st.sampled_from(
        sorted([*available_methods(), *FULL["datasets"], *FULL["experiments"], *KINDS, "ensemble", "all"])
    ),
    st.sampled_from(KEYS),
    st.sampled_from(
        [
            ["cgs", "cgs"],
            [],
            {},
            [[]],
            [0, 0],
            [2, 2],
            ["best", "best"],
            2,
            3,
            {"a": 1},
            {"\x1b": 1},
            {"nan": 1, "=x": 2},
        ]
    ),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within a config."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))]


def mutated(values: Any, steps: list[tuple[int, str, Any, Any]]) -> Any:
    values = copy.deepcopy(values)
    for number, kind, key, value in steps:
        new = copy.deepcopy(value)
        ways = places(values)
        *path, last = way = ways[number % len(ways)] or (None,)
        if way == (None,):
            continue
        holder = values
        for step in path:
            holder = holder[step]
        if kind == "drop":
            del holder[last]
        elif kind == "add" and isinstance(holder[last], dict):
            holder[last][key] = new
        elif kind == "add" and isinstance(holder[last], list):
            holder[last].append(new)
        elif kind == "rename" and isinstance(holder, dict):
            holder[key] = holder.pop(last)
        else:
            holder[last] = new
    return values


STEPS = st.lists(
    st.tuples(
        st.integers(0, 10**4),
        st.sampled_from(["set", "set", "drop", "add", "rename"]),
        st.one_of(st.sampled_from(KEYS), st.text(max_size=5)),
        WORDS,
    ),
    min_size=1,
    max_size=3,
)


def check_config(config: Config) -> None:
    """A config that was accepted can be planned, shown, written and read again as the same config."""
    text = json.dumps(config.model_dump(mode="json"), allow_nan=False)
    assert parse_config(json.loads(text)) == config
    planned = cells(config)
    assert len(set(planned)) == len(planned) and set(trainings(config)) <= set(planned)
    for name in target_names(config):
        part = config.only(name)
        assert set(cells(part)) <= set(planned)
        assert part.datasets and description(config, name)
    for name in config.every_method:
        config.method_and_options(name)
        config.network_of(name)
    for listed in (
        *(dataset.labelled for dataset in config.datasets.values()),
        *(e for x in config.experiments.values() for e in (x.labelled, x.datasets, x.methods, x.seeds)),
        *(e.members for e in config.ensembles.values()),
        config.evaluation.conventions,
        config.evaluation.selections,
    ):
        assert len(set(listed)) == len(listed)
    names = [*config.datasets, *config.variants, *config.experiments, *config.ensembles, *config.promptable]
    for name in (config.name, *names):
        assert name not in MISSING and len(name) <= 80
    for name in (t for d in config.datasets.values() for t in getattr(d, "targets", ())):
        assert check_target(name) and name.isprintable() and name[0] not in "=+-@"


@fuzzed(200)
@given(steps=STEPS)
def test_any_mutation_of_a_config(steps: Any) -> None:
    with said():
        check_config(parse_config(mutated(FULL, steps), "file.yaml"))


@pytest.mark.parametrize("name", presets())
def test_any_mutation_of_a_preset(name: str) -> None:
    values = yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))

    @fuzzed(12)
    @given(steps=STEPS)
    def mutate(steps: Any) -> None:
        with said():
            check_config(parse_config(mutated(values, steps), name))

    mutate()


@fuzzed(100)
@given(value=JSON)
def test_any_value_is_no_config(value: Any) -> None:
    with pytest.raises(SuiteError) as caught:
        parse_config(value)
    assert_sentence(str(caught.value))


def load(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "c.yaml"
        path.write_bytes(data)
        with said():
            check_config(load_config(path))


SMALL = yaml.safe_dump(
    {key: FULL[key] for key in ("name", "methods", "training")}
    | {"datasets": {"phantom": FULL["datasets"]["phantom"]}, "ensembles": {}, "methods": ["cgs"]}
)


@fuzzed(250)
@given(damage=damages())
def test_damaged_yaml(damage: Any) -> None:
    load(damage(SMALL.encode()))


YAML_PARTS = st.sampled_from(
    [
        "a: 1\n",
        "- b\n",
        "&x ",
        "*x",
        "!!int ",
        "!!binary ",
        "!!timestamp ",
        "!!set ",
        "!!float ",
        "!!bool ",
        "!!null ",
        "!!python/object:os.system ",
        "? ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "|\n",
        ">\n",
        "<<: ",
        "2001-99-99",
        "12:99:99",
        "0x",
        "0o9",
        "1_000",
        ".inf",
        ".nan",
        "~",
        "---\n",
        "...\n",
        "%YAML 9.9\n",
        "'",
        '"',
        "\\x",
        "\t",
        "\n",
        "  ",
        "name: ",
        "datasets: ",
        "x",
        "\x85",
        "=",
    ]
)


@fuzzed(250)
@given(parts=st.lists(YAML_PARTS, max_size=9), prefix=st.booleans())
def test_any_yaml(parts: list[str], prefix: bool) -> None:
    load(((SMALL if prefix else "") + "".join(parts)).encode())


NASTY_YAML = {
    "deep": "[" * 5000,
    "deep mapping": "{a: " * 5000,
    "itself": "name: &a [*a]\ndatasets: *a\n",
    "itself as options": "name: x\ndatasets: &d {phantom: {kind: phantom}, again: *d}\nmethods: [cgs]\n",
    "laughs": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a large number": f"name: x\nseeds: [{'9' * 5000}]\n",
    "a date": "name: 2001-99-99",
    "a timestamp": "name: !!timestamp x",
    "a bool": "name: !!bool x",
    "a binary": "name: !!binary é",
    "code": "name: !!python/object/apply:os.system [echo]",
}


@pytest.mark.parametrize("name", NASTY_YAML)
def test_nasty_yaml_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text(NASTY_YAML[name], encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        load_config(tmp_path / "c.yaml")
    assert_sentence(str(caught.value))
    assert len(str(caught.value)) < 5000


@fuzzed(80)
@given(
    target=st.text(max_size=12)
    | st.sampled_from(["a1", "a2", "table-phantom", "table-acdc", "all", "nan", ""])
)
def test_any_target(target: str) -> None:
    config = parse_config(FULL)
    with said() as sentences:
        assert config.only(target).datasets
    assert bool(sentences) == (target not in target_names(config))


ODD_PATHS = ["", ".", "/", "a\0b", "x" * 300, "\ud800", "a\nb", "/dev/null", "~", "-x", "a/" * 3000, __file__]


@pytest.mark.parametrize("path", ODD_PATHS, ids=range(len(ODD_PATHS)))
@pytest.mark.parametrize("kind", ["acdc", "segthor", "synapse", "folder", "network", "weights"])
def test_odd_paths(tmp_path: Path, path: str, kind: str) -> None:
    values = copy.deepcopy(PLANNED)
    if kind == "network":
        values["network"] = {"kind": "transunet", "weights": path}
    elif kind == "weights":
        values["promptable"]["sam"]["weights"] = path
    else:
        targets = {"targets": {"a": 1}} if kind == "folder" else {}
        values["datasets"] = {"d": {"kind": kind, "path": path, "labelled": [1], **targets}}
    with said():
        check_config(parse_config(values))
    check_plan(json.dumps(values).encode(), tmp_path)


NUMBERS = [10**400, 10**15, 1e308, 1e-320, -1, 0, float("nan"), float("inf")]
NUMERIC = [
    *(("training", key) for key in FULL["training"] if key not in ("device", "deterministic")),
    *(
        ("training", key)
        for key in ("labelled_batch", "momentum", "weight_decay", "poly_power", "validate_every")
    ),
    *(("training", key) for key in ("pseudo_label_slices", "threads", "gpu_slots")),
    ("evaluation", "nsd_tolerance_mm"),
    ("report", "overlay_cases"),
    ("network", "width"),
    ("datasets", "phantom", "seed"),
    ("datasets", "phantom", "labelled"),
    ("seeds",),
]


@pytest.mark.parametrize("number", NUMBERS, ids=["10**400", *map(str, NUMBERS[1:])])
def test_odd_numbers(tmp_path: Path, number: float) -> None:
    for *way, key in NUMERIC:
        values = copy.deepcopy({**PLANNED, **{k: FULL[k] for k in ("evaluation", "report", "network")}})
        holder = values
        for step in way:
            holder = holder[step]
        holder[key] = [number] if key in ("seeds", "labelled") else number
        with said() as sentences:
            check_config(parse_config(values))
        if not sentences or key == "seeds":
            check_plan(json.dumps(values).encode(), tmp_path)


# --- plan --------------------------------------------------------------------------------------------------


def plan(data: bytes, place: Path) -> tuple[int, str, str]:
    """`python -m cgs plan` with `data` on stdin: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = main(["plan"])
    return code, out.getvalue(), err.getvalue()


def check_plan(data: bytes, place: Path) -> None:
    code, out, err = plan(data, place)
    if code == 0:
        found = json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
        assert parse_config(found["config"]) and not err
    else:
        assert code == 1 and not out and err.startswith("cgs plan: ") and err.endswith("\n")
        assert_sentence(err[:-1])


PLANNED = {key: FULL[key] for key in ("name", "methods", "variants", "ensembles", "promptable", "training")}
PLANNED["datasets"] = {key: FULL["datasets"][key] for key in ("phantom", "mine")}


def test_the_plan_of_the_whole_config(tmp_path: Path) -> None:
    assert plan(json.dumps(PLANNED).encode(), tmp_path)[0] == 0


@fuzzed(40)
@given(steps=STEPS)
def test_plan_of_any_mutation(steps: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        check_plan(json.dumps(mutated(PLANNED, steps)).encode(), Path(place))


@fuzzed(40)
@given(damage=damages())
def test_plan_of_damaged_json(damage: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        check_plan(damage(json.dumps(PLANNED).encode()), Path(place))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "[" * 100000, "\ud800", '{"name": "\\ud800"}', "9" * 5000, "NaN", "\xff"]
)
def test_plan_of_nonsense(tmp_path: Path, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass") if text != "\xff" else b"\xff"
    code, _, err = plan(data, tmp_path)
    assert code == 1 and err.count("\n") == 1


@fuzzed(40)
@given(value=JSON, key=st.sampled_from(["tau", "lambda_max", "ihed", "nonsense", "title"]))
def test_any_option_of_a_variant(value: Any, key: str) -> None:
    with said():
        values = {
            **PLANNED,
            "variants": {"no-ihed": {"extends": "cgs", key: value}},
            "promptable": {},
            "methods": ["cgs", "no-ihed"],
        }
        assert work_plan(values)["runs"]
