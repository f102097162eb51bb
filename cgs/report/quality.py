"""Quality control: what a reader must doubt about the runs, with its severity."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from cgs.config import Config
from cgs.plan import controls_of
from cgs.report.drawing import CONTROLS
from cgs.report.inputs import CELL, cell_values, shown_datasets
from cgs.report.provenance import digests

SEEDS_APART = 0.10
SELECTIONS_APART = 0.05
"""Test Dice from which seeds, and the best and the last checkpoint, count as disagreeing."""


def quality(
    config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Iterator[dict[str, str]]:
    """What a reader must doubt: failed and missing runs, selection, results outside the controls."""
    for run in tables["runs"].to_dict("records"):
        name = (
            f"{run['dataset']}, {run['labelled']} labelled, {titles[str(run['method'])]}, seed {run['seed']}"
        )
        reason = run["sentence"] if isinstance(run["sentence"], str) else ""
        if run["status"] == "failed":
            yield {"severity": "error", "sentence": f"{name} failed: {reason or 'no reason was recorded.'}"}
        elif run["status"] == "missing":
            text = f"{name} has no result; {reason or 'the run is missing or unfinished.'}"
            yield {"severity": "error", "sentence": text}
        elif run["status"] == "complete" and run["best_validation_dice"] - run["last_validation_dice"] > 0.1:
            yield {
                "severity": "warning",
                "sentence": f"{name}: validation Dice fell from {100 * run['best_validation_dice']:.1f} % at iteration "
                f"{int(run['best_iteration'])} to {100 * run['last_validation_dice']:.1f} % at the end.",
            }
    for dataset in shown_datasets(config):
        for ratio in map(str, config.datasets[dataset].labelled):
            values = 100 * cell_values(tables, dataset, ratio, config)
            shown_values = values[[m for m in values.index if m in CONTROLS or m not in controls_of(config)]]
            yield from outside_controls(shown_values, f"{dataset}, {ratio} labelled", titles)
    yield from disagreements(config, tables, titles)
    for title, found in digests(tables["runs"], titles).items():
        if len(found) > 1:
            text = f"{title}: its runs were trained by {len(found)} versions of the source; see provenance."
            yield {"severity": "warning", "sentence": text}
    if len(config.seeds) == 1:
        yield {
            "severity": "note",
            "sentence": "There is one seed: no spread is known, and differences of a few points may be chance.",
        }


def disagreements(
    config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Cells whose seeds lie far apart, or whose best and last checkpoints do."""
    main = tables["main"]
    own = main[(main["metric"] == "dice") & (main["convention"] == config.evaluation.conventions[0])]
    first, *others = config.evaluation.selections
    keys = list(CELL)
    lead = own[own["selection"] == first]
    for row in lead[lead["std"] > SEEDS_APART].to_dict("records"):
        where = f"{row['dataset']}, {row['labelled']} labelled, {titles[str(row['method'])]}"
        yield {
            "severity": "warning",
            "sentence": f"{where}: seeds disagree, the standard deviation is {100 * row['std']:.1f} points.",
        }
    for other in others:
        both = lead.merge(own[own["selection"] == other], on=keys, suffixes=("", "_other"))
        for row in both[(both["mean"] - both["mean_other"]).abs() > SELECTIONS_APART].to_dict("records"):
            where = f"{row['dataset']}, {row['labelled']} labelled, {titles[str(row['method'])]}"
            yield {
                "severity": "note",
                "sentence": f"{where}: test Dice is {100 * row['mean']:.1f} % with the {first} checkpoint and "
                f"{100 * row['mean_other']:.1f} % with the {other} one.",
            }


def outside_controls(values: pd.Series, where: str, titles: dict[str, str]) -> Iterator[dict[str, str]]:
    """Methods below labelled-only or above fully-supervised, and controls in the wrong order."""
    low, high = values.get("labelled-only"), values.get("fully-supervised")
    if low is not None and high is not None and low >= high:
        yield {
            "severity": "error",
            "sentence": f"{where}: labelled-only ({low:.1f} %) is not below fully supervised ({high:.1f} %).",
        }
    for method, value in values.items():
        if method in CONTROLS:
            continue
        if low is not None and value < low:
            sentence = f"{where}: {titles[str(method)]} ({value:.1f} %) is below labelled-only ({low:.1f} %)."
            yield {"severity": "warning", "sentence": sentence}
        if high is not None and value > high:
            sentence = (
                f"{where}: {titles[str(method)]} ({value:.1f} %) is above full supervision ({high:.1f} %)."
            )
            yield {"severity": "warning", "sentence": sentence}
