"""Where every file of a config lies: the one place that knows the folder layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of one config, relative to the folder that the suite is started in.

    Prepared data lies under the config's own name, because its working size and (for the phantom)
    its parameters belong to the config: two configs must not overwrite each other's slices. `part` is the named target
    that tables and report are about, or "" for the whole config.
    """

    config: str
    results: Path = Path("results")
    reports: Path = Path("reports")
    part: str = ""

    @property
    def root(self) -> Path:
        return self.results / self.config

    @property
    def resolved_config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def downloads(self) -> Path:
        """Archives, shared by all configs."""
        return self.results / "downloads"

    @property
    def tables(self) -> Path:
        return self.root / "tables" / self.part

    @property
    def report(self) -> Path:
        return self.reports / self.config / self.part / "index.html"

    def data(self, dataset: str) -> Path:
        return self.root / "data" / dataset

    def run(self, dataset: str, labelled: str, method: str, seed: int | str) -> Path:
        """Folder of one training. `labelled` is a number of patients or "all"."""
        return self.root / "runs" / dataset / str(labelled) / method / str(seed)
