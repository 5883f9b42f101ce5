"""What is known before anything is scored: scenes, settings, geometry; `read` and `plan`."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from satray.config.score import ScoreRecipe
from satray.errors import DecodeError, InputError
from satray.models.spec import bundle_digest, bundle_digests, read_spec
from satray.runs.run import Run
from satray.score.ledger import Ledger, Pass
from satray.score.maps.settings import Settings, settings_of
from satray.score.over_tiles import D4_SAID
from satray.score.reading import MisfitError
from satray.score.scenes.find import Found, SceneRef, find_scenes
from satray.score.scenes.open import source_names
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.bundle import Bundle
    from satray.models.spec import BundleSpec
    from satray.score.maps.layout import Geometries

LOOKED_AT = 8
"""Scenes that are opened before anything starts, spread over all."""
APART = ("bundle", "tiles", "scenes", "extensions", "only_new", "schedule", "error_budget")
"""Keys that shape no scene's products."""


@dataclass(frozen=True)
class Prepared:
    """A bundle, loaded and measured, and how scenes are scored with it."""

    bundle: "Bundle"
    """On the CPU of this process."""
    settings: Settings
    """The recipe's."""
    geometries: "Geometries"
    """The network's."""


@dataclass(frozen=True)
class Scenes:
    """Scenes to score, and the bundle that scores them."""

    spec: "BundleSpec"
    """The bundle's description."""
    found: Found
    """The scenes."""
    digests: dict[str, str]
    """Of the bundle and, but for a schedule, of the scenes."""
    by: Pass | None = None
    """Of a schedule: what is to be done with each."""


def read(recipe: ScoreRecipe, storage: Storage) -> Scenes:
    """Read the bundle's description, and find the scenes.

    Raises:
        InputError: no bundle, no scenes, or none of those looked at fits the bundle; something
            asked for that its network cannot give.
    """
    digest = bundle_digest(bundle_digests(recipe.bundle, storage))
    spec = read_spec(recipe.bundle, storage)
    settings = settings_of(recipe, spec)
    far = [name for name, grid in spec.grids.items() if grid.halo is None]
    if far and recipe.mode == "dense":
        raise InputError(
            f"mode=dense: found halo: null (tower {', '.join(far)}): a far pixel moves every cell; "
            "accepted: mode=tiles or auto"
        )
    found = scenes_of(recipe, spec, storage)
    if recipe.only_new:
        return Scenes(spec, found, {"bundle": digest})
    _try(recipe, found, spec, settings, storage)
    text = hashlib.sha256()
    for ref in found.scenes:
        text.update(f"{ref.scene!r}\0{ref.uri!r}\0{ref.etag}\0{ref.size}\n".encode())
    for failure in found.failures:
        text.update(f"{failure.scene!r}\0{failure.uri!r}\0{failure.error!r}\n".encode())
    return Scenes(spec, found, {"bundle": digest, "scenes": text.hexdigest()})


def plan(recipe: ScoreRecipe, scenes: Scenes, storage: Storage) -> list[str]:
    """Say what would be scored, and how."""
    from satray.score.maps.jobs import SceneJob
    from satray.score.maps.survey import Surveyor, open_for

    ready = prepare(recipe, storage)
    spec, settings = ready.bundle.spec, ready.settings
    found = scenes.found
    towers = [f"{tower.name} ({tower.backbone})" for tower in spec.variant.towers]
    size = sum(ref.size for ref in found.scenes) / 1e6
    lines = [
        f"bundle: {', '.join(towers)}, {len(spec.classes)} classes ({spec.task}), "
        f"bands {', '.join(spec.bands)} in {spec.dtype}",
        f"scenes: {len(found.scenes):,}, {size:,.1f} MB"
        + (f"; {len(found.failures):,} that are none" if found.failures else ""),
    ]
    if recipe.only_new:
        lines.append("only_new: which of them are to be scored, the ledger says when the job runs")
    if settings.d4:
        lines.append(D4_SAID)
    surveyor = Surveyor(spec, settings, ready.geometries)
    for number in _spread(len(found.scenes)):
        ref = found.scenes[number]
        try:
            with open_for(ref, spec, settings, storage) as scene:
                looked = surveyor.look(scene, number, ref)
        except DecodeError as error:
            looked = surveyor.refused(number, ref, "open", error)
        if isinstance(looked, SceneJob):
            lines.append(
                f"{ref.scene}: {looked.grid.height:,} x {looked.grid.width:,} px, "
                f"{looked.grid.why}; {looked.why}; {looked.px / 1e6:,.1f} Mpx through the network "
                f"in {looked.parts:,} parts"
            )
            lines += [f"{ref.scene}: {note}" for note in looked.notes]
        else:
            lines.append(f"{ref.scene}: would fail: {looked.error}")
    rest = len(found.scenes) - LOOKED_AT
    return lines + ([f"and {rest:,} other scenes"] if rest > 0 else [])


def prepare(recipe: ScoreRecipe, storage: Storage) -> Prepared:
    """Load the bundle and ask its network what planning needs to know."""
    from satray.models.bundle import load_bundle
    from satray.score.dense.measure import measure
    from satray.score.maps.layout import Geometries

    bundle = load_bundle(recipe.bundle, storage)
    settings = settings_of(recipe, bundle.spec)
    dense = measure(bundle, d4=settings.d4)
    tiles = measure(bundle, d4=True, tiles=True) if settings.d4 else dense
    return Prepared(bundle, settings, Geometries(dense, tiles))


def scenes_of(recipe: ScoreRecipe, spec: "BundleSpec", storage: Storage) -> Found:
    """The scenes of a recipe, as they are now; of a schedule there may be none yet."""
    assert recipe.scenes is not None
    return find_scenes(
        recipe.scenes,
        storage,
        wanted=source_names(spec.bands, recipe.bands),
        extensions=recipe.extensions,
        none_yet=recipe.only_new,
    )


def px_of(recipe: ScoreRecipe, spec: "BundleSpec", refs: Iterable[SceneRef]) -> float:
    """Px that the network looks at in scenes that are not open yet, about.

    A byte of theirs holds one; windows show it each once, overlapping tiles more often.
    """
    px = sum(ref.size for ref in refs) * (8.0 if recipe.symmetries == "d4" else 1.0)
    by_tile = recipe.mode == "tiles" or any(grid.halo is None for grid in spec.grids.values())
    return px / recipe.stride**2 if by_tile else px


def ledger_of(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Ledger:
    """The ledger of a schedule's output, as a run of it uses it."""
    kept = {name: value for name, value in recipe.identity().items() if name not in APART}
    settings = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
    model_id = scenes.digests["bundle"][:12]
    config = hashlib.sha256(f"{model_id}\0{settings}".encode()).hexdigest()[:12]
    lease, most = recipe.schedule.lease, recipe.schedule.max_attempts
    return Ledger(run.storage, run.out, config, run.run_id, model_id, lease, most)


def _try(
    recipe: ScoreRecipe, found: Found, spec: "BundleSpec", settings: Settings, storage: Storage
) -> None:
    """Refuse scenes of which none looked at is what the bundle wants."""
    from satray.score.maps.survey import open_for

    reasons = []
    for number in _spread(len(found.scenes)):
        try:
            open_for(found.scenes[number], spec, settings, storage).close()
        except MisfitError as error:
            reasons.append(f"{found.scenes[number].scene}: {error}")
            continue
        except DecodeError:
            return
        return
    if not reasons and found.failures:
        reasons = [f"{failure.scene}: {failure.error}" for failure in found.failures[:1]]
    if reasons:
        raise InputError(
            f"scenes={recipe.scenes}: none of those looked at fits the bundle; {reasons[0]}"
        )


def _spread(count: int) -> list[int]:
    """Numbers of some scenes, spread over all."""
    if count <= LOOKED_AT:
        return list(range(count))
    return [round(i * (count - 1) / (LOOKED_AT - 1)) for i in range(LOOKED_AT)]
