"""What stored numbers mean: stated by files, kept by index and bundle, brought to one unit."""

import numpy as np
import pytest
from by_hand import worked
from data.hostile import gdal_metadata, numbers, paged, tiff
from hypothesis import given
from hypothesis import strategies as st

from satray.config.prepare import PrepareRecipe
from satray.data import prepare
from satray.data.decode import PixelSpec, decode, read_pixels
from satray.data.index import read_index
from satray.data.read import read_blocks, tile_source, to_torch
from satray.data.statistics import changed, count_pixels, summarise
from satray.data.values import Change, Unit, change_of, unit_of
from satray.errors import DecodeError, InputError
from satray.runs.run import Run
from satray.storage import Storage

STORE = Storage()
OLD, NEW = Unit(1e-4, 0.0), Unit(1e-4, -0.1)
LANDSAT = Unit(2.75e-05, -0.2)
PLAIN = Unit(1.0, 0.0)

PERCENT = unit_of("b", 0.01, 0, "%")
KELVIN = Unit(0.1, 0.0, "K")


@pytest.mark.parametrize(
    ("found", "wanted", "dtype", "expected"),
    [
        ((None,), (OLD,), "uint16", None),  # none stated
        ((), (), "uint16", None),
        ((NEW,), (NEW,), "uint16", None),
        ((OLD,), (), "uint16", None),  # the archive states none: the same scale, no offset
        ((NEW,), (), "uint16", ((1.0,), (-1000.0,))),
        ((NEW,), (OLD,), "uint16", ((1.0,), (-1000.0,))),
        ((OLD,), (NEW,), "uint16", ((1.0,), (1000.0,))),
        ((LANDSAT,), (OLD,), "uint16", ((0.275,), (-2000.0,))),
        ((PLAIN,), (NEW,), "uint16", ((1e4,), (1000.0,))),  # values themselves
        ((NEW,), (None,), "float32", ((1e-4,), (-0.1,))),
        ((None, NEW), (OLD, OLD), "uint16", ((1.0, 1.0), (0.0, -1000.0))),
        ((KELVIN,), (Unit(0.1, -10.0, "k"),), "uint16", ((1.0,), (100.0,))),
        ((OLD,), (Unit(1e-4, -0.1, "reflectance"),), "uint16", ((1.0,), (1000.0,))),
        ((PERCENT,), (NEW,), "uint16", ((1.0,), (1000.0,))),
        ((PERCENT,), (), "float32", ((1e-4,), (0.0,))),
    ],
)
def test_change(found, wanted, dtype, expected):
    change = change_of(found, wanted, dtype)
    if expected is None:
        assert change is None
    else:
        np.testing.assert_allclose((change.gain, change.shift), expected)


def test_names_of_units_must_agree():
    with pytest.raises(DecodeError, match="values in K where degC is wanted"):
        change_of((KELVIN,), (Unit(0.1, 0.0, "degC"),), "uint16")
    assert unit_of("b1", 1, 0, " Unitless ") == PLAIN


@pytest.mark.parametrize(
    ("scale", "offset", "told"),
    [
        (0, 0, "scale 0;"),
        ([1e-4], 0, r"scale \[0.0001\];"),
        (1, "x", r"offset 'x'; accepted: a finite number to 1e\+20$"),
        # squares of values in other units would be no floats
        (-1e300, 0, r"scale -1e\+300; accepted: .* other than 0, of 1e-20 to 1e\+20$"),
    ],
)
def test_what_is_no_unit(scale, offset, told):
    with pytest.raises(DecodeError, match=f"band red states {told}"):
        unit_of("red", scale, offset)


def test_pixels_are_rounded_and_stay_within_the_dtype():
    x_CHW = np.array([[[0, 999, 1000, 65535]], [[3, 2**16 - 1, 7, 0]]], np.uint16)
    y_CHW = Change((1.0, 1.0), (-1000.0, 0.0))(x_CHW, "uint16")
    assert y_CHW.tolist() == [[[0, 0, 0, 64535]], [[3, 65535, 7, 0]]]


def stated(x_CHW: np.ndarray, *units: Unit | None) -> bytes:
    """A TIFF whose bands state units."""
    roles = [
        (band, role, value)
        for band, unit in enumerate(units)
        if unit is not None
        for role, value in (("scale", unit.scale), ("offset", unit.offset))
    ]
    return paged((x_CHW, {42112: gdal_metadata(*roles)}))


X = numbers(2)


def test_files_state_units():
    assert decode(tiff(X)).header.units == ()
    assert decode(stated(X, PLAIN, PLAIN)).header.units == ()
    assert decode(stated(X, None, NEW)).header.units == (None, NEW)
    assert decode(paged(*[(X[k : k + 1], {42112: gdal_metadata((0, "scale", 2))}) for k in (0, 1)])
    ).header.units == (Unit(2.0, 0.0),) * 2  # fmt: skip
    with pytest.raises(DecodeError, match=r"band 2 states scale 0\.0; accepted"):
        decode(stated(X, NEW, Unit(0.0, 1.0)))


def test_training_reads_one_unit():
    """A tile that states another unit gives what one in the archive's unit would."""
    x_CHW, shape, back = X // 2 + 1000, X.shape[1:], (1, 0)
    old = read_pixels(tiff(x_CHW - 1000), PixelSpec(back, *shape, "uint16"))
    packed = {"compress": "deflate", "scales": (1e-4,) * 2, "offsets": (-0.1,) * 2}
    for new in (stated(x_CHW, NEW, NEW), tiff(x_CHW, **packed)):
        for units in ((OLD, OLD), (), (None, None)):
            read = read_pixels(new, PixelSpec(back, *shape, "uint16", units=units))
            np.testing.assert_array_equal(read, old)
        same = read_pixels(new, PixelSpec(back, *shape, "uint16", units=(NEW, NEW)))
        np.testing.assert_array_equal(same, x_CHW[::-1])
        # where both sides state theirs, dtypes may differ
        values = read_pixels(new, PixelSpec((0,), *shape, "float32", units=(PLAIN,)))
        np.testing.assert_allclose(values, x_CHW[:1] * 1e-4 - 0.1, atol=1e-6)
        with pytest.raises(DecodeError, match="dtype is uint16, the archive's is int16"):
            read_pixels(new, PixelSpec((0,), *shape, "int16"))
    # an index may say what tiles mean that state nothing
    units = {"units": (OLD, OLD), "stated": (NEW, NEW)}
    np.testing.assert_array_equal(
        read_pixels(tiff(x_CHW), PixelSpec(back, *shape, "uint16", **units)), old
    )
    # nodata is told before numbers change
    x_CHW = np.full((1, 8, 8), 1500, np.uint16)
    x_CHW[0, 7] = 0
    read = read_pixels(
        paged((x_CHW, {42112: gdal_metadata((0, "scale", 1e-4), (0, "offset", -0.1)), 42113: "0"})),
        PixelSpec((0,), 8, 8, "uint16", units=(OLD,)),
    )
    assert (read == 500).all()  # filled by the others' mean, not 0 - 1000


@given(
    st.sampled_from(["uint8", "uint16", "int16", "float32", "int32"]),
    st.sampled_from([(1.0, -1000.0), (0.275, -20.0), (2.0, 7.5), (-1.0, 100.0)]),
)
def test_statistics_change_as_pixels_do(dtype, numbers_):
    gain, shift = numbers_
    x = numbers(1, 40, 50, dtype)
    y = Change((gain,), (shift,))(x, dtype)
    if dtype == "int32":  # rounded: no more than half a step
        y = x * gain + shift
    told = summarise("b", changed(count_pixels(x.ravel()), gain, shift))
    exact = np.dtype(dtype).itemsize <= 2
    np.testing.assert_allclose(
        [told.mean, told.std, told.min, told.max],
        [y.mean(dtype=float), y.std(dtype=float), y.min(), y.max()],
        rtol=1e-9 if exact else 1e-4, atol=1e-9 if exact else 1e-2,
    )  # fmt: skip
    assert told.valid == x.size
    wanted = np.percentile(y.astype(float), 25)
    assert told.percentiles["25"] == pytest.approx(wanted, rel=1e-9 if exact else 2e-3, abs=1e-2)


def prepared(root, old, units, **more):
    """An archive of tiles in some units, its index and the lines of its making."""
    for n, (x_HW, unit) in enumerate(zip(old, units, strict=True)):
        place = root / "tiles" / "ab"[n % 2] / f"{n}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(stated(x_HW[None] + np.uint16(1000 * (unit == NEW)), unit))
    recipe = PrepareRecipe(images=str(root / "tiles"), split={"val": 0.0}, **more)
    run = Run("prepare", "abcdefabcdef", str(root / "out"), STORE, ray=False)
    outcome = worked(prepare, recipe, run)
    return read_index(run.uri("index"), STORE), outcome.summary


@pytest.mark.parametrize(
    ("units", "recipe", "whole", "says"),
    [
        ((OLD, OLD, NEW), {}, OLD, "units: 4 tiles state scale 0.0001, offset 0; 2 tiles state scal"
         "e 0.0001, offset -0.1; all brought to scale 0.0001, offset 0"),
        ((NEW, OLD, NEW), {}, NEW, "all brought to scale 0.0001, offset -0.1"),
        ((None, None, NEW), {}, None, "all brought to the same scale without offset"),
        ((None,) * 3, {}, None, None),
        ((None, OLD, NEW), {"scale": 1e-4, "offset": 0.0}, OLD, "2 tiles state none"),
    ],
)  # fmt: skip
def test_archives_of_mixed_units(tmp_path, units, recipe, whole, says):
    """Statistics and training's pixels are those of an archive of one unit."""
    old = numbers(6) // 2 + 1
    index, said = prepared(tmp_path, old, units * 2, **recipe)
    assert index.meta.units == (() if whole is None else (whole,))
    wanted = old + np.uint16(1000 * (whole == NEW))
    figures = index.meta.statistics[0]
    assert (figures.mean, figures.max) == (pytest.approx(wanted.mean()), wanted.max())
    assert figures.percentiles["50"] == np.percentile(wanted, 50)
    source = tile_source(index, "train", ("gray",), STORE)
    (table,) = read_blocks(source, 6)
    pixels = to_torch(table)["pixels"].numpy()
    names = [int(name.rpartition("/")[2]) for name in index.table["tile_id"].to_pylist()]
    np.testing.assert_array_equal(pixels[:, 0], wanted[names])
    lines = [line for line in said if line.startswith("units: ")]
    assert [says in line for line in lines] == [True] * (says is not None)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"scale": (1.0, 0.0)}, "scale, offset: band b2 states scale 0.0; accepted: a finite"),
        ({"scale": (1.0, 1.0), "offset": (0.0,)}, "offset: found 1 numbers; accepted: one, or one"),
        ({"scale": (1.0,), "bands": ("red", "nir")}, "scale: found 1 .* for each of red, nir$"),
    ],
)
def test_a_wrong_unit_is_refused_before_an_image_is_read(tmp_path, keys, says):
    for name in ("a/1.tif", "b/2.tif"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(InputError, match=says):
        prepare.read(PrepareRecipe(images=str(tmp_path), **keys), STORE)


def test_a_tile_in_another_unit_is_named_whatever_its_split(tmp_path):
    for n, name in enumerate(("K", "K", "degC")):
        place = tmp_path / "tiles" / "ab"[n % 2] / f"{n}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(tiff(X, scales=(0.1,) * 2, units=(name,) * 2))
    recipe = PrepareRecipe(images=str(tmp_path / "tiles"), split={"val": 0.0})
    run = Run("prepare", "abcdefabcdef", str(tmp_path / "out"), STORE, ray=False)
    with pytest.raises(InputError, match=r"a/2\.tif states values in degC where K is wanted"):
        worked(prepare, recipe, run)
