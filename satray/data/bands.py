"""What the bands of an image are called, and how a model's bands are found among them. Pure."""

from collections.abc import Sequence

from satray.errors import InputError

COLOURS = ("red", "green", "blue", "nir", "gray")
"""Colour interpretations that name a band (STAC common names)."""

COMMON_NAMES = frozenset(
    (
        *("pan", "coastal", "blue", "green", "green05", "yellow", "red", "gray"),
        *("rededge", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09"),
        *("cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12"),
    )
)
"""STAC common names: a band description that equals one but for case is that band."""

ALIASES = {"grey": "gray", "near-infrared": "nir", "near infrared": "nir", "near_infrared": "nir"}
"""Other spellings of common names."""


def canonical(name: str) -> str:
    """A band name without outer blanks; common names in STAC's spelling (`NIR` -> `nir`)."""
    stripped = " ".join(name.split())
    lower = stripped.lower()
    lower = ALIASES.get(lower, lower)
    return lower if lower in COMMON_NAMES else stripped


def band_names(
    descriptions: Sequence[str | None], colorinterp: Sequence[str], count: int
) -> tuple[str, ...]:
    """Name the data bands of a file: by its descriptions, else by colour, else `b1..bN`.

    Args:
        descriptions: the file's band descriptions, None where it has none; at least `count`.
        colorinterp: GDAL's colour interpretations in lower case (`red`, `gray`, `undefined`).
        count: number of data bands; alpha is not among them.

    Returns:
        `count` different names. Files that describe some bands only keep `bN` for the others;
        `gray` names a band only where it is the only one, since GDAL calls the first of any
        multi-band TIFF gray; descriptions that repeat are ignored altogether.
    """
    numbered = tuple(f"b{i + 1}" for i in range(count))
    described = [canonical(text) if text and text.strip() else "" for text in descriptions[:count]]
    if any(described):
        names = tuple(d or n for d, n in zip(described, numbered, strict=True))
        if len(set(names)) == count:
            return names
    colours = [c if c in COLOURS and (c != "gray" or count == 1) else "" for c in colorinterp]
    names = tuple(c or n for c, n in zip(colours[:count], numbered, strict=True))
    return names if len(set(names)) == count else numbered


def select(have: Sequence[str], want: Sequence[str]) -> tuple[int, ...]:
    """Where each wanted band is among those there are.

    Args:
        have: band names of the archive, in order.
        want: band names that a model asks for; may repeat.

    Returns:
        0-based positions in `have`, one for each of `want`.

    Raises:
        InputError: a name is absent; prints what there is.
    """
    positions = {name: i for i, name in enumerate(have)}
    absent = [name for name in dict.fromkeys(want) if name not in positions]
    if absent:
        raise InputError(
            f"bands: no {', '.join(absent)} among the tiles' bands, which are "
            f"{', '.join(have)} (prepare with bands=[...] names them)"
        )
    return tuple(positions[name] for name in want)
