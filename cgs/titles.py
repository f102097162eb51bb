"""Names of methods as the tables show them, read from their files without importing torch."""

from __future__ import annotations

import ast

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
    """Title of every method and variant of a config. A variant under a name of its own shows that name."""
    titles = {}
    for name in (*config.every_method, config.reference):
        base, _ = config.method_and_options(name)
        titles[name] = title_of(base) if name == base else name
    return titles
