"""What a bundle says about its network (`model.json`), written and strictly read."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NoReturn, TypeVar, cast

from pydantic import ValidationError

from satray.config.train import VariantOptions
from satray.errors import InputError
from satray.models.geometry import FeatureGrid
from satray.models.preprocess import Preprocess
from satray.models.radiometry import PlainUnit, Radiometry, read_radiometry, read_units
from satray.models.resolution import TrainedPixels, read_trained
from satray.models.variant import input_bands

FORMAT = "satray-bundle"
VERSION = 1

Task = Literal["binary", "multilabel", "multiclass"]
T = TypeVar("T")


@dataclass(frozen=True)
class BundleSpec:
    """All that scoring needs to know besides the weights."""

    variant: VariantOptions
    """Towers, pooling and head."""

    task: Task
    """binary and multilabel: a sigmoid a class; multiclass: a softmax over classes."""

    classes: tuple[str, ...]
    """Class names, in the order of the logits; one for binary."""

    bands: tuple[str, ...]
    """Names of the input channels, unique, in the order of the network's input: the variant's
    bands, and those that the radiometry looks at besides."""

    mean: tuple[float, ...]
    """What is subtracted from each band's values (`stored`: in stored units)."""

    std: tuple[float, ...]
    """What each band's values are then divided by."""

    dtype: str
    """dtype of the tiles that it was trained on (`uint8`, `uint16`, ...)."""

    size: int
    """Side of the network's input, in px."""

    resize: int | None
    """Shorter side of the tile after resizing, before cropping, in px; None: `size`."""

    evaluate: Literal["whole", "centre"]
    """whole: the tile shrunk to `size`; centre: the middle of the resized tile."""

    tile_shape: tuple[int, int]
    """Height and width of the training tiles, in stored px."""

    resolution: float | None
    """Ground size of a stored px (along x), in m: the tiles' median; None without georeference."""

    thresholds: tuple[float, ...]
    """Score at and above which a class is predicted, one a class, 0 to 1."""

    temperature: float
    """Logits are divided by it before the sigmoid or softmax; 1 if not calibrated."""

    grids: dict[str, FeatureGrid]
    """Feature grid of each tower, by its name."""

    resolution_y: float | None = None
    """Ground size of a stored px along y, in m, where it differs by more than 2 %."""

    trained_px: tuple[TrainedPixels, ...] = ()
    """Grids of tiles that show the ground at other sizes than the median."""

    dropout: float = 0.0
    """Dropout that it was trained with, 0 to 1 (none in scoring)."""

    nodata: float | None = None
    """Nodata that the training tiles declared, in stored units; None where none or several did."""

    radiometry: Radiometry = field(default_factory=Radiometry)
    """How stored pixels become the values that are normalised."""

    provenance: dict[str, object] = field(default_factory=dict)
    """Where it comes from: run id, index digest, weights, versions, metrics."""

    units: tuple[PlainUnit | None, ...] = ()
    """What the pixels that it was trained on mean, one a band; empty where nobody said."""

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        towers = [tower.name for tower in self.variant.towers]
        counts = {
            "mean": (len(self.mean), len(self.bands)),
            "std": (len(self.std), len(self.bands)),
            "thresholds": (len(self.thresholds), len(self.classes)),
        }
        for name, (found, wanted) in counts.items():
            if found != wanted:
                _refuse(name, f"{found} numbers", f"{wanted}, one each")
        if self.units and len(self.units) != len(self.bands):
            _refuse("units", len(self.units), f"{len(self.bands)}, or none")
        self.radiometry.check(self.bands)
        bands = self.radiometry.reads(input_bands(self.variant))
        if sorted(self.bands) != sorted(bands):
            _refuse("bands", self.bands, f"the variant's: {', '.join(bands)}")
        if sorted(self.grids) != sorted(towers):
            _refuse("grids", sorted(self.grids), f"one a tower: {', '.join(towers)}")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            _refuse("classes", self.classes, "distinct names, one at least")
        if self.task == "binary" and len(self.classes) != 1:
            _refuse("classes", self.classes, "one for a binary task")
        if self.size < 1 or (self.resize is not None and self.resize < self.size):
            _refuse("size", (self.size, self.resize), "size >= 1, resize >= size")
        if min(self.tile_shape) < 1:
            _refuse("tile_shape", self.tile_shape, "two positive numbers")
        if min(self.std) < 0:
            _refuse("std", self.std, "no negative number")
        if self.temperature <= 0:
            _refuse("temperature", self.temperature, "a positive number")
        if any(size is not None and size <= 0 for size in (self.resolution, self.resolution_y)):
            _refuse("resolution", self.resolution, "a positive number of m, or null")
        if not 0 <= self.dropout < 1:
            _refuse("dropout", self.dropout, "0 to 1")
        if any(grid.stride <= 0 or (grid.halo or 0) < 0 for grid in self.grids.values()):
            _refuse("grids", self.grids, "positive strides, halos of 0 or more")

    def preprocess(self) -> Preprocess:
        """The way from stored pixels to the network's input."""
        size = (self.size, self.resize, self.evaluate)
        return Preprocess(self.bands, self.mean, self.std, *size, self.radiometry)

    def to_json(self) -> bytes:
        """`model.json`: the same bytes for the same values.

        Raises:
            ValueError: a number is not finite, or provenance is no JSON.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["variant"] = self.variant.model_dump(mode="json")
        values["grids"] = {name: asdict(grid) for name, grid in self.grids.items()}
        values["radiometry"] = asdict(self.radiometry)
        values["trained_px"] = [asdict(pixels) for pixels in self.trained_px]
        document = {"format": FORMAT, "version": VERSION, **values}
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()

    @staticmethod
    def from_json(data: bytes, name: str) -> "BundleSpec":
        """Read `model.json` strictly.

        Args:
            data: the file's bytes.
            name: its URI, for messages.

        Raises:
            InputError: not JSON, another format or version, a key missing or unknown, or a value
                of another type.
        """
        try:
            return _read(data)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error


def _read(data: bytes) -> BundleSpec:
    try:
        document = json.loads(data, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a bundle's model.json: no JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"not a bundle's model.json: no 'format': '{FORMAT}'")
    # bundles from before these keys took values as they are stored, knew no nodata, and square px
    stored: Any = {"name": "stored", "low": [], "high": []}
    absent = {"radiometry": stored, "nodata": None, "resolution_y": None, "trained_px": []}
    document |= absent | {"units": []} | document
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise InputError(f"version {version!r} of the bundle format; this satray reads {VERSION}")
    keys = {entry.name for entry in fields(BundleSpec)}
    missing, unknown = keys - document.keys(), document.keys() - keys - {"format", "version"}
    if missing or unknown:
        told = [f"missing {', '.join(sorted(missing))}"] if missing else []
        told += [f"unknown {', '.join(sorted(map(repr, unknown)))}"] if unknown else []
        raise InputError(f"keys do not fit version {VERSION}: {'; '.join(told)}")

    def get(name: str, reader: Callable[[str, object], T]) -> T:
        return reader(name, document[name])

    height, width = get("tile_shape", _sized(2, _integer))
    return BundleSpec(
        variant=get("variant", _variant),
        task=cast(Task, get("task", _one_of("binary", "multilabel", "multiclass"))),
        classes=get("classes", _many(_text)),
        bands=get("bands", _many(_text)),
        mean=get("mean", _many(_number)),
        std=get("std", _many(_number)),
        dtype=get("dtype", _text),
        size=get("size", _integer),
        resize=get("resize", _maybe(_integer)),
        evaluate=cast(Literal["whole", "centre"], get("evaluate", _one_of("whole", "centre"))),
        tile_shape=(height, width),
        resolution=get("resolution", _maybe(_number)),
        resolution_y=get("resolution_y", _maybe(_number)),
        trained_px=get("trained_px", read_trained),
        thresholds=get("thresholds", _many(_number)),
        temperature=get("temperature", _number),
        grids={name: _grid(name, grid) for name, grid in get("grids", _object).items()},
        dropout=get("dropout", _number),
        nodata=get("nodata", _maybe(_number)),
        radiometry=get("radiometry", read_radiometry),
        provenance=get("provenance", _object),
        units=get("units", read_units),
    )


def _refuse(name: str, found: object, accepted: str) -> NoReturn:
    raise InputError(f"{name}: found {str(found)[:80]}, accepted: {accepted}")


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        _refuse(name, repr(value), "a text")
    return value


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**31:
        _refuse(name, type(value).__name__, "a whole number")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(name, repr(value), "a number")
    number = float(value) if abs(value) <= sys.float_info.max else math.inf
    if not math.isfinite(number):
        _refuse(name, "a number beyond all bounds", "a finite number")
    return number


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(name, repr(value), "an object")
    return value


def _maybe(reader: Callable[[str, object], T]) -> Callable[[str, object], T | None]:
    return lambda name, value: None if value is None else reader(name, value)


def _many(reader: Callable[[str, object], T]) -> Callable[[str, object], tuple[T, ...]]:
    def read(name: str, value: object) -> tuple[T, ...]:
        if not isinstance(value, list) or not value:
            _refuse(name, repr(value), "a list that is not empty")
        return tuple(reader(f"{name}[{place}]", item) for place, item in enumerate(value))

    return read


def _sized(
    length: int, reader: Callable[[str, object], T]
) -> Callable[[str, object], tuple[T, ...]]:
    def read(name: str, value: object) -> tuple[T, ...]:
        if len(values := _many(reader)(name, value)) != length:
            _refuse(name, f"{len(values)} values", str(length))
        return values

    return read


def _one_of(*accepted: str) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in accepted:
            _refuse(name, repr(value), ", ".join(accepted))
        return value

    return read


def _variant(name: str, value: object) -> VariantOptions:
    try:
        return VariantOptions.model_validate(_object(name, value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{name}.{where}: {first['msg']}") from error


def _grid(tower: str, value: object) -> FeatureGrid:
    name = f"grids.{tower}"
    grid = _object(name, value)
    if grid.keys() != {"stride", "centre", "halo"}:
        _refuse(name, sorted(grid), "stride, centre, halo")
    return FeatureGrid(
        _number(f"{name}.stride", grid["stride"]),
        _number(f"{name}.centre", grid["centre"]),
        _maybe(_integer)(f"{name}.halo", grid["halo"]),
    )
