"""Open each scene, look at its facts and at some of its values, and decide how it is scored."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from satray.errors import DecodeError
from satray.scoring.maps.jobs import SceneJob, SceneResult, failed
from satray.scoring.maps.plan import Geometries, way_of
from satray.scoring.maps.settings import Settings
from satray.scoring.outlines import SceneGround
from satray.scoring.reading import MisfitError
from satray.scoring.scenes.drift import drift, references_of_bundle
from satray.scoring.scenes.grid import NetGrid, net_grid
from satray.scoring.scenes.open import Scene, open_scene
from satray.scoring.scenes.scene import SceneRef
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

LOOKERS = 8
"""Scenes that are opened at once."""

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
    storage: Storage
    """How scenes are reached."""

    def survey(self, refs: Sequence[tuple[int, SceneRef]]) -> Iterator[SceneJob | SceneResult]:
        """Look at numbered scenes, some at once; a job each, or why it has none, in order."""
        with ThreadPoolExecutor(LOOKERS, thread_name_prefix="survey") as pool:
            yield from pool.map(lambda one: self.look(*one), refs)

    def look(self, number: int, ref: SceneRef) -> SceneJob | SceneResult:
        """Look at one scene."""
        stage = "open"
        try:
            _nameable(ref.scene)
            with open_for(ref, self.spec, self.settings, self.storage) as scene:
                facts = scene.facts
                grid = grid_for(scene, self.spec, self.settings)
                way = way_of(grid.net_height, grid.net_width, self.settings, self.geometries)
                shape = (grid.height, grid.width)
                ground = SceneGround(ref.scene, *shape, grid.crs, facts.transform)
                place = facts.place
                if not place and ground.outline() is None:
                    place = NOT_ON_EARTH if ground.grounded else "no CRS: pixel coordinates"
                notes = [*facts.notes, *([place] if place else [])]
                stage = "drift"
                found = None
                if self.settings.drift != "off":
                    references = references_of_bundle(self.spec)
                    found = drift(scene, references, self.settings.drift_limit)
        except MisfitError as error:
            return failed(number, ref, stage, error, retryable=False)
        except DecodeError as error:
            return failed(number, ref, stage, error)
        if found is not None and found.warning is not None:
            if self.settings.drift == "refuse":
                return failed(number, ref, "drift", found.warning, retryable=False)
            notes.append(found.warning)
        score = None if found is None else found.score
        return SceneJob(number, ref, grid, ground, facts.taken_at, way, score, tuple(notes))


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
    facts = scene.facts
    grid = net_grid(facts.height, facts.width, facts.crs, facts.transform, spec, settings.gsd)
    if grid.resampled and spec.radiometry.name == "pil_compat":
        raise MisfitError(
            f"{grid.why}: its px would be resampled, and radiometry pil_compat wants them as "
            "stored; accepted: gsd=none, and a bundle that saw its tiles at their own size"
        )
    return grid


def _nameable(scene: str) -> None:
    """Refuse names that are no Unicode: tables and catalogues cannot hold them."""
    try:
        scene.encode()
    except UnicodeEncodeError:
        raise MisfitError("its name is no UTF-8; accepted: rename it") from None
