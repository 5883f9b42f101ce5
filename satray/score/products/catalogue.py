"""The STAC catalogue: an Item a scene, an Item of the model that scored it, a Collection a run.

A scene's time is what a pattern finds in its name, else its Item's, its TIFF tag's, else when it
was stored. Hrefs of products are relative and literal: a `%20` is part of a product's name, as
pystac and GDAL read paths and object keys. Fields of extensions are written by their names: pystac
has no `processing`, and of the others the versions named here are those that are tested.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affine import Affine

from satray import __version__
from satray.errors import InputError, counted
from satray.runs.run import Product, to_json
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
class MadeFile:
    """A product on the local disk, or in memory."""

    kind: str
    """A key of `names.KINDS`."""
    source: Path | bytes
    """It."""
    rows: int | None = None
    """Rows, where it is a table."""
    tower: str | None = None
    """Of maps, where each tower has its own file."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What its catalogue entry says besides."""


def time_pattern(text: str) -> re.Pattern[str]:
    """Compile the key that says how a scene's name tells its time.

    Raises:
        InputError: no regular expression, or one without the group `datetime`.
    """
    why = "has no such group"
    try:
        pattern = re.compile(text)
        if "datetime" in pattern.groupindex:
            return pattern
    except re.error as error:
        why = str(error)
    raise InputError(
        f"datetime: {text!r} {why}; accepted: a regular expression with the named group "
        "`datetime`: ISO 8601, or digits YYYYMMDD[T]hhmmss or YYYYDDD[T]hhmmss"
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
    at = parse(match["datetime"]) if match else None
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
    """A time of ISO 8601, of digits (days of the year, too), or of TIFF (`2026:05:01 10:20:30`).

    UTC where no zone is said.
    """
    if not isinstance(value, str):
        return None
    text = value.strip().rstrip("\x00")
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text)
    text = re.sub(r"^(\d{8}|\d{7})[T_-]?(\d{4}|\d{6})$", r"\1T\2", text)
    days = 0
    with contextlib.suppress(ValueError, OverflowError):
        if re.match(r"\d{7}(T|$)", text, re.ASCII):
            text, days = f"{text[:4]}0101{text[7:]}", int(text[4:7]) - 1
        first = datetime.fromisoformat(text)
        at = first + timedelta(days=days)
        if at.year == first.year:
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
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
    products: Sequence[tuple[MadeFile, Product]],
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

    outline, home = extent.outline(), names.product_path("item", extent.scene)
    made = "; ".join(dict.fromkeys(names.KINDS[file.kind].title for file, _ in products))
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
    for file, product in products:
        kind = names.KINDS[file.kind]
        told = {"file:size": product.bytes, **_checksum(product.sha256), **file.fields}
        asset = pystac.Asset(
            names.link_between(home, product.path),
            f"{kind.title}, tower {file.tower}" if file.tower else kind.title,
            None,
            kind.media_type,
            ["overview" if file.kind == "quicklook" else "data"],
            told,
        )
        described.add_asset(f"{file.kind}_{file.tower}" if file.tower else file.kind, asset)
    for uri in files:
        described.add_link(pystac.Link("derived_from", uri, title="a file of the scene"))
    if item:
        link = pystac.Link("derived_from", item, names.GEOJSON, "the scene's Item")
        described.add_link(link)
    described.add_link(_model_link(home, made_by.model_id))
    run = names.link_between(home, names.collection_path(made_by.run_id))
    described.add_link(pystac.Link("collection", run, "application/json", "the run"))
    return described


def map_fields(
    classes: Sequence[str], shape: tuple[int, int], affine: Affine | None
) -> dict[str, Any]:
    """What a map's asset says of its bands, and of its cells on the ground.

    Args:
        classes: a band each.
        shape: rows and columns of cells.
        affine: cell corners to CRS units; None without ground.
    """
    band = {"data_type": "float32", "nodata": "nan", "unit": "logit"}
    fields: dict[str, Any] = {"bands": [{"name": name, **band} for name in classes]}
    if affine is not None:
        fields |= {"proj:shape": list(shape), "proj:transform": list(affine)[:6]}
    return fields


def model_item(spec: "BundleSpec", model_id: str, weights: str, sha256: str) -> "pystac.Item":
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

    home, known = names.collection_path(made_by.run_id), sorted(filter(None, map(parse, times)))
    described = pystac.Collection(
        id=made_by.run_id,
        description=f"{counted(len(scenes), 'scene')} scored by the model {made_by.model_id}",
        extent=pystac.Extent(
            pystac.SpatialExtent([union_of(boxes)]),
            pystac.TemporalExtent([[known[0], known[-1]]]),
        ),
        license="other",
        summaries=pystac.Summaries({"satray:model_id": [made_by.model_id], **summaries}),
    )
    for scene in scenes:
        item = names.link_between(home, names.product_path("item", scene))
        described.add_link(pystac.Link("item", item, names.GEOJSON, scene))
    described.add_link(_model_link(home, made_by.model_id))
    return described


def to_bytes(described: "pystac.Item | pystac.Collection") -> bytes:
    """An Item or a Collection as JSON."""
    return to_json(described.to_dict(include_self_link=False, transform_hrefs=False))


def _model_link(home: str, model_id: str) -> "pystac.Link":
    import pystac

    href = names.link_between(home, names.model_path(model_id))
    return pystac.Link("derived_from", href, names.GEOJSON, "the model")


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


def _checksum(sha256: str) -> dict[str, str]:
    """A SHA-256 as the multihash that the extension wants: code 0x12, length 0x20, digest."""
    return {"file:checksum": f"1220{sha256}"}
