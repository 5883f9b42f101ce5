"""One STAC Item a scene: where, when, what was made of it, and by which model.

Hrefs of products are relative to the Item and literal: a `%20` is part of a product's name, as
pystac and GDAL read paths and object keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from satray.data.georeference import crs_name
from satray.runs.run import to_json
from satray.scoring.outlines import SceneGround, bbox_of
from satray.scoring.products.model_fields import (
    MLM,
    ModelFacts,
    model_asset,
    model_properties,
    multihash,
)
from satray.scoring.products.moment import Moment, stamp
from satray.scoring.products.names import encoded, item_name, link_between

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
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


@dataclass(frozen=True)
class ItemFacts:
    """All that an Item says."""

    ground: SceneGround
    """The scene's name and place."""
    moment: Moment
    """When it was taken, and where that is known from."""
    created: datetime
    """When it was scored."""
    sources: Sequence[str]
    """URIs of the scene's files."""
    model: ModelFacts
    """What scored it."""
    run_id: str
    """The run that did."""
    version: str
    """Of satray."""
    products: Sequence[ItemProduct]
    """What was made."""
    item: str | None = None
    """URI of the scene's own STAC Item, where it came with one."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Further properties by full name (`satray:drift`, ...); plain JSON values."""


def item_of(facts: ItemFacts) -> Any:
    """The `pystac.Item`. Without a CRS its geometry is null and it has no bounding box."""
    import pystac
    from shapely.geometry import mapping

    ground, outline = facts.ground, facts.ground.outline()
    properties: dict[str, Any] = {
        "created": stamp(facts.created),
        "satray:datetime_source": facts.moment.source,
        "satray:scene": ground.scene,
        "satray:run_id": facts.run_id,
        "satray:georeferenced": ground.grounded,
        "processing:software": {"satray": facts.version},
        "processing:lineage": f"scored by the model {facts.model.model_id}; {_made(facts)}",
        **model_properties(facts.model),
        **facts.notes,
    }
    extensions = [PROCESSING, FILE, MLM]
    if ground.grounded:
        extensions.append(PROJECTION)
        properties |= _projection(ground)
    item = pystac.Item(
        id=encoded(ground.scene).replace("/", "%2F"),
        geometry=mapping(outline) if outline else None,
        bbox=bbox_of(outline) if outline else None,
        datetime=facts.moment.at,
        start_datetime=facts.moment.start if facts.moment.end else None,
        end_datetime=facts.moment.end if facts.moment.start else None,
        properties=properties,
        stac_extensions=sorted(extensions),
    )
    home = item_name(ground.scene)
    for product in facts.products:
        name = f"{product.kind}_{product.tower}" if product.tower else product.kind
        item.add_asset(name, _asset(product, home, ground.grounded))
    weights = model_asset(facts.model)
    kind, title, roles = weights.pop("type"), weights.pop("title"), weights.pop("roles")
    item.add_asset("model", pystac.Asset(facts.model.weights, title, None, kind, roles, weights))
    for source in facts.sources:
        item.add_link(pystac.Link("derived_from", source, title="a file of the scene"))
    if facts.item:
        item.add_link(
            pystac.Link("derived_from", facts.item, "application/geo+json", "the scene's Item")
        )
    return item


def item_json(facts: ItemFacts) -> bytes:
    """The Item as JSON."""
    return to_json(item_of(facts).to_dict(include_self_link=False, transform_hrefs=False))


def _asset(product: ItemProduct, home: str, grounded: bool) -> Any:
    import pystac

    kind, roles, title = KINDS[product.kind]
    fields: dict[str, Any] = {}
    if product.bytes is not None:
        fields["file:size"] = product.bytes
    if product.sha256:
        fields["file:checksum"] = multihash(product.sha256)
    if product.bands:
        band = {"data_type": "float32", "nodata": "nan", "unit": "logit"}
        fields["bands"] = [{"name": name, **band} for name in product.bands]
    if product.shape and product.transform and grounded:
        fields["proj:shape"] = list(product.shape)
        fields["proj:transform"] = list(product.transform)
    if product.tower:
        title = f"{title}, tower {product.tower}"
    href = link_between(home, product.path, url=False)
    return pystac.Asset(href, title, None, kind, list(roles), fields)


def _projection(ground: SceneGround) -> dict[str, Any]:
    """The scene's own raster: code, or WKT of a CRS that has none; shape, affine and extent."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    assert ground.transform is not None
    x, y = zip(
        *(
            ground.affine @ (col, row)
            for col in (0.0, float(ground.width))
            for row in (0.0, float(ground.height))
        ),
        strict=True,
    )
    fields: dict[str, Any] = {
        "proj:code": None,
        "proj:shape": [ground.height, ground.width],
        "proj:transform": [float(number) for number in ground.transform[:6]],
        "proj:bbox": [min(x), min(y), max(x), max(y)],
    }
    name = wkt = ground.crs or ""
    try:
        wkt = CRS.from_user_input(ground.crs).to_wkt(version="WKT2_2019")
        name = crs_name(wkt)
    except CRSError:
        pass
    return fields | ({"proj:wkt2": wkt} if name == wkt else {"proj:code": name})


def _made(facts: ItemFacts) -> str:
    kinds = dict.fromkeys(KINDS[product.kind][2] for product in facts.products)
    return "; ".join(kinds) or "nothing was asked for"
