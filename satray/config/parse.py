"""From the command line to a validated recipe: one YAML file, then dotted overrides."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from satray.config.base import Recipe
from satray.config.complaints import one_line
from satray.errors import InputError

R = TypeVar("R", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core words and numbers: `no` and `off` are text, `3e-5` is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in pairs
        if tag.rsplit(":", 1)[-1] not in ("bool", "float", "int", "timestamp")
    ]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|nan)$"),
    list("-+.0123456789"),
)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML text; `source` names it in the error.

    Raises:
        InputError: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise InputError(f"{source}{where}: not valid YAML ({problem})") from None


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Separate the recipe file, if any, from the overrides.

    Returns:
        The recipe's path or URI, and the overrides by dotted key.

    Raises:
        InputError: an argument is neither the one recipe nor `key=value`.
    """
    recipe: str | None = None
    overrides: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][\w.]*", name):
            overrides[name] = _value(name, value)
        elif argument.startswith("-"):
            raise InputError(
                f"{argument}: unknown option; accepted: --help, --print-config, --plan, "
                "recipe.yaml, dotted.key=value"
            )
        elif recipe is None:
            recipe = argument
        else:
            raise InputError(f"{argument}: at most one recipe file; overrides are dotted.key=value")
    return recipe, overrides


def _value(name: str, text: str) -> Any:
    """An override's value: YAML, but `>0` and `|` are text: no block follows them here."""
    if not text or text[0] in "|>,":
        return text or None
    return parse_yaml(text, f"{name}=")


def apply_overrides(tree: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a nested mapping; a number steps into a list (`stages.0.dropout`)."""
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node: Any = tree
        for done, part in enumerate(parents):
            node = _step(node, part, ".".join(parents[: done + 1]))
        if isinstance(node, list):
            node[_index(node, last, dotted)] = value
        else:
            node[last] = value
    return tree


def _step(node: Any, part: str, path: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, path)]
    below = node.setdefault(part, {})
    if below is None or not isinstance(below, dict | list):
        below = node[part] = {}
    return below


def _index(items: list[Any], part: str, path: str) -> int:
    if not re.fullmatch(r"[0-9]+", part) or int(part) >= len(items):
        accepted = {0: "none, it is empty", 1: "0"}.get(len(items), f"0 to {len(items) - 1}")
        raise InputError(f"{path}: a list of {len(items)}; accepted: {accepted}")
    return int(part)


def build(
    model: type[R], arguments: Sequence[str], read: Callable[[str, dict[str, Any]], bytes]
) -> R:
    """Build a recipe of type `model` from command-line arguments.

    Args:
        model: the job's recipe.
        arguments: what followed the program's name, options removed.
        read: reads the recipe file, given its path or URI and the `storage` overrides.

    Raises:
        InputError: one line that names the key, what was found and what is accepted.
    """
    path, overrides = split_arguments(arguments)
    tree: Any = {}
    if path is not None:
        storage = apply_overrides(
            {}, {name: value for name, value in overrides.items() if name.startswith("storage.")}
        )
        try:
            text = read(path, storage.get("storage", {})).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a text file; accepted: a YAML recipe") from None
        tree = parse_yaml(text, path)
        if tree is None:
            tree = {}
        if not isinstance(tree, dict):
            raise InputError(f"{path}: holds {type(tree).__name__}; accepted: a YAML mapping")
    fill_lists(model, tree, overrides)
    return validate(model, apply_overrides(tree, overrides))


def fill_lists(model: type[BaseModel], tree: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Lay out default lists that an override steps into, so that `stages.0.x=1` works alone."""
    for dotted in overrides:
        first, _, rest = dotted.partition(".")
        if rest and rest[0] in "0123456789" and first not in tree:
            default = model.usual(first, tree | overrides) if issubclass(model, Recipe) else ()
            if default:
                tree[first] = [item.model_dump(mode="json") for item in default]


def validate(model: type[R], tree: dict[str, Any]) -> R:
    """Check a nested mapping against `model`.

    Raises:
        InputError: the first thing wrong, in one line.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise InputError(one_line(model, error)) from None
