"""The statistics of the report. The unit is the patient: frames, targets and seeds are clustered inside it.

- Intervals are Student's over patients, of the mean of their scores (or of paired differences).
- Tests are sign-flip permutation tests of the mean paired difference, exact up to 13 patients, corrected by Holm.
- Ranks are those of bootstrap samples of patients; a failed or missing seed counts as a score of 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
ALPHA = 0.05
RESAMPLES = 9999
BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over `patients` with its confidence interval; NaN ends where there are fewer than two."""

    mean: float
    low: float
    high: float
    patients: int


def interval(values: np.ndarray) -> Interval:
    """Mean and interval of one value a patient (N,). A value that is not finite makes all of it NaN."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    mean = float(np.mean(values)) if n else np.nan
    if n < 2 or not np.isfinite(values).all():
        return Interval(mean if np.isfinite(mean) else np.nan, np.nan, np.nan, n)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences (N,) being 0, by flipping their signs.

    Exact where 2^N is at most RESAMPLES (N up to 13), else from that many random flips. NaN for fewer than two
    patients or a difference that is not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if len(differences) < 2 or not np.isfinite(differences).all():
        return float("nan")
    if not differences.any():
        return 1.0
    found = stats.permutation_test(
        (differences,),
        lambda d, axis: np.mean(d, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


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


def verdict(p_adjusted: float, patients: int, comparisons: int) -> str:
    """What a test says, in words."""
    if not np.isfinite(p_adjusted):
        return "no test"
    if not decidable(patients, comparisons):
        return f"cannot be decided at n = {patients}"
    return "differs" if p_adjusted <= ALPHA else "not distinguishable"


def rank_shares(scores: pd.DataFrame, lower: bool = False, seed: int = 0) -> pd.DataFrame:
    """How often each method (column) has each rank over bootstrap samples of patients (rows).

    Columns method, rank (of equal ones the mean, rounded down), share; the shares of a method add up to 1. A method
    with a score that is not finite is last.
    """
    values = scores.to_numpy(dtype=np.float64)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=BOOTSTRAPS)
    finite = np.isfinite(values).all(axis=0)
    means = np.where(finite, weights @ np.where(np.isfinite(values), values, 0.0), np.nan)
    worst = np.inf if lower else -np.inf
    means = np.where(np.isfinite(means), means, worst)
    ranks = np.floor(stats.rankdata(means if lower else -means, axis=1, method="average")).astype(int)
    rows = [
        (method, rank, float((ranks[:, k] == rank).mean()))
        for k, method in enumerate(scores.columns)
        for rank in np.unique(ranks[:, k])
    ]
    return pd.DataFrame(rows, columns=["method", "rank", "share"])
