"""`pil_compat` against the Pillow that is installed: the same levels, not nearly the same."""

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision.transforms as transforms
from models.planet_tiff import planet_pixels, write_planet

from satray.data.decode import PixelSpec, read_pixels
from satray.models.pil import pil_levels, pil_resize
from satray.models.preprocess import Preprocess
from satray.models.radiometry import Radiometry

PLANET = ("blue", "green", "red", "nir")
MEAN, STD = (0.7476, 0.6534, 0.4757, 0.0960), (0.1677, 0.1828, 0.2137, 0.0284)
"""The report's."""


def opened(tmp_path, pixels_CHW):
    image = PIL.Image.open(write_planet(tmp_path / "t.tif", pixels_CHW))
    assert (image.mode, image.tag_v2[338]) == ("RGBA", (1,))
    return image


def every_pair():
    """All high bytes of a colour (down) with all of near-infrared (across), low bytes drawn."""
    colour, nir = np.mgrid[:256, :256]
    high_CHW = np.stack([colour, 255 - colour, colour // 2, nir])
    low_CHW = np.random.default_rng(0).integers(0, 256, high_CHW.shape)
    return (high_CHW * 256 + low_CHW).astype(np.uint16)


def levels(pixels_CHW):
    return pil_levels(torch.from_numpy(pixels_CHW)[None], 3)


@pytest.mark.parametrize("pixels", [every_pair(), planet_pixels(61)], ids=["every pair", "planet"])
@pytest.mark.parametrize("shape", [None, (224, 224), (61, 40), (50, 61), (300, 90), (7, 5)])
def test_levels_and_resizing_are_pillows(tmp_path, pixels, shape):
    image, found = opened(tmp_path, pixels), levels(pixels)
    if shape is not None:
        image = image.resize(shape[::-1], PIL.Image.Resampling.BILINEAR)
        found = pil_resize(found, 3, *shape)
    np.testing.assert_array_equal(found[0].numpy(), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("way", ["train", "validation"])
def test_the_reports_transforms_end_to_end(tmp_path, way):
    """File -> PIL -> torchvision, as its code has it, and file -> GDAL -> `Preprocess`."""
    pixels = planet_pixels(256)
    image = opened(tmp_path, pixels)
    normalise = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    size = 224 if way == "validation" else 256  # a chip has 256 px: nothing to resize in training
    chain = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *normalise])
    data = (tmp_path / "t.tif").read_bytes()
    read = read_pixels(data, PixelSpec((0, 1, 2, 3), 256, 256, "uint16", named=4))
    np.testing.assert_array_equal(read, pixels)
    p = Preprocess(PLANET, MEAN, STD, size, None, "whole", Radiometry("pil_compat"))
    found = p(torch.from_numpy(read)[None])[0]
    torch.testing.assert_close(found, chain(image), rtol=0, atol=2e-6)


def test_what_the_two_ways_of_decoding_make_of_planet():
    """PIL's 'red, green, blue' are ratios to near-infrared, ten times the stored.

    The archive's published statistics (blue, green, red, nir), decoded by PIL, come near the means
    that the report normalises by; as they are stored, they do not.
    """
    pixels = planet_pixels(256)
    plain = pixels.mean(axis=(1, 2)) / 65_535
    pil = levels(pixels)[0].numpy().mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(plain, [0.0761, 0.0652, 0.0469, 0.0976], atol=2e-4)
    np.testing.assert_allclose(pil, [0.776, 0.672, 0.480, 0.096], atol=4e-3)
    assert np.abs(pil - MEAN).max() < 0.03
    assert np.abs(plain - MEAN)[:3].min() > 0.4


def test_other_dtypes_are_refused():
    p = Preprocess(PLANET, MEAN, STD, 8, None, "whole", Radiometry("pil_compat"))
    with pytest.raises(ValueError, match=r"uint16 pixels, found torch\.uint8"):
        p(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))
