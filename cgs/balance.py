"""The balance theorem of CGS, computed from label counts.

Wang et al., IEEE TMI 2025: with the "training participation proportion" p_i of target i among K, CGS has
|p_i' - 1/K| <= |p_i - 1/K|. The paper's definition of p_i and p_i' is not known to us. Our reading:

    p_i  = n_i / sum_j n_j              n_i pixels of target i in the labelled slices (a generalist alone)
    p_i' = (p_i + 1) / (K + 1)          target i takes part in the generalist by p_i, and wholly in its specialist

so that p_i' - 1/K = (p_i - 1/K) / (K + 1): the theorem holds for every target, with equality only at p_i = 1/K.
`inside_specialists` is another definition that one may think of; for it the theorem does not hold.
"""

from __future__ import annotations

import numpy as np


def proportions(counts: np.ndarray) -> np.ndarray:
    """p (K,) of pixel counts (K,) of the targets, background left out. Raises ValueError without any pixel."""
    total = float(np.sum(counts))
    if total <= 0 or np.min(counts) < 0:
        raise ValueError("the counts must not be negative, and some must be positive")
    return np.asarray(counts, dtype=np.float64) / total


def with_specialists(p: np.ndarray) -> np.ndarray:
    """p' (K,) of CGS in our reading."""
    return (p + 1) / (len(p) + 1)


def inside_specialists(p: np.ndarray) -> np.ndarray:
    """Another p' (K,), not the paper's: in specialist k its target and the remaining ones weigh one half each.

    The remaining ones share theirs by pixels; averaged over the specialists:
    p_i' = (1/K) [1/2 + sum_{j != i} p_i / (2 (1 - p_j))]. With p = (1/3, 0.6, 1/15), p_1' = 0.365: farther from 1/3.
    Where there is nothing but one target, its specialist is wholly its.
    """
    alone = p == 1
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(alone, 0.0, 1 / (2 * (1 - p)))
    return (np.where(alone, 1.0, 0.5) + p * (shares.sum() - shares)) / len(p)


def holds(p: np.ndarray, balanced: np.ndarray) -> np.ndarray:
    """Whether the inequality holds for each target (K,) bool, up to rounding."""
    even = 1 / len(p)
    return np.abs(balanced - even) <= np.abs(p - even) + 1e-12
