"""The headline: what was compared, how much was trained, and the answer in a sentence a table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cgs.analysis.statistics import ONE_SEED
from cgs.config import UNTRAINED, Config
from cgs.dataset_config import PhantomConfig
from cgs.plan import controls_of
from cgs.report.inputs import cell_values, leading, most_seeds, seeds_of, shown_datasets
from cgs.report.provenance import energy
from cgs.report.quality import counts
from cgs.report.words import compared, interval_text, patients

FULL_ITERATIONS, FULL_SIZE, FULL_BATCH = 30000, 224, 12


def budget(config: Config, runs: pd.DataFrame) -> dict[str, Any]:
    """How much was trained, on what; `small` where it is below the paper's."""
    training = config.training
    runs = runs[
        ~runs["method"].isin({*config.ensembles, *config.promptable})
    ]  # Nothing was trained for those.
    sizes = sorted({d.size for d in config.datasets.values()})
    small = training.iterations < FULL_ITERATIONS or min(sizes) < FULL_SIZE or config.network.width < 16
    small |= min(training.labelled_batch, training.unlabelled_batch) < FULL_BATCH
    return {
        "small": small,
        "iterations": training.iterations,
        "sizes": " and ".join(f"{s} × {s}" for s in sizes),
        "batch": f"{training.labelled_batch} labelled + {training.unlabelled_batch} unlabelled",
        "width": config.network.width,
        "seeds": seeds_text(len(config.seeds), most_seeds(config, runs)),
        "planned": len(runs),
        "complete": int((runs["status"] == "complete").sum()),
        "counts": counts(runs),
        "hours": float(runs["seconds"].sum()) / 3600,
        "energy": energy(runs),
        "phantom": any(isinstance(d, PhantomConfig) for d in config.datasets.values()),
    }


def seeds_text(planned: int, done: int) -> str:
    """'3 seeds', or '1 of 3 planned seeds' where no cell of the main tables has more."""
    word = "seed" if planned == 1 else "seeds"
    return f"{planned} {word}" if done in (0, planned) else f"{done} of {planned} planned {word}"


def changed_options(config: Config, titles: dict[str, str]) -> list[str]:
    """Methods of the config whose options are not the defaults: 'CGS: lambda_max 0.1'."""
    changed = []
    for method in config.methods:
        base, options = config.method_and_options(method)
        if options and base not in UNTRAINED:
            values = ", ".join(f"{name} {value}" for name, value in options.items())
            changed.append(f"{titles[method]}: {values}")
    return changed


def headline(config: Config, tables: dict[str, pd.DataFrame], titles: dict[str, str]) -> list[str]:
    """The answer in a sentence per dataset and ratio, made from the numbers."""
    sentences = []
    for dataset in shown_datasets(config):
        entry = config.datasets[dataset]
        for ratio in map(str, entry.labelled):
            where = f"On {dataset} with {patients(ratio)}"
            values = 100 * cell_values(tables, dataset, ratio, config)
            methods = values[[m for m in values.index if m not in controls_of(config)]]
            if methods.empty:
                state = "no result yet" if values.empty else "only the controls have results"
                sentences.append(f"{where}: {state}.")
                continue
            best = str(methods.idxmax())
            claim = "has the highest test Dice" if len(methods) > 1 else "is the only method with a result"
            text = f"{where}, {titles[best]} {claim}, {methods[best]:.1f} %"
            text += certainty(config, tables, best, dataset, ratio)
            parts = []
            if "labelled-only" in values:
                parts.append(compared(methods[best] - values["labelled-only"], "labelled-only training"))
            if "fully-supervised" in values:
                parts.append(compared(methods[best] - values["fully-supervised"], "full supervision"))
            if config.reference in methods and config.reference != best:
                parts.append(compared(methods[best] - methods[config.reference], titles[config.reference]))
            equal = tied(config, tables["ties"], dataset, ratio, titles)
            caveat = unsettled(config, tables["main"], best, dataset, ratio, titles)
            decided = decisions(config, tables["differences"], dataset, ratio, titles)
            sentences.append(f"{text}{', ' if parts else ''}{', '.join(parts)}.{equal}{decided}{caveat}")
    return sentences


def certainty(config: Config, tables: dict[str, pd.DataFrame], best: str, dataset: str, ratio: str) -> str:
    """' (95 % interval 86.0 to 90.2)', or nothing where it is not known."""
    own = leading(config, tables["main"], dataset)
    rows = own[own["labelled"].isin([ratio, "all"]) & (own["method"] == best)].to_dict("records")
    found = interval_text({str(k): v for k, v in rows[0].items()}, "dice") if rows else ""
    return f" (95\N{NO-BREAK SPACE}% interval {found})" if found else ""


def tied(config: Config, ties: pd.DataFrame, dataset: str, ratio: str, titles: dict[str, str]) -> str:
    """Which methods cannot be told from the best by Dice, in a sentence."""
    own = ties[
        (ties["dataset"] == dataset)
        & (ties["ratio"] == ratio)
        & (ties["convention"] == config.evaluation.conventions[0])
        & (ties["selection"] == config.evaluation.selections[0])
        & (ties["metric"] == "dice")
        & ties["compared"].astype(bool)
    ]
    names = [titles[m] for m in config.methods if m in set(own["method"])]
    return f" Not distinguishable from it: {', '.join(names)}." if names else ""


def decisions(
    config: Config, differences: pd.DataFrame, dataset: str, ratio: str, titles: dict[str, str]
) -> str:
    """How many methods differ from the reference method after correction, in a sentence."""
    own = differences[
        (differences["dataset"] == dataset)
        & (differences["labelled"] == ratio)
        & differences["method"].isin(set(config.methods) - controls_of(config))
    ]
    if own.empty:
        return ""
    base, verdicts = titles[config.reference], own["verdict"].astype(str)
    undecided = verdicts[verdicts.str.startswith("cannot")]
    if len(undecided):
        patients = int(own["patients"].max())
        return f" With {patients} test patients no test can tell so many methods from {base}."
    several, single = int((own["common_seeds"] > 1).sum()), int((own["common_seeds"] == 1).sum())
    methods, trainings = int((verdicts == "differs").sum()), int((verdicts == ONE_SEED).sum())
    text = f" {methods} of {several} other methods differ from {base} after correction." if several else ""
    if single:
        text += (
            f" With one seed in common, {trainings} of {single} other trainings differ from that of {base} after "
            "correction; whether the methods do is not known."
        )
    return text


def unsettled(
    config: Config,
    main: pd.DataFrame,
    best: str,
    dataset: str,
    ratio: str,
    titles: dict[str, str],
) -> str:
    """What the sentence about the best method must not hide: missing seeds, methods without any result."""
    done = seeds_of(config, main, dataset, ratio)
    parts = []
    if done.get(best, 0) < len(config.seeds):
        parts.append(f"{titles[best]} has {done.get(best, 0)} of {len(config.seeds)} seeds")
    absent = [titles[m] for m in config.methods if m not in done]
    if absent:
        parts.append(f"without a result: {', '.join(absent)}")
    return f" Not settled: {'; '.join(parts)}." if parts else ""
