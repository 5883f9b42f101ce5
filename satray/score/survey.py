"""How the scenes of a run are scored, and what a look at one says. Without torch."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from satray.config.score import ScoreRecipe
from satray.data.values import as_units
from satray.errors import DecodeError, InputError, MisfitError
from satray.score.layout import SceneLayout, lay_out
from satray.score.products.catalogue import time_pattern
from satray.score.results import MapRequest, SceneJob, SceneResult, failed
from satray.score.scenes.drift import drift
from satray.score.scenes.find import SceneRef
from satray.score.scenes.grid import NetGrid, net_grid
from satray.score.scenes.open import Conversion, Scene
from satray.score.settings import class_places, maps_of
from satray.score.windows import DenseGeometry, Mode, choose
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.bundle import Bundle
    from satray.models.spec import BundleSpec

NOT_ON_EARTH = "no outline: it holds a pole, or its CRS leads to no longitude and latitude there"
UNMEASURED = DenseGeometry((), size=1, block=1)
"""Of a network that nobody has looked at."""


@dataclass(frozen=True)
class Scoring:
    """How scenes are scored, and what is made of them: the same in every process of a run."""

    recipe: ScoreRecipe
    """As asked for."""
    spec: "BundleSpec"
    """The bundle's."""
    maps: MapRequest
    """Maps that are written."""
    detections: bool
    """Whether peaks are written."""
    sought: tuple[int, ...]
    """Places of the classes whose peaks are written, and of which the picture shows one."""
    within_tiles: bool
    """Whether peaks count only in tiles that are given the class: where the head pools by maximum,
    whose evidence against a class a single cell may lack."""
    distance: float
    """Least distance of two detections of a class, net px."""
    conversion: Conversion
    """What makes other numbers the bundle's."""
    geometry: DenseGeometry = UNMEASURED
    """The network's, for this mode, as `prepare` measures it."""
    mode: Mode = "tiles"
    """How all scenes of a run are scored, as `prepare` finds."""
    why: str = ""
    """Why that, for a person."""

    @property
    def d4(self) -> bool:
        """Whether all is averaged over the eight symmetries."""
        return self.recipe.symmetries == "d4"

    @property
    def step(self) -> int:
        """Net px from tile to tile."""
        return max(1, round(self.recipe.stride * self.spec.size))

    @property
    def computed(self) -> MapRequest:
        """Maps that the network is asked for.

        Peaks are looked for in the dense maps of all classes, and a softmax at a cell is over all.
        """
        classes, kinds = self.maps.classes, self.maps.kinds
        if self.detections or (classes and self.spec.task == "multiclass"):
            classes = tuple(range(len(self.spec.classes)))
        if self.detections:
            kinds = ("dense", *(kind for kind in kinds if kind != "dense"))
        return MapRequest(classes, kinds)

    def open(self, ref: SceneRef, storage: Storage) -> Scene:
        """Open a scene as the bundle wants it.

        Raises:
            DecodeError: as `Scene`; a name that tables and catalogues cannot hold.
        """
        try:
            (ref.scene + ref.uri).encode()
        except UnicodeEncodeError:
            raise MisfitError("its name is no UTF-8; accepted: rename it") from None
        return Scene(
            ref,
            self.spec.bands,
            self.recipe.bands,
            storage,
            dtype=self.spec.dtype,
            conversion=self.conversion,
            pages=self.recipe.pages,
        )

    def look(self, scene: Scene, number: int, ref: SceneRef) -> SceneJob | SceneResult:
        """Look at a scene that is open; a job, or why it has none."""
        stage = "open"
        try:
            facts = scene.facts
            grid = self.grid(scene)
            place = facts.place
            if not place and facts.extent.outline() is None:
                place = NOT_ON_EARTH if facts.extent.georeferenced else "no CRS: pixel coordinates"
            notes = [*facts.notes, *([place] if place else [])]
            stage, score = "drift", None
            if self.recipe.drift != "off":
                score, warning = drift(scene, self.spec)
                if warning and self.recipe.drift == "refuse":
                    raise MisfitError(warning)
                notes += [warning] if warning else []
        except DecodeError as error:
            return failed(number, ref, stage, error)
        parts, px = len(self.parts(grid)), self.layout(grid).plan.px
        return SceneJob(number, ref, grid, facts.taken_at, parts, px, score, tuple(notes))

    def grid(self, scene: Scene) -> NetGrid:
        """Lay the grid of net px.

        Raises:
            DecodeError: as `net_grid`; px that would be resampled and must not be.
        """
        grid = net_grid(scene.facts.extent, self.spec, self.recipe.gsd)
        if grid.resampled and self.spec.radiometry.name == "pil_compat":
            raise MisfitError(
                f"{grid.why}: its px would be resampled, and radiometry pil_compat wants them as "
                "stored; accepted: gsd=none, and a bundle that saw its tiles at their own size"
            )
        return grid

    def layout(self, grid: NetGrid) -> SceneLayout:
        """The windows of a scene, and its picture."""
        return lay_out(
            grid,
            self.geometry,
            self.mode,
            self.step,
            self.recipe.window,
            self.mode == "dense" and self.maps.argmax,
            self.spec.bands,
        )

    def parts(self, grid: NetGrid) -> tuple[range, ...]:
        """Numbers of the windows of each part that a scene is read in."""
        # as it travels: as stored, or values and shares in float32
        band = 8 if grid.resampled else np.dtype(self.spec.dtype).itemsize
        return self.layout(grid).parts(len(self.spec.bands) * band)


def scoring_of(recipe: ScoreRecipe, spec: "BundleSpec") -> Scoring:
    """What a recipe asks for of a bundle; the network is yet to be measured, see `prepare`.

    Raises:
        InputError: as `maps_of`; a pattern that is no regular expression, a conversion that does
            not fit the bundle's bands.
    """
    if recipe.datetime is not None:
        time_pattern(recipe.datetime)
    scale, offset = (v if isinstance(v, tuple) else (v,) for v in (recipe.scale, recipe.offset))
    conversion = Conversion(recipe.convert, scale, offset, as_units(spec.units))
    conversion.check(spec.bands)
    if isinstance(recipe.bands, dict):
        strange = sorted(set(recipe.bands) - set(spec.bands))
        if strange:
            raise InputError(
                f"bands.{strange[0]}: the bundle has no such band; accepted: "
                f"{', '.join(spec.bands)}"
            )
    maps, found = maps_of(recipe, spec), recipe.detections
    sought = maps.classes or tuple(range(len(spec.classes)))
    if found.classes is not None:
        sought = class_places(found.classes, spec, "detections.classes")
    return Scoring(
        recipe,
        spec,
        maps=maps,
        detections=found.write and spec.variant.head == "linear",
        sought=sought,
        within_tiles=spec.variant.pooling == "max",
        distance=found.distance * spec.size,
        conversion=conversion,
    )


def prepare(recipe: ScoreRecipe, storage: Storage) -> tuple["Bundle", Scoring]:
    """Load the bundle on the CPU of this process, and measure its network.

    How scenes are scored is decided by bundle and keys alone.

    Raises:
        InputError: as `load_bundle` and `scoring_of`; windows are asked for and cannot be.
    """
    from satray.models.bundle import load_bundle
    from satray.score.window_forward import measure

    bundle = load_bundle(recipe.bundle, storage)
    scoring = scoring_of(recipe, bundle.spec)
    geometry = measure(bundle, d4=scoring.d4)
    mode: Mode
    if recipe.mode == "auto":
        step, window = scoring.step, recipe.window
        mode, why = choose(geometry, step=step, window=window, argmax=scoring.maps.argmax)
    else:
        mode, why = recipe.mode, f"{recipe.mode}: mode={recipe.mode}"
    if mode == "dense" and geometry.why_tiles:
        raise InputError(f"mode=dense: found {geometry.why_tiles}; accepted: mode=tiles or auto")
    if mode == "tiles" and scoring.d4:
        geometry = measure(bundle, d4=True, tiles=True)
    return bundle, replace(scoring, geometry=geometry, mode=mode, why=why)
