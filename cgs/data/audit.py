"""What is odd about a dataset: balance, near-duplicates, leaks, empty slices, intensities.

The audit looks at the prepared arrays only, and writes what it finds as JSON; the report shows it.
"""

from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgs.data.store import SCALE, UNLABELLED, load_slices, read_arrays, resize_nearest, targets_of
from cgs.errors import SuiteError, plain
from cgs.files import DAMAGED, read_csv

DUPLICATE = 0.99
"""Correlation of two slices (at 32 x 32) from which they count as near-duplicates.

On ACDC, slices of different patients reach 0.65 at most, and copies that were saved again 0.99999.
"""

BLOCK = 1024
"""Slices compared with all others at a time, so that memory grows with the slices and not their square."""

THUMBNAIL = 32


def audit(folder: Path, targets: tuple[str, ...]) -> dict[str, Any]:
    """The audit of a prepared folder as plain values."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    manifest = read_csv(folder / "manifest.csv", dtype={"patient": str, "case": str, "slice": str})
    cases = read_csv(folder / "cases.csv", dtype={"patient": str, "case": str})
    rows, images32, labels32 = thumbnails(folder, images, labels, manifest, cases)
    result: dict[str, Any] = {
        "balance": balance(folder, labels, manifest, cases, targets),
        "duplicates": duplicates(rows, images32, labels32),
        "leaks": leaks(manifest, cases),
        "empty_slices": empty_slices(labels, manifest),
        "unlabelled_slices": int((labels[:, 0, 0] == UNLABELLED).sum()),
        "intensities": intensities(images, manifest),
        "unknown_spacing": int(cases["spacing_z"].isna().sum()),
    }
    result["findings"] = findings(result, len(cases))
    return result


def thumbnails(
    folder: Path, images: np.ndarray, labels: np.ndarray, manifest: pd.DataFrame, cases: pd.DataFrame
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """All slices of all splits at 32 x 32: a row each (slice, patient, split), images and labels."""
    size = (THUMBNAIL, THUMBNAIL)
    small = [as_shares(resize_nearest(images, size))]
    marks = [resize_nearest(labels, size)]
    tables = [manifest[["slice", "patient", "split"]]]
    for row in cases.itertuples():
        image, label = read_arrays(folder / "cases", str(row.case), "image", "label")
        small.append(as_shares(resize_nearest(image, size)))
        marks.append(resize_nearest(label, size))
        names = [f"{row.case}_slice_{z}" for z in range(len(image))]
        tables.append(pd.DataFrame({"slice": names, "patient": row.patient, "split": row.split}))
    return pd.concat(tables, ignore_index=True), np.concatenate(small), np.concatenate(marks)


def as_shares(image: np.ndarray) -> np.ndarray:
    """Stored intensities as float32 in [0, 1]."""
    return image.astype(np.float32) / SCALE if image.dtype == np.uint16 else image.astype(np.float32)


def dice_of(first: np.ndarray, second: np.ndarray) -> float:
    """Mean Dice of the targets that either of two stacks of label maps holds; NaN where one has no label."""
    if UNLABELLED in (first.max(), second.max()):
        return float("nan")
    scores = []
    for value in np.union1d(np.unique(first), np.unique(second)):
        if value:
            a, b = first == value, second == value
            scores.append(2 * np.logical_and(a, b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores)) if scores else 1.0


def duplicates(rows: pd.DataFrame, images: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Pairs of patients that share near-duplicate slices, most first.

    Slices are compared by the correlation of their intensities, all pairs. Slices without contrast
    are left out: noise does not repeat, and flat slices are alike for no reason.
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1)
    use = np.flatnonzero(norm > 1e-3 * THUMBNAIL)
    flat = flat[use] / norm[use, None]
    patient = rows["patient"].to_numpy()[use]
    found: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    for start in range(0, len(flat), BLOCK):
        similar = flat[start : start + BLOCK] @ flat.T
        for row, j in zip(*np.nonzero(similar > DUPLICATE), strict=True):
            i = start + row
            if patient[i] < patient[j]:  # Each pair once, the slice of the first patient first.
                found.setdefault((patient[i], patient[j]), []).append(
                    (use[i], use[j], float(similar[row, j]))
                )
    result = []
    for (a, b), matches in found.items():
        first, second = [m[0] for m in matches], [m[1] for m in matches]
        agreement = dice_of(labels[first], labels[second])
        splits = sorted(set(rows["split"].iloc[first]) | set(rows["split"].iloc[second]))
        result.append(
            {
                "patients": [a, b],
                "slices": len(set(first)),
                "examples": [[rows["slice"].iloc[i], rows["slice"].iloc[j]] for i, j, _ in matches[:3]],
                "lowest_correlation": round(min(m[2] for m in matches), 5),
                "dice_between_labels": None if np.isnan(agreement) else round(agreement, 4),
                "splits": splits,
            }
        )
    return sorted(result, key=lambda r: -r["slices"])


def leaks(manifest: pd.DataFrame, cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Patients that stand in more than one split."""
    splits: dict[str, set[str]] = {"train": set(manifest["patient"])}
    for split in ("val", "test"):
        splits[split] = set(cases.loc[cases["split"] == split, "patient"])
    return [
        {"splits": [a, b], "patients": sorted(splits[a] & splits[b])}
        for a, b in combinations(splits, 2)
        if splits[a] & splits[b]
    ]


def balance(
    folder: Path, labels: np.ndarray, manifest: pd.DataFrame, cases: pd.DataFrame, targets: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Pixels, slices and patients per target of the training, validation and test set."""
    result = _shares("train", _pixels(labels, targets), manifest["patient"].to_numpy(), targets)
    for split in ("val", "test"):
        stacks, patients = [], []
        for row in cases[cases["split"] == split].itertuples():
            (label,) = read_arrays(folder / "cases", str(row.case), "label")
            stacks.append(_pixels(label, targets))
            patients += [row.patient] * len(label)
        if stacks:
            result += _shares(split, np.concatenate(stacks), np.array(patients), targets)
    return result


def labelled_balance(folder: Path, ratios: list[int]) -> list[dict[str, Any]]:
    """The same for the labelled slices at each number of labelled patients. The images need not be there.

    Raises SuiteError with one sentence where the labels cannot be read.
    """
    targets = tuple(targets_of(folder))
    try:
        manifest = read_csv(folder / "manifest.csv", dtype={"patient": str})
        counts = _pixels(np.load(folder / "labels.npy", mmap_mode="r"), targets)
        ranks, patients = (manifest[key].to_numpy() for key in ("labelled_rank", "patient"))
        rows = [_shares(f"labelled {n}", counts[ranks <= n], patients[ranks <= n], targets) for n in ratios]
    except DAMAGED as error:
        raise SuiteError(
            f"The labels in {folder} cannot be read ({plain(error)}); delete the folder and prepare again."
        ) from None
    return list(chain(*rows))


def label_counts(folder: Path, ratios: list[int]) -> list[dict[str, Any]]:
    """Slices and patients with and without labels at each number of labelled patients."""
    slices = load_slices(folder)
    patients = slices.manifest["patient"]
    rows = []
    for ratio in ratios:
        row: dict[str, Any] = {"labelled": ratio}
        for name, chosen in (
            ("labelled", slices.labelled_indices(ratio)),
            ("unlabelled", slices.unlabelled_indices(ratio)),
        ):
            row |= {f"{name}_slices": len(chosen), f"{name}_patients": int(patients.iloc[chosen].nunique())}
        rows.append(row)
    return rows


def _pixels(labels: np.ndarray, targets: tuple[str, ...]) -> np.ndarray:
    """Pixels of every class in every slice: (N, C)."""
    classes = len(targets) + 1  # Beyond them stands what has no label.
    return np.stack([np.bincount(label.ravel(), minlength=classes)[:classes] for label in labels])


def _shares(
    group: str, counts: np.ndarray, patients: np.ndarray, targets: tuple[str, ...]
) -> list[dict[str, Any]]:
    foreground = max(int(counts[:, 1:].sum()), 1)
    return [
        {
            "group": group,
            "target": name,
            "pixels": int(counts[:, k].sum()),
            "share_of_foreground": round(int(counts[:, k].sum()) / foreground, 5),
            "share_of_all": round(int(counts[:, k].sum()) / max(int(counts.sum()), 1), 6),
            "slices": int((counts[:, k] > 0).sum()),
            "all_slices": len(counts),
            "patients": len(set(patients[counts[:, k] > 0])),
        }
        for k, name in enumerate(targets, start=1)
    ]


def empty_slices(labels: np.ndarray, manifest: pd.DataFrame) -> dict[str, Any]:
    """Training slices without any target."""
    empty = ~labels.reshape(len(labels), -1).any(1)
    return {
        "count": int(empty.sum()),
        "of": len(labels),
        "examples": manifest["slice"].to_numpy()[empty].tolist()[:5],
    }


def intensities(images: np.ndarray, manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """Training slices whose intensities are odd: constant, saturated, or far from the other slices' mean."""
    # Slice by slice: numpy would make float64 of the whole dataset.
    mean, spread, saturated = np.array([(i.mean(), i.std(), (i == SCALE).mean()) for i in images]).T
    mean, spread = mean / SCALE, spread / SCALE
    middle = np.median(mean)
    scale = 1.4826 * np.median(np.abs(mean - middle)) + 1e-6
    checks = (
        ("constant", spread < 1e-4, spread),
        ("more than 5 % of the pixels saturated", saturated > 0.05, saturated),
        ("mean more than 6 robust standard deviations off", np.abs(mean - middle) > 6 * scale, mean),
    )
    return [
        {
            "kind": kind,
            "slices": int(flag.sum()),
            "examples": [
                {"slice": str(manifest["slice"].iloc[i]), "value": round(float(value[i]), 4)}
                for i in np.flatnonzero(flag)[:3]
            ],
        }
        for kind, flag, value in checks
        if flag.any()
    ]


def findings(result: dict[str, Any], cases: int) -> list[dict[str, str]]:
    """What a reader must know, in sentences, gravest first."""
    found = []
    for leak in result["leaks"]:
        names = ", ".join(leak["patients"][:5])
        found.append(
            (
                "error",
                f"{len(leak['patients'])} patients are in both {' and '.join(leak['splits'])}: {names}.",
            )
        )
    for pair in result["duplicates"]:
        a, b = pair["patients"]
        where = (
            f"in {pair['splits'][0]}"
            if len(pair["splits"]) == 1
            else f"across {' and '.join(pair['splits'])}"
        )
        agreement = pair["dice_between_labels"]
        labels = (
            "not both are labelled"
            if agreement is None
            else f"the Dice between their labels is {agreement:.3f}"
        )
        found.append(
            (
                "warning" if len(pair["splits"]) == 1 else "error",
                f"{a} and {b} ({where}) share {pair['slices']} near-duplicate slices (correlation at least "
                f"{pair['lowest_correlation']:.4f}); {labels}.",
            )
        )
    for odd in result["intensities"]:
        names = ", ".join(e["slice"] for e in odd["examples"])
        found.append(
            ("warning", f"{odd['slices']} training slices with odd intensities: {odd['kind']} ({names}).")
        )
    if result["unlabelled_slices"]:
        found.append(
            ("note", f"{result['unlabelled_slices']} training slices have no label; no method sees one.")
        )
    empty = result["empty_slices"]
    if empty["count"]:
        found.append(("note", f"{empty['count']} of {empty['of']} training slices hold no target."))
    if result["unknown_spacing"]:
        found.append(
            (
                "note",
                f"The spacing of {result['unknown_spacing']} of {cases} cases is unknown: no distances in mm.",
            )
        )
    return [{"severity": severity, "sentence": sentence} for severity, sentence in found]
