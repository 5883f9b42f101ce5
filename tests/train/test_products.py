"""What a bundle says of the tiles that it was trained on."""

import pyarrow as pa
import pytest

from satray.data.index import IndexMeta, TileIndex
from satray.train.products import nodata

META = IndexMeta("binary", ("ship",), ("red",), "int16", (8, 8), (), {})


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ([None, None], None),
        ([-9999.0, None, -9999.0], -9999.0),
        ([0.0, -9999.0], None),
        ([float("nan"), None], None),  # what is not finite is no measurement anyway
        ([], None),
    ],
)
def test_nodata_is_what_all_tiles_that_declare_one_declare(declared, told):
    table = pa.table({"nodata": pa.array(declared, pa.float64())})
    assert nodata(TileIndex(table, META)) == told
