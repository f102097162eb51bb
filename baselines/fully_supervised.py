"""Fully supervised: the U-Net with the labels of all training slices, the upper control.

L = 0.5 (CE + Dice). It is trained once per dataset and seed and stands above every label ratio; it differs
from `labelled-only` in nothing but the labels it may see.
"""

from __future__ import annotations

from baselines.labelled_only import LabelledOnly


class FullySupervised(LabelledOnly):
    """Supervised training with every label."""

    title = "Fully supervised"
    reference = "control"
