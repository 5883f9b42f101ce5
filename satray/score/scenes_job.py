"""The job `score scenes=`: all scenes of a place once; or, scheduled, those that no run has scored.

Scheduled (`only_new=true`), each run has an id of its own, and its record is `runs/RUNID.json`,
beside its page, its table of scenes and its failures. They name the scenes that it scored, and
those that a run before it finished and was cut short before it could write its own. A run that
finds nothing to do leaves nothing behind. A scene is claimed before it is opened.

A run of all scenes has its folder for itself: nobody else scores there, so that it has no claims to
take, and goes on by the results in its state (`state/RUNID/results/NUMBER.json`), not by a ledger.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from satray.config.score import ScoreRecipe
from satray.errors import DecodeError, InputError, MisfitError, counted
from satray.models.spec import WEIGHTS, bundle_digest, bundle_digests, find_bundle, read_spec
from satray.runs.run import Outcome, Run
from satray.score import closing
from satray.score.ledger import OLD, Ledger, Pass, plan_pass, signs_of_life
from satray.score.predictions import Layout
from satray.score.products import names
from satray.score.products.catalogue import model_item, to_bytes
from satray.score.results import SceneItem, SceneJob, SceneResult, failed
from satray.score.scene_stages import SceneStages
from satray.score.scenes.find import Found, SceneRef, find_scenes
from satray.score.scenes.open import source_names
from satray.score.scheduler import Tally, run_stages, wants_ray
from satray.score.settings import D4_SAID, towers_with_shares
from satray.score.survey import Scoring, prepare, scoring_of
from satray.score.tiles import LOOKED_AT, spread
from satray.storage import Storage, join

if TYPE_CHECKING:  # it imports torch
    from satray.models.bundle import Bundle
    from satray.models.spec import BundleSpec

APART = ("bundle", "tiles", "scenes", "extensions", "only_new", "schedule", "error_budget")
"""Keys that shape no scene's products."""


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
    density: float = 1.0
    """Net px a byte, of a scene that was opened. A schedule opens none before it is claimed: one
    that kills its process would end every run."""

    def plan(self, recipe: ScoreRecipe, storage: Storage) -> list[str]:
        """Say what would be scored, and how."""
        bundle, scoring = prepare(recipe, storage)
        spec, found = bundle.spec, self.found
        towers = [f"{tower.name} ({tower.backbone})" for tower in spec.variant.towers]
        size = sum(ref.size for ref in found.scenes) / 1e6
        lines = [
            f"bundle: {', '.join(towers)}, {counted(len(spec.classes), 'class')} ({spec.task}), "
            f"bands {', '.join(spec.bands)} in {spec.dtype}",
            f"scenes: {len(found.scenes):,}, {size:,.1f} MB"
            + (f"; {len(found.failures):,} that are none" if found.failures else ""),
        ]
        if recipe.only_new:
            lines.append(
                "only_new: which of them are to be scored, the ledger says when the job runs"
            )
        if scoring.d4:
            lines.append(D4_SAID)
        for number in spread(len(found.scenes)):
            ref = found.scenes[number]
            try:
                with scoring.open(ref, storage) as scene:
                    looked = scoring.look(scene, number, ref)
            except DecodeError as error:
                looked = failed(number, ref, "open", error)
            if isinstance(looked, SceneJob):
                grid, extent = looked.grid, looked.grid.extent
                lines.append(
                    f"{ref.scene}: {extent.height:,} x {extent.width:,} px, {grid.why}; "
                    f"{scoring.why}; {looked.px / 1e6:,.1f} Mpx through the network in "
                    f"{counted(looked.parts, 'part')}"
                )
                lines += [f"{ref.scene}: {note}" for note in looked.notes]
            else:
                lines.append(f"{ref.scene}: would fail: {looked.error}")
        rest = len(found.scenes) - LOOKED_AT
        return lines + ([f"and {rest:,} other scenes"] if rest > 0 else [])

    def early(self, recipe: ScoreRecipe, run: Run) -> "Outcome | Scenes | None":
        """Of a schedule, look what is to be done; where that is nothing, all of it.

        The ledger is listed once a pass, here.
        """
        if not recipe.only_new:
            return None
        with run.activity("looking"):
            ledger = ledger_of(recipe, self, run)
            settle = recipe.schedule.settle
            by = plan_pass(self.found.scenes, ledger.look(), ledger, settle=settle)
            _clear(run, ledger, by)
            lines = _lines(by, ledger, self)
        if by.todo or by.orphans:
            for line in lines:
                run.say(line)
            return replace(self, by=by)
        ledger.close()
        return _judged(by, self.found, _idle(lines), recipe.error_budget)

    def work(self, recipe: ScoreRecipe, run: Run) -> Outcome:
        """Score the scenes; what an earlier attempt of the run did is not done again.

        Raises:
            InputError: scheduled: the bundle was replaced since it was looked at.
        """
        if self.by is None:
            with run.activity("preparing"):
                ready = prepare(recipe, run.storage)
            return _score_all(self.found, run, *ready, self.density)
        ledger = ledger_of(recipe, self, run)
        with signs_of_life(ledger):
            with run.activity("preparing"):
                ready = prepare(recipe, run.storage)
            if ready[0].model_id != ledger.model_id:
                raise InputError(
                    f"bundle={recipe.bundle}: changed while the job was running; rerun"
                )
            outcome = _score_new(self.by, self.found, run, *ready, ledger)
        if outcome.idle:
            ledger.close()
        run.after_record = ledger.close
        return outcome

    def large(self, recipe: ScoreRecipe) -> bool:
        """Whether `resources.ray=auto` takes Ray."""
        refs = self.found.scenes if self.by is None else [task.seen for task in self.by.todo]
        return wants_ray(px_of(recipe, self.spec, refs, self.density), recipe.resources)


def read(recipe: ScoreRecipe, storage: Storage) -> Scenes:
    """Read the bundle's description, and find the scenes; of a schedule there may be none yet.

    Raises:
        InputError: no bundle, no scenes, or none of those looked at fits the bundle; something
            asked for that its network cannot give.
    """
    assert recipe.scenes is not None
    digest = bundle_digest(bundle_digests(recipe.bundle, storage))
    spec = read_spec(recipe.bundle, storage)
    scoring = scoring_of(recipe, spec)
    far = [name for name, grid in spec.grids.items() if grid.halo is None]
    if far and recipe.mode == "dense":
        raise InputError(
            f"mode=dense: found halo: null (tower {', '.join(far)}): a far pixel moves every cell; "
            "accepted: mode=tiles or auto"
        )
    found = find_scenes(
        recipe.scenes,
        storage,
        wanted=source_names(spec.bands, recipe.bands),
        extensions=recipe.extensions,
        none_yet=recipe.only_new,
    )
    if recipe.only_new:
        return Scenes(spec, found, {"bundle": digest})
    density = _try(found, scoring, storage)
    text = hashlib.sha256()
    for ref in found.scenes:
        text.update(f"{ref.scene!r}\0{ref.uri!r}\0{ref.etag}\0{ref.size}\n".encode())
    for failure in found.failures:
        text.update(f"{failure.scene!r}\0{failure.uri!r}\0{failure.error!r}\n".encode())
    digests = {"bundle": digest, "scenes": text.hexdigest()}
    return Scenes(spec, found, digests, density=density)


def px_of(
    recipe: ScoreRecipe, spec: "BundleSpec", refs: Iterable[SceneRef], density: float
) -> float:
    """Px that the network looks at in scenes that are not open yet, about.

    A byte of theirs holds `density` net px; windows show each once, overlapping tiles more often.
    """
    px = sum(ref.size for ref in refs) * density * (8 if recipe.symmetries == "d4" else 1)
    by_tile = recipe.mode == "tiles" or any(grid.halo is None for grid in spec.grids.values())
    return px / recipe.stride**2 if by_tile else px


def _score_all(
    found: Found, run: Run, bundle: "Bundle", scoring: Scoring, density: float
) -> Outcome:
    """Score all scenes of a place."""
    results = {one.number: one for one in _finished(run)}
    if results:
        total = counted(len(found.scenes), "scene")
        run.say(f"going on: {len(results):,} of {total} are done already")
    todo = [SceneItem(n, ref) for n, ref in enumerate(found.scenes) if n not in results]
    # of all scenes: what is left when a run goes on must not choose another engine
    px = px_of(scoring.recipe, bundle.spec, found.scenes, density)
    results |= {one.number: one for one in _score(run, bundle, scoring, todo, px)}
    for number, failure in enumerate(found.failures, len(found.scenes)):
        results[number] = failed(number, failure, "find", failure.error)
    every = [results[number] for number in sorted(results)]
    closing.close(run, every, _layout_of(bundle, run), scoring.recipe.bundle, single=False)
    return _outcome_of(every, scoring)


def _score_new(
    by: Pass, found: Found, run: Run, bundle: "Bundle", scoring: Scoring, ledger: Ledger
) -> Outcome:
    """Score what is to be scored, take in what cut runs came to, and write the tables."""
    items = [SceneItem(number, task.seen, task) for number, task in enumerate(by.todo)]
    px = px_of(scoring.recipe, bundle.spec, [task.seen for task in by.todo], 1.0)
    results = _score(run, bundle, scoring, items, px, ledger)
    elsewhere = len(by.todo) - len(results)
    said = (f"in work elsewhere: {counted(elsewhere, 'scene')}",) if elsewhere else ()
    with run.activity("recovering"):
        adopted = _adopted(by, ledger)
    finished = sum(one.status == "done" for one in adopted)
    if finished:
        run.say(f"finished by runs that were cut short: {counted(finished, 'scene')}")
    results += adopted
    if not results:
        return _judged(by, found, _idle(said), scoring.recipe.error_budget)
    lost = [
        failed(number, failure, "find", failure.error)
        for number, failure in enumerate(found.failures, len(by.todo) + len(by.orphans))
    ]
    layout = _layout_of(bundle, run)
    closing.close(run, [*results, *lost], layout, scoring.recipe.bundle, single=True)
    outcome = _outcome_of(results, scoring)
    counts = {**outcome.counts, "adopted": finished}
    outcome = replace(outcome, counts=counts, summary=(*outcome.summary, *said))
    return _judged(by, found, outcome, scoring.recipe.error_budget)


def _score(
    run: Run,
    bundle: "Bundle",
    scoring: Scoring,
    items: Sequence[SceneItem],
    px: float,
    ledger: Ledger | None = None,
) -> list[SceneResult]:
    """Score scenes and publish their products; none of those that other runs turn out to have.

    `px`: of all scenes of the run (`px_of`).

    Raises:
        SatrayError: what ended a process for good, in one line.
    """
    recipe, workers = scoring.recipe, None
    if run.ray and items:
        from satray import cluster

        workers = cluster.allot(recipe.resources, run.say)
    run.begin_writing()  # tasks write products
    weights = join(find_bundle(recipe.bundle, run.storage), WEIGHTS)
    model = model_item(bundle.spec, bundle.model_id, weights, bundle.digests[WEIGHTS])
    run.publish(names.model_path(bundle.model_id), to_bytes(model))  # scenes' Items link to it
    if not items:
        return []
    from satray.score.engines import engine_for

    linear = bundle.spec.variant.head == "linear"
    bias = bundle.network.get_parameter("head.bias").float().tolist() if linear else []
    stages = SceneStages(
        scoring,
        tuple(bias),
        run.storage,
        run.out,
        run.state,
        _layout_of(bundle, run),
        engine_for(recipe.engine, px, workers),
        ledger,
    )
    tally, results = Tally(run, len(items), "scene"), []
    with run.activity("scoring"):
        for result in run_stages(stages, items, recipe.resources, tally, workers):
            if result is not None:  # else another run has it
                results.append(result)
                tally.count()
    tally.end()
    return results


def _layout_of(bundle: "Bundle", run: Run) -> Layout:
    """Columns of the run's tables."""
    return Layout(bundle.spec.classes, towers_with_shares(bundle.spec), bundle.model_id, run.run_id)


def _outcome_of(results: Sequence[SceneResult], scoring: Scoring) -> Outcome:
    """What the run tells of its scenes."""
    classes = scoring.spec.classes
    done = [one for one in results if one.status == "done"]
    lost = sum(one.status == "failed" for one in results)
    return Outcome(
        counts={
            "scenes": len(results),
            "failed": lost,
            "tiles": sum(one.tiles for one in done),
            "detections": sum(one.detections for one in done),
            "px": sum((one.height or 0) * (one.width or 0) for one in done),
            "classes": len(classes),
        },
        metrics={
            "mode": scoring.mode,
            "engine": "; ".join(closing.engines_of(done)),
            "predicted": closing.totals(done, classes),
        },
        summary=(*closing.lines(results, classes), f"mode: {scoring.why}"),
        attempted=len(results),
        failed=lost,
        error_budget=scoring.recipe.error_budget,
    )


def _finished(run: Run) -> list[SceneResult]:
    """Scenes that an earlier attempt of the run brought to their end."""
    places = [entry.uri for entry in run.storage.list(join(run.state, "results"))]
    found = []
    for position, data in run.storage.read_many(places):
        if isinstance(data, Exception):
            raise data
        found.append(SceneResult.read(data, places[position]))
    return found


def _try(found: Found, scoring: Scoring, storage: Storage) -> float:
    """Refuse scenes of which none looked at is what the bundle wants; net px a byte of one."""
    reasons, density = [], 1.0
    for number in spread(len(found.scenes)):
        ref = found.scenes[number]
        try:
            with scoring.open(ref, storage) as scene, contextlib.suppress(DecodeError):
                grid = scoring.grid(scene)
                density = grid.net_height * grid.net_width / max(1, ref.size)
        except MisfitError as error:
            reasons.append(f"{ref.scene}: {error}")
            continue
        except DecodeError:
            pass
        return density
    if not reasons and found.failures:
        reasons = [f"{failure.scene}: {failure.error}" for failure in found.failures[:1]]
    if reasons:
        raise InputError(
            f"scenes={scoring.recipe.scenes}: none of those looked at fits the bundle; {reasons[0]}"
        )
    return density


# Of a schedule


def ledger_of(recipe: ScoreRecipe, scenes: Scenes, run: Run) -> Ledger:
    """The ledger of a schedule's output, as a run of it uses it."""
    kept = {name: value for name, value in recipe.identity().items() if name not in APART}
    settings = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
    model_id = scenes.digests["bundle"][:12]
    config = hashlib.sha256(f"{model_id}\0{settings}".encode()).hexdigest()[:12]
    lease, most = recipe.schedule.lease, recipe.schedule.max_attempts
    return Ledger(run.storage, run.out, config, run.run_id, model_id, lease, most)


def _adopted(by: Pass, ledger: Ledger) -> list[SceneResult]:
    """What scenes came to that are in no run's tables, and from now on are in this one's."""
    results = []
    for number, (seen, key, last) in enumerate(by.orphans, len(by.todo)):
        content = ledger.adopt(key, last)
        if content is None:
            continue
        if last.kind == "done":
            result = SceneResult.read(content.get("result"), join(ledger.root, key.path))
            results.append(replace(result, number=number))
        else:
            results.append(failed(number, seen, "score", f"given up: {content.get('reason')}"))
    return results


def _lines(by: Pass, ledger: Ledger, scenes: Scenes) -> list[str]:
    """What is to be done, for the person."""
    parts = [
        f"{len(by.todo):,} to score",
        f"{len(by.done):,} done",
        f"{len(by.held):,} in work elsewhere",
        f"{len(by.growing):,} left for the next time",
        f"{len(by.failed):,} given up",
        f"{len(scenes.found.failures):,} that are none",
    ]
    counts = ", ".join(part for part in parts if not part.startswith("0 ")) or "none yet"
    lines = [f"scenes: {counts}"]
    lines += [f"  {scene}: {why}" for scene, why in list(by.growing.items())[:3]]
    for key, last in list(by.failed.items())[:3]:
        lines.append(f"  {key.scene}: given up: {ledger.verdict(key, last).get('reason')}")
    if by.failed:
        lines.append(f"  what is given up is tried again without {ledger.root}/SCENE")
    return lines + [f"  {one.scene}: no scene: {one.error}" for one in scenes.found.failures[:3]]


def _idle(lines: Sequence[str]) -> Outcome:
    counts = {"scenes": 0, "failed": 0}
    return Outcome(counts, summary=(*lines, "nothing to score"), idle=True)


def _judged(by: Pass, found: Found, outcome: Outcome, budget: float) -> Outcome:
    """An outcome whose status knows of what is given up or no scene, if that is the larger share.

    Each pass finds it again: of those that score little, it would be the most.
    """
    groups = (by.todo, by.done, by.held, by.failed, by.growing, found.failures)
    every, given_up = sum(map(len, groups)), len(by.failed) + len(found.failures)
    if given_up * max(1, outcome.attempted) <= outcome.failed * max(1, every):
        return outcome
    return replace(outcome, attempted=every, failed=given_up, error_budget=budget)


def _clear(run: Run, ledger: Ledger, by: Pass) -> None:
    """Remove what runs left: at once tables without a record, later what they were at."""
    for name in by.view.cut:
        tables = [f"runs/{name}.{kind}.parquet" for kind in ("scenes", "failures")]
        for path in (names.page_path(name), *tables):
            run.storage.delete(run.uri(path))
    for name in by.view.over:
        ledger.close(name)
    newest: dict[str, datetime] = {}
    for entry in run.storage.list(join(run.out, "state")):
        name = entry.key.partition("/")[0]
        newest[name] = max(entry.modified, newest.get(name, entry.modified))
    for name, modified in newest.items():
        if name != run.run_id and by.view.now - modified > OLD:
            run.storage.delete(join(run.out, "state", name))
