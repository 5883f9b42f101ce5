"""What a bundle says about its network (`model.json`), written, found and strictly read.

Without torch: processes that plan and list read a bundle's description alone.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from satray.config.prepare import Task
from satray.config.train import VariantOptions
from satray.errors import InputError
from satray.models.geometry import FeatureGrid
from satray.models.radiometry import Radiometry
from satray.models.variant import input_bands
from satray.storage import Storage, join

if TYPE_CHECKING:  # it imports torch
    from satray.models.preprocess import Preprocess

FORMAT = "satray-bundle"
VERSION = 1
WEIGHTS = "model.safetensors"
SPEC = "model.json"
"""The files of a bundle."""

NEAR = 0.005
"""Share by which sizes on the ground may differ and still be one."""

PlainUnit = tuple[float, float, str]
"""Scale, offset and name of a unit: value = stored * scale + offset (`data.values.Unit`)."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")
_Pixels = Annotated[int, Field(gt=0, lt=2**31)]
_Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=_STRICT)
class TrainedPixels:
    """Tiles of one grid whose px show the ground at other sizes than the bundle's `resolution`.

    A map that stretches the ground does so: Web Mercator, degrees. A scene of that grid is taken as
    it is, where the tiles were.
    """

    crs: str
    """The CRS, authority string or WKT."""
    x: float
    """A step of one column in units of the CRS."""
    y: float
    """A step of one row in units of the CRS."""
    low: tuple[float, float]
    """Smallest px on the ground along x and y, m."""
    high: tuple[float, float]
    """Largest px on the ground along x and y, m."""

    def hold(self, crs: str, steps: Sequence[float], ground: Sequence[float]) -> bool:
        """Whether px of so many units of a CRS, and of so many m, are among these."""
        return crs == self.crs and all(
            abs(step - own) <= 1e-3 * own and low * (1 - NEAR) <= metres <= high * (1 + NEAR)
            for step, own, low, metres, high in zip(
                steps, (self.x, self.y), self.low, ground, self.high, strict=True
            )
        )


@dataclass(frozen=True, config=_STRICT)
class BundleSpec:
    """All that scoring needs to know besides the weights."""

    variant: VariantOptions
    """Towers, pooling and head."""

    task: Task
    """binary and multilabel: a sigmoid a class; multiclass: a softmax over classes."""

    classes: Annotated[tuple[_Name, ...], Field(min_length=1)]
    """Class names, in the order of the logits; one for binary."""

    bands: tuple[_Name, ...]
    """Names of the input channels, unique, in the order of the network's input: the variant's
    bands, and those that the radiometry looks at besides."""

    mean: tuple[float, ...]
    """What is subtracted from each band's values (`stored`: in stored units)."""

    std: tuple[NonNegativeFloat, ...]
    """What each band's values are then divided by."""

    dtype: _Name
    """dtype of the tiles that it was trained on (`uint8`, `uint16`, ...)."""

    size: _Pixels
    """Side of the network's input, in px."""

    resize: _Pixels | None
    """Shorter side of the tile after resizing, before cropping, in px; None: `size`."""

    evaluate: Literal["whole", "centre"]
    """whole: the tile shrunk to `size`; centre: the middle of the resized tile."""

    tile_shape: tuple[_Pixels, _Pixels]
    """Height and width of the training tiles, in stored px."""

    resolution: PositiveFloat | None
    """Ground size of a stored px (along x), in m: the tiles' median; None without georeference."""

    thresholds: tuple[float, ...]
    """Score at and above which a class is predicted, one a class, 0 to 1."""

    temperature: PositiveFloat
    """Logits are divided by it before the sigmoid or softmax; 1 if not calibrated."""

    grids: dict[str, FeatureGrid]
    """Feature grid of each tower, by its name."""

    resolution_y: PositiveFloat | None = None
    """Ground size of a stored px along y, in m, where it differs by more than 2 %."""

    trained_px: tuple[TrainedPixels, ...] = ()
    """Grids of tiles that show the ground at other sizes than the median."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout that it was trained with (none in scoring)."""

    nodata: float | None = None
    """Nodata that the training tiles declared, in stored units; None where none or several did."""

    radiometry: Radiometry = field(default_factory=Radiometry)
    """How stored pixels become the values that are normalised."""

    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: run id, index digest, weights, versions, metrics."""

    units: tuple[PlainUnit | None, ...] = ()
    """What the pixels that it was trained on mean, one a band; empty where nobody said."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        bands = self.radiometry.reads(input_bands(self.variant))
        towers = [tower.name for tower in self.variant.towers]
        classes, units, numbers = self.classes, self.units, f"{len(bands)} numbers"
        low, high = self.radiometry.low, self.radiometry.high
        bounds = len(bands) if self.radiometry.name == "percentile" else 0
        rises = all(one <= other for one, other in zip(low, high, strict=False))
        for name, fits, accepted in (
            ("bands", sorted(self.bands) == sorted(bands), ", ".join(bands)),
            ("mean", len(self.mean) == len(bands), numbers),
            ("std", len(self.std) == len(bands), numbers),
            ("classes", len({*classes}) == len(classes), "distinct ones"),
            ("classes", self.task != "binary" or len(classes) == 1, "one for a binary task"),
            ("thresholds", len(self.thresholds) == len(classes), f"{len(classes)} numbers"),
            ("grids", sorted(self.grids) == sorted(towers), ", ".join(towers)),
            ("resize", (self.resize or self.size) >= self.size, f"{self.size} or up"),
            ("units", len(units) in (0, len(bands)), f"{len(bands)} or none"),
            ("units", all(unit is None or unit[0] != 0 for unit in units), "scales not 0"),
            ("radiometry", len(low) == len(high) == bounds, f"{bounds} low, {bounds} high"),
            ("radiometry", rises, "no low above its high"),
        ):
            if not fits:
                found = str(getattr(self, name))[:80]
                raise ValueError(f"{name}: found {found}, accepted: {accepted}")
        return self

    def preprocess(self) -> "Preprocess":
        """The way from stored pixels to the network's input."""
        from satray.models.preprocess import Preprocess

        size = (self.size, self.resize, self.evaluate)
        return Preprocess(self.bands, self.mean, self.std, *size, self.radiometry)

    def to_json(self) -> bytes:
        """`model.json`: the same bytes for the same values.

        Raises:
            ValueError: provenance is no JSON, or holds a number that is not finite.
        """
        values = _SPEC.dump_python(self, mode="json")
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
            document = json.loads(data)
            if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
                raise InputError(f"{name}: not a bundle's model.json: no 'format': '{FORMAT}'")
            if (version := document.pop("version", None)) != VERSION:
                raise InputError(
                    f"{name}: version {version!r} of the bundle format; this satray reads {VERSION}"
                )
            return _SPEC.validate_json(json.dumps(document, allow_nan=False))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            said = first["msg"].removeprefix("Value error, ").replace("\n", " ")
            raise InputError(f"{name}: {where}{': ' if where else ''}{said}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}: not a bundle's model.json: no JSON ({error})") from error


_SPEC = TypeAdapter(BundleSpec)


def find_bundle(uri: str, storage: Storage) -> str:
    """The bundle folder of a URI: itself, or the `bundle/` below a train run's `out`.

    Raises:
        InputError: there is none.
    """
    for folder in (uri, join(uri, "bundle")):
        if storage.exists(join(folder, SPEC)):
            return folder
    raise InputError(
        f"{uri}: not a bundle: no {SPEC} in it or in its bundle/; accepted: the out of a finished "
        "train run, or its bundle folder"
    )


def read_spec(uri: str, storage: Storage) -> BundleSpec:
    """Read what a bundle says of itself, without its weights; raises InputError if it is none."""
    place = join(find_bundle(uri, storage), SPEC)
    return BundleSpec.from_json(storage.read(place), place)


def read_files(folder: str, storage: Storage) -> dict[str, bytes]:
    """The bytes of a bundle's files, by name, of its very folder (`find_bundle`)."""
    return {name: storage.read(join(folder, name)) for name in (SPEC, WEIGHTS)}


def bundle_digests(uri: str, storage: Storage) -> dict[str, str]:
    """SHA-256 of each of a bundle's files, by name; raises InputError if there is none."""
    return digests_of(read_files(find_bundle(uri, storage), storage))


def digests_of(files: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file, by name, as 64 hex digits."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def bundle_digest(digests: dict[str, str]) -> str:
    """SHA-256 over the digests of both files, so that no byte can move from one to the other."""
    both = b"".join(bytes.fromhex(digests[name]) for name in (SPEC, WEIGHTS))
    return hashlib.sha256(both).hexdigest()
