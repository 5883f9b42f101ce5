"""`--help` and `--print-config`: every key of a recipe, with type, unit, default and meaning."""

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from satray.config.base import Recipe, Section

USAGE = """\
usage: python jobs/{job}.py [recipe.yaml] [dotted.key=value ...]

{about}

{makes}

options:
  --help           this page
  --print-config   print the resolved recipe and stop
  --plan           look at the inputs, print what would be done; write nothing

exit status: 0 done; 2 configuration or input wrong; 3 done, but more inputs failed than
error_budget lets (prepare, evaluate, score); 1 anything else

keys (type [unit] = default):
"""


@dataclass(frozen=True)
class KeyHelp:
    """One line of help."""

    name: str
    """Dotted key; `N` stands for a place in a list."""
    kind: str
    """Type, in words."""
    unit: str
    """Unit; empty for plain numbers."""
    default: str
    """Default as it would be typed; `required` where there is none."""
    meaning: str
    """One line."""


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[KeyHelp]:
    """List the keys of a recipe depth first; the job's own before those of every job."""
    for name in _in_order(model):
        field = model.model_fields[name]
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        dotted = prefix + name
        section, many = _section(field.annotation)
        leaf = section is None or _other_kinds(field.annotation)
        if leaf:
            yield KeyHelp(
                name=dotted,
                kind=_kind(field.annotation),
                unit=str(extra.get("unit", "")),
                default="required" if field.is_required() else _typed(field.default),
                meaning=field.description or "",
            )
        if section is not None:
            yield from keys_of(section, dotted + (".N." if many else "."))


def render(job: str, about: str, model: type[BaseModel], width: int = 100) -> str:
    """Return the help page of a job as text."""
    makes = f"makes: {getattr(model, 'makes', 'nothing')}"
    makes = textwrap.fill(makes, width, subsequent_indent="  ")
    lines = [USAGE.format(job=job, about=about, makes=makes)]
    for entry in keys_of(model):
        unit = f" [{entry.unit}]" if entry.unit else ""
        default = "required" if entry.default == "required" else f"= {entry.default}"
        lines.append(f"  {entry.name}  {entry.kind}{unit} {default}\n")
        lines.extend(
            f"{line}\n"
            for line in textwrap.wrap(
                entry.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        )
    return "".join(lines)


def to_yaml(recipe: BaseModel) -> str:
    """Return a resolved recipe as YAML that the job takes back."""
    text: str = yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _in_order(model: type[BaseModel]) -> list[str]:
    """Names of a recipe's keys: required, the job's own, inherited ones, those of every job."""
    names = list(model.model_fields)
    if not issubclass(model, Recipe):
        return names
    own, common = inspect.get_annotations(model), Recipe.model_fields

    def place(name: str) -> int:
        if model.model_fields[name].is_required():
            return 0
        return 3 if name in common else 1 if name in own else 2

    return sorted(names, key=place)


def _section(annotation: Any) -> tuple[type[Section] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    many = get_origin(annotation) is tuple
    for inner in get_args(annotation):
        found, deeper = _section(inner)
        if found is not None:
            return found, many or deeper
    return None, False


def _other_kinds(annotation: Any) -> bool:
    """Whether a key takes something else beside a section (a name, say)."""
    if isinstance(annotation, type) or get_origin(annotation) is tuple:
        return False
    return any(inner is str or get_origin(inner) is Literal for inner in get_args(annotation))


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(str(choice) for choice in inner)
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return "mapping"
    if inner:
        return " or ".join(_kind(choice) for choice in inner if choice is not NoneType)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "mapping"
    words = {str: "text", int: "integer", float: "number", bool: "true|false"}
    return words.get(annotation, "value")


def _typed(value: Any) -> str:
    if value is None:
        return "none given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return str(value)
