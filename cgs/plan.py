"""Which trainings a config asks for. No torch: Snakemake, the tables and the report use it too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cgs.config import Config

ALL = "all"
"""Value of `labelled` for trainings that see every training label."""

FULLY_LABELLED = frozenset({"fully-supervised"})
"""Methods that are trained once per dataset and seed, with every label: the upper bound."""


@dataclass(frozen=True)
class Cell:
    """One training: a dataset, a number of labelled patients (or "all"), a method and a seed."""

    dataset: str
    labelled: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.labelled}/{self.method}/{self.seed}"


def labelled_values(config: Config, dataset: str, method: str) -> list[str]:
    """The label ratios at which `method` is trained on `dataset`."""
    base, _ = config.method_and_options(method)
    if base in FULLY_LABELLED:
        return [ALL]
    return [str(n) for n in config.datasets[dataset].labelled]


def cells(config: Config) -> list[Cell]:
    """Every training of the config, dataset by dataset in the order of the file."""

    def walk() -> Iterator[Cell]:
        for dataset in config.datasets:
            for method in config.methods:
                for labelled in labelled_values(config, dataset, method):
                    for seed in config.seeds:
                        yield Cell(dataset, labelled, method, seed)

    return list(walk())
