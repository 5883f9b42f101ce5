"""Look at a scene's facts and at some of its values, and decide how it is scored."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from satray.errors import DecodeError
from satray.score.maps.jobs import SceneJob, SceneResult, failed
from satray.score.maps.layout import Geometries, layout_of, mode_of, px_bytes
from satray.score.maps.settings import Settings
from satray.score.reading import MisfitError
from satray.score.scenes.drift import drift
from satray.score.scenes.find import SceneRef
from satray.score.scenes.grid import NetGrid, net_grid
from satray.score.scenes.open import Scene, open_scene
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

NOT_ON_EARTH = "its CRS does not lead to longitude and latitude there: no outline"


@dataclass(frozen=True)
class Surveyor:
    """Looks at scenes for one bundle and recipe."""

    spec: "BundleSpec"
    """The bundle's."""
    settings: Settings
    """The recipe's."""
    geometries: Geometries
    """The network's."""

    def look(self, scene: Scene, number: int, ref: SceneRef) -> SceneJob | SceneResult:
        """Look at a scene that is open; a job, or why it has none."""
        stage = "open"
        try:
            facts = scene.facts
            grid = grid_for(scene, self.spec, self.settings)
            mode, why = mode_of(self.settings, self.geometries)
            layout = layout_of(grid, mode, self.settings, self.geometries, self.spec.bands)
            place = facts.place
            if not place and facts.extent.outline() is None:
                place = NOT_ON_EARTH if facts.extent.georeferenced else "no CRS: pixel coordinates"
            notes = [*facts.notes, *([place] if place else [])]
            stage, score = "drift", None
            if self.settings.drift != "off":
                found = drift(scene, self.spec, self.settings.drift_limit)
                if found is not None and found.warning is not None:
                    if self.settings.drift == "refuse":
                        raise MisfitError(found.warning)
                    notes.append(found.warning)
                score = None if found is None else found.score
        except DecodeError as error:
            return self.refused(number, ref, stage, error)
        strips = scene.block_width * grid.scale_x > layout.plan.windows[0].width
        size = px_bytes(grid, self.spec.bands, self.spec.dtype)
        parts = layout.parts(size, strips=strips)
        return SceneJob(
            number, ref, grid, facts.extent, facts.taken_at, mode, why, len(parts), layout.plan.px,
            strips, score, tuple(notes),
        )  # fmt: skip

    def refused(self, number: int, ref: SceneRef, stage: str, error: DecodeError) -> SceneResult:
        """That a scene cannot be scored; what is not what the bundle wants never can."""
        return failed(number, ref, stage, error, retryable=not isinstance(error, MisfitError))


def open_for(ref: SceneRef, spec: "BundleSpec", settings: Settings, storage: Storage) -> Scene:
    """Open a scene as a bundle wants it; raises as `open_scene`."""
    return open_scene(
        ref,
        spec.bands,
        settings.names,
        storage,
        dtype=spec.dtype,
        conversion=settings.conversion,
        pages=settings.pages,
    )


def grid_for(scene: Scene, spec: "BundleSpec", settings: Settings) -> NetGrid:
    """Lay the grid of net px.

    Raises:
        DecodeError: as `net_grid`; px that would be resampled and must not be.
    """
    grid = net_grid(scene.facts.extent, spec, settings.gsd)
    if grid.resampled and spec.radiometry.name == "pil_compat":
        raise MisfitError(
            f"{grid.why}: its px would be resampled, and radiometry pil_compat wants them as "
            "stored; accepted: gsd=none, and a bundle that saw its tiles at their own size"
        )
    return grid


def refuse_name(scene: str) -> None:
    """Refuse names that are no Unicode: tables and catalogues cannot hold them."""
    try:
        scene.encode()
    except UnicodeEncodeError:
        raise MisfitError("its name is no UTF-8; accepted: rename it") from None
