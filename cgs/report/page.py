"""The report: one self-contained HTML file, rendered from the tables alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cgs.config import Config
from cgs.errors import SuiteError
from cgs.files import write_text
from cgs.paths import Paths
from cgs.report import experiments, export
from cgs.report.datasets import dataset_section
from cgs.report.drawing import legend_mark
from cgs.report.headline import budget, changed_options, headline
from cgs.report.inputs import COLUMNS, COMPARISONS, fewest_seeds, shown_datasets, unknown_runs
from cgs.report.provenance import (
    FIGURES,
    NO_PROVENANCE,
    days,
    is_mixed,
    measured_elsewhere,
    methods_by_digest,
    notes_of_held,
)
from cgs.report.quality import quality
from cgs.report.tables import read_provenance, read_table
from cgs.report.words import patients
from cgs.titles import method_titles


def render(config: Config, paths: Paths) -> Path:
    """Write reports/<config>/index.html from results/<config>/tables/ and return its path.

    What is missing or half finished is said in the page. Raises SuiteError only where there are no tables at all.
    """
    if not any((paths.tables / f"{name}.csv").is_file() for name in COLUMNS):
        raise SuiteError(f"{paths.tables} holds no tables; run `python -m cgs tables` first.")
    tables = {
        name: read_table(paths.tables / f"{name}.csv", columns, config) for name, columns in COLUMNS.items()
    }
    missing = [name for name, table in tables.items() if table.empty]
    tables |= {
        name: read_table(paths.tables / f"{name}.csv", columns, config)
        for name, columns in (COMPARISONS | experiments.COLUMNS).items()
    }
    for name in ("main", "targets", "curves"):  # What only experiments train stands in their sections.
        tables[name] = tables[name][tables[name]["method"].isin(config.methods)]
    if tables["runs"].empty:
        tables["runs"] = unknown_runs(config)
    provenance = read_provenance(paths.tables / "provenance.json")
    if not provenance:
        missing.append("provenance")
    titles = method_titles(config)
    page: dict[str, Any] = {
        "config": config,
        "titles": titles,
        "headline": headline(config, tables, titles),
        "budget": budget(config, tables["runs"]),
        "fewest_seeds": fewest_seeds(config, tables["runs"]),
        "datasets": [dataset_section(name, config, tables, paths, titles) for name in shown_datasets(config)],
        "experiments": experiments.sections(config, tables, titles),
        "quality": [*quality(config, tables, titles), *notes_of_held(provenance, tables["runs"])],
        "elsewhere": measured_elsewhere(tables["runs"]),
        "mixed": is_mixed(tables["runs"]),
        "days": days(NO_PROVENANCE | provenance),
        "provenance": NO_PROVENANCE | provenance,
        "config_json": json.dumps(config.model_dump(mode="json"), indent=1),
        "missing": missing,
        "changed": changed_options(config, titles),
        "legend": [(Markup(legend_mark(m, config.methods)), titles[m]) for m in config.methods],
        "digests": methods_by_digest(tables["runs"], titles),
        "patients": patients,
        "figures": FIGURES,
    }
    environment = Environment(
        loader=PackageLoader("cgs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("index.html").render(page)
    write_text(paths.report, text)
    export.write_figures(text, paths.report.parent / "figures")
    export.write_latex(page["datasets"], paths.report.parent / "latex", patients)
    return paths.report
