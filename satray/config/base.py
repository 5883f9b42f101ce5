"""What every recipe has in common."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A group of keys: frozen, and closed to unknown ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list(cls, data: Any) -> Any:
        """Take `classes=ship` for `classes=[ship]`."""
        if not isinstance(data, dict):
            return data
        return {
            name: [value] if isinstance(value, str) and _takes_texts(cls, name) else value
            for name, value in data.items()
        }


def _takes_texts(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields.get(name)
    texts = tuple[str, ...]
    return field is not None and (field.annotation == texts or texts in get_args(field.annotation))


def key(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    identity: bool = True,
    path: bool = False,
    written: bool = False,
    words: tuple[str, ...] = (),
    **constraints: Any,
) -> Any:
    """Declare one key of a recipe.

    Args:
        default: its value where none is given; `...` makes it required.
        meaning: one line for `--help`.
        unit: what it is counted in (`px`, `samples`, `tiles`); empty for plain numbers.
        identity: whether it takes part in the run id. Keys that change where or how fast a job
            runs, but not what it makes, do not.
        path: whether it names data: a local path or an object-store URI, made absolute.
        written: whether the job writes there, so that it may lie in `out`.
        words: values of a path key that are words, not paths (`none`).
        constraints: pydantic's (`gt=0`, `le=1`, ...).
    """
    extra: Any = {"unit": unit, "identity": identity, "path": path, "words": list(words)}
    extra["written"] = written
    field: FieldInfo = Field(default, description=meaning, json_schema_extra=extra, **constraints)
    return field


def without_alpha(names: Any) -> Any:
    """Refuse `alpha` among names of data bands: it would reach the network, and hide nothing."""
    if isinstance(names, tuple) and any(str(name).lower() == "alpha" for name in names):
        raise ValueError(
            "found alpha; accepted: names of the data bands (one tagged alpha hides pixels, and is "
            "not named)"
        )
    return names


class StorageOptions(Section):
    """How object stores are reached. Credentials are never keys: boto3's chain finds them."""

    endpoint: str | None = key(
        None, "S3 endpoint URL; else AWS_ENDPOINT_URL(_S3) or the profile's", identity=False
    )
    region: str | None = key(None, "region; else AWS_REGION or the profile's", identity=False)
    profile: str | None = key(None, "AWS profile name; else AWS_PROFILE", identity=False)
    unsigned: bool = key(False, "read public buckets without credentials", identity=False)


class Resources(Section):
    """What a job asks the cluster for."""

    workers: int = key(
        1,
        "train workers, or scoring actors; landscape: parts of a batch; prepare, check and export "
        "take one process whatever it is",
        identity=False,
        ge=1,
    )
    gpus: Literal["auto", "yes", "no"] = key(
        "auto", "one GPU a worker: auto = where the cluster has them", identity=False
    )
    ray: Literal["auto", "yes", "no"] = key(
        "auto",
        "yes: work on Ray; no: in the job's own process; auto: Ray for what is large, or where "
        "RAY_ADDRESS names a cluster",
        identity=False,
    )
    read_tasks: Literal["auto"] | int = key(
        "auto",
        "tasks that read and decode tiles at once, on a cluster a CPU each, else half of one; "
        "auto: as many as their consumers need and there are CPUs for",
        identity=False,
    )
    wait: float = key(
        30.0,
        "how long to wait for what a cluster lacks yet (nodes that it starts, say)",
        unit="minutes",
        identity=False,
        ge=0,
    )

    @field_validator("read_tasks")
    @classmethod
    def _some_read(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"found {value}; accepted: 1 or more, or auto")
        return value


class Recipe(Section):
    """Keys of every job."""

    makes: ClassVar[str]
    """What the job writes below `out`, in one line for `--help`."""

    @classmethod
    def usual(cls, name: str, given: Mapping[str, Any]) -> tuple[Section, ...]:
        """The list that a key has where it is not given.

        Args:
            name: of the key.
            given: the other keys.
        """
        del given
        default = cls.model_fields[name].get_default() if name in cls.model_fields else ()
        return default if isinstance(default, tuple) else ()

    out: str | None = key(
        None,
        "run folder to write, local or URI; default runs/JOB-RUNID",
        identity=False,
        path=True,
        written=True,
    )
    overwrite: bool = key(False, "replace an `out` that holds another run", identity=False)
    storage: StorageOptions = key(StorageOptions(), "object stores", identity=False)
    resources: Resources = key(Resources(), "what to ask the cluster for", identity=False)
