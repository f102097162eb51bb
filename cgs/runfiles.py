"""The small files of a run as others read them: damage, and valid JSON of another shape, is found here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cgs.bounds import TABLE, read_bounded
from cgs.errors import SuiteError, plain
from cgs.files import read_json

COUNTS = (
    "iterations",
    "best_iteration",
    "seconds",
    "peak_memory_bytes",
    "energy_joules",
    "parameters_training",
    "parameters_inference",
)
MEANS = ("best_validation_dice", "last_validation_dice")
TEXTS = ("device", "machine", "source_digest", "started", "finished", "method", "base_method")


def is_number(value: object) -> bool:
    """A JSON number that a float can hold; NaN and infinity are some."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def is_count(value: object) -> bool:
    """A number from 0 on."""
    return is_number(value) and 0 <= value < 2**63  # type: ignore[operator]


def read_facts(folder: Path) -> dict[str, Any]:
    """provenance.json of a run. Raises SuiteError where it is missing, damaged or of another shape."""
    path = folder / "provenance.json"
    facts = read_json(path)
    whole = (
        isinstance(facts, dict)
        and isinstance(facts.get("status"), str)
        and all(facts.get(key) is None or is_count(facts[key]) for key in COUNTS)
        and all(facts.get(key) is None or is_number(facts[key]) for key in MEANS)
        and all(facts.get(key) is None or isinstance(facts[key], str) for key in TEXTS)
        and all(isinstance(facts.get(key, {}), dict) for key in ("bytes", "versions"))
        and isinstance(facts.get("diverged", False), bool)
    )
    if not whole:
        raise SuiteError(f"{path} is no provenance of a run; delete it and repeat the step that writes it.")
    return facts


def read_failure(folder: Path) -> str:
    """The sentence of a run's failure.json, "" where there is none."""
    path = folder / "failure.json"
    if not path.is_file():
        return ""
    try:
        values = read_json(path)
    except SuiteError:
        values = None
    sentence = values.get("sentence") if isinstance(values, dict) else None
    return sentence if isinstance(sentence, str) and sentence else "Its failure.json cannot be read."


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log.jsonl; the first line that is none ends it. Raises SuiteError where it cannot be read."""
    try:
        text = read_bounded(path, TABLE).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise SuiteError(f"{path} cannot be read ({plain(error)}); train the run again.") from None
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not is_entry(entry):
            return
        yield entry


def is_entry(entry: Any) -> bool:
    """Whether a value is a line of a log: losses, a validation, or the quality of pseudo-labels."""
    if (
        not isinstance(entry, dict)
        or type(entry.get("iteration")) is not int
        or not is_count(entry["iteration"])
    ):
        return False
    if "pseudo_labels" in entry:
        kinds = entry["pseudo_labels"]
        return isinstance(kinds, dict) and all(
            isinstance(classes, dict) and all(is_quality(v) for v in classes.values())
            for classes in kinds.values()
        )
    if "validation" in entry:
        found = entry["validation"]
        return (
            isinstance(found, dict) and is_number(found.get("dice")) and are_numbers(found.get("per_target"))
        )
    return is_number(entry.get("loss")) and are_numbers(entry.get("terms"))


def are_numbers(values: object) -> bool:
    return isinstance(values, dict) and all(map(is_number, values.values()))


def is_quality(values: object) -> bool:
    return isinstance(values, list) and len(values) == 4 and all(map(is_count, values))


def read_audit(path: Path) -> dict[str, Any]:
    """The audit of a prepared dataset. Raises SuiteError where it is damaged or of another shape."""
    audit = read_json(path)
    if not is_audit(audit):
        raise SuiteError(
            f"{path} is no audit of a dataset; delete the folder of the dataset and prepare it again."
        )
    return audit


def is_audit(audit: Any) -> bool:
    """Whether a value has what tables and report read of an audit."""
    counts = ("pixels", "share_of_foreground", "slices", "all_slices")
    labels = ("labelled_slices", "unlabelled_slices", "labelled_patients", "unlabelled_patients")
    return (
        isinstance(audit, dict)
        and all(
            isinstance(audit.get(key), list) and all(isinstance(row, dict) for row in audit[key])
            for key in ("balance", "findings")
        )
        and all(
            all(isinstance(row.get(key), str) for key in ("group", "target"))
            and all(is_count(row.get(key)) for key in counts)
            for row in audit["balance"]
        )
        and isinstance(audit.get("labels", []), list)
        and all(
            isinstance(row, dict)
            and all(is_count(row.get(key)) for key in labels)
            and row["labelled_slices"] + row["unlabelled_slices"] > 0
            for row in audit.get("labels", [])
        )
        and all(
            all(isinstance(row.get(key), str) for key in ("severity", "sentence"))
            for row in audit["findings"]
        )
    )
