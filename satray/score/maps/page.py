"""One page a run of scenes: pictures of what was found, what failed, and the list of all.

It holds all it shows, without script; names in the list lead to the quick-looks beside it.
"""

import io
from collections.abc import Sequence

from satray import __version__
from satray.report.page import html
from satray.runs.run import Run
from satray.score.maps.jobs import SceneResult
from satray.score.products.names import link_between, page_name, quicklook_name

PICTURED = 48
"""Scenes whose pictures the page shows, those with the most detections first."""
SIDE = 360
"""Longer side of a picture, px, at most."""


def publish_page(run: Run, results: Sequence[SceneResult], subtitle: str) -> None:
    """Publish `runs/RUNID.html`.

    Args:
        run: the run; its quick-looks are published.
        results: of its scenes, in order.
        subtitle: ids, in one line.
    """
    done = [one for one in results if one.status == "done"]
    shown = sorted(done, key=lambda one: -one.detections)[:PICTURED]
    uris = [run.uri(quicklook_name(one.scene)) for one in shown]
    read = dict(run.storage.read_many(uris))
    pictures = {
        one.scene: small(data)
        for n, one in enumerate(shown)
        if isinstance(data := read[n], bytes)  # else somebody took it away since
    }
    page = run_page(run.run_id, results, pictures, subtitle)
    run.publish(page_name(run.run_id), page)


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
    home, by_name = page_name(run_id), {one.scene: one for one in done}
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
        links={one.scene: link_between(home, quicklook_name(one.scene), url=True) for one in done},
        counted=counted,
    )


def counted(number: int, word: str) -> str:
    """`1 scene`, `2 scenes`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
