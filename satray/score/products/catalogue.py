"""The STAC catalogue: an Item a scene, an Item of the model that scored it, a Collection a run.

A scene's time is what a pattern finds in its name, else its Item's, its TIFF tag's, else when it
was stored. Hrefs of products are relative and literal: a `%20` is part of a product's name, as
pystac and GDAL read paths and object keys.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from satray import __version__
from satray.errors import InputError
from satray.runs.run import to_json
from satray.score.outlines import SceneExtent, bbox_of, union_of
from satray.score.products import names

if TYPE_CHECKING:  # a quarter of a second, and torch
    import pystac

    from satray.models.spec import BundleSpec
    from satray.score.predictions import Layout

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET = "application/vnd.apache.parquet"
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "cam": (COG, "class activation maps, one band a class"),
    "argmax": (COG, "what a maximum pooling used, one band a class"),
    "quicklook": ("image/png", "quick-look with overlay"),
    "tiles": (PARQUET, "scores of tiles"),
    "detections": ("application/geopackage+sqlite3", "detections, in the scene's CRS"),
    "detections_parquet": (PARQUET, "detections"),
    "detections_geojson": ("application/geo+json", "detections, longitude and latitude"),
}
"""Media type and title by kind of product."""

GROUPS = ("year", "month", "day", "doy", "hour", "minute", "second")


@dataclass(frozen=True)
class Moment:
    """A time or a stretch of time, and where it is from."""

    at: datetime | None
    """UTC; None where only `start` and `end` are known."""
    source: str
    """`pattern`, `item`, `tiff` or `modified`."""
    start: datetime | None = None
    """UTC; of an Item that says a stretch."""
    end: datetime | None = None
    """UTC; of an Item that says a stretch."""

    @property
    def span(self) -> tuple[datetime, ...]:
        """First and last time; the same twice where only one is known."""
        return tuple(at for at in (self.start or self.at, self.end or self.at) if at)


@dataclass(frozen=True)
class ItemProduct:
    """A file that was made of the scene."""

    kind: str
    """A key of `KINDS`."""
    path: str
    """Below the run folder."""
    bytes: int | None = None
    """Size of the file; None where it grows with other scenes."""
    sha256: str | None = None
    """Digest, hexadecimal."""
    tower: str | None = None
    """cam: the tower, where each has its own file."""
    bands: tuple[str, ...] = ()
    """cam: class names."""
    shape: tuple[int, int] | None = None
    """cam: rows and columns of cells."""
    transform: tuple[float, ...] | None = None
    """cam: cell corners to CRS units, 6 numbers."""


def time_pattern(text: str) -> re.Pattern[str]:
    """Compile the key that says how a scene's id tells its time.

    Raises:
        InputError: no regular expression, or none of the groups.
    """
    why = "has neither group"
    try:
        pattern = re.compile(text)
        unknown = sorted(set(pattern.groupindex) - {"datetime", *GROUPS})
        why = f"has an unknown group {unknown[0]!r}" if unknown else why
        if not unknown and {"datetime", "year"} & set(pattern.groupindex):
            return pattern
    except re.error as error:
        why = str(error)
    raise InputError(
        f"datetime: {text!r} {why}; accepted: a regular expression with the named group `datetime` "
        f"(ISO 8601, or digits YYYYMMDD[T]hhmmss), or `year` and some of `{', '.join(GROUPS[1:])}`"
    )


def moment_of(
    scene: str,
    modified: datetime,
    pattern: re.Pattern[str] | None = None,
    item: Mapping[str, Any] | None = None,
    tiff: str | None = None,
) -> Moment:
    """The first of pattern, Item, TIFF tag and time of storage that tells a time.

    Args:
        scene: the scene's id.
        modified: when its object was stored.
        pattern: of `time_pattern`.
        item: the STAC Item that came with it.
        tiff: value of TIFFTAG_DATETIME; taken as UTC, which the tag cannot say.
    """
    match = pattern.search(scene) if pattern else None
    at = _matched(match) if match else None
    if at is not None:
        return Moment(at, "pattern")
    properties = (item or {}).get("properties")
    if isinstance(properties, Mapping):
        keys = ("datetime", "start_datetime", "end_datetime")
        at, start, end = (parse(properties.get(key)) for key in keys)
        if at is not None or (start is not None and end is not None):
            return Moment(at, "item", start, end)
    at = parse(tiff)
    return Moment(modified.astimezone(UTC), "modified") if at is None else Moment(at, "tiff")


def parse(value: object) -> datetime | None:
    """A time of ISO 8601, of digits, or of TIFF (`2026:05:01 10:20:30`); UTC where none is said."""
    if not isinstance(value, str):
        return None
    text = value.strip().rstrip("\x00")
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text)
    text = re.sub(r"^(\d{8})[T_-]?(\d{4,6})$", r"\1T\2", text)
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def stamp(at: datetime) -> str:
    """RFC 3339 with `Z`, to the second or finer."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def item_of(
    extent: SceneExtent,
    moment: Moment,
    created: datetime,
    files: Sequence[str],
    made_by: "Layout",
    products: Sequence[ItemProduct],
    item: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> "pystac.Item":
    """Describe a scene. Without a CRS its geometry is null and it has no bounding box.

    Args:
        extent: the scene's name and place.
        moment: when it was taken, and where that is known from.
        created: when it was scored.
        files: URIs of the scene's files.
        made_by: model and run that scored it, and its classes.
        products: what was made.
        item: URI of the scene's own STAC Item, where it came with one.
        notes: further properties by full name (`satray:drift`, ...); plain JSON values.
    """
    import pystac
    from shapely.geometry import mapping

    outline, home = extent.outline(), names.item_name(extent.scene)
    made = "; ".join(dict.fromkeys(KINDS[product.kind][1] for product in products))
    described = pystac.Item(
        id=names.encoded(extent.scene).replace("/", "%2F"),
        geometry=mapping(outline) if outline else None,
        bbox=bbox_of(outline) if outline else None,
        datetime=moment.at,
        start_datetime=moment.start if moment.end else None,
        end_datetime=moment.end if moment.start else None,
        properties={
            "created": stamp(created),
            "satray:datetime_source": moment.source,
            "satray:scene": extent.scene,
            "satray:run_id": made_by.run_id,
            "satray:model_id": made_by.model_id,
            "satray:classes": list(made_by.classes),
            "satray:georeferenced": extent.georeferenced,
            "processing:software": {"satray": __version__},
            "processing:lineage": f"scored by the model {made_by.model_id}; {made or 'no files'}",
            **(notes or {}),
            **_projection(extent),
        },
        stac_extensions=[FILE, PROCESSING, *([PROJECTION] if extent.georeferenced else [])],
        collection=made_by.run_id,
    )
    for product in products:
        name = f"{product.kind}_{product.tower}" if product.tower else product.kind
        described.add_asset(name, _asset(product, home, extent.georeferenced))
    for file in files:
        described.add_link(pystac.Link("derived_from", file, title="a file of the scene"))
    if item:
        link = pystac.Link("derived_from", item, "application/geo+json", "the scene's Item")
        described.add_link(link)
    described.add_link(_model_link(home, made_by.model_id))
    run = names.link_between(home, names.collection_name(made_by.run_id), url=False)
    described.add_link(pystac.Link("collection", run, "application/json", "the run"))
    return described


def model_item(
    spec: "BundleSpec", model_id: str, weights: str, sha256: str | None
) -> "pystac.Item":
    """Describe a model in the fields of STAC's Machine Learning Model extension.

    Args:
        spec: the bundle's.
        model_id: first 12 hex digits of the bundle's digest.
        weights: URI of its `model.safetensors`.
        sha256: digest of that file, hexadecimal.
    """
    import pystac

    bands = [{"name": name} for name in spec.bands]
    tile = {
        "shape": [-1, len(spec.bands), *spec.tile_shape],
        "dim_order": ["batch", "bands", "height", "width"],
        "data_type": spec.dtype,
    }
    scores = {
        "shape": [-1, len(spec.classes)],
        "dim_order": ["batch", "class"],
        "data_type": "float32",
    }
    described = pystac.Item(
        id=model_id,
        geometry=None,
        bbox=None,
        datetime=None,
        # no time binds it, and STAC wants two ends
        start_datetime=datetime(1900, 1, 1, tzinfo=UTC),
        end_datetime=datetime(9999, 12, 31, tzinfo=UTC),
        properties={
            "mlm:name": f"satray-{model_id}",
            "mlm:architecture": " + ".join(dict.fromkeys(t.backbone for t in spec.variant.towers)),
            "mlm:tasks": ["scene-classification"],
            "mlm:framework": "PyTorch",
            "mlm:input": [
                {
                    "name": "tile",
                    "bands": list(spec.bands),
                    "input": tile,
                    "resize_type": "interpolation-linear",
                }
            ],
            "mlm:output": [
                {
                    "name": "scores",
                    "description": f"{spec.task}; classes in order: {', '.join(spec.classes)}",
                    "tasks": ["scene-classification"],
                    "result": scores,
                }
            ],
            # the extension wants here what mlm:input names, and STAC only where an asset has some
            "bands": bands,
            "satray:model_id": model_id,
            "satray:classes": list(spec.classes),
            "satray:thresholds": list(spec.thresholds),
            "satray:temperature": spec.temperature,
        },
        stac_extensions=[FILE, MLM],
    )
    fields = {"mlm:artifact_type": "safetensors.torch.save", "bands": bands, **_checksum(sha256)}
    roles = ["mlm:model", "mlm:weights"]
    kind = "application/octet-stream"
    described.add_asset(
        "model", pystac.Asset(weights, "weights of the bundle", None, kind, roles, fields)
    )
    return described


def collection_of(
    made_by: "Layout",
    scenes: Sequence[str],
    boxes: Sequence[Sequence[float]],
    times: Sequence[str],
    summaries: Mapping[str, list[Any]],
) -> "pystac.Collection":
    """Describe a run: its Items, where and when its scenes are, and what scored them.

    Args:
        made_by: model and run.
        scenes: names of those that have Items.
        boxes: of `bbox_of`, of those with ground; without any the extent is the world.
        times: RFC 3339, in any order; one at least.
        summaries: further values of its Items, by full name.
    """
    import pystac

    home, known = names.collection_name(made_by.run_id), sorted(filter(None, map(parse, times)))
    described = pystac.Collection(
        id=made_by.run_id,
        description=f"{len(scenes):,} scenes scored by the model {made_by.model_id}",
        extent=pystac.Extent(
            pystac.SpatialExtent([union_of(boxes)]),
            pystac.TemporalExtent([[known[0], known[-1]]]),
        ),
        license="other",
        summaries=pystac.Summaries({"satray:model_id": [made_by.model_id], **summaries}),
    )
    for scene in scenes:
        item = names.link_between(home, names.item_name(scene), url=False)
        described.add_link(pystac.Link("item", item, "application/geo+json", scene))
    described.add_link(_model_link(home, made_by.model_id))
    return described


def to_bytes(described: "pystac.Item | pystac.Collection") -> bytes:
    """An Item or a Collection as JSON."""
    return to_json(described.to_dict(include_self_link=False, transform_hrefs=False))


def _matched(match: re.Match[str]) -> datetime | None:
    groups = {name: value for name, value in match.groupdict().items() if value}
    if "datetime" in groups:
        return parse(groups["datetime"])
    try:
        n = {"month": 1, "day": 1} | {name: int(value) for name, value in groups.items()}
        n["year"] += 2000 if len(groups["year"]) == 2 else 0
        days = n.pop("doy", 1) - 1
        at = datetime(**n, tzinfo=UTC) + timedelta(days=days)
    except (KeyError, ValueError, OverflowError):
        return None
    return at if at.year == n["year"] else None


def _model_link(home: str, model_id: str) -> "pystac.Link":
    import pystac

    href = names.link_between(home, names.model_name(model_id), url=False)
    return pystac.Link("derived_from", href, "application/geo+json", "the model")


def _asset(product: ItemProduct, home: str, georeferenced: bool) -> "pystac.Asset":
    import pystac

    kind, title = KINDS[product.kind]
    fields = _checksum(product.sha256)
    if product.bytes is not None:
        fields["file:size"] = product.bytes
    if product.bands:
        band = {"data_type": "float32", "nodata": "nan", "unit": "logit"}
        fields["bands"] = [{"name": name, **band} for name in product.bands]
    if product.shape and product.transform and georeferenced:
        fields["proj:shape"] = list(product.shape)
        fields["proj:transform"] = list(product.transform)
    if product.tower:
        title = f"{title}, tower {product.tower}"
    href = names.link_between(home, product.path, url=False)
    roles = ["overview" if product.kind == "quicklook" else "data"]
    return pystac.Asset(href, title, None, kind, roles, fields)


def _projection(extent: SceneExtent) -> dict[str, Any]:
    """The scene's own raster: code, or WKT of a CRS that has none; shape, affine and extent."""
    if extent.crs is None or extent.transform is None:
        return {}
    corners = [(col, row) for col in (0.0, extent.width) for row in (0.0, extent.height)]
    x, y = zip(*(extent.affine @ corner for corner in corners), strict=True)
    coded = "[" not in extent.crs
    return {
        "proj:code": extent.crs if coded else None,
        **({} if coded else {"proj:wkt2": extent.crs}),
        "proj:shape": [extent.height, extent.width],
        "proj:transform": [float(number) for number in extent.transform[:6]],
        "proj:bbox": [min(x), min(y), max(x), max(y)],
    }


def _checksum(sha256: str | None) -> dict[str, Any]:
    """A SHA-256 as the multihash that the extension wants: code 0x12, length 0x20, digest."""
    return {"file:checksum": f"1220{sha256}"} if sha256 else {}
