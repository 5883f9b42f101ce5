"""What travels between the stages of scoring. Without torch.

What a forward says of tiles and of windows; a scene as it is found, as it is opened, and what
became of it.

Legend: N tiles, K classes, k classes mapped, h x w cells.
"""

import functools
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from satray.errors import MisfitError, SatrayError
from satray.runs.run import Product, to_json
from satray.score.ledger import Claim, Task
from satray.score.predictions import Numbers
from satray.score.scenes.find import SceneFailure, SceneRef
from satray.score.scenes.grid import NetGrid
from satray.storage.names import as_text

Status = Literal["done", "failed", "skipped"]

CamKind = Literal["dense", "argmax"]
"""dense: weighted features; argmax: what maximum pooling really used."""
Maps = dict[CamKind, dict[str, NDArray[np.float32]]]
"""Kind -> tower -> (k, h, w), in logit units; NaN where a cell has no valid px."""


@dataclass(frozen=True)
class MapRequest:
    """Which class activation maps to make."""

    classes: tuple[int, ...] = ()
    """Places of the classes in the bundle's list; none: no maps."""
    kinds: tuple[CamKind, ...] = ("dense",)
    """See `CamKind`; none where no class is mapped, whatever is given."""

    def __post_init__(self) -> None:
        if not self.classes:
            object.__setattr__(self, "kinds", ())

    @property
    def argmax(self) -> bool:
        """Whether argmax maps are among them."""
        return "argmax" in self.kinds


@dataclass(frozen=True)
class Forward:
    """What the network says of N tiles."""

    numbers: Numbers
    """Logits, scores, predictions, shares."""
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Tower -> (N, classes asked for, h, w), in logit units."""


@dataclass(frozen=True)
class WindowScores:
    """What the network says of a window, and of its N tiles in row order."""

    numbers: Numbers
    """As of tiles scored one by one; NaN (decisions: 0) where `scored` is not."""

    scored: NDArray[np.bool_]
    """(N,) whether enough of a tile's px are valid; else it is nodata."""

    maps: Maps = field(default_factory=dict)
    """Of the cells that the window gives; none where none are asked for."""

    mostly: NDArray[np.bool_] | None = None
    """(h, w) of the finest tower's: whether half of a cell's px in the scene, or more, have data;
    None without maps."""


@dataclass(frozen=True)
class SceneItem:
    """A scene to score."""

    number: int
    """Its place among the run's scenes."""
    ref: SceneRef
    """Where it is."""
    task: Task | None = None
    """Of a run of a schedule: what is to be claimed when the scoring begins."""


@dataclass(frozen=True)
class SceneJob:
    """A scene that can be scored."""

    number: int
    """Its place among the run's scenes."""
    ref: SceneRef
    """Where it is."""
    grid: NetGrid
    """Its size and place, and its grid of net px."""
    taken_at: str | None
    """Its TIFF's own date and time."""
    parts: int
    """Parts that it is read in."""
    px: int
    """Net px that all forwards look at."""
    drift: float | None = None
    """How far its values lie from the training's; None where nobody looked."""
    notes: tuple[str, ...] = ()
    """What a reader must know: drift, no georeference."""
    claim: Claim | None = None
    """Of a run of a schedule: its right to the scene."""


@dataclass(frozen=True)
class SceneResult:
    """What became of a scene."""

    number: int
    """Its place among the run's scenes."""
    scene: str
    """Its name."""
    uri: str
    """Where it is."""
    status: Status
    """skipped: another run has taken it over, or its provider changed it meanwhile."""
    stage: str | None = None
    """What failed: find, open, drift, read, score."""
    error: str | None = None
    """Why it failed, or was skipped; one line."""
    retryable: bool = True
    """Whether another attempt may succeed."""
    mode: str | None = None
    """dense or tiles."""
    why: str | None = None
    """Why that."""
    drift: float | None = None
    """See `SceneJob`."""
    notes: tuple[str, ...] = ()
    """See `SceneJob`."""
    height: int | None = None
    """Rows, stored px."""
    width: int | None = None
    """Columns, stored px."""
    crs: str | None = None
    """Its CRS."""
    taken: str = ""
    """When it was taken, and where that is known from."""
    tiles: int = 0
    """Tiles that have scores."""
    nodata: int = 0
    """Tiles that have none for want of data."""
    detections: int = 0
    """Points found."""
    predicted: tuple[int, ...] = ()
    """Tiles that are given each class."""
    run_id: str = ""
    """The run that made its files."""
    engine: str | None = None
    """What computed its features."""
    bbox: tuple[float, ...] = ()
    """West, south, east, north, degrees; empty without ground."""
    times: tuple[str, ...] = ()
    """First and last of when it was taken, RFC 3339."""
    products: tuple[Product, ...] = ()
    """Its files."""

    def to_json(self) -> bytes:
        """As JSON."""
        return to_json(asdict(self))

    @staticmethod
    def read(given: object, name: str) -> "SceneResult":
        """Undo `to_json`, or `asdict`; `name` is for messages.

        Raises:
            SatrayError: it is something else.
        """
        kind = _result_type()
        try:
            if isinstance(given, bytes):
                return kind.validate_json(given)
            return kind.validate_python(given)
        except ValidationError:
            raise SatrayError(f"{name}: not what satray wrote; remove it and rerun") from None


@functools.cache
def _result_type() -> TypeAdapter[SceneResult]:
    return TypeAdapter(SceneResult)


def failed(
    number: int, ref: SceneRef | SceneFailure, stage: str, error: Exception | str
) -> SceneResult:
    """That a scene cannot be scored; what is not what the bundle wants never can."""
    said = " ".join(str(error).split()).removeprefix(f"{ref.scene}: ")
    scene, uri, said = map(as_text, (ref.scene, ref.uri, said))
    retryable = not isinstance(error, MisfitError)
    return SceneResult(number, scene, uri, "failed", stage, said, retryable)
