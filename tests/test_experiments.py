"""Experiments, ensembles, pseudo-label quality and the balance theorem, on numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small_config
from hypothesis import given
from hypothesis import strategies as st

from cgs.analysis.cost import Measured
from cgs.analysis.experiments import (
    balance_table,
    classes_table,
    cost_table,
    experiments_table,
    pseudo_labels_table,
    small_targets_table,
)
from cgs.analysis.statistics import interval
from cgs.balance import holds, inside_specialists, proportions, with_specialists
from cgs.config import parse_config
from cgs.data.store import list_cases, load_case
from cgs.engine.method import NOT_LABELLED, Method, Task, build, load_method, method_of
from cgs.engine.pseudo_labels import Quality, undisturbed
from cgs.errors import SuiteError
from cgs.evaluation.ensemble import combine
from cgs.evaluation.promptable import box_of, point_of, prompt_test_cases
from cgs.evaluation.score import score_run
from cgs.files import read_json
from cgs.networks.specialists import CollaborativeNet
from cgs.networks.transunet import TransUNet
from cgs.paths import Paths
from cgs.plan import Cell, cells, members, trainings
from cgs.presets import paper, presets
from cgs.report import figures
from cgs.report.experiments import option_curves, quality_rows, quality_view, remarks, score_tables
from cgs.titles import varied_option
from cgs.workplan import work_plan

# --- L3: the balance theorem -----------------------------------------------------------------------------

counts = st.lists(st.integers(0, 10**9), min_size=1, max_size=8).filter(any)


@given(counts)
def test_the_theorem_holds_for_any_counts(pixels: list[int]) -> None:
    p = proportions(np.array(pixels))
    balanced = with_specialists(p)
    assert balanced.sum() == pytest.approx(1) and holds(p, balanced).all()
    even = 1 / len(p)
    assert balanced - even == pytest.approx((p - even) / (len(p) + 1))
    assert inside_specialists(p).sum() == pytest.approx(1)


def test_the_other_definition_has_a_counterexample() -> None:
    p = np.array([1 / 3, 0.6, 1 / 15])
    other = inside_specialists(p)
    assert other[0] == pytest.approx(0.365, abs=5e-4)
    assert holds(p, other).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="must be positive"):
        proportions(np.zeros(3))


def test_balance_table() -> None:
    rows = [
        {"group": g, "target": t, "pixels": n}
        for g in ("labelled 3", "test")
        for t, n in (("a", 30), ("b", 10))
    ]
    table = balance_table({"d": pd.DataFrame(rows)})
    assert table["group"].unique().tolist() == ["labelled 3"]
    assert table["p"].tolist() == [0.75, 0.25] and table["balanced"].tolist() == pytest.approx(
        [1.75 / 3, 1.25 / 3]
    )
    assert table["holds"].all()


# --- A8: ensembles ---------------------------------------------------------------------------------------


def pixels(*members_: list[float]) -> torch.Tensor:
    """Softmax maps (M, 1, C, 1, 1) of one pixel."""
    return torch.tensor(members_).view(len(members_), 1, -1, 1, 1)


@pytest.mark.parametrize(
    ("maps", "average", "confident", "vote"),
    [
        ([[0.4, 0.5, 0.1], [0.45, 0.5, 0.05], [0.9, 0.05, 0.05]], 0, 0, 1),
        ([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.35, 0.45]], 1, 1, 2),
        ([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0]], 1, 1, 1),  # A tie of votes: the higher mean decides.
    ],
)
def test_rules_of_ensembles(maps: list[list[float]], average: int, confident: int, vote: int) -> None:
    found = {rule: int(combine(pixels(*maps), rule)) for rule in ("average", "confident", "vote")}
    assert found == {"average": average, "confident": confident, "vote": vote}


def test_an_ensemble_of_one_model_twice_is_that_model() -> None:
    maps = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    for rule in ("average", "confident", "vote"):
        assert torch.equal(combine(torch.stack([maps, maps]), rule), maps.argmax(1))


# --- L2: pseudo-labels -----------------------------------------------------------------------------------


class Says(Method):
    """A method that would teach fixed labels, and disturbs what it can."""

    title, reference = "Says", "test"

    def __init__(self, labels: torch.Tensor) -> None:
        super().__init__(Task(3, 4))
        self.labels = labels
        self.nets = {"student": torch.nn.BatchNorm2d(1)}

    def taught_labels(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.nets["student"](images)
        torch.rand(3)
        return {"it": self.labels}


def test_quality_counts_pixels_by_hand() -> None:
    truth = torch.tensor([[[0, 1], [1, 2]]], dtype=torch.uint8)
    said = torch.tensor([[[1, 1], [NOT_LABELLED, 2]]])
    method = Says(said)
    net = method.nets["student"]
    before, state = net.running_mean.clone(), torch.get_rng_state()  # type: ignore[union-attr,operator]
    quality = Quality(torch.rand(1, 1, 2, 2), truth, ("a", "b"), torch.device("cpu"))
    torch.set_rng_state(state)
    found = quality(method)
    # Labelled so, rightly, truly of it, labelled among those.
    assert found == {"it": {"background": [0, 0, 1, 1], "a": [2, 1, 2, 1], "b": [1, 1, 1, 1]}}
    assert torch.equal(before, net.running_mean) and torch.equal(state, torch.get_rng_state())  # type: ignore[arg-type]
    cell = Cell("d", "3", "m", 0)
    table = pseudo_labels_table(
        {cell: [{"iteration": 5, "pseudo_labels": found}, {"iteration": 6, "loss": 1.0}]}
    )
    row = table[table["target"] == "a"].iloc[0]
    assert (row["precision"], row["coverage"]) == (0.5, 0.5) and len(table) == 3
    assert np.isnan(table[table["target"] == "background"]["precision"].iloc[0])


@pytest.mark.parametrize("method", ["cgs", "fixmatch", "cps", "unimatch", "mean-teacher", "bcp"])
def test_watching_changes_no_bit(run_cell: Callable[..., Path], method: str) -> None:
    off = run_cell(method, "off", training={"pseudo_label_slices": 0})
    on = run_cell(method, "on", training={"pseudo_label_slices": 5})
    for name in ("weights.safetensors", "weights-last.safetensors"):
        assert (off / name).read_bytes() == (on / name).read_bytes()
    logs = [[json.loads(line) for line in (p / "log.jsonl").read_text().splitlines()] for p in (off, on)]
    found = [entry["pseudo_labels"] for entry in logs[1] if "pseudo_labels" in entry]
    assert found and not any("pseudo_labels" in entry for entry in logs[0])
    for kinds in found:
        for classes in kinds.values():
            assert list(classes) == ["background", "large", "medium", "small", "tiny"]
            assert sum(true for _, _, true, _ in classes.values()) == 5 * 32 * 32
            for said, right, true, labelled in classes.values():
                assert right <= min(said, true) and labelled <= true


def test_undisturbed_puts_back_after_an_error() -> None:
    method = Says(torch.zeros(1))
    net = method.nets["student"]
    before = net.running_mean.clone()  # type: ignore[union-attr,operator]
    with pytest.raises(RuntimeError), undisturbed(method, torch.device("cpu")):
        net(torch.rand(2, 1, 3, 3))
        raise RuntimeError
    assert torch.equal(before, net.running_mean)  # type: ignore[arg-type]


# --- L1 and the ablations --------------------------------------------------------------------------------


def made_scores(values: dict[tuple[str, int, str, str], float]) -> pd.DataFrame:
    """Scores by (method, seed, patient, target), one case a patient."""
    rows = [
        {
            "dataset": "phantom",
            "labelled": "1",
            "method": m,
            "seed": s,
            "selection": "best",
            "case": p,
            "patient": p,
        }
        | {"target": t, "convention": "field", "metric": "dice", "value": v}
        for (m, s, p, t), v in values.items()
    ]
    return pd.DataFrame(rows)


def test_differences_are_paired_over_patients_and_common_seeds() -> None:
    config = small_config(
        methods=["cgs"],
        seeds=[0, 1],
        datasets={"phantom": {"kind": "phantom", "labelled": [1]}},
        experiments={"x": {"title": "X", "methods": ["cgs", "cps"]}},
    )
    values = {(m, s, p, "a"): v for m, s, p, v in [
        ("cgs", 0, "p", 0.8), ("cgs", 0, "q", 0.4), ("cgs", 1, "p", 0.6), ("cgs", 1, "q", 0.5),
        ("cps", 0, "p", 0.7), ("cps", 0, "q", 0.5),
    ]}  # fmt: skip
    scores = made_scores(values)
    main = pd.DataFrame(
        [
            {"dataset": "phantom", "labelled": "1", "method": m, "selection": "best", "convention": "field"}
            | {"metric": "dice", "mean": v, "std": np.nan, "seeds": n}
            for m, v, n in (("cgs", 0.575, 2), ("cps", 0.6, 1))
        ]
    )
    runs = pd.DataFrame([{**vars(c), "parameters_inference": 10.0} for c in cells(config)])
    table = experiments_table(config, main, scores, runs)
    assert table["method"].tolist() == ["cgs", "cps"] and table["planned"].tolist() == [2, 2]
    assert table["common_seeds"].tolist() == [0, 1] and table["seeds"].tolist() == [2, 1]
    second = table.iloc[1]
    assert second["difference"] == pytest.approx((0.7 - 0.8 + 0.5 - 0.4) / 2)
    assert second["patients_better"] == 1 and second["patients"] == 2
    assert np.isnan(table["difference"].iloc[0])


def test_plug_ins_are_compared_with_their_hosts() -> None:
    methods = ["cps-plus", "cps", "cgs-plus", "cgs", "together"]
    config = small_config(
        methods=[],
        datasets={"phantom": {"kind": "phantom", "labelled": [1]}},
        variants={
            "cps-plus": {"extends": "cps", "specialists": True},
            "cgs-plus": {"extends": "cgs", "tau": 0.8},
        },
        ensembles={"together": {"members": ["cps", "cgs"], "rule": "vote"}},
        experiments={"x": {"title": "X", "methods": methods, "against": "extended"}},
    )
    dice = dict(zip(methods, (0.6, 0.5, 0.3, 0.7, 0.9), strict=True))
    scores = made_scores({(m, 0, p, "a"): v for m, v in dice.items() for p in ("p", "q")})
    runs = pd.DataFrame([{**vars(c), "parameters_inference": 10.0} for c in cells(config)])
    main = pd.DataFrame(columns=["dataset", "labelled", "method", "selection", "convention", "metric"])
    table = experiments_table(config, main, scores, runs).set_index("method")
    assert table["against"].dropna().to_dict() == {"cps-plus": "cps", "cgs-plus": "cgs"}
    assert table["difference"].dropna().to_dict() == pytest.approx({"cps-plus": 0.1, "cgs-plus": -0.4})


def test_an_experiment_is_about_its_own_seeds() -> None:
    config = small_config(
        methods=["cgs"],
        seeds=[0, 1, 2],
        datasets={"phantom": {"kind": "phantom", "labelled": [1]}},
        experiments={"x": {"title": "X", "methods": ["cgs", "cps"], "seeds": [1]}},
    )
    values = {
        ("cgs", s, p, t): v + 0.1 * s for s in (0, 1, 2) for p in "pq" for t, v in (("a", 0.2), ("b", 0.4))
    }
    values |= {("cps", s, p, "a"): 0.1 * s for s in (0, 1) for p in "pq"}
    values |= {("cps", s, p, "b"): 0.1 * s for s in (0, 1) for p in "pq"}
    runs = pd.DataFrame([{**vars(c), "parameters_inference": 10.0} for c in cells(config)])
    table = experiments_table(config, EMPTY_MAIN, made_scores(values), runs).set_index("method")
    assert table[["seeds", "planned"]].to_numpy().tolist() == [[1, 1], [1, 1]], "not 3 of 1"
    assert table.loc["cgs", "mean"] == pytest.approx(0.4) and np.isnan(table.loc["cgs", "std"])
    assert table.loc["cps", "common_seeds"] == 1
    assert table.loc["cps", "difference"] == pytest.approx(0.1 - 0.4), "over seed 1, not over 0 and 1"


EMPTY_MAIN = pd.DataFrame(columns=["dataset", "labelled", "method", "selection", "convention", "metric"])


def test_a_larger_input_stands_beside_the_working_size_and_a_reference() -> None:
    entry = {"kind": "acdc", "labelled": [1]}
    config = small_config(
        methods=["cgs"],
        datasets={
            "d": {**entry, "size": 64},
            "big": {**entry, "size": 96, "files_of": "d", "main_table": False},
        },
        experiments={"x": {"title": "X", "datasets": ["big"], "methods": ["cgs", "cps"]}},
    )
    big = made_scores({("cgs", 0, "p", "a"): 0.5, ("cgs", 0, "q", "a"): 0.6, ("cps", 0, "p", "a"): 0.1})
    small = made_scores({("cgs", 0, "p", "a"): 0.7, ("cgs", 0, "q", "a"): 0.5, ("cgs", 1, "p", "a"): 0.9})
    scores = pd.concat([big.assign(dataset="big"), small.assign(dataset="d")])
    reference = {"reference": 0.42, "reference_seeds": 3, "reference_name": "kept"}
    main = pd.DataFrame(
        [{"dataset": "big", "labelled": "1", "method": "cgs", "selection": "best", "convention": "field"}
         | {"metric": "dice", **reference}]
    )  # fmt: skip
    runs = pd.DataFrame([{**vars(c), "parameters_inference": 10.0} for c in cells(config)])
    table = experiments_table(config, main, scores, runs).set_index("method")
    own = table.loc["cgs"]
    assert own["other_size"] == "d" and own["other_size_mean"] == pytest.approx(0.6)
    assert own["change"] == pytest.approx((0.5 - 0.7 + 0.6 - 0.5) / 2) and own["change_low"] < own["change"]
    assert own["reference"] == 0.42 and own["reference_name"] == "kept"
    assert np.isnan(table.loc["cps", "change"]) and np.isnan(table.loc["cps", "reference"])
    (part,) = score_tables(config, "x", table.reset_index(), {"cgs": "CGS", "cps": "CPS"})
    assert part["other_size"] == "64 × 64" and part["reference"] == "kept"
    assert [(r["other_size"], r["change"], r["reference"]) for r in part["rows"]] == [
        ("60.0", "−5.0", "42.0 (3)"),
        ("–", "–", ""),
    ]


def class_tables(
    shares: dict[str, float], gains: dict[str, list[float]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of labelled-only and CGS, and classes.csv, of targets with these shares and gains by patient."""
    config = small_config(methods=["cgs", "labelled-only"])
    values = {("labelled-only", 0, str(k), t): 0.2 for t, own in gains.items() for k in range(len(own))}
    values |= {("cgs", 0, str(k), t): 0.2 + g for t, own in gains.items() for k, g in enumerate(own)}
    values |= {("cgs", 1, "0", t): 0.0 for t in gains}  # A seed that labelled-only does not have.
    scores = made_scores(values)
    targets = scores[scores["seed"] == 0].groupby(["dataset", "labelled", "method", "target"])["value"].mean()
    targets = (
        targets.rename("mean")
        .reset_index()
        .assign(selection="best", convention="field", metric="dice", seeds=1)
    )
    balance = pd.DataFrame(
        [{"group": "train", "target": t, "share_of_foreground": s} for t, s in shares.items()]
    )
    return scores, classes_table(config, scores, targets, {"phantom": balance})


def test_small_targets_are_contrasted_in_each_patient() -> None:
    gains = {"a": [0.1, 0.3], "b": [0.5, 0.4], "c": [0.0, 0.1]}
    scores, classes = class_tables({"a": 0.6, "b": 0.1, "c": 0.3}, gains)
    own = classes.set_index(["method", "target"]).loc[("cgs", "b")]
    assert own["gain"] == pytest.approx(0.45) and own["common_seeds"] == 1, "of two seeds"
    (row,) = small_targets_table(small_config(), scores, classes).to_dict("records")
    assert row["method"] == "cgs" and row["patients"] == 2 and row["size_ratio"] == pytest.approx(6)
    assert row["gain_small"] == pytest.approx(0.45) and row["gain_large"] == pytest.approx(0.125)
    contrasts = np.array([0.5 - 0.05, 0.4 - 0.2])
    wanted = interval(contrasts)
    assert [row["contrast"], row["ci_low"], row["ci_high"]] == pytest.approx(
        [wanted.mean, wanted.low, wanted.high]
    )
    assert np.isnan(row["rho"]), "three targets say nothing of a correlation"


def test_targets_of_like_size_are_not_called_small() -> None:
    scores, classes = class_tables({"a": 0.34, "b": 0.32, "c": 0.34}, {t: [0.1, 0.2] for t in "abc"})
    table = small_targets_table(small_config(), scores, classes)
    assert table["size_ratio"].tolist() == [pytest.approx(0.34 / 0.32)]
    (near,) = figures.gain_against_size(classes, ["cgs"], {"cgs": "CGS"}, "s")
    assert "log scale" not in near and "32.0" in near, "of like size they stand side by side"
    assert table[["gain_small", "gain_large", "contrast", "ci_low", "rho"]].isna().all(axis=None)


def test_a_correlation_needs_six_targets() -> None:
    names = "abcdef"
    shares = {t: (k + 1) / 21 for k, t in enumerate(names)}
    scores, classes = class_tables(shares, {t: [-0.02 * k, -0.03 * k] for k, t in enumerate(names)})
    (row,) = small_targets_table(small_config(), scores, classes).to_dict("records")
    assert row["rho"] == pytest.approx(-1) and row["targets"] == 6
    assert "log scale" in figures.gain_against_size(classes, ["cgs"], {"cgs": "CGS"}, "s")[0]


def test_a_target_without_pseudo_labels_breaks_the_line_and_is_counted() -> None:
    rows = [
        (5, "a", 0.9),
        (5, "b", 0.5),
        (10, "a", 0.9),
        (10, "b", np.nan),
        (15, "a", 0.9),
        (15, "b", np.nan),
    ]
    part = pd.DataFrame(rows, columns=["iteration", "target", "precision"]).assign(coverage=0.5, line="X")
    (row,) = quality_rows(part)
    assert row["cells"] == ["90.0 / 50.0", "– / 50.0"] and row["precise"] == "1 of 2" and not row["whole"]
    precision, coverage = figures.quality_curves(part, ["X"], "q")
    assert "X unknown for some target" in precision and "X 90" not in precision
    assert "X 50" in coverage
    config = small_config(
        experiments={"l2": {"title": "L2", "view": "pseudo-labels", "methods": ["cgs", "cps"]}}
    )
    whole = part.assign(dataset="phantom", labelled="1", method="cgs", kind="it")
    (shown,) = quality_view(config, "l2", "phantom", whole, {"cgs": "CGS", "cps": "CPS"})
    assert shown["unrecorded"] == ["CPS"] and shown["rows"][0]["title"] == "CGS, it"
    line = pd.Series([0.7, np.nan, 0.5, 0.6, np.nan], index=[5, 10, 15, 20, 25])
    assert 0 in figures.marked(pd.Series([0.7, np.nan, np.nan])) and set(figures.marked(line)) == set(
        range(5)
    )
    long = pd.Series([0.5] * 20 + [np.nan, 0.5, np.nan])
    assert 21 in figures.marked(long) and 20 not in figures.marked(long)


def test_one_numeric_option_makes_a_curve() -> None:
    variants = {
        "cgs": {"extends": "cgs", "lambda_max": 0.1},
        "low": {"extends": "cgs", "tau": 0.5},
        "high": {"extends": "cgs", "tau": 0.99},
        "both": {"extends": "cgs", "tau": 0.7, "ihed": False},
        "off": {"extends": "cgs", "ihed": False},
    }
    lists = {
        "a4": ["cgs", "low", "high"],
        "two": ["cgs", "low"],
        "mixed": ["cgs", "low", "both"],
        "logical": ["cgs", "off"],
        "others": ["cgs", "low", "cps"],
    }
    config = small_config(
        variants=variants, experiments={n: {"title": n, "methods": m} for n, m in lists.items()}
    )
    assert varied_option(config, "a4") == ("tau", {"cgs": 0.9, "low": 0.5, "high": 0.99})
    assert [n for n in lists if varied_option(config, n)] == ["a4"]
    rows = [{"experiment": "a4", "dataset": "phantom", "labelled": "1", "method": m, "mean": v, "std": np.nan}
            for m, v in (("cgs", 0.6), ("low", 0.4), ("high", 0.5))]  # fmt: skip
    found = option_curves(config, "a4", pd.DataFrame(rows), {m: m.upper() for m in lists["a4"]})
    assert found is not None and found["option"] == "tau" and found["base"] == "CGS"
    assert "tau, phantom, 1 labelled patient: 0.5 40.0, 0.9 60.0, 0.99 50.0." in found["figures"][0]
    assert option_curves(config, "two", pd.DataFrame(rows), {}) is None


def test_times_come_from_the_benchmark_of_the_same_device_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(
        "AMD", "2026-01-02", "2", 1, "float32", 32, 12, 4, {"cgs": 0.5, "labelled-only": 0.1}, {}
    )
    monkeypatch.setattr("cgs.analysis.experiments.measurements", lambda: [measured])
    config = small_config(methods=["cgs", "labelled-only", "cps"])
    facts = {"status": "complete", "iterations": 10.0, "seconds": 90.0, "energy_joules": np.nan}
    facts |= {"peak_memory_bytes": 1e6, "parameters_training": 5.0, "parameters_inference": 5.0}
    runs = pd.DataFrame([{**vars(c), **facts, "device": "AMD"} for c in cells(config)])
    table = cost_table(config, runs).set_index("method")
    assert table["benchmark"].dropna().to_dict() == {"cgs": 0.5, "labelled-only": 0.1}
    assert table.loc["cgs", "benchmark_of"] == "AMD, 32 x 32 pixels, batch 12 + 12, 2026-01-02"
    assert (table["iteration"] == 9).all() and table["seconds_per_slice"].isna().all()
    timed = cost_table(config, runs.assign(seconds_per_slice=np.arange(len(runs))))
    assert timed["seconds_per_slice"].notna().all()
    for changes in ({"device": "another"}, {"network": 8}):
        other = small_config(network={"width": changes.get("network", 4)})
        found = cost_table(other, runs.assign(device=changes.get("device", "AMD")))
        assert found["benchmark"].isna().all()


def test_what_a_reader_must_know_of_the_methods() -> None:
    variants = {
        "big": {"extends": "cgs", "network": {"kind": "transunet"}},
        "given": {"extends": "cgs", "network": {"kind": "transunet", "weights": "some/R50+ViT-B_16.npz"}},
    }
    config = small_config(
        variants=variants,
        promptable={"sam": {"code": "sam.py:load", "weights": "w"}},
        experiments={"x": {"title": "X", "methods": ["big", "given", "cgs", "sam"]}, "y": {"title": "Y"}},
    )
    titles = {"big": "Big", "given": "Given", "cgs": "CGS", "sam": "SAM"}
    random, given, prompts = remarks(config, "x", titles)
    assert random == "The TransUNet started from random weights: Big."
    assert given == "The TransUNet started from the weights of R50+ViT-B_16.npz: Given."
    assert prompts.startswith("SAM is not trained. Its prompts (a box") and "reference labels" in prompts
    assert remarks(config, "y", titles) == []


# --- The config ------------------------------------------------------------------------------------------


def test_cells_of_experiments_and_ensembles_are_there_once() -> None:
    config = small_config(
        methods=["cgs", "labelled-only"],
        ensembles={"both": {"members": ["cgs", "cps"], "rule": "vote"}},
        experiments={
            "one": {"title": "One", "methods": ["cgs", "both"], "labelled": [1]},
            "two": {"title": "Two", "methods": ["cgs", "fully-supervised"], "seeds": [0, 7]},
        },
    )
    found = [str(c).removeprefix("phantom/") for c in cells(config)]
    assert len(found) == len(set(found))
    assert found.index("1/cps/0") < found.index("1/both/0")
    assert "1/cgs/7" in found and "all/fully-supervised/7" in found and "2/cps/0" not in found
    assert [str(c) for c in trainings(config)] == [str(c) for c in cells(config) if c.method != "both"]
    assert [str(m) for m in members(config, Cell("phantom", "1", "both", 0))] == [
        "phantom/1/cgs/0",
        "phantom/1/cps/0",
    ]
    part = config.only("one")
    assert [str(c).removeprefix("phantom/") for c in cells(part)] == ["1/cgs/0", "1/cps/0", "1/both/0"]
    assert set(work_plan(config.model_dump(mode="json"))["targets"]) == {"table-phantom", "one", "two"}
    with pytest.raises(SuiteError, match="no target 'on'; did you mean 'one'"):
        config.only("on")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": [], "experiments": {}}, "name at least one method"),
        ({"experiments": {"table-x": {"title": "X"}}}, "those of the main tables"),
        ({"experiments": {"latex": {"title": "X"}}}, "that name is taken"),
        ({"experiments": {"tables": {"title": "X"}}}, "that name is taken"),
        ({"experiments": {"x": {"title": "X", "datasets": ["phanton"]}}}, "did you mean 'phantom'"),
        ({"experiments": {"x": {"title": "X", "methods": ["csg"]}}}, "did you mean 'c"),
        ({"experiments": {"x": {"title": "X", "labelled": [9]}}}, "phantom has 6 training patients"),
        ({"variants": {"v": {"extends": "cgs"}},
          "experiments": {"x": {"title": "X", "methods": ["v"], "against": "extended"}}},
         "v is to be compared with cgs; name that too"),
        ({"ensembles": {"cgs": {"members": ["cps", "dhc"], "rule": "vote"}}}, "has the name of a method"),
        ({"ensembles": {"x": {"members": ["cps"], "rule": "vote"}}}, "at least 2 items"),
        ({"ensembles": {"x": {"members": ["cps", "x"], "rule": "vote"}}}, "x is not trained"),
        ({"variants": {"v": {"extends": "x"}}, "ensembles": {"x": {"members": ["cps", "dhc"], "rule": "vote"}}},
         "extends x, which is not trained"),
    ],
)  # fmt: skip
def test_configs_that_make_no_sense(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SuiteError, match=sentence):
        small_config(**changes)


def test_a_dataset_shares_the_files_of_another() -> None:
    values = {
        "name": "x",
        "methods": ["cgs"],
        "datasets": {"acdc": {"kind": "acdc"}, "big": {"kind": "acdc", "size": 384, "files_of": "acdc"}},
        "acdc": "some/where",
    }
    assert parse_config(values).datasets["big"].path == Path("some/where")  # type: ignore[union-attr]
    values["datasets"]["big"]["files_of"] = "big"  # type: ignore[index]
    with pytest.raises(SuiteError, match=r"datasets\.big\.files_of: 'big' is no other entry"):
        parse_config(values)


def test_the_paper_has_every_row() -> None:
    config = paper()
    rows = {experiment.row for experiment in config.experiments.values()}
    assert rows >= {*(f"A{n}" for n in range(1, 10)), "L1", "L2", "L3", "X1"}
    assert config.main_datasets == ("acdc", "segthor", "synapse")
    assert {c.dataset for c in cells(config)} == {"acdc", "segthor", "synapse", "acdc-384"}
    assert set(config.every_method) >= {*config.ensembles, "cgs-transunet", "cgs-no-ihed", "cgs-tau-50"}
    for name, (_, preset) in presets().items():
        assert len(cells(preset)) == len(set(cells(preset))), name


# --- A5: another network ---------------------------------------------------------------------------------


def test_a_variant_may_have_a_network_of_its_own() -> None:
    variants = {
        "big": {"extends": "cgs", "network": {"kind": "transunet"}},
        "bigger": {"extends": "big", "tau": 0.5},
        "bcp-big": {"extends": "bcp", "network": {"kind": "transunet"}},
    }
    config = small_config(methods=["cgs"], variants=variants)
    assert config.network_of("bigger").kind == "transunet" and config.network_of("cgs").kind == "unet"
    method = method_of(config, "bigger", classes=4, size=32)
    nets = method.networks(method.task)
    net = nets["student"]
    assert isinstance(net, CollaborativeNet) and isinstance(net.generalist, TransUNet)
    general, special = net(torch.rand(2, 1, 32, 32))
    assert general.shape == (2, 4, 32, 32) and special.shape == (2, 3, 3, 32, 32)
    with pytest.raises(SuiteError, match="bcp-big: BCP is made for the U-Net"):
        method_of(config, "bcp-big", classes=4, size=32)
    with pytest.raises(SuiteError, match="BCP is made for the U-Net"):
        work_plan({**config.model_dump(mode="json"), "methods": ["bcp-big"]})


def test_every_method_says_which_networks_it_has() -> None:
    for name in ("cgs", "labelled-only", "fully-supervised", "fixmatch"):
        kind = load_method(name)
        method = kind(Task(4, 32, network="transunet"))
        build(method, lambda axis: None, torch.device("cpu"))
        assert method.predict(torch.rand(2, 1, 32, 32)).shape == (2, 4, 32, 32)


# --- X1: promptable models -------------------------------------------------------------------------------

STAND_IN = """
import numpy as np

class Model:
    def __init__(self, weights, device):
        self.margin = int(weights.read_text())

    def segment(self, image, box, point):
        mask = np.zeros(image.shape, dtype=bool)
        if box is not None:
            x0, y0, x1, y1 = box
            m = self.margin
            mask[y0 + m : y1 + 1 - m, x0 + m : x1 + 1 - m] = True
        else:
            mask[point[1], point[0]] = True
        return mask if self.margin < 100 else mask.astype(float)

load = Model
"""


def test_prompts_come_from_the_reference() -> None:
    mask = np.zeros((8, 9), dtype=bool)
    mask[2:5, 3:7] = True
    assert box_of(mask, 0) == (3, 2, 6, 4) and box_of(mask, 5) == (0, 0, 8, 7)
    x, y = point_of(mask)
    assert mask[y, x] and y == 3 and x in (4, 5)
    whole = np.ones((3, 3), dtype=bool)
    assert point_of(whole) == (1, 1)


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_a_promptable_model_is_a_row(phantom: Path, tmp_path: Path, prompt: str) -> None:
    (tmp_path / "sam.py").write_text(STAND_IN)
    (tmp_path / "weights").write_text("3")
    entry = {
        "code": f"{tmp_path}/sam.py:load",
        "weights": str(tmp_path / "weights"),
        "prompt": prompt,
        "margin": 3,
    }
    config = small_config(
        methods=["labelled-only"],
        seeds=[4, 5],
        promptable={"sam": entry},
        experiments={"large": {"title": "Large", "methods": ["cgs", "sam"]}},
    )
    cell = Cell("phantom", "0", "sam", 4)
    assert [c for c in cells(config) if c.method == "sam"] == [cell] and cell not in trainings(config)
    paths = Paths("small", results=tmp_path / "results")
    paths.data("phantom").parent.mkdir(parents=True)
    paths.data("phantom").symlink_to(phantom)
    prompt_test_cases(config, cell, paths)
    folder = paths.run("phantom", "0", "sam", 4)
    (case,) = list_cases(phantom, "test")
    label = load_case(phantom, case).label
    with np.load(folder / "predictions.npz") as file:
        found = file[f"best/{case}"]
    assert found.shape == label.shape and found.dtype == np.uint8
    for z in range(len(label)):
        wanted = set(np.unique(label[z])) if prompt == "point" else set(np.unique(found[z])) | {0}
        assert set(np.unique(found[z])) <= wanted
        own = label[z] == 1
        if prompt == "box" and own.any():
            x0, y0, x1, y1 = box_of(own, 0)
            assert found[z][y0 : y1 + 1, x0 : x1 + 1].all(), "the box of the large target is full of targets"
    score_run(phantom, folder, config.evaluation, cell)
    scores = pd.read_csv(folder / "scores.csv")
    assert set(scores["labelled"]) == {0} and scores["value"].notna().any()
    assert read_json(folder / "provenance.json")["weights_sha256"]


@pytest.mark.parametrize(
    ("code", "weights", "sentence"),
    [
        ("sam.py:load", "missing", "missing does not exist; give the file of the model's weights"),
        ("none.py:load", "weights", "none.py does not exist"),
        ("sam.py:lode", "weights", "has no function lode"),
        ("sam.py:load", "bad", "it must be bool"),
    ],
)
def test_a_promptable_model_that_is_not_as_agreed(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, weights: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sam.py").write_text(STAND_IN)
    Path("weights").write_text("3")
    Path("bad").write_text("100")
    config = small_config(promptable={"sam": {"code": code, "weights": weights}})
    paths = Paths("small")
    paths.data("phantom").parent.mkdir(parents=True)
    paths.data("phantom").symlink_to(phantom)
    with pytest.raises(SuiteError, match=sentence):
        prompt_test_cases(config, Cell("phantom", "0", "sam", 0), paths)
    assert not paths.run("phantom", "0", "sam", 0).exists()
