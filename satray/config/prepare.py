"""Keys of `prepare`, and of `demo`, which makes an archive of its own."""

import re
from typing import Literal, Self

from pydantic import field_validator, model_validator

from satray.config.base import (
    NotNegative,
    Positive,
    ReadPath,
    Recipe,
    Section,
    Seed,
    Share,
    Texts,
    idle_keys,
    key,
    names_of_bands,
)

Task = Literal["binary", "multilabel", "multiclass"]
POSITIVE = r"\s*(>=?)\s*([-+]?\d+(?:\.\d*)?)\s*"
"""A condition of `label_positive`: its comparison and its number."""

_DRAWN = {"by": ("auto", "draw", "ground")}


class SplitOptions(Section):
    """How tiles are divided into train, val and test."""

    by: Literal["auto", "column", "draw", "ground"] = key(
        "auto",
        "auto: the column where the label table has it, else a draw; ground: a draw of blocks of "
        "ground, for tiles with georeference (all are opened for it)",
    )
    column: str = key("split", "label column that holds train, val or test")
    val: NotNegative = key(0.2, "share (below 1) or number of tiles for validation", needs=_DRAWN)
    test: NotNegative = key(0.0, "share (below 1) or number of tiles for test", needs=_DRAWN)
    seed: Seed = key(
        0, "seed of the draw: scikit-learn's train_test_split permutation", needs=_DRAWN
    )
    group: str | None = key(
        None,
        "column whose equal values stay on one side (a scene id)",
        needs={"by": ("auto", "column", "draw")},
    )
    block: Positive = key(
        10_000.0,
        "edge of a block of ground whose tiles stay on one side",
        unit="m",
        needs={"by": ("ground",)},
    )
    stratify: bool = key(False, "keep label frequencies alike on all sides", needs=_DRAWN)


class PrepareRecipe(Recipe):
    """Make a tile index, split and statistics of an archive."""

    images: ReadPath = key(..., "prefix that holds the tiles: JPEG, PNG, GeoTIFF")
    labels: ReadPath | None = key(None, "label table: CSV, TSV or Parquet; left out for folders")
    label_format: Literal["auto", "wide", "tags", "rle", "folders"] = key(
        "auto", "wide: a 0/1 column a class; tags: words; rle: Airbus masks; folders: one a class"
    )
    label_separator: str = key(
        "auto",
        "between names in a cell: comma, semicolon, pipe, blank, other text, none; auto: guessed",
        min_length=1,
    )
    label_positive: str | None = key(
        None, "numbers of class columns that mean yes, as '>0'; default: 0 and 1 only"
    )
    extensions: Texts | None = key(
        None, "image files to take by extension, as [tif]; default every known one", min_length=1
    )
    key_column: str | None = key(
        None, "label column that names the tile; default the first text column"
    )
    classes: Texts | None = key(None, "classes to keep, in this order; default all", min_length=1)
    task: Literal["auto"] | Task = key(
        "auto", "auto: one class binary; folders, or one name a cell, multiclass; else multilabel"
    )
    bands: Texts | None = key(
        None, "names of the files' bands in order; default what the files say"
    )
    pages: Literal["bands", "first"] = key(
        "bands", "of TIFFs: bands: pages of one size and dtype are bands; first: only the first is"
    )
    scale: float | tuple[float, ...] | None = key(
        None,
        "value = stored * scale + offset of the bands, one factor or one a band; default what "
        "most tiles state, if any",
    )
    offset: float | tuple[float, ...] | None = key(None, "see scale; one number or one a band")
    split: SplitOptions = key(SplitOptions(), "train, val, test")
    unmatched_budget: Share = key(
        0.0,
        "share of images without a label row, and of label rows without an image, to accept",
        identity=False,
    )
    error_budget: Share = key(
        0.05,
        "share of images above which the job ends with status 3: unreadable, or of other bands or "
        "dtype than most",
        identity=False,
    )

    _named = field_validator("bands")(names_of_bands)

    @field_validator("label_positive")
    @classmethod
    def _is_condition(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(POSITIVE, value) is None:
            raise ValueError(f"found {value}; accepted: '>NUMBER' or '>=NUMBER'")
        return value

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        for line in idle_keys(self):
            raise ValueError(line)
        return self


class DemoRecipe(Recipe):
    """Generate a small archive and run the whole line on it; cut short, it begins anew."""

    tiles: int = key(600, "tiles in the generated archive", unit="tiles", ge=40)
    size: int = key(64, "side of a tile", unit="px", ge=32)
    pseudo_epochs: Positive = key(6.0, "length of each training", unit="pseudo-epochs")
    seed: Seed = key(0, "seed of everything")
