"""What is wrong with a recipe, in one line: the key, what was found, what is accepted."""

import difflib
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from satray.config.base import Section
from satray.config.help import keys_of

Error = dict[str, Any]
"""One of pydantic's: type, loc, msg, input, ctx."""

BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "text of the form {pattern}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}
"""What a value out of bounds should be, with pydantic's context."""


def one_line(model: type[BaseModel], error: ValidationError) -> str:
    """Say the first thing wrong.

    Args:
        model: what was to be built.
        error: what pydantic says about it.
    """
    # An unknown key is the likeliest cause of whatever else failed.
    # Of a union's complaints, the deepest is about the shape that was meant.
    errors: list[Error] = [dict(item) for item in error.errors()]
    first = min(errors, key=lambda item: (item["type"] != "extra_forbidden", -len(item["loc"])))
    names, section = _locate(model, first["loc"])
    dotted = ".".join(names)
    if first["type"] == "extra_forbidden":
        return f"{dotted}: unknown key; {_hint(model, names, section)}"
    if first["type"] == "missing" and not isinstance(first["loc"][-1], int):
        meaning = _meaning(section, names[-1])
        return f"{dotted}: required{f' ({meaning})' if meaning else ''}; give {dotted}=..."
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{dotted}: {message}" if dotted else message
    if first["type"] == "missing":  # the end of a list
        names = names[:-1]
    found = "nothing" if first["input"] is None else first["input"]
    told = "" if isinstance(found, dict) else f"={found}"
    return f"{'.'.join(names)}{told}: accepted: {_accepted(first, _annotation(model, names))}"


def _hint(model: type[BaseModel], names: list[str], section: type[Section] | None) -> str:
    """Where a key like this one is: elsewhere under its own name, or nearby under another."""
    places: dict[str, list[str]] = {}
    for entry in keys_of(model):
        parts = entry.name.split(".")
        for end in range(1, len(parts) + 1):
            if parts[end - 1] != "N":
                there = places.setdefault(parts[end - 1], [])
                there += [name for name in [".".join(parts[:end])] if name not in there]
    known = list(section.model_fields) if section else []
    if names[-1] in places:
        return f"did you mean {' or '.join(places[names[-1]])}?"
    near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
    far = difflib.get_close_matches(names[-1], places, n=1, cutoff=0.75)
    if far and (not near or _alike(names[-1], far[0]) > _alike(names[-1], near[0])):
        return f"did you mean {' or '.join(places[far[0]])}?"
    if near:
        return f"did you mean {'.'.join([*names[:-1], near[0]])}?"
    return f"accepted: {', '.join(known)}"


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _accepted(error: Error, annotation: Any) -> str:
    """What would do in place of what was found."""
    bound = BOUNDS.get(error["type"])
    length = [inner for inner in get_args(annotation) if inner is not Ellipsis]
    if bound is not None and not (error["type"] == "too_long" and len(length) > 1):
        return bound.format(**error["ctx"])
    return in_words(annotation) if annotation is not None else str(error["msg"])


def in_words(annotation: Any) -> str:
    """What a key takes, from its type."""
    origin = get_origin(annotation)
    inner = [each for each in get_args(annotation) if each is not NoneType]
    if origin is Literal:
        return ", ".join(str(choice) for choice in inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)}, each {in_words(inner[0])}"
    if origin is tuple:
        return f"a list, each of it {in_words(inner[0])}"
    if origin is dict:
        return "a mapping"
    if inner:
        return ", or ".join(in_words(each) for each in inner)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"a mapping of {', '.join(annotation.model_fields)}"
    words = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return words.get(annotation, "a value of another type")


def is_section(model: type[BaseModel], dotted: str) -> bool | None:
    """Whether keys stand below a key, in a section or in a list of them; None: no such key."""
    found = _annotation(model, dotted.split("."))
    if get_origin(found) is tuple:
        found = get_args(found)[0]
    section = isinstance(found, type) and issubclass(found, Section)
    return None if found is None else section


def _annotation(found: Any, names: list[str]) -> Any:
    """The type of a key; None where there is no such key."""
    for name in names:
        found = _inside(found, name)
    return found


def _inside(annotation: Any, name: str) -> Any:
    """The type of a section's key, a list's place or a mapping's entry; of a union's, the first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(name)
        return field.annotation if field is not None else None
    inner = get_args(annotation)
    if get_origin(annotation) is tuple:
        return inner[0] if name.isdigit() else None
    if get_origin(annotation) is dict:
        return inner[1]
    return next((found for each in inner if (found := _inside(each, name)) is not None), None)


def _locate(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[str], type[Section] | None]:
    """Drop pydantic's union tags from an error's location; return also its innermost section."""
    names: list[str] = []
    section: Any = model
    for place, part in enumerate(location):
        if isinstance(part, int):
            names.append(str(part))
            continue
        fields = section.model_fields if section is not None else {}
        is_last = place == len(location) - 1
        if part in fields:
            names.append(part)
            inner = _section_of(fields[part].annotation)
            if inner is not None and not is_last:
                section = inner
        elif is_last and not _is_tag(part):
            names.append(part)
    return names, section


def _is_tag(part: str) -> bool:
    return part in ("str", "int", "float", "bool") or part.endswith("Options") or "[" in part


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in get_args(annotation):
        found = _section_of(inner)
        if found is not None:
            return found
    return None


def _meaning(section: type[Section] | None, name: str) -> str:
    field = section.model_fields.get(name) if section is not None else None
    return (field.description or "") if field is not None else ""
