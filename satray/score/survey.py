"""How the scenes of a run are scored, and what a look at one says. Without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from satray.config.score import ScoreRecipe
from satray.errors import DecodeError, InputError
from satray.score.layout import SceneLayout, lay_out
from satray.score.results import SceneJob, SceneResult, failed
from satray.score.scenes.drift import drift
from satray.score.scenes.find import SceneRef
from satray.score.scenes.grid import NetGrid, net_grid
from satray.score.scenes.open import Scene
from satray.score.settings import Settings, settings_of
from satray.score.tiles import MisfitError
from satray.score.windows import DenseGeometry, Mode, choose
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.bundle import Bundle
    from satray.models.spec import BundleSpec

NOT_ON_EARTH = "no outline: it holds a pole, or its CRS leads to no longitude and latitude there"


@dataclass(frozen=True)
class Surveyor:
    """Looks at scenes for one bundle and recipe, and lays them out; the same in every process."""

    spec: "BundleSpec"
    """The bundle's."""
    settings: Settings
    """The recipe's."""
    geometry: DenseGeometry
    """The network's, for this mode."""
    mode: Mode
    """How all scenes of a run are scored."""
    why: str
    """Why that, for a person."""

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
            if self.settings.recipe.drift != "off":
                score, warning = drift(scene, self.spec, self.settings.recipe.drift_limit)
                if warning and self.settings.recipe.drift == "refuse":
                    raise MisfitError(warning)
                notes += [warning] if warning else []
        except DecodeError as error:
            return failed(number, ref, stage, error)
        layout = self.layout(grid)
        parts = len(self.parts(grid))
        return SceneJob(
            number, ref, grid, facts.taken_at, self.mode, self.why, parts,
            layout.plan.px, score, tuple(notes),
        )  # fmt: skip

    def grid(self, scene: Scene) -> NetGrid:
        """Lay the grid of net px.

        Raises:
            DecodeError: as `net_grid`; px that would be resampled and must not be.
        """
        grid = net_grid(scene.facts.extent, self.spec, self.settings.recipe.gsd)
        if grid.resampled and self.spec.radiometry.name == "pil_compat":
            raise MisfitError(
                f"{grid.why}: its px would be resampled, and radiometry pil_compat wants them as "
                "stored; accepted: gsd=none, and a bundle that saw its tiles at their own size"
            )
        return grid

    def layout(self, grid: NetGrid) -> SceneLayout:
        """The windows of a scene, and its overview."""
        return lay_out(
            (grid.extent.height, grid.extent.width),
            (grid.net_height, grid.net_width),
            self.geometry,
            self.mode,
            self.settings.step,
            self.settings.recipe.window,
            self.mode == "dense" and self.settings.maps.argmax,
            self.spec.bands,
        )

    def parts(self, grid: NetGrid) -> tuple[range, ...]:
        """Numbers of the windows of each part that a scene is read in."""
        # as it travels: as stored, or values and shares in float32
        band = 8 if grid.resampled else np.dtype(self.spec.dtype).itemsize
        return self.layout(grid).parts(len(self.spec.bands) * band)


def open_for(ref: SceneRef, spec: "BundleSpec", settings: Settings, storage: Storage) -> Scene:
    """Open a scene as a bundle wants it.

    Raises:
        DecodeError: as `Scene`; a name that tables and catalogues cannot hold.
    """
    try:
        (ref.scene + ref.uri).encode()
    except UnicodeEncodeError:
        raise MisfitError("its name is no UTF-8; accepted: rename it") from None
    return Scene(
        ref,
        spec.bands,
        settings.recipe.bands,
        storage,
        dtype=spec.dtype,
        conversion=settings.conversion,
        pages=settings.recipe.pages,
    )


def prepare(recipe: ScoreRecipe, storage: Storage) -> tuple["Bundle", Surveyor]:
    """Load the bundle on the CPU of this process, and measure its network.

    How scenes are scored is decided by bundle and keys alone.

    Raises:
        InputError: as `load_bundle` and `settings_of`; windows are asked for and cannot be.
    """
    from satray.models.bundle import load_bundle
    from satray.score.window_forward import measure

    bundle = load_bundle(recipe.bundle, storage)
    settings = settings_of(recipe, bundle.spec)
    geometry = measure(bundle, d4=settings.d4)
    mode: Mode
    if recipe.mode == "auto":
        step, window = settings.step, recipe.window
        mode, why = choose(geometry, step=step, window=window, argmax=settings.maps.argmax)
    else:
        mode, why = recipe.mode, f"{recipe.mode}: mode={recipe.mode}"
    if mode == "dense" and geometry.why_tiles:
        raise InputError(f"mode=dense: found {geometry.why_tiles}; accepted: mode=tiles or auto")
    if mode == "tiles" and settings.d4:
        geometry = measure(bundle, d4=True, tiles=True)
    return bundle, Surveyor(bundle.spec, settings, geometry, mode, why)
