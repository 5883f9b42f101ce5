"""The README's picture: the demo's scene with its CAM and detections, small enough to keep.

Its source is what `make demo` wrote; nothing is drawn here.
"""

import argparse
from pathlib import Path

SIDE = 768
"""Longer side, px."""
COLOURS = 200
LIMIT = 300_000
"""Bytes, at most."""


def main(arguments: list[str]) -> int:
    """Write `bench/scene.png`."""
    from PIL import Image

    parser = argparse.ArgumentParser(prog="python -m bench picture", description=__doc__)
    parser.add_argument("demo", nargs="?", default="runs/demo", help="the `out` of a demo run")
    options = parser.parse_args(arguments)
    source = Path(options.demo) / "scene-simple_cnn" / "quicklooks" / "scene.tif.png"
    target = Path(__file__).with_name("scene.png")
    with Image.open(source) as image:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        small = image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target}: {small.width} x {small.height} px, {size:,} bytes")
    return int(size > LIMIT)
