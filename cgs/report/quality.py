"""Quality control: what a reader must doubt about the runs, with its severity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from cgs.config import Config
from cgs.plan import controls_of
from cgs.report.drawing import CONTROLS
from cgs.report.inputs import CELL, cell_values, most_seeds, seeds_of, shown_datasets
from cgs.report.provenance import digests

SEEDS_APART = 0.10
SELECTIONS_APART = 0.05
"""Test Dice from which seeds, and the best and the last checkpoint, count as disagreeing."""

FELL = 0.10
"""Validation Dice that a training may lose from its best iteration to its end."""

Finding = dict[str, str]


def quality(config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]) -> list[Finding]:
    """What a reader must doubt, gravest first."""
    found = list(findings(config, tables, titles))
    order = ("error", "warning", "note")
    return sorted(found, key=lambda f: order.index(f["severity"]))


def findings(config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]) -> Iterator[Finding]:
    """Failed and missing runs, trainings that fell, results outside the controls, what disagrees."""
    yield from lost(tables["runs"], titles)
    yield from missing(tables["runs"], titles)
    yield from fallen(tables["runs"], titles)
    yield from remarks(tables["runs"], titles)
    for dataset in shown_datasets(config):
        for ratio in map(str, config.datasets[dataset].labelled):
            values = 100 * cell_values(tables, dataset, ratio, config)
            known = values[[m for m in values.index if m in CONTROLS or m not in controls_of(config)]]
            seeds = seeds_of(config, tables["main"], dataset, ratio)
            yield from outside_controls(known, seeds, f"{dataset}, {ratio} labelled", titles)
    yield from disagreements(config, tables, titles)
    for title, versions in digests(tables["runs"], titles).items():
        if len(versions) > 1:
            text = (
                f"{title}: its runs were trained by {len(versions)} versions of the source; see provenance."
            )
            yield finding("warning", text)
    yield from versions_apart(config, tables, titles)
    if most_seeds(config, tables["runs"]) == 1:
        text = (
            "No cell of the main tables has more than one seed: how far a seed alone moves a result is not known, and "
            "no difference between two trainings is one between methods."
        )
        yield finding("warning", text)


def versions_apart(
    config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Iterator[Finding]:
    """Experiments whose base was trained by another version of the same method's source than its variants."""
    versions = digests(tables["runs"], {m: m for m in config.every_method})
    for name, experiment in config.experiments.items():
        apart = []
        for method in experiment.methods:
            base = config.compared_with(name, method)
            if not base or config.method_and_options(base)[0] != config.method_and_options(method)[0]:
                continue
            own, other = versions.get(method), versions.get(base)
            if own and other and set(own) != set(other):
                apart.append(titles[method])
        if apart:
            where = experiment.row or name
            text = f"{where}: trained by another version of the source than its base: {', '.join(apart)}."
            yield finding("note", text)


def finding(severity: str, sentence: str) -> Finding:
    return {"severity": severity, "sentence": sentence}


def counts(runs: pd.DataFrame) -> dict[str, int]:
    """How the planned runs ended: complete, diverged, failed for another reason, missing."""
    diverged = (runs["status"] == "failed") & is_diverged(runs)
    named = runs["status"].where(~diverged, "diverged").value_counts()
    return {
        name: int(named.get(name, 0)) for name in ("complete", "diverged", "failed", "missing", "unknown")
    }


def is_diverged(runs: pd.DataFrame) -> pd.Series:
    """Whether a run's loss was not finite any more."""
    if "diverged" not in runs:
        return pd.Series(False, index=runs.index)
    return runs["diverged"].astype(str) == "True"


def name_of(run: Any, titles: dict[str, str]) -> str:
    """'acdc, 3 labelled, CGS, seed 0'."""
    return f"{run['dataset']}, {run['labelled']} labelled, {titles[str(run['method'])]}, seed {run['seed']}"


def reason_of(run: Any) -> str:
    return run["sentence"] if isinstance(run["sentence"], str) else ""


def lost(runs: pd.DataFrame, titles: dict[str, str]) -> Iterator[Finding]:
    """The runs that failed, each with its reason."""
    for run in runs[runs["status"] == "failed"].assign(diverged=is_diverged).to_dict("records"):
        word = "diverged" if run["diverged"] else "failed"
        reason = reason_of(run) or "no reason was recorded."
        yield finding("error", f"{name_of(run, titles)} {word}: {reason}")


def missing(runs: pd.DataFrame, titles: dict[str, str]) -> Iterator[Finding]:
    """The runs without a result: those of one reason, dataset and ratio in a sentence."""
    own = runs[runs["status"] == "missing"]
    own = own.assign(reason=[reason_of(r) for r in own.to_dict("records")])
    for (dataset, ratio, reason), part in own.groupby(["dataset", "labelled", "reason"], sort=False):
        seeds = part.groupby("method", sort=False)["seed"].apply(list)
        each = "; ".join(
            f"{titles[str(m)]}, seed{'s' if len(s) > 1 else ''} {', '.join(map(str, s))}"
            for m, s in seeds.items()
        )
        number = "a run has" if len(part) == 1 else f"{len(part)} runs have"
        text = f"{dataset}, {ratio} labelled: {number} no result ({each}): "
        yield finding("error", text + (str(reason) or "the run is missing or unfinished."))


def fallen(runs: pd.DataFrame, titles: dict[str, str]) -> Iterator[Finding]:
    """The trainings whose validation Dice was far lower at the end than at its best."""
    own = runs[runs["status"] == "complete"]
    own = own[own["best_validation_dice"] - own["last_validation_dice"] > FELL].dropna(
        subset=["best_iteration"]
    )
    for run in own.to_dict("records"):
        yield finding(
            "warning",
            f"{name_of(run, titles)}: validation Dice fell from {100 * run['best_validation_dice']:.1f} % at iteration "
            f"{int(run['best_iteration'])} to {100 * run['last_validation_dice']:.1f} % at the end.",
        )


def remarks(runs: pd.DataFrame, titles: dict[str, str]) -> Iterator[Finding]:
    """What the tables say of complete runs."""
    for run in runs[runs["status"] == "complete"].to_dict("records"):
        if reason := reason_of(run):
            yield finding("warning", f"{name_of(run, titles)}: {reason}")


def disagreements(
    config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]
) -> Iterator[Finding]:
    """Cells whose seeds lie far apart, or whose best and last checkpoints do."""
    main = tables["main"]
    own = main[(main["metric"] == "dice") & (main["convention"] == config.evaluation.conventions[0])]
    first, *others = config.evaluation.selections
    lead = own[own["selection"] == first]
    for row in lead[lead["std"] > SEEDS_APART].to_dict("records"):
        where = f"{row['dataset']}, {row['labelled']} labelled, {titles[str(row['method'])]}"
        yield finding(
            "warning", f"{where}: seeds disagree, the standard deviation is {100 * row['std']:.1f} points."
        )
    for other in others:
        both = lead.merge(own[own["selection"] == other], on=list(CELL), suffixes=("", "_other"))
        for row in both[(both["mean"] - both["mean_other"]).abs() > SELECTIONS_APART].to_dict("records"):
            where = f"{row['dataset']}, {row['labelled']} labelled, {titles[str(row['method'])]}"
            yield finding(
                "note",
                f"{where}: test Dice is {100 * row['mean']:.1f} % with the {first} checkpoint and "
                f"{100 * row['mean_other']:.1f} % with the {other} one.",
            )


def outside_controls(
    values: pd.Series, seeds: dict[str, int], where: str, titles: dict[str, str]
) -> Iterator[Finding]:
    """Methods below labelled-only or above fully-supervised, and controls in the wrong order.

    Means over different numbers of seeds are named with them: which of the seeds were lucky may explain the rest.
    """
    low, high = values.get("labelled-only"), values.get("fully-supervised")
    if low is not None and high is not None and low >= high:
        text = f"{where}: labelled-only ({low:.1f} %) is not below fully supervised ({high:.1f} %)."
        yield finding("error", text)
    methods = values[[m for m in values.index if m not in CONTROLS]].sort_values()
    for control, title, outside, word in (
        ("labelled-only", "labelled-only", methods < low if low is not None else None, "below"),
        ("fully-supervised", "full supervision", methods > high if high is not None else None, "above"),
    ):
        if outside is None or not outside.any():
            continue
        names = [control, *map(str, methods.index[outside])]
        numbers = [seeds.get(m, 0) for m in names]
        each = [
            f"{values[m]:.1f} %" + f", {n} seed{'s' * (n != 1)}" * (len(set(numbers)) > 1)
            for m, n in zip(names, numbers, strict=True)
        ]
        found = ", ".join(f"{titles[m]} ({value})" for m, value in zip(names[1:], each[1:], strict=True))
        yield finding("warning", f"{where}: {word} {title} ({each[0]}): {found}.")
