"""What `tune --plan` says. No Ray, no torch, nothing written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from satray.config.tune import TuneRecipe
from satray.errors import counted
from satray.storage import Storage
from satray.train.setup import set_up
from satray.tune.defaults import RATE
from satray.tune.feature_table import head_only, views_of, with_views
from satray.tune.ground import extracted
from satray.tune.resolve import count
from satray.tune.space import Configuration
from satray.tune.sweep import Sweep, store_of, unchanged

NOTES = 12
"""Notes that are shown."""


def plan(recipe: TuneRecipe, sweep: Sweep, storage: Storage) -> list[str]:
    """What would be done.

    Raises:
        InputError: see `read`.
    """
    listed = sweep.listed()
    samples = [sweep.check(each) for each in listed]
    sweep.check_networks(listed)
    heads = [each for each in listed if head_only(sweep.trained(each)) is None]
    others = [each for each in listed if head_only(sweep.trained(each)) is not None]
    number = count(recipe, sweep.space)
    lines = [
        f"{counted(number, 'trial')} by {recipe.search} search, compared by {sweep.metric.title}",
        *_space(sweep),
        f"a trial sees {_between(min(samples), max(samples))} samples",
    ]
    about = " of those looked at" if sweep.optuna else ""
    if heads:
        lines += _heads(sweep, heads, about, storage)
    if others:
        reason = head_only(sweep.trained(others[0]))
        lines.append(
            f"{counted(len(others), 'trial')}{about} train on workers of their own ({reason}, for "
            "one)"
        )
    lines += _at_once(recipe, bool(heads), bool(others))
    if recipe.stop.name != "none":
        lines.append(f"early stopping: {recipe.stop.name}, one in {recipe.stop.factor} goes on")
    if recipe.refit:
        lines.append(
            "the best configuration is trained again, as train would, a pretrained head's network "
            "then fine-tuned (refit)"
        )
    return [*lines, *note_lines(sweep.notes), *unchanged(sweep, storage)]


def note_lines(notes: Sequence[str], most: int = NOTES) -> list[str]:
    """What `train` would remark, for the person."""
    more = len(notes) - most
    told = [f"note: {line}" for line in notes[:most]]
    return [*told, f"note: and {more} more of the kind"] if more > 0 else told


def _space(sweep: Sweep) -> Iterator[str]:
    tested = sweep.recipe.landscape
    for axis in sweep.space.axes:
        if not (tested and axis.key == RATE):
            yield f"space: {axis.key}: {axis.words()}"
    if tested:
        yield f"space: {RATE}: around what a range test of each variant finds"


def _heads(
    sweep: Sweep, heads: Sequence[Configuration], about: str, storage: Storage
) -> Iterator[str]:
    grounds = {sweep.key_of(each): each for each in heads}
    yield (
        f"{counted(len(heads), 'trial')}{about} train heads, from the features of "
        f"{counted(len(grounds), 'frozen network')}, extracted once"
    )
    recipe, meta = sweep.recipe, sweep.tiles.meta
    named = recipe.features.folder is not None or recipe.out is not None
    store = store_of(recipe, recipe.out or "")
    there, images, views = 0, 0, set()
    for key, configuration in grounds.items():
        trained = with_views(sweep.trained(configuration), meta.tile_shape)
        setup = set_up(trained, storage, sweep.tiles)
        each = views_of(trained, meta.tile_shape)
        views.add(each)
        if named and extracted(setup, storage, store, key):
            there += 1
        else:
            images += setup.train_tiles * each + setup.val_tiles
    seen = " or ".join(f"{each}" for each in sorted(views))
    where = store if named else "features/ below out"
    yield (
        f"features: {counted(images, 'image')} to send through networks, {seen} views of a train "
        f"tile; kept in {where}, where those of {there} of {len(grounds)} are"
    )


def _at_once(recipe: TuneRecipe, heads: bool, backbones: bool) -> Iterator[str]:
    most = "" if recipe.concurrent == "auto" else f", at most {recipe.concurrent}"
    if heads:
        yield f"at once: a head a core{most}"
    if backbones:
        share = f"{recipe.gpu_share:g} GPU a worker" if recipe.gpu_share < 1 else "a GPU a worker"
        workers = counted(recipe.resources.workers, "worker")
        yield f"at once: {workers} a trial, {share}; without GPUs a worker a machine{most}"


def _between(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
