"""Which trainings a config asks for. No torch: Snakemake, the tables and the report use it too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cgs.config import PROMPTABLE, UNTRAINED, Config

ALL = "all"
"""Value of `labelled` for trainings that see every training label."""

NONE = "0"
"""Value of `labelled` for what is not trained at all."""

FULLY_LABELLED = frozenset({"fully-supervised"})
"""Methods that are trained once per dataset and seed, with every label: the upper bound."""


CONTROLS = frozenset({"labelled-only", "fully-supervised"})
"""Methods that bound the comparison and take no part in it."""


def controls_of(config: Config) -> frozenset[str]:
    """The controls of a config and the variants of them: shown as bounds, never as best."""
    return frozenset(m for m in config.every_method if config.method_and_options(m)[0] in CONTROLS)


@dataclass(frozen=True)
class Cell:
    """One training: a dataset, a number of labelled patients (or "all"), a method and a seed."""

    dataset: str
    labelled: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.labelled}/{self.method}/{self.seed}"


def labelled_values(config: Config, method: str, numbers: Sequence[int]) -> list[str]:
    """The label ratios at which `method` is trained, of the `numbers` of labelled patients."""
    base, _ = config.method_and_options(method)
    return [ALL] if base in FULLY_LABELLED else [NONE] if base == PROMPTABLE else [str(n) for n in numbers]


def cells(config: Config) -> list[Cell]:
    """Every result of the config, each once: the main tables dataset by dataset, then the experiments.

    The members of an ensemble come before it.
    """

    def walk() -> Iterator[Cell]:
        for dataset in config.main_datasets:
            numbers = config.datasets[dataset].labelled
            yield from block(config, dataset, config.methods, numbers, config.seeds)
        for name, experiment in config.experiments.items():
            for dataset in config.datasets_of(name):
                numbers = experiment.labelled or config.datasets[dataset].labelled
                seeds = experiment.seeds or config.seeds
                yield from block(config, dataset, experiment.methods, numbers, seeds)

    return list(dict.fromkeys(walk()))


def block(
    config: Config, dataset: str, methods: Sequence[str], numbers: Sequence[int], seeds: Sequence[int]
) -> Iterator[Cell]:
    """All methods at all numbers of labelled patients with all seeds."""
    for method in methods:
        members = config.ensembles[method].members if method in config.ensembles else ()
        for name in (*members, method):
            for labelled in labelled_values(config, name, numbers):
                for seed in seeds[:1] if labelled == NONE else seeds:  # Without training, nothing to repeat.
                    yield Cell(dataset, labelled, name, seed)


def trainings(config: Config) -> list[Cell]:
    """The cells that are trained: all but ensembles and promptable models."""
    return [cell for cell in cells(config) if config.method_and_options(cell.method)[0] not in UNTRAINED]


def members(config: Config, cell: Cell) -> list[Cell]:
    """The trainings that an ensemble's cell is made of; none for a training."""
    if cell.method not in config.ensembles:
        return []
    found = []
    for name in config.ensembles[cell.method].members:
        base, _ = config.method_and_options(name)
        labelled = ALL if base in FULLY_LABELLED else cell.labelled
        found.append(Cell(cell.dataset, labelled, name, cell.seed))
    return found
