"""Names of methods as the tables show them, read from their files without importing torch."""

from __future__ import annotations

import ast
from collections import Counter

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
