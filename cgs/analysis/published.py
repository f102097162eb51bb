"""Published results on the identical ACDC split (40 test volumes), with their source.

DSC in per cent, Jaccard in per cent, 95HD and ASD in voxels, for 3 and 7 labelled patients. A value that no source
states is None: none is ever filled in. So is one whose copies differ (SS-Net at 7: Jaccard 77.44 to 77.67, 95HD 6.00 to
6.07). Only the DSC of CGS is known from its paper itself.
"""

from __future__ import annotations

from dataclasses import dataclass

LINEAGE = "table carried on from BCP (copies differ by up to 1 point)"
THIRD_PARTY = "third-party re-run"
REPOSITORY = "performance.txt of the MC-Net repository, pretrained model"
PAPER = "Wang et al., IEEE TMI 2025"

Row = tuple[float | None, float | None, float | None, float | None]


@dataclass(frozen=True)
class Published:
    """One published value in the unit of our tables (fractions, voxels), and who published it."""

    value: float
    source: str


ACDC: dict[tuple[str, str], tuple[Row, str]] = {
    ("cgs", "3"): ((88.83, None, None, None), PAPER),
    ("cgs", "7"): ((89.83, None, None, None), PAPER),
    ("labelled-only", "3"): ((47.82, 37.01, 31.16, 12.66), LINEAGE),
    ("labelled-only", "7"): ((78.22, 68.05, 9.33, 2.70), LINEAGE),
    ("fully-supervised", "all"): ((91.44, 84.55, 4.30, 1.00), LINEAGE),
    ("ua-mt", "3"): ((46.04, 35.97, 20.08, 7.75), LINEAGE),
    ("ua-mt", "7"): ((81.66, 70.56, 6.88, 2.00), LINEAGE),
    ("urpc", "3"): ((55.58, 43.66, 13.66, 3.78), LINEAGE),
    ("urpc", "7"): ((83.11, 72.41, 4.84, 1.55), LINEAGE),
    ("mc-net", "3"): ((62.85, 52.29, 7.62, 2.33), LINEAGE),
    ("mc-net", "7"): ((86.47, 77.13, 5.50, 1.83), LINEAGE),
    ("mc-net-plus", "7"): ((87.10, 78.06, 6.68, 2.00), REPOSITORY),
    ("ss-net", "3"): ((65.83, 55.38, 6.67, 2.28), LINEAGE),
    ("ss-net", "7"): ((86.78, None, None, 1.40), LINEAGE),
    ("bcp", "3"): ((87.59, 78.67, 1.90, 0.67), THIRD_PARTY),
    ("bcp", "7"): ((88.84, 80.62, 3.98, 1.17), THIRD_PARTY),
    ("unimatch", "3"): ((87.61, 78.68, 4.13, 1.97), THIRD_PARTY),
    ("unimatch", "7"): ((89.92, 81.97, 3.75, 0.98), THIRD_PARTY),
}
CLAIMS = {
    "acdc": "T1. The paper: CGS reaches 88.83 % Dice with 3 labelled patients and 89.83 % with 7, the runner-up "
    "87.27 % and 88.89 %",
    "segthor": "T2. The paper: CGS is best in all four metrics, by 3.2 Dice points over the next",
    "synapse": "T3. The paper: CGS reaches a mean Dice of 85.6 % with 3 labelled patients (see the doubts below)",
}
"""What the paper says of its main tables, by kind of dataset."""

METRICS = ("dice", "jaccard", "hd95", "asd")
PERCENT = ("dice", "jaccard")


def published(kind: str, labelled: str, method: str, convention: str, metric: str) -> Published | None:
    """The published value of a cell, or None. Only the `field` convention on ACDC has any."""
    if kind != "acdc" or convention != "field" or metric not in METRICS:
        return None
    row, source = ACDC.get((method, labelled), ((None,) * 4, ""))
    value = row[METRICS.index(metric)]
    if value is None:
        return None
    return Published(value / 100 if metric in PERCENT else value, source)
