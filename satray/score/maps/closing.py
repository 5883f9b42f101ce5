"""The end of a run: the table of its scenes, that of its failures, its page."""

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray.runs.run import Run
from satray.score.maps.jobs import SceneResult
from satray.score.maps.page import publish_page
from satray.score.predictions import Layout
from satray.score.products.names import collection_name
from satray.score.products.stac import collection_of, to_bytes

SCENES = pa.schema(
    [
        pa.field("scene", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("why", pa.string()),
        pa.field("drift", pa.float64()),
        pa.field("notes", pa.string()),
        pa.field("height", pa.int64()),
        pa.field("width", pa.int64()),
        pa.field("crs", pa.string()),
        pa.field("taken", pa.string()),
        pa.field("tiles", pa.int64()),
        pa.field("nodata", pa.int64()),
        pa.field("detections", pa.int64()),
        pa.field("seconds", pa.float64()),
    ]
)
"""Columns of the table of scenes: one row a scene of the run."""

FAILURES = pa.schema([SCENES.field(name) for name in ("scene", "uri", "stage", "error")])
"""Columns of `failures.parquet`; stage is find, open, drift, read or score."""

AHEAD = 16
"""Tables of scenes that are fetched at once."""
CLASSES_SAID = 8


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
        run.publish(f"{base}{name}.parquet", _parquet(table), rows=len(some))
    subtitle = f"run {run.run_id} · model {layout.model_id} · {bundle}"
    publish_page(run, results, subtitle)


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
        f"scored {len(done):,} of {len(results):,} scenes: {tiles:,} tiles (predictions/), "
        f"{found:,} detections"
    ]
    if tiles:
        ranked = sorted(totals(done, classes).items(), key=lambda pair: -pair[1])
        words = [f"{name} {n:,} ({n / tiles:.1%})" for name, n in ranked[:CLASSES_SAID]]
        rest = len(ranked) - len(words)
        said.append(f"predicted: {', '.join(words)}" + (f" and {rest} others" if rest > 0 else ""))
    noted = [f"{one.scene}: {note}" for one in done for note in one.notes]
    said += noted[:most]
    if len(noted) > most:
        said.append(f"and {len(noted) - most:,} other notes (scenes table)")
    reasons = Counter(f"{one.stage}: {one.error}" for one in results if one.status == "failed")
    if reasons:
        said.append(f"{reasons.total():,} of {len(results):,} scenes failed (failures table):")
        said += [f"  {count:,} x {why}" for why, count in reasons.most_common(most)]
        rest = len(reasons) - most
        said += [f"  and {rest:,} other reasons"] if rest > 0 else []
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
            "satray:engine": sorted({one.engine for one in done if one.engine}),
        },
    )
    run.publish(collection_name(run_id), to_bytes(collection))


def _row(one: SceneResult) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(one, name, None) for name in SCENES.names}
    # of processes: what was read while they computed took none of their time
    seconds = sum(spent for name, spent in one.seconds.items() if name != "reading")
    return {**values, "notes": "; ".join(one.notes) or None, "seconds": seconds}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
