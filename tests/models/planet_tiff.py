"""TIFFs as Planet makes them: blue, green, red, near-infrared in 16 bits, the last tagged alpha."""

import warnings

import numpy as np
import rasterio

MEANS = (0.07612, 0.06517, 0.04692, 0.09764)
DEVIATIONS = (0.01204, 0.01083, 0.01216, 0.01504)
"""Of blue, green, red, near-infrared in the Amazon archive, as shares of 65,535."""


def planet_pixels(side=64, seed=0):
    """Pixels (4, side, side) uint16 with the archive's means and deviations."""
    rng = np.random.default_rng(seed)
    scale = zip(MEANS, DEVIATIONS, strict=True)
    bands = [65_535 * rng.normal(mean, std, (side, side)) for mean, std in scale]
    return np.stack(bands).clip(0, 65_535).astype(np.uint16)


def write_planet(path, pixels_CHW):
    """Write a file whose fourth band is associated alpha (ExtraSamples = 1)."""
    _, height, width = pixels_CHW.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=4,
            height=height,
            width=width,
            dtype="uint16",
            photometric="RGB",
            alpha="PREMULTIPLIED",
            interleave="pixel",
        ) as file:
            file.write(pixels_CHW)
    return path
