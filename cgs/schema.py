"""Generated files: the presets as commented YAML, the JSON schema, and the table of the docs.

A test fails when a file on disk differs from what these functions give; `python -m cgs schema` writes them.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cgs.config import (
    Config,
    Ensemble,
    EvaluationConfig,
    Experiment,
    NetworkConfig,
    Promptable,
    ReportConfig,
    TrainingConfig,
)
from cgs.dataset_config import KINDS
from cgs.engine.method import all_methods
from cgs.files import write_text
from cgs.presets import presets

SECTIONS: dict[str, type[BaseModel]] = {
    "": Config,
    **{f"datasets.NAME ({kind})": model for kind, model in KINDS.items()},
    "ensembles.NAME": Ensemble,
    "promptable.NAME": Promptable,
    "experiments.NAME": Experiment,
    "network": NetworkConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
    "report": ReportConfig,
}


def generate(root: Path) -> dict[Path, str]:
    """Every generated file and its text."""
    files = {
        root / "config" / name: commented(config, heading) for name, (heading, config) in presets().items()
    }
    files[root / "config" / "schema.json"] = json.dumps(Config.model_json_schema(), indent=1) + "\n"
    files[root / "docs" / "configuration.md"] = documentation()
    return files


def write_all(root: Path) -> list[Path]:
    """Write every generated file; returns their paths."""
    files = generate(root)
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def commented(config: Config, heading: str) -> str:
    """A config as YAML in which every key carries its description."""
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    lines += [
        "#",
        "# Generated from cgs/presets.py by `python -m cgs schema`; schema: config/schema.json.",
        "",
    ]
    return "\n".join([*lines, *_model_lines(config, 0)]) + "\n"


def _model_lines(model: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if depth == 0:
            yield ""
        if field.description:
            for line in textwrap.wrap(field.description, 100 - len(indent)):
                yield f"{indent}# {line}"
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _model_lines(value, depth + 1)
        elif isinstance(value, Mapping) and value and isinstance(next(iter(value.values())), BaseModel):
            yield f"{indent}{name}:"
            for key, entry in value.items():
                yield f"{indent}  {key}:"
                yield from _entry_lines(entry, depth + 2)
        else:
            plain = model.model_dump(mode="json", include={name})[name]
            yield f"{indent}{name}: {_scalar(plain)}"


def _entry_lines(entry: BaseModel, depth: int) -> Iterator[str]:
    """A dataset with comments; a variant as its plain keys."""
    if entry.model_extra is None:
        yield from _model_lines(entry, depth)
        return
    for key, value in entry.model_dump(mode="json", exclude_none=True, exclude_unset=True).items():
        yield f"{'  ' * depth}{key}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("...").strip()


def documentation() -> str:
    """docs/configuration.md."""
    parts = [
        "# Configuration",
        "",
        "Every key that a config may hold, generated from `cgs/config.py` and the `Options` of the methods by",
        "`python -m cgs schema`. A key that is left out has its default. `config/schema.json` is the same for editors.",
        "",
    ]
    for prefix, model in SECTIONS.items():
        parts += [f"## {prefix or 'Top level'}", "", *_table(model), ""]
    parts += [
        "## variants.NAME",
        "",
        "`extends` names a method or another variant, `network` gives it a network of its own (keys as in `network`",
        "above), `title` names it in the report; every other key is an option of that method, from the tables below.",
        "A variant with the name of the method that it extends changes that method's options for the config:",
        "",
        "```yaml",
        "methods: [cgs, cgs-no-ihed]",
        "variants:",
        "  cgs: {extends: cgs, lambda_max: 0.1}",
        "  cgs-no-ihed: {extends: cgs, title: CGS without IHED, ihed: false}",
        "```",
        "",
    ]
    for name, method in all_methods().items():
        if method.Options.model_fields:
            parts += [f"## Options of {name}", "", *_table(method.Options), ""]
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _default(field)
        yield f"| `{name}` | {_values(field)} | {default} | {field.description} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"`{_scalar(list(value) if isinstance(value, tuple) else value)}`"


BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "multiple of"}


def _values(field: FieldInfo) -> str:
    limits = [
        f"{words} {getattr(item, key)}"
        for item in field.metadata
        for key, words in BOUNDS.items()
        if getattr(item, key, None) is not None
    ]
    return ", ".join([_type(field.annotation), *limits])


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in get_args(annotation))
    if origin is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return "mapping by name"
    if hasattr(annotation, "__metadata__"):
        return _type(get_args(annotation)[0])
    if origin is not None:
        return " or ".join(_type(a) for a in get_args(annotation))
    if annotation is type(None):
        return "none"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "`true`, `false`", "Path": "path"}
    return names.get(getattr(annotation, "__name__", ""), str(annotation))
