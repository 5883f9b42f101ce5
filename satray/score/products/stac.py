"""One STAC Item a scene: where, when, what was made of it, and by which model.

Hrefs of products are relative to the Item and literal: a `%20` is part of a product's name, as
pystac and GDAL read paths and object keys.

The model is told in the fields of STAC's Machine Learning Model extension. It asks for an asset
that holds the weights, so the bundle's file is one; its digest is in `file:checksum`, and the short
id that tables and rasters carry in `satray:model_id`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from satray import __version__
from satray.runs.run import to_json
from satray.score.outlines import SceneExtent, bbox_of
from satray.score.products.moment import Moment, stamp
from satray.score.products.names import encoded, item_name, link_between

if TYPE_CHECKING:  # a quarter of a second, and torch
    import pystac

    from satray.models.spec import BundleSpec

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


FORMAT = "safetensors.torch.save"
"""How the weights were written."""


@dataclass(frozen=True)
class ModelFacts:
    """A bundle, as an Item names it."""

    model_id: str
    """First 12 hex digits of the bundle's digest."""
    weights: str
    """URI of its `model.safetensors`."""
    sha256: str | None
    """Digest of that file, hexadecimal."""
    spec: "BundleSpec"
    """The bundle's."""


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
    model: ModelFacts,
    run_id: str,
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
        model: what scored it.
        run_id: the run that did.
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
        "satray:run_id": run_id,
        "satray:georeferenced": extent.georeferenced,
        "processing:software": {"satray": __version__},
        "processing:lineage": f"scored by the model {model.model_id}; {made}",
        **_model_properties(model),
        **(notes or {}),
    }
    described = pystac.Item(
        id=encoded(extent.scene).replace("/", "%2F"),
        geometry=mapping(outline) if outline else None,
        bbox=bbox_of(outline) if outline else None,
        datetime=moment.at,
        start_datetime=moment.start if moment.end else None,
        end_datetime=moment.end if moment.start else None,
        properties=properties | _projection(extent),
        stac_extensions=[FILE, MLM, PROCESSING, *([PROJECTION] if extent.georeferenced else [])],
    )
    home = item_name(extent.scene)
    for product in products:
        name = f"{product.kind}_{product.tower}" if product.tower else product.kind
        described.add_asset(name, _asset(product, home, extent.georeferenced))
    weights = pystac.Asset(
        model.weights,
        title="weights of the bundle that scored the scene",
        media_type="application/octet-stream",
        roles=["mlm:model"],
        extra_fields={"mlm:artifact_type": FORMAT, **_checksum(model.sha256)},
    )
    described.add_asset("model", weights)
    for file in files:
        described.add_link(pystac.Link("derived_from", file, title="a file of the scene"))
    if item:
        link = pystac.Link("derived_from", item, "application/geo+json", "the scene's Item")
        described.add_link(link)
    return described


def to_bytes(item: "pystac.Item") -> bytes:
    """An Item as JSON."""
    return to_json(item.to_dict(include_self_link=False, transform_hrefs=False))


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
    href = link_between(home, product.path, url=False)
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


def _model_properties(model: ModelFacts) -> dict[str, Any]:
    """Properties of an Item."""
    spec = model.spec
    backbones = dict.fromkeys(tower.backbone for tower in spec.variant.towers)
    height, width = spec.tile_shape
    return {
        "mlm:name": f"satray-{model.model_id}",
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
        # the extension wants names in mlm:input to be those of described bands
        "bands": [{"name": name} for name in spec.bands],
        "satray:model_id": model.model_id,
        "satray:classes": list(spec.classes),
        "satray:thresholds": list(spec.thresholds),
        "satray:temperature": spec.temperature,
    }


def _checksum(sha256: str | None) -> dict[str, Any]:
    """A SHA-256 as the multihash that the extension wants: code 0x12, length 0x20, digest."""
    return {"file:checksum": f"1220{sha256}"} if sha256 else {}
