"""The end of a run of scenes: their table, that of failures, Collections, and a page.

The page holds all it shows, without script: pictures of what was found, what failed, and the list
of all, whose names lead to the quick-looks beside it.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from satray import __version__
from satray.errors import counted
from satray.report.page import html
from satray.runs.run import Run
from satray.score.predictions import Layout, failure_lines, predicted_line
from satray.score.products.catalogue import collection_of, to_bytes
from satray.score.products.names import (
    collection_path,
    link_between,
    page_path,
    product_path,
)
from satray.score.results import SceneResult

SCENES = pa.schema(
    [
        pa.field("scene", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("why", pa.string()),
        pa.field("engine", pa.string()),
        pa.field("drift", pa.float64()),
        pa.field("notes", pa.string()),
        pa.field("height", pa.int64()),
        pa.field("width", pa.int64()),
        pa.field("crs", pa.string()),
        pa.field("taken", pa.string()),
        pa.field("tiles", pa.int64()),
        pa.field("nodata", pa.int64()),
        pa.field("detections", pa.int64()),
    ]
)
"""Columns of the table of scenes: one row a scene of the run."""

FAILURES = pa.schema([SCENES.field(name) for name in ("scene", "uri", "stage", "error")])
"""Columns of `failures.parquet`; stage is find, open, drift, read or score."""

PICTURED = 48
"""Scenes whose pictures the page shows, those with the most detections first."""
SIDE = 360
"""Longer side of a picture, px, at most."""


def close(
    run: Run, results: Sequence[SceneResult], layout: Layout, bundle: str, *, single: bool
) -> None:
    """Publish what is made of all scenes together, and record their products.

    Scenes that a run finished which was cut short are in this run's Collection and in one of that
    run's name, to which their Items link.

    Args:
        run: the run.
        results: of its scenes.
        layout: columns of predictions.
        bundle: where the bundle is, for the page.
        single: a schedule's run, whose files carry its id; else the folder is the run's alone.
    """
    results = sorted(results, key=lambda one: (one.number, one.scene))
    done = [one for one in results if one.status == "done"]
    for one in done:
        for product in one.products:
            run.record(product)
    makers: dict[str, list[SceneResult]] = defaultdict(list)
    for one in done:
        makers[one.run_id].append(one)
    if done:
        makers[run.run_id] = done
    for run_id, some in makers.items():
        _publish_collection(run, run_id, some, layout)
    base = f"runs/{run.run_id}." if single else ""
    for name, schema, some in (
        ("scenes", SCENES, results),
        ("failures", FAILURES, [one for one in results if one.status == "failed"]),
    ):
        if single and not some:
            continue
        table = pa.Table.from_pylist([_row(one) for one in some], schema=schema)
        run.publish_table(f"{base}{name}.parquet", table)
    about = f"run {run.run_id}", f"model {layout.model_id}", bundle, *engines_of(done)
    _publish_page(run, results, " · ".join(about))


def engines_of(done: Sequence[SceneResult]) -> list[str]:
    """What computed the features of scenes: libraries and precisions."""
    return sorted({one.engine for one in done if one.engine})


def totals(results: Sequence[SceneResult], classes: Sequence[str]) -> dict[str, int]:
    """Tiles that are given each class."""
    return {
        name: sum(one.predicted[k] for one in results if one.predicted)
        for k, name in enumerate(classes)
    }


def lines(results: Sequence[SceneResult], classes: Sequence[str], most: int = 3) -> list[str]:
    """What the run says at its end."""
    done = [one for one in results if one.status == "done"]
    tiles, found = sum(one.tiles for one in done), sum(one.detections for one in done)
    said = [
        f"scored {len(done):,} of {counted(len(results), 'scene')}: {counted(tiles, 'tile')} "
        f"(predictions/), {counted(found, 'detection')}"
    ]
    if tiles:
        said.append(predicted_line(totals(done, classes), tiles))
    noted = [f"{one.scene}: {note}" for one in done for note in one.notes]
    said += noted[:most]
    if len(noted) > most:
        said.append(f"and {counted(len(noted) - most, 'other note')} (scenes table)")
    reasons = Counter(f"{one.stage}: {one.error}" for one in results if one.status == "failed")
    said += failure_lines(reasons, len(results), "scene")
    skipped = [one for one in results if one.status == "skipped"]
    said += [f"{one.scene}: skipped: {one.error}" for one in skipped[:most]]
    return said


def _publish_collection(run: Run, run_id: str, done: Sequence[SceneResult], layout: Layout) -> None:
    collection = collection_of(
        replace(layout, run_id=run_id),
        [one.scene for one in done],
        [one.bbox for one in done if one.bbox],
        [at for one in done for at in one.times],
        {
            "satray:mode": sorted({one.mode for one in done if one.mode}),
            "satray:engine": engines_of(done),
        },
    )
    run.publish(collection_path(run_id), to_bytes(collection))


def _row(one: SceneResult) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(one, name, None) for name in SCENES.names}
    return {**values, "notes": "; ".join(one.notes) or None}


def _publish_page(run: Run, results: Sequence[SceneResult], subtitle: str) -> None:
    done = [one for one in results if one.status == "done"]
    shown = sorted(done, key=lambda one: -one.detections)[:PICTURED]
    uris = [run.uri(product_path("quicklook", one.scene)) for one in shown]
    read = dict(run.storage.read_many(uris))
    pictures = {
        one.scene: small(data)
        for n, one in enumerate(shown)
        if isinstance(data := read[n], bytes)  # else somebody took it away since
    }
    page = run_page(run.run_id, results, pictures, subtitle)
    run.publish(page_path(run.run_id), page)


def small(quicklook: bytes) -> bytes:
    """A quick-look as a JPEG for the page."""
    from PIL import Image

    with Image.open(io.BytesIO(quicklook)) as image:
        shown = image.convert("RGB")
    shown.thumbnail((SIDE, SIDE))
    sink = io.BytesIO()
    shown.save(sink, "JPEG", quality=80)
    return sink.getvalue()


def run_page(
    run_id: str, results: Sequence[SceneResult], pictures: dict[str, bytes], subtitle: str
) -> bytes:
    """The page, UTF-8 HTML.

    Args:
        run_id: the run; the page lies at `runs/RUNID.html`.
        results: of its scenes, in order.
        pictures: JPEGs by scene, in the order in which they are shown.
        subtitle: ids, in one line.
    """
    done = [one for one in results if one.status == "done"]
    failed = [one for one in results if one.status == "failed"]
    skipped = [one for one in results if one.status == "skipped"]
    states = [
        f"{len(some):,} {word}"
        for some, word in ((done, "scored"), (failed, "failed"), (skipped, "skipped"))
        if some
    ]
    points = counted(sum(one.detections for one in done), "detection")
    tiles = counted(sum(one.tiles for one in done), "tile")
    scenes = counted(len(results), "scene")
    home, by_name = page_path(run_id), {one.scene: one for one in done}
    return html(
        "scenes.html",
        title=f"{counted(len(done), 'scene')} scored",
        subtitle=subtitle,
        warnings=(),
        footer=f"satray {__version__}",
        summary=f"{scenes}: {', '.join(states) or 'none'}; {points} in {tiles}.",
        pictured=[(by_name[scene], data) for scene, data in pictures.items()],
        done=done,
        failed=[(one.scene, one.stage or one.status, one.error or "") for one in failed + skipped],
        noted=[one for one in done if one.notes],
        links={
            one.scene: link_between(home, product_path("quicklook", one.scene), url=True)
            for one in done
        },
        counted=counted,
    )
