"""Which keys of a recipe are paths, and which take part in the run id."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from satray.config.base import Section

R = TypeVar("R", bound=BaseModel)


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def paths_of(recipe: BaseModel, *, written: bool = True) -> Iterator[tuple[str, str]]:
    """List the path keys that are set, as (dotted key, value); words like `none` are left out.

    Args:
        recipe: whose.
        written: with those that the job writes to.
    """
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        extra = _extra(field)
        if isinstance(value, Section):
            below = paths_of(value, written=written)
            yield from ((f"{name}.{key}", text) for key, text in below)
        if extra.get("path") and (written or not extra["written"]):
            yield from _texts(name, value, extra["words"])


def paths_at(model: type[BaseModel], key: str, value: Any) -> Iterator[tuple[str, str]]:
    """List the paths in what is given for one key of a recipe, before the recipe is made.

    Args:
        model: of the recipe.
        key: dotted.
        value: as YAML has it, right or wrong.
    """
    first, _, rest = key.partition(".")
    field = model.model_fields.get(first)
    if field is None:
        return
    inner, extra = field.annotation, _extra(field)
    if extra.get("path"):
        yield from _texts(key, value, extra["words"])
    elif isinstance(inner, type) and issubclass(inner, Section):
        parts = {rest: value} if rest else value if isinstance(value, dict) else {}
        for name, each in parts.items():
            below = paths_at(inner, str(name), each)
            yield from ((f"{first}.{where}", text) for where, text in below)


def _texts(name: str, value: Any, words: list[str]) -> Iterator[tuple[str, str]]:
    values = value if isinstance(value, dict) else {"": value}
    for part, text in values.items():
        if isinstance(text, str) and not _is_word(text, words):
            yield (f"{name}.{part}" if part else name), text


def _is_word(text: str, words: list[str]) -> bool:
    """Whether a value is a word, alone or with more after a colon (`pretrained:TAG`)."""
    return text in words or (text.partition(":")[0] in words and "/" not in text)


def map_paths(recipe: R, change: Callable[[str], str]) -> R:
    """Return the recipe with `change` applied to every path in it."""
    update: dict[str, Any] = {}
    for name, field in type(recipe).model_fields.items():
        value, extra = getattr(recipe, name), _extra(field)
        if isinstance(value, Section):
            update[name] = map_paths(value, change)
        if not extra.get("path") or value is None:
            continue
        words = extra["words"]
        if isinstance(value, dict):
            update[name] = {
                part: text if _is_word(text, words) else change(text)
                for part, text in value.items()
            }
        elif not _is_word(value, words):
            update[name] = change(value)
    return recipe.model_copy(update=update)


def identity(section: BaseModel) -> dict[str, Any]:
    """Return what of a recipe decides the job's products, as JSON values."""
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if not _extra(field).get("identity", True):
            continue
        kept[name] = _plain(getattr(section, name))
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return identity(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value
