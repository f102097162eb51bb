"""The statistics against known cases and by simulation: an interval covers, a test under the null keeps its level."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import small_config
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cgs.analysis.comparisons import best_of, differences_table, intervals, ranks_table, tied_with_best
from cgs.analysis.statistics import (
    ALPHA,
    ONE_SEED,
    decidable,
    holm,
    interval,
    interval_p,
    paired_p,
    rank_shares,
    sign_flip_p,
    verdict,
)

SIMULATIONS = 2000


def within(found: float, expected: float) -> bool:
    """Whether a share of SIMULATIONS lies within four binomial standard errors."""
    return abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / SIMULATIONS)


@pytest.mark.parametrize("patients", [8, 20])
def test_an_interval_covers_95_per_cent(patients: int) -> None:
    rng = np.random.default_rng(patients)
    draws = rng.normal(0.8, 0.07, (SIMULATIONS, patients))
    covered = [i.low <= 0.8 <= i.high for i in map(interval, draws)]
    assert within(float(np.mean(covered)), 0.95)


def test_an_interval_over_skewed_dice_is_near() -> None:
    """Dice is bounded and skewed; with twenty patients the interval is still within two points of its claim."""
    draws = np.random.default_rng(1).beta(9, 2, (SIMULATIONS, 20))
    covered = float(np.mean([i.low <= 9 / 11 <= i.high for i in map(interval, draws)]))
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("seed_deviation", [0.0, 0.01, 0.033])
@pytest.mark.parametrize("seeds", [2, 3])
def test_an_interval_over_seeds_covers(seeds: int, seed_deviation: float) -> None:
    """Seeds are crossed with patients: the luck of a training is common to all of them."""
    rng = np.random.default_rng(seeds)
    draws = (
        rng.normal(0, seed_deviation, (SIMULATIONS, seeds, 1))
        + rng.normal(0, 0.044, (SIMULATIONS, 1, 20))
        + rng.normal(0, 0.02, (SIMULATIONS, seeds, 20))
    )
    found = [interval(d) for d in draws]
    covered = float(np.mean([i.low <= 0 <= i.high for i in found]))
    assert 0.945 <= covered <= 0.995
    over_patients = float(np.mean([i.low <= 0 <= i.high for i in (interval(d.mean(0)) for d in draws)]))
    assert seed_deviation < 0.03 or over_patients < 0.75, "patients alone would not do"
    assert np.mean([paired_p(d) <= ALPHA for d in draws[:200]]) <= 0.08


def test_an_interval_over_seeds_by_hand() -> None:
    values = np.array([[0.1, 0.3, 0.2], [0.2, 0.4, 0.6]])
    of_seeds = stats.t.ppf(0.975, 1) ** 2 * np.var([0.2, 0.4], ddof=1) / 2
    of_patients = stats.t.ppf(0.975, 2) ** 2 * np.var([0.15, 0.35, 0.4], ddof=1) / 3
    found = interval(values)
    assert (found.mean, found.patients, found.seeds) == (pytest.approx(0.3), 3, 2)
    assert found.high == pytest.approx(0.3 + np.sqrt(of_seeds + of_patients))
    assert interval_p(values - found.low) == pytest.approx(0.05), "at the end of the interval"
    assert interval_p(np.zeros((2, 3))) == 1 and interval_p(np.ones((2, 3))) == 0
    assert paired_p(values) == max(interval_p(values), sign_flip_p(values.mean(0))) and np.isnan(
        paired_p(np.zeros((0, 0)))
    )


def test_interval_is_scipys() -> None:
    values = np.array([0.7, 0.8, 0.65, 0.9])
    found, test = interval(values), stats.ttest_1samp(values, 0)
    expected = test.confidence_interval(0.95)
    assert interval_p(values[None]) == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(interval(np.array([0.5])).low) and interval(np.array([0.5])).mean == 0.5
    assert np.isnan(interval(np.array([0.5, np.nan])).mean) and np.isnan(
        interval(np.array([0.5, np.inf])).low
    )
    assert interval(np.zeros(0)).patients == 0


@pytest.mark.parametrize("patients", [8, 20])
def test_under_the_null_the_test_rejects_at_its_level(patients: int) -> None:
    rng = np.random.default_rng(patients)
    count = 500
    p = np.array([sign_flip_p(d) for d in rng.standard_t(4, (count, patients))])
    level = 0.05 if patients == 20 else 12 / 256  # Exact p-values of eight patients are multiples of 2 / 256.
    assert abs(np.mean(p <= 0.05) - level) <= 4 * np.sqrt(level * (1 - level) / count)


def test_the_test_is_exact_and_by_hand() -> None:
    difference = np.array([1.0, 2.0, 3.0, -0.5])
    flips = [abs(np.mean(difference * s)) for s in product((1, -1), repeat=4)]
    assert sign_flip_p(difference) == pytest.approx(
        np.mean(np.array(flips) >= abs(difference.mean()) - 1e-12)
    )
    assert sign_flip_p(np.ones(8)) == pytest.approx(2 / 256), "the smallest that eight patients allow"
    assert sign_flip_p(np.zeros(8)) == 1.0
    assert np.isnan(sign_flip_p(np.array([1.0]))) and np.isnan(sign_flip_p(np.array([1.0, np.nan])))
    many = np.random.default_rng(0).normal(0.2, 1, 25)
    assert sign_flip_p(many) == sign_flip_p(many), "the same data, the same p"
    expected = stats.permutation_test((many,), np.mean, permutation_type="samples", n_resamples=9999, rng=1)
    assert sign_flip_p(many) == pytest.approx(expected.pvalue, abs=0.03)
    assert sign_flip_p(np.arange(1.0, 21)) == pytest.approx(2**-19), "exact with twenty patients"


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.01, np.nan, 0.5])) == pytest.approx([0.02, np.nan, 0.5], nan_ok=True)
    assert holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0] and holm(np.zeros(0)).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_p_and_bonferroni(p: list[float]) -> None:
    values = np.array(p)
    adjusted = holm(values)
    assert (adjusted >= values - 1e-12).all() and (adjusted <= np.minimum(len(p) * values, 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= -1e-12).all()


def test_holm_keeps_the_familywise_level() -> None:
    rng = np.random.default_rng(0)
    wrong = [holm(stats.norm.sf(np.abs(z)) * 2).min() <= ALPHA for z in rng.normal(size=(SIMULATIONS, 13))]
    assert np.mean(wrong) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_what_eight_patients_cannot_decide() -> None:
    assert not decidable(8, 13) and decidable(20, 13) and decidable(8, 1)
    assert verdict(0.1, 8, 13, 3) == "cannot be decided at n = 8"
    assert verdict(0.01, 20, 13, 3) == "differs" and verdict(0.2, 20, 13, 3) == "not distinguishable"
    assert verdict(0.01, 20, 13, 1) == ONE_SEED and verdict(0.2, 20, 13, 1) == "not distinguishable"
    assert verdict(float("nan"), 20, 13, 3) == "no test"
    assert verdict(float("nan"), 0, 13, 0) == "no common seed"


def test_ranks() -> None:
    rng = np.random.default_rng(0)
    patients = rng.normal(0.7, 0.1, (2, 20))
    scores = np.stack([patients + 0.1, patients, patients, np.full((2, 20), np.nan)])
    shares = rank_shares(scores, "abcd").set_index(["method", "rank"])["share"]
    assert shares["a", 1] == 1 and shares["d", 4] == 1
    assert shares["b", 2] == 1 and shares["c", 2] == 1, "equal ones share the mean of 2 and 3, rounded down"
    assert rank_shares(scores, "abcd").groupby("method")["share"].sum().to_numpy() == pytest.approx(1)
    assert rank_shares(scores[:2], "ab", lower=True).set_index(["method", "rank"])["share"]["b", 1] == 1
    of_seed = np.stack(
        [np.full((2, 9), 0.5), np.array([[0.4] * 9, [0.7] * 9])]
    )  # Better with one seed of two.
    shares = rank_shares(of_seed, "ab").set_index(["method", "rank"])["share"]
    assert 0.2 < shares["a", 1] < 0.3, "seeds are drawn anew as patients are"


# --- From scores to tables -------------------------------------------------------------------------------


def scores_of(values: dict[tuple[str, int], list[float]], metric: str = "dice") -> pd.DataFrame:
    """Scores by (method, seed), one a patient."""
    rows = [
        {"dataset": "phantom", "labelled": "1", "method": m, "seed": s, "selection": "best", "case": f"p{k}"}
        | {"patient": f"p{k}", "target": "t", "convention": "field", "metric": metric, "value": v}
        for (m, s), own in values.items()
        for k, v in enumerate(own)
    ]
    return pd.DataFrame(rows)


CONFIG = small_config(
    methods=["cgs", "cps", "bcp", "labelled-only"],
    seeds=[0, 1],
    datasets={"phantom": {"kind": "phantom", "labelled": [1]}},
)
BASE = [0.8, 0.7, 0.9, 0.75, 0.85, 0.8]
SCORES = scores_of(
    {
        ("cgs", 0): BASE,
        ("cgs", 1): BASE,
        ("cps", 0): [b + d for b, d in zip(BASE, (0.02, -0.03, 0.01, -0.01, 0.02, -0.02), strict=True)],
        ("bcp", 0): [b - 0.2 - 0.01 * k for k, b in enumerate(BASE)],
        ("bcp", 1): [b - 0.25 + 0.01 * k for k, b in enumerate(BASE)],
        ("labelled-only", 0): [0.3] * 6,
    }
)


def main_of(scores: pd.DataFrame) -> pd.DataFrame:
    keys = ["dataset", "labelled", "method", "selection", "convention", "metric"]
    return scores.groupby(keys, sort=False)["value"].mean().rename("mean").reset_index()


def test_differences_to_the_reference() -> None:
    table = differences_table(CONFIG, SCORES).set_index("method")
    assert list(table.index) == ["cps", "bcp", "labelled-only"]
    cps, bcp = table.loc["cps"], table.loc["bcp"]
    assert cps["difference"] == pytest.approx(-0.01 / 6) and cps["ci_low"] < 0 < cps["ci_high"]
    assert bcp["difference"] == pytest.approx(-0.225) and bcp["ci_high"] < 0
    assert bcp["p"] == pytest.approx(2 / 64) and bcp["p_holm"] == pytest.approx(3 * 2 / 64)
    assert set(table["verdict"]) == {"cannot be decided at n = 6"} and (table["patients"] == 6).all()
    assert bcp["patients_better"] == 0 and table["common_seeds"].tolist() == [1, 2, 1]


def test_without_a_common_seed_nothing_is_compared() -> None:
    moved = SCORES.assign(seed=SCORES["seed"].mask(SCORES["method"] == "cps", 7))
    row = differences_table(CONFIG, moved).set_index("method").loc["cps"]
    assert row["verdict"] == "no common seed" and np.isnan(row["difference"]) and row["common_seeds"] == 0
    ties = tied_with_best(CONFIG, main_of(moved), moved, frozenset({"labelled-only"}))
    assert ties[["method", "compared"]].to_numpy().tolist() == [["cps", False]]


def test_what_is_tied_with_the_best() -> None:
    controls = frozenset({"labelled-only"})
    ties = tied_with_best(CONFIG, main_of(SCORES), SCORES, controls)
    assert ties["method"].tolist() == ["cps"] and ties["compared"].all()
    once = SCORES[(SCORES["method"] != "bcp") | (SCORES["seed"] == 0)]
    ties = tied_with_best(CONFIG, main_of(once), once, controls)
    assert ties[["method", "compared"]].to_numpy().tolist() == [["cps", True], ["bcp", False]], (
        "trainings of one seed differ; whether the methods do is not known"
    )
    lower = SCORES.assign(metric="hd95")
    keys = {m: ("phantom", "1", m) for m in CONFIG.methods}
    assert best_of(main_of(lower), keys, ("best", "field", "hd95")) == "labelled-only"
    assert best_of(main_of(SCORES), keys, ("best", "field", "dice")) == "cgs"
    assert best_of(main_of(SCORES), keys, ("last", "field", "dice")) is None


def runs_of(failed: list[tuple[str, int]]) -> pd.DataFrame:
    """Runs that failed, by method and seed."""
    rows = [("phantom", "1", m, s, "failed") for m, s in failed]
    return pd.DataFrame(rows, columns=["dataset", "labelled", "method", "seed", "status"])


def test_ranks_punish_what_failed() -> None:
    """CPS is as good as CGS, but a seed of it failed: it is behind BCP wherever that seed is drawn."""
    controls = frozenset({"labelled-only"})
    table = ranks_table(CONFIG, SCORES, runs_of([("cps", 1)]), controls)
    shares = table.groupby(["method", "rank"])["share"].sum()
    assert shares["cgs", 1] > 0.85 and shares["cps", 3] > 0.7 and (table["seeds"] == 2).all()
    gone = SCORES[SCORES["method"] != "cps"]
    shares = ranks_table(CONFIG, gone, runs_of([("cps", 0), ("cps", 1)]), controls)
    assert shares.set_index(["method", "rank"])["share"]["cps", 3] == 1, "shown, though nothing is left of it"
    alone = SCORES[SCORES["method"].isin(["cgs", "labelled-only"])]
    assert ranks_table(CONFIG, alone, runs_of([]), controls).empty


def test_ranks_do_not_reward_what_was_run_more() -> None:
    """CPS has not run its second seed yet: all are ranked by the first, over which it beats BCP."""
    table = ranks_table(CONFIG, SCORES, runs_of([]), frozenset({"labelled-only"}))
    shares = table.set_index(["method", "rank"])["share"]
    assert (table["seeds"] == 1).all() and shares["bcp", 3] == 1
    apart = SCORES.assign(seed=SCORES["seed"].mask(SCORES["method"] == "cps", 7))
    assert ranks_table(CONFIG, apart, runs_of([]), frozenset({"labelled-only"})).empty, "no seed in common"


def test_intervals_of_cells() -> None:
    table = intervals(SCORES).set_index("method")
    expected = interval(np.array([BASE, BASE]))
    assert table.loc["cgs", ["ci_low", "ci_high"]].tolist() == pytest.approx([expected.low, expected.high])
    bad = scores_of({("cgs", 0): [0.5, np.nan, 0.7]})
    assert intervals(bad)[["ci_low", "ci_high"]].isna().all(axis=None)
