"""Digests of source code: what a result depends on, and nothing that it does not."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from cgs.discovery import ROOT
from cgs.errors import SuiteError

PACKAGES = ("cgs", "baselines")


def source_digest(module: str, root: Path = ROOT) -> str:
    """SHA-256 over the code of `module` and of every module of the project that it imports.

    The syntax trees are hashed without docstrings; comments and layout are not part of them. So a comment
    changes no digest and a changed loss changes those of the modules that use it. Imports are followed
    statically, those inside functions too, and with a module its packages; imports for type checking alone
    are not. The digest is the same wherever the project lies and on every version of Python.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = module_path(name, root)
        if path is None:
            raise SuiteError(f"The module {name} has no source file under {root}.")
        text, imported = _read(path, name)
        found[name] = text
        needed = (*imported, name.rpartition(".")[0])  # Importing a module runs its package's __init__ too.
        waiting += [i for i in needed if i not in found and module_path(i, root)]
    joined = "\n".join(f"{name} {found[name]}" for name in sorted(found))
    return hashlib.sha256(joined.encode()).hexdigest()


def module_path(name: str, root: Path) -> Path | None:
    """File of a module of the project, or None."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=1024)
def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Digest of one file's code, and the names that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imported = tuple(_imports(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return hashlib.sha256(_code(tree).encode()).hexdigest(), imported


def _code(node: object) -> str:
    """A syntax tree as text. `ast.dump` will not do: versions of Python differ in the empty fields it shows."""
    if isinstance(node, ast.AST):
        fields = (f"{k}={_code(v)}" for k, v in ast.iter_fields(node) if v is not None and v != [])
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_code, node))}]"
    return repr(node)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of what a module imports; `from a import b` gives both a and a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from _imports(other, package)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}"
        else:
            yield from _imports(node, package)
