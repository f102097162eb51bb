"""The statistics of the report. Patients and seeds are crossed: one training scores all patients.

- A patient's score is the mean over its frames and targets: those are clustered inside it. The luck of a training is
  common to all patients, so more patients do not average it away; only more seeds do.
- Intervals are of the mean over seeds and patients, both random. With one seed they are Student's over patients alone
  and hold for these trainings, not for the methods.
- Tests are sign-flip permutation tests of the mean paired difference over patients, exact up to 20; with several seeds
  the p-value is the larger one of that and of the interval's. Holm corrects for the number of comparisons.
- Ranks are those of bootstrap samples of patients and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

LEVEL = 0.95
ALPHA = 0.05
EXACT = 20
"""Patients up to which all 2^N sign flips are taken."""
RESAMPLES = 9999
BOOTSTRAPS = 2000
SMALLEST_P = 1e-9


@dataclass(frozen=True)
class Interval:
    """A mean over `seeds` and `patients` and its confidence interval; NaN ends where there is none."""

    mean: float
    low: float
    high: float
    patients: int
    seeds: int


def interval(values: np.ndarray) -> Interval:
    """Mean and interval of one value a seed and patient (S, N), or of one seed (N,).

    With one seed: Student's over patients. With several, the half-width is the root of the sum of both squared
    half-widths, of the means over seeds (N - 1 degrees of freedom) and of those over patients (S - 1): each source of
    variance with a quantile of its own (Zou and Donner, Statistics in Medicine 2008). The interaction counts twice in
    that, so that it covers too often rather than too seldom. With fewer than two patients or a value that is not finite
    there is none.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    seeds, n = values.shape if values.size else (0, 0)
    mean = float(np.mean(values)) if n else np.nan
    if n < 2 or not np.isfinite(values).all():
        return Interval(mean if np.isfinite(mean) else np.nan, np.nan, np.nan, n, seeds)
    half = half_width(values, 1 - LEVEL)
    return Interval(mean, mean - half, mean + half, n, seeds)


def half_width(values: np.ndarray, p: float) -> float:
    """Half the width of the interval of level 1 - p of finite values (S, N)."""
    seeds, n = values.shape
    squares = special.stdtrit(n - 1, p / 2) ** 2 * np.var(values.mean(axis=0), ddof=1) / n
    if seeds > 1:
        squares += special.stdtrit(seeds - 1, p / 2) ** 2 * np.var(values.mean(axis=1), ddof=1) / seeds
    return float(np.sqrt(squares))


def interval_p(values: np.ndarray) -> float:
    """The p at which the interval of values (S, N) just reaches 0; NaN where there is no interval."""
    found = interval(values)
    distance = abs(found.mean)
    if not np.isfinite(found.low):
        return float("nan")
    if found.low == found.high:
        return float(distance == 0)
    if half_width(values, SMALLEST_P) <= distance:
        return SMALLEST_P
    return float(optimize.brentq(lambda p: half_width(values, p) - distance, SMALLEST_P, 1, xtol=1e-12))


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences (N,) being 0, by flipping their signs.

    Exact up to EXACT patients, else from RESAMPLES random flips. NaN for fewer than two patients or a difference that
    is not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    if n < 2 or not np.isfinite(differences).all():
        return float("nan")
    if n > EXACT:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (RESAMPLES, n))
        sums = np.append(signs @ differences, differences.sum())  # What was observed is one of them.
    else:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
    slack = 1e-12 * np.abs(differences).sum()  # Equal sums differ by rounding.
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - slack))


def paired_p(differences: np.ndarray) -> float:
    """Two-sided p of the mean of paired differences (S, N), a row a seed, being 0; see the module's docstring."""
    if not differences.size:
        return float("nan")
    over_patients = sign_flip_p(differences.mean(axis=0))
    return over_patients if len(differences) == 1 else max(over_patients, interval_p(differences))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p-values (M,); NaN stay NaN and are not counted."""
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)) if len(order) else order
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def decidable(patients: int, comparisons: int) -> bool:
    """Whether any difference could be significant after Holm: the smallest p of N patients is 2 / 2^N."""
    return comparisons * 2.0 ** (1 - patients) <= ALPHA


def verdict(p_adjusted: float, patients: int, comparisons: int, seeds: int) -> str:
    """What a test over `patients` and common `seeds` says, in words. One seed is never a verdict on methods."""
    if not seeds:
        return "no common seed"
    if not np.isfinite(p_adjusted):
        return "no test"
    if not decidable(patients, comparisons):
        return f"cannot be decided at n = {patients}"
    if p_adjusted > ALPHA:
        return "not distinguishable"
    return "differs" if seeds > 1 else ONE_SEED


ONE_SEED = "these trainings differ"
"""Verdict on one common seed: how far a seed alone moves a result is not known from it."""


def rank_shares(
    scores: np.ndarray, methods: Sequence[str], lower: bool = False, seed: int = 0
) -> pd.DataFrame:
    """How often each of M methods has each rank over bootstrap samples of S seeds and N patients; scores (M, S, N).

    Columns method, rank (of equal ones the mean, rounded down), share; the shares of a method add up to 1. A method
    with a score that is not finite is last.
    """
    rng = np.random.default_rng(seed)
    _, seeds, patients = scores.shape
    of_patients = rng.multinomial(patients, np.full(patients, 1 / patients), size=BOOTSTRAPS)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=BOOTSTRAPS)
    finite = np.isfinite(scores).all(axis=(1, 2))
    known = np.where(np.isfinite(scores), scores, 0.0)
    means = np.einsum("bs,msn,bn->bm", of_seeds, known, of_patients, optimize=True)
    means = np.where(finite, means, np.inf if lower else -np.inf).round(9)  # Equal scores stay equal.
    ranks = np.floor(stats.rankdata(means if lower else -means, axis=1, method="average")).astype(int)
    rows = [
        (method, rank, float((ranks[:, k] == rank).mean()))
        for k, method in enumerate(methods)
        for rank in np.unique(ranks[:, k])
    ]
    return pd.DataFrame(rows, columns=["method", "rank", "share"])
