"""The STAC catalogue: an Item a scene, an Item of the model that scored it, a Collection a run.

Hrefs of products are relative and literal: a `%20` is part of a product's name, as pystac and GDAL
read paths and object keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from satray import __version__
from satray.runs.run import to_json
from satray.score.outlines import SceneExtent, bbox_of, union_of
from satray.score.products import names
from satray.score.products.moment import Moment, parse, stamp

if TYPE_CHECKING:  # a quarter of a second, and torch
    import pystac

    from satray.models.spec import BundleSpec
    from satray.score.predictions import Layout

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

KINDS: Final[Mapping[str, tuple[str, tuple[str, ...], str]]] = {
    "cam": (
        "image/tiff; application=geotiff; profile=cloud-optimized",
        ("data",),
        "class activation maps, one band a class",
    ),
    "argmax": (
        "image/tiff; application=geotiff; profile=cloud-optimized",
        ("data",),
        "what a maximum pooling used, one band a class",
    ),
    "quicklook": ("image/png", ("overview",), "quick-look with overlay"),
    "tiles": ("application/vnd.apache.parquet", ("data",), "scores of tiles"),
    "detections": (
        "application/geopackage+sqlite3",
        ("data",),
        "detections, in the scene's CRS",
    ),
    "detections_parquet": ("application/vnd.apache.parquet", ("data",), "detections"),
    "detections_geojson": ("application/geo+json", ("data",), "detections, longitude and latitude"),
}
"""Media type, roles and title by kind of product."""

ANY_TIME: Final = (datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
"""Of a model, which no time binds; STAC wants two ends."""


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

    outline = extent.outline()
    kinds = dict.fromkeys(KINDS[product.kind][2] for product in products)
    made = "; ".join(kinds) or "nothing was asked for"
    properties: dict[str, Any] = {
        "created": stamp(created),
        "satray:datetime_source": moment.source,
        "satray:scene": extent.scene,
        "satray:run_id": made_by.run_id,
        "satray:model_id": made_by.model_id,
        "satray:classes": list(made_by.classes),
        "satray:georeferenced": extent.georeferenced,
        "processing:software": {"satray": __version__},
        "processing:lineage": f"scored by the model {made_by.model_id}; {made}",
        **(notes or {}),
    }
    described = pystac.Item(
        id=names.encoded(extent.scene).replace("/", "%2F"),
        geometry=mapping(outline) if outline else None,
        bbox=bbox_of(outline) if outline else None,
        datetime=moment.at,
        start_datetime=moment.start if moment.end else None,
        end_datetime=moment.end if moment.start else None,
        properties=properties | _projection(extent),
        stac_extensions=[FILE, PROCESSING, *([PROJECTION] if extent.georeferenced else [])],
        collection=made_by.run_id,
    )
    home = names.item_name(extent.scene)
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

    described = pystac.Item(
        id=model_id,
        geometry=None,
        bbox=None,
        datetime=None,
        start_datetime=ANY_TIME[0],
        end_datetime=ANY_TIME[1],
        properties=_model_properties(spec, model_id),
        stac_extensions=[FILE, MLM],
    )
    # the extension wants the bands that mlm:input names among the properties, and STAC itself lets
    # them stand there only where an asset has some
    bands = described.properties["bands"]
    asset = pystac.Asset(
        weights,
        title="weights of the bundle",
        media_type="application/octet-stream",
        roles=["mlm:model", "mlm:weights"],
        extra_fields={
            "mlm:artifact_type": "safetensors.torch.save",
            "bands": bands,
            **_checksum(sha256),
        },
    )
    described.add_asset("model", asset)
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


def _model_link(home: str, model_id: str) -> "pystac.Link":
    import pystac

    href = names.link_between(home, names.model_name(model_id), url=False)
    return pystac.Link("derived_from", href, "application/geo+json", "the model")


def _asset(product: ItemProduct, home: str, georeferenced: bool) -> "pystac.Asset":
    import pystac

    kind, roles, title = KINDS[product.kind]
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
    return pystac.Asset(href, title, None, kind, list(roles), fields)


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


def _model_properties(spec: "BundleSpec", model_id: str) -> dict[str, Any]:
    backbones = dict.fromkeys(tower.backbone for tower in spec.variant.towers)
    height, width = spec.tile_shape
    return {
        "mlm:name": f"satray-{model_id}",
        "mlm:architecture": " + ".join(backbones),
        "mlm:tasks": ["scene-classification"],
        "mlm:framework": "PyTorch",
        "mlm:input": [
            {
                "name": "tile",
                "bands": list(spec.bands),
                "input": {
                    "shape": [-1, len(spec.bands), height, width],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": spec.dtype,
                },
                "resize_type": "interpolation-linear",
            }
        ],
        "mlm:output": [
            {
                "name": "scores",
                "description": f"{spec.task}; classes in order: {', '.join(spec.classes)}",
                "tasks": ["scene-classification"],
                "result": {
                    "shape": [-1, len(spec.classes)],
                    "dim_order": ["batch", "class"],
                    "data_type": "float32",
                },
            }
        ],
        "bands": [{"name": name} for name in spec.bands],
        "satray:model_id": model_id,
        "satray:classes": list(spec.classes),
        "satray:thresholds": list(spec.thresholds),
        "satray:temperature": spec.temperature,
    }


def _checksum(sha256: str | None) -> dict[str, Any]:
    """A SHA-256 as the multihash that the extension wants: code 0x12, length 0x20, digest."""
    return {"file:checksum": f"1220{sha256}"} if sha256 else {}
