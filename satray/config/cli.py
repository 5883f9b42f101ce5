"""The command line: YAML and dotted overrides to a recipe, its help, and what is wrong with it."""

import difflib
import inspect
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from satray.config.base import (
    Key,
    Recipe,
    Section,
    as_typed,
    is_section,
    options,
    paths_in,
    step,
    type_at,
    walk,
)
from satray.errors import InputError

R = TypeVar("R", bound=BaseModel)

USAGE = """\
usage: python jobs/{job}.py [recipe.yaml] [dotted.key=value ...]

{about}

options:
  --help           this page
  --print-config   print the resolved recipe and stop
  --plan           look at the inputs, print what would be done; write nothing

exit status: 0 done; 2 configuration or input wrong; 3 done, but more inputs failed than
error_budget lets (prepare, evaluate, score); 1 anything else

keys (type [unit], default):
"""

BOUNDS = {
    "gt": "> {:g}",
    "ge": ">= {:g}",
    "lt": "< {:g}",
    "le": "<= {:.10g}",
    "min_length": "(at least {})",
    "pattern": "like {}",
}
"""What a constraint of a key asks for, by its name."""
WORDS = {str: "text", int: "integer", float: "number", bool: "true|false"}


def build(
    model: type[R],
    arguments: Sequence[str],
    read: Callable[[str, dict[str, Any]], bytes],
    path: Callable[[str], str] | None = None,
) -> R:
    """Build a recipe of type `model` from command-line arguments.

    Args:
        model: the job's recipe.
        arguments: what followed the program's name, options removed.
        read: reads the recipe file, given its path or URI and the `storage` overrides.
        path: see `validate`.

    Raises:
        InputError: one line that names the key, what was found and what is accepted.
    """
    file, typed = _split(arguments)
    overrides = {name: _value(model, name, text) for name, text in typed.items()}
    tree: Any = {}
    if file is not None:
        about = {name: value for name, value in overrides.items() if name.startswith("storage.")}
        data = read(file, apply_overrides({}, about).get("storage", {}))
        tree = parse_yaml(data, file) or {}
        if not isinstance(tree, dict):
            raise InputError(f"{file}: holds {type(tree).__name__}; accepted: a YAML mapping")
    inside = {name: overrides[name] for name in overrides if re.match(r"\w+\.\d", name)}
    apply_overrides(tree, {name: overrides[name] for name in overrides if name not in inside})
    _fill_lists(model, tree, inside)
    return validate(model, apply_overrides(tree, inside), path)


def validate(model: type[R], tree: dict[str, Any], path: Callable[[str], str] | None = None) -> R:
    """Check a nested mapping against `model`.

    Args:
        model: what it should be.
        tree: the mapping; changed where paths are.
        path: makes each path in it absolute, or refuses it by a ValueError; None: as they are.

    Raises:
        InputError: the first thing wrong, in one line.
    """
    if path is not None:
        for name, text in list(paths_in(model, tree, local=True)):
            try:
                apply_overrides(tree, {name: path(text)})
            except ValueError as error:
                raise InputError(f"{name}={text}: {error}") from None
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise InputError(_first_wrong(model, error)) from None


def _value(model: type[BaseModel], name: str, text: str) -> Any:
    """What an override gives its key: of one that takes text just that, of others YAML.

    A text may be quoted as in YAML; nothing, and `null`, take a key back.
    """
    if text in ("", "null"):
        return None
    kinds = [kind for kind, _ in options(type_at(model, name))]
    texts = all(k in (str, tuple[str, ...]) or get_origin(k) is dict for k in kinds)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if not texts or quoted or (kinds != [str] and text[0] in "[{"):
        return parse_yaml(text, f"{name}=")
    return text


def _split(arguments: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """Separate the recipe file, if any, from the overrides by dotted key, as typed."""
    recipe: str | None = None
    overrides: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][\w.]*", name):
            overrides[name] = value
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


def apply_overrides(tree: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a nested mapping; a number steps into a list (`stages.0.dropout`).

    What is given whole (`stages`) comes before what is changed in it, else in the order given.

    Raises:
        InputError: no such place in a list, or one that holds no keys.
    """
    for dotted in sorted(overrides, key=lambda dotted: dotted.count(".")):
        *parents, last = dotted.split(".")
        node: Any = tree
        for done, part in enumerate(parents, 1):
            if isinstance(node, list):
                path = ".".join(parents[:done])
                node = node[_index(node, part, path)]
                if not isinstance(node, dict | list):
                    raise InputError(f"{path}={node}: accepted: a mapping, for {dotted} to change")
            else:
                if not isinstance(node.get(part), dict | list):
                    node[part] = {}
                node = node[part]
        node[_index(node, last, dotted) if isinstance(node, list) else last] = overrides[dotted]
    return tree


def _index(items: list[Any], part: str, path: str) -> int:
    if not re.fullmatch(r"[0-9]+", part) or int(part) >= len(items):
        accepted = {0: "none, it is empty", 1: "0"}.get(len(items), f"0 to {len(items) - 1}")
        raise InputError(f"{path}: a list of {len(items)}; accepted: {accepted}")
    return int(part)


def _fill_lists(model: type[BaseModel], tree: dict[str, Any], inside: Iterable[str]) -> None:
    """Lay out default lists that an override steps into, so that `stages.0.x=1` works alone.

    Defaults depend on the other keys, so that these must be there, and right.
    """
    made = {name for name, field in model.model_fields.items() if field.default_factory}
    wanted = made & {name.partition(".")[0] for name in inside} - tree.keys()
    if wanted:
        tree.update(validate(model, tree).model_dump(mode="json", include=wanted))


def _yaml() -> Any:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 100
    return yaml


def parse_yaml(text: str | bytes, source: str) -> Any:
    """Read YAML 1.2: `no` and `on` are text, `1e-3` and `0o17` numbers, a key stands once.

    Args:
        text: what to read.
        source: names it in the error.

    Raises:
        InputError: it is not YAML.
    """
    try:
        return _yaml().load(text)
    except (YAMLError, ValueError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise InputError(f"{source}{where}: not valid YAML ({problem})") from None


def to_yaml(recipe: BaseModel | dict[str, Any]) -> str:
    """Return a resolved recipe as YAML that the job takes back."""
    tree = recipe if isinstance(recipe, dict) else recipe.model_dump(mode="json")
    sink = io.StringIO()
    _yaml().dump(tree, sink)
    return sink.getvalue()


def render(job: str, model: type[Recipe], width: int = 100) -> str:
    """Return the help page of a job as text; its recipe's docstring says what it is for."""
    page = [USAGE.format(job=job, about=inspect.cleandoc(model.__doc__ or ""))]
    for key in keys_of(model):
        assert key.field is not None
        unit = f" [{key.unit}]" if key.unit else ""
        default = key.field.default
        shown = "optional" if default is None else f"default {as_typed(default)}"
        shown = "required" if key.field.is_required() else shown
        page.append(f"  {key.name}  {in_words(key.annotation)}{unit}, {shown}\n")
        meaning = textwrap.wrap(key.field.description or "", width - 6)
        page.extend(f"      {line}\n" for line in meaning)
    return "".join(page)


def keys_of(model: type[Section]) -> list[Key]:
    """The keys that a recipe can be given, depth first; sections only where a word will do too."""
    return [key for key in walk(model) if key.field is not None and not holds_keys(key.annotation)]


def holds_keys(annotation: Any) -> bool:
    """Whether what stands there has keys of its own, as sections and lists of them do."""
    kinds = [kind for kind, _ in options(annotation)]
    if any(kind is str or get_origin(kind) is Literal for kind in kinds):  # a word will do
        return False
    return any(
        holds_keys(get_args(kind)[0]) if get_origin(kind) is tuple else is_section(kind)
        for kind in kinds
    )


def in_words(annotation: Any) -> str:
    """What a key takes, from its type and constraints: for help, and for what is wrong."""
    return " or ".join(
        f"{_kind_in_words(kind)} {' and '.join(_bounds(marks))}".rstrip()
        for kind, marks in options(annotation)
    )


def _kind_in_words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(str(choice) for choice in inner)
    if origin is tuple:
        return f"list of {in_words(inner[0])}"
    if is_section(kind):
        return f"{{{', '.join(kind.model_fields)}}}"
    return "mapping" if origin is dict else WORDS.get(kind, "value")


def _bounds(marks: Iterable[Any]) -> Iterator[str]:
    for mark in marks:
        if isinstance(mark, FieldInfo):
            yield from _bounds(mark.metadata)
        for name, words in BOUNDS.items():
            if getattr(mark, name, None) is not None:
                yield words.format(getattr(mark, name))


def _first_wrong(model: type[BaseModel], error: ValidationError) -> str:
    """Say in one line the first thing wrong: the key, what was found, what is accepted."""
    # An unknown key is the likeliest cause of whatever else failed.
    # Of a union's complaints, the deepest is about the shape that was meant.
    first = min(
        error.errors(), key=lambda item: (item["type"] != "extra_forbidden", -len(item["loc"]))
    )
    kind, names = first["type"], _names(model, first["loc"])
    found = "nothing" if first["input"] is None else first["input"]
    dotted = ".".join(names)
    if kind == "extra_forbidden":
        return f"{dotted}: unknown key; {_hint(model, names)}"
    if kind == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{dotted}: {message}" if dotted else message
    if kind == "missing" and not names[-1].isdigit():
        fields = {key.name: key.field for key in walk(model)}
        field = fields.get(_pattern(names))
        meaning = f" ({field.description})" if field is not None else ""
        return f"{dotted}: required{meaning}; give {dotted}=..."
    if kind == "missing":  # the end of a list
        dotted = ".".join(names[:-1])
    shown = dotted if isinstance(found, dict) else f"{dotted}={found}"
    finite = "finite " if kind == "finite_number" else ""
    return f"{shown}: accepted: {finite}{in_words(type_at(model, dotted))}"


def _names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The parts of a key, of an error's location without pydantic's union tags."""
    names: list[str] = []
    kind: Any = model
    for place, part in enumerate(map(str, location)):
        below = step(kind, part)
        tag = re.search(r"^(constrained-)?(str|int|float|bool)$|Options$|\[", part)
        if not tag and (below is not None or place == len(location) - 1):
            names.append(part)
            kind = below
    return names


def _hint(model: type[BaseModel], names: list[str]) -> str:
    """Where a key like this one is: beside it, or elsewhere."""
    *above, wrong = names
    beside = _pattern(above)
    places: dict[str, list[str]] = {}
    for key in walk(model):
        place, _, last = key.name.rpartition(".")
        places.setdefault(last, []).append(place)
    siblings = [name for name, found in places.items() if beside in found]
    near = difflib.get_close_matches(wrong, places, n=1, cutoff=0.75)
    for match in near or difflib.get_close_matches(wrong, siblings, n=1, cutoff=0.5):
        found = [above] if match in siblings else [[place] for place in places[match]]
        meant = [".".join(filter(None, [*place, match])) for place in found]
        return f"did you mean {' or '.join(meant)}?"
    return f"accepted: {', '.join(siblings)}"


def _pattern(names: list[str]) -> str:
    """The dotted key, with `N` for places in lists, as `walk` names it."""
    return ".".join("N" if part.isdigit() else part for part in names)
