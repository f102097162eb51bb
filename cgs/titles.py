"""Names of methods as the tables show them and their options, read from their files without importing torch."""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

from cgs.config import Config
from cgs.digest import module_path
from cgs.discovery import ROOT, module_of


def title_of(method: str) -> str:
    """The `title` that a method's class states, or its name where it states none as plain text."""
    path = module_path(module_of(method), ROOT)
    if path is None:
        return method
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "title":
                    return str(ast.literal_eval(line.value))
    return method


def method_titles(config: Config) -> dict[str, str]:
    """Title of every method, variant and ensemble of a config: what the config gives it, or its class, or its name.

    A title that two of them have is followed by their names.
    """
    titles = {}
    for name in dict.fromkeys((*config.every_method, config.reference)):
        base, _ = config.method_and_options(name)
        entry = config.variants.get(name) or config.ensembles.get(name) or config.promptable.get(name)
        given = entry.title if entry else None
        titles[name] = given or (title_of(base) if name == base else name)
    often = Counter(titles.values())
    return {name: f"{title} ({name})" if often[title] > 1 else title for name, title in titles.items()}


def number_of(config: Config, name: str, option: str) -> float | None:
    """The value of a method's or variant's option where it is a number (no truth value), else None."""
    base, options = config.method_and_options(name)
    value = options[option] if option in options else default_of(base, option)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def default_of(method: str, option: str) -> Any:
    """The default that a method's `Options` state as a plain value, or None."""
    path = module_path(module_of(method), ROOT)
    if path is None:
        return None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == "Options":
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == option:
                    first = line.value.args[:1] if isinstance(line.value, ast.Call) else [line.value]
                    return first[0].value if first and isinstance(first[0], ast.Constant) else None
    return None


def varied_option(config: Config, experiment: str) -> tuple[str, dict[str, float]] | None:
    """The one numeric option in which all methods of an experiment differ from its first, and the value of each.

    None where they differ in anything else, or where fewer than three values make no curve.
    """
    methods = config.experiments[experiment].methods
    known = {m: config.method_and_options(m) for m in methods}
    names = {key for _, options in known.values() for key in options}
    for option in sorted(names):
        rest = [
            (base, {k: v for k, v in options.items() if k != option}, config.network_of(m))
            for m, (base, options) in known.items()
        ]
        values = {m: number_of(config, m, option) for m in methods}
        numbers = {m: v for m, v in values.items() if v is not None}
        if (
            all(own == rest[0] for own in rest)
            and len(numbers) == len(methods) == len(set(numbers.values())) > 2
        ):
            return option, numbers
    return None
