"""Which band of which file each wanted band is. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from satray.data.bands import band_names, canonical
from satray.scoring.reading import MisfitError
from satray.scoring.scenes.scene import BandSource

Names = tuple[str, ...] | Mapping[str, int | str] | None
"""What a recipe says of the bands: names of a file's bands in order; or for a wanted band the
number (from 1), the name or the description of the one to take; or nothing."""


@dataclass(frozen=True)
class FileBands:
    """The bands that a file offers."""

    names: tuple[str, ...]
    """Their names."""
    numbers: tuple[int, ...]
    """Their numbers in the file, from 1; of a palette 1, 2, 3 for its colours."""
    descriptions: tuple[str, ...]
    """What the file says of each; empty where nothing."""
    alpha: int | None
    """Number of the band that says where data is; None without."""


def source_names(wanted: Sequence[str], names: Names) -> tuple[str, ...] | None:
    """The names under which wanted bands are looked up; None where a number is among them."""
    if not isinstance(names, Mapping):
        return tuple(wanted)
    asked = [names.get(band, band) for band in wanted]
    return None if any(isinstance(name, int) for name in asked) else tuple(map(str, asked))


def file_bands(
    descriptions: Sequence[str | None],
    colours: Sequence[str],
    names: Names,
    *,
    palette: bool,
    told: str | None = None,
) -> FileBands:
    """What a file offers.

    Args:
        descriptions: of its bands.
        colours: GDAL's colour interpretation of its bands, lower case.
        names: what the recipe says; names in order that are as many as its bands make data of
            one tagged alpha too.
        palette: whether its one band is an index of colours.
        told: how many bands it has, for messages.

    Raises:
        MisfitError: another number of bands than named, or none but alpha.
    """
    if palette:
        descriptions, colours = (None,) * 3, ("red", "green", "blue")
    count = len(colours)
    texts = tuple(text or "" for text in descriptions)
    data = [i for i, colour in enumerate(colours) if colour != "alpha"]
    if isinstance(names, tuple):
        if len(names) == count:
            return FileBands(names, tuple(range(1, count + 1)), texts, None)
        if len(names) != len(data):
            have = f"{count} bands" if told is None or palette else told
            raise MisfitError(f"has {have}, bands=[...] names {len(names)}")
    if not data:
        raise MisfitError("holds no band but alpha")
    found = band_names([texts[i] for i in data], [colours[i] for i in data], len(data))
    found = names if isinstance(names, tuple) else found
    alpha = next((i + 1 for i, colour in enumerate(colours) if colour == "alpha"), None)
    return FileBands(found, tuple(i + 1 for i in data), tuple(texts[i] for i in data), alpha)


def named(
    bands: tuple[BandSource, ...], names: Names, raster_of: Callable[[str], Any]
) -> list[BandSource]:
    """Bands with a name each: their own, the recipe's in order, or the file's."""
    in_order = names if isinstance(names, tuple) and len(names) == len(bands) else None
    told = []
    for place, band in enumerate(bands):
        name = band.name
        if name is None and in_order is not None:
            name = in_order[place]
        if name is None:
            name = raster_of(band.uri).own_name(band.band)
        told.append(BandSource(name, band.uri, band.band))
    return told


def of_file(offered: FileBands, wanted: Sequence[str], names: Names, uri: str) -> list[BandSource]:
    """Find each wanted band in a file that is a whole scene.

    Raises:
        MisfitError: one is absent; says what there is.
    """
    by_name = dict(zip(offered.names, offered.numbers, strict=True))
    told = {canonical(t): n for t, n in zip(offered.descriptions, offered.numbers, strict=True)}
    by_name = {text: number for text, number in told.items() if text} | by_name
    chosen = []
    for band in wanted:
        asked = names.get(band, band) if isinstance(names, Mapping) else band
        if isinstance(asked, int):
            number = asked if asked in offered.numbers or asked == offered.alpha else None
        else:
            number = by_name.get(canonical(asked))
        if number is None:
            raise MisfitError(_absent(band, asked, offered.names, wanted))
        chosen.append(BandSource(band, uri, number))
    return chosen


def of_files(
    sources: Sequence[BandSource], wanted: Sequence[str], names: Names
) -> list[BandSource]:
    """Find each wanted band among bands that are told one by one.

    Args:
        sources: all named.
        wanted: bands.
        names: what the recipe says; names in order are of no use here.

    Raises:
        MisfitError: one is absent, or asked for by number.
    """
    by_name = {canonical(source.name or ""): source for source in sources}
    chosen = []
    for band in wanted:
        asked = names.get(band, band) if isinstance(names, Mapping) else band
        if isinstance(asked, int):
            raise MisfitError(
                f"bands.{band}: found {asked}; the scene's bands are named, accepted: a name of "
                f"{', '.join(by_name)}"
            )
        found = by_name.get(canonical(asked))
        if found is None:
            raise MisfitError(_absent(band, asked, tuple(by_name), wanted))
        chosen.append(BandSource(band, found.uri, found.band))
    return chosen


def _absent(band: str, asked: int | str, have: Sequence[str], wanted: Sequence[str]) -> str:
    what = f"band {band}" if asked == band else f"band {asked} (for {band})"
    return f"no {what}; the scene has {', '.join(have)}, the bundle wants {', '.join(wanted)}"
