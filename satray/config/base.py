"""What every recipe has in common: sections, keys, paths, and the one walk over all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A group of keys: frozen, and closed to unknown ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """What of it decides the job's products, as JSON values."""
        return self.model_dump(mode="json", context={"identity": True})

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """Leave out, for the identity, what is no part of it."""
        tree = dump(self)
        for name, field in type(self).model_fields.items() if info.context else ():
            if not _extra(field).get("identity", True):
                del tree[name]
        return tree


def _extra(field: FieldInfo | None) -> dict[str, Any]:
    extra = field.json_schema_extra if field is not None else None
    return extra if isinstance(extra, dict) else {}


def as_typed(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, tuple):
        return f"[{', '.join(as_typed(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def key(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    identity: bool = True,
    needs: Mapping[str, tuple[Any, ...]] | None = None,
    **constraints: Any,
) -> Any:
    """Declare one key of a recipe.

    Args:
        default: its value where none is given, or what makes it of the keys before, as far as they
            are right; `...` makes it required.
        meaning: one line for `--help`.
        unit: what it is counted in (`px`, `samples`, `tiles`); empty for plain numbers.
        identity: whether it, and what is below it, takes part in the run id. Keys that change where
            or how fast a job runs, or how much may fail, but not what it makes, do not.
        needs: values of another key of its section, with others of which it does nothing.
        constraints: pydantic's (`gt=0`, `le=1`, ...).
    """
    extra: Any = {"unit": unit, "identity": identity, "needs": needs or {}}
    given = {"default_factory" if callable(default) else "default": default}
    field: FieldInfo = Field(**given, description=meaning, json_schema_extra=extra, **constraints)
    return field


@dataclass(frozen=True)
class IsPath:
    """Marks text that names data: a local path or an object-store URI."""

    written: bool = False
    """Whether the job writes there, so that it may lie in `out`."""
    local: bool = False
    """Whether each machine has its own: no URI, and no data that jobs share."""
    words: tuple[str, ...] = ()
    """Values that are no paths, alone or with more after a colon (`pretrained:TAG`)."""

    def is_word(self, text: str) -> bool:
        """Whether a value is one of the words."""
        return text in self.words or (text.partition(":")[0] in self.words and "/" not in text)


Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What all generators take, numpy's oldest too, each value another draw."""
ONE_ALONE = BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
"""Of a list: one word alone needs no brackets (`classes=ship`)."""
Texts = Annotated[tuple[str, ...], ONE_ALONE]
ReadPath = Annotated[str, IsPath()]
WrittenPath = Annotated[str, IsPath(written=True)]


def _no_uri(path: str) -> str:
    if "://" in path:
        raise ValueError(f"found {path}; accepted: a local folder")
    return path


LocalPath = Annotated[str, IsPath(local=True), AfterValidator(_no_uri)]


def names_of_bands(names: Any) -> Any:
    """Refuse names of a file's data bands that cannot be: `alpha`, or one name twice.

    Alpha would reach the network, and hide nothing; of equal names a tower could take one only.
    """
    if not isinstance(names, tuple):
        return names
    if any(str(name).lower() == "alpha" for name in names):
        raise ValueError(
            "found alpha; accepted: names of the data bands (one tagged alpha hides pixels, and is "
            "not named)"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"found {twice} {names.count(twice)} times; accepted: different names")
    return names


class StorageOptions(Section):
    """How object stores are reached. Credentials are never keys: boto3's chain finds them."""

    endpoint: str | None = key(
        None,
        "S3 endpoint URL; else AWS_ENDPOINT_URL(_S3) or the profile's",
        pattern="^https?://",
    )
    region: str | None = key(None, "region; else AWS_REGION or the profile's")
    profile: str | None = key(None, "AWS profile name; else AWS_PROFILE")
    unsigned: bool = key(False, "read public buckets without credentials")


class Resources(Section):
    """What a job asks the cluster for."""

    workers: Count = key(
        1,
        "train workers, or scoring actors; landscape: parts of a batch; prepare, check and export "
        "take one process whatever it is",
    )
    gpus: Literal["auto", "yes", "no"] = key(
        "auto", "one GPU a worker: auto = where the cluster has them"
    )
    ray: Literal["auto", "yes", "no"] = key(
        "auto",
        "yes: work on Ray; no: in the job's own process; auto: Ray for what is large, or where "
        "RAY_ADDRESS names a cluster",
    )
    read_tasks: Literal["auto"] | Count = key(
        "auto",
        "tasks that read and decode tiles at once, on a cluster a CPU each, else half of one; "
        "auto: as many as their consumers need and there are CPUs for",
    )
    wait: NotNegative = key(
        30.0,
        "how long to wait for what a cluster lacks yet (nodes that it starts, say)",
        unit="minutes",
    )


class Recipe(Section):
    """Keys of every job."""

    out: WrittenPath | None = key(
        None, "run folder to write, local or URI; default runs/JOB-RUNID", identity=False
    )
    overwrite: bool = key(
        False,
        "replace an `out` that holds another run; what no run.json lists stays",
        identity=False,
    )
    storage: StorageOptions = key(StorageOptions(), "object stores", identity=False)
    resources: Resources = key(Resources(), "what to ask the cluster for", identity=False)

    @property
    def shares_out(self) -> bool:
        """Whether `out` serves the many runs of a schedule, each with an id of its own."""
        return False

    def paths(self, *, written: bool = True) -> list[tuple[str, str]]:
        """The paths of data in it, as (dotted key, path); words like `none` are left out.

        Args:
            written: with those that the job writes to.
        """
        return list(paths_in(type(self), self, written=written))


NOT_GIVEN: Any = object()


@dataclass(frozen=True)
class Key:
    """A place in a recipe: a key, or an entry of its list or mapping."""

    name: str
    """Dotted; `N` stands for a place in a list where no value is given."""
    annotation: Any
    """Its type, with what marks it."""
    field: FieldInfo | None = None
    """How it is declared; None for entries."""
    value: Any = NOT_GIVEN
    """What stands there."""

    @property
    def unit(self) -> str:
        """Its unit; empty for plain numbers."""
        return str(_extra(self.field).get("unit", ""))

    @property
    def needs(self) -> Mapping[str, tuple[Any, ...]]:
        """Values of another key of its section, with others of which it does nothing."""
        found: Any = _extra(self.field).get("needs", {})
        return found if isinstance(found, Mapping) else {}


def walk(
    annotation: Any, name: str = "", value: Any = NOT_GIVEN, field: FieldInfo | None = None
) -> Iterator[Key]:
    """Visit a key and what is below it, depth first; a job's own keys before those of every job.

    Args:
        annotation: the type to walk through: a recipe's, or a key's.
        name: its dotted name.
        value: a recipe, or what is given for the key, right or wrong: only what it holds is
            visited. Without one, all that can be there is.
        field: how the key is declared.
    """
    if name:
        yield Key(name, annotation, field, value)
    dot = f"{name}." if name else ""
    for kind, _ in options(annotation):
        inner = get_args(kind)
        if is_section(kind):
            for each, there in _in_order(kind.model_fields):
                below = _below(value, each)
                if below is not NOT_GIVEN or value is NOT_GIVEN:
                    yield from walk(there.rebuild_annotation(), dot + each, below, there)
        elif get_origin(kind) is tuple and isinstance(value, list | tuple):
            for number, entry in enumerate(value):
                yield from walk(inner[0], f"{dot}{number}", entry)
        elif get_origin(kind) is tuple and value is NOT_GIVEN:
            yield from walk(inner[0], f"{dot}N")
        elif get_origin(kind) is dict and isinstance(value, Mapping):
            for each, entry in value.items():
                yield from walk(inner[1], f"{dot}{each}", entry)


def idle_keys(recipe: Section) -> tuple[str, ...]:
    """A line for each key that differs from its default and does nothing beside its section's."""
    lines: list[str] = []
    sections: dict[str, Any] = {"": recipe}
    for each in walk(type(recipe), value=recipe):
        above, dot, _ = each.name.rpartition(".")
        sections[each.name] = each.value
        if each.field is None or each.value == each.field.get_default():
            continue
        found = "" if isinstance(each.value, Section) else f"={as_typed(each.value)}"
        for other, values in each.needs.items():
            if getattr(sections[above], other) not in values:
                wanted = " or ".join(as_typed(value) for value in values)
                with_what = f"with {above}{dot}{other}={wanted}"
                with_what = f"without {other}" if values == (None,) else with_what
                lines.append(f"{each.name}{found} does nothing here: it works {with_what}")
    return tuple(lines)


def paths_in(
    annotation: Any, value: Any, name: str = "", *, written: bool = True, local: bool = False
) -> Iterator[tuple[str, str]]:
    """The paths in a value, as (dotted key, path); arguments as of `walk` and `Recipe.paths`.

    `local`: with those of which each machine has its own.
    """
    for each in walk(annotation, name, value):
        marks = [mark for _, marks in options(each.annotation) for mark in marks]
        for mark in marks if isinstance(each.value, str) else ():
            if not isinstance(mark, IsPath) or mark.is_word(each.value):
                continue
            if (written or not mark.written) and (local or not mark.local):
                yield each.name, each.value


def options(annotation: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The types that a key takes, but for None, each with what marks it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        for kind, marks in options(inner[0]):
            yield kind, (*marks, *inner[1:])
    elif origin in (Union, UnionType):
        for each in inner:
            yield from options(each)
    elif annotation is not NoneType:
        yield annotation, ()


def step(annotation: Any, part: str) -> Any:
    """The type one step down, of a section's key, a list's place or a mapping's entry; or None."""
    for kind, _ in options(annotation):
        if is_section(kind) and part in kind.model_fields:
            return kind.model_fields[part].rebuild_annotation()
        if get_origin(kind) is tuple and part.isdigit():
            return get_args(kind)[0]
        if get_origin(kind) is dict:
            return get_args(kind)[1]
    return None


def type_at(annotation: Any, dotted: str) -> Any:
    """The type of a dotted key; None where there is no such key."""
    for part in dotted.split("."):
        annotation = step(annotation, part)
    return annotation


def is_section(kind: Any) -> bool:
    """Whether a type is a section's."""
    return isinstance(kind, type) and issubclass(kind, Section)


def _below(value: Any, name: str) -> Any:
    if isinstance(value, Section):
        return getattr(value, name, NOT_GIVEN)
    return value.get(name, NOT_GIVEN) if isinstance(value, Mapping) else NOT_GIVEN


def _in_order(fields: Mapping[str, FieldInfo]) -> list[tuple[str, FieldInfo]]:
    """A section's keys, required ones first, those of every job last."""

    def place(each: tuple[str, FieldInfo]) -> tuple[bool, bool]:
        return each[0] in Recipe.model_fields, not each[1].is_required()

    return sorted(fields.items(), key=place)
