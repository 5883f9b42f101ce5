"""Bundles that see dots, and scenes on their way."""

import functools

import maps_material as material
import pytest

from satray.models import bundle as bundles
from satray.runs import job as perform
from satray.score import engines, layout
from satray.score.scene_stages import SceneNetwork, SceneStages

LOADED = {}
"""Bundles by their folder."""


@pytest.fixture(scope="module", autouse=True)
def _once():
    """Save most of a small run: small pictures, bundles loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(layout.picture_size, longest=160)
        patch.setattr(layout, "picture_size", small)
        patch.setattr(perform, "library_versions", functools.cache(perform.library_versions))
        real = bundles.load_bundle

        def load(uri, storage, device="cpu"):
            if uri not in LOADED:
                LOADED[uri] = real(uri, storage, device)
            return LOADED[uri]

        for module in (bundles, engines):  # who imports it meanwhile would keep it
            patch.setattr(module, "load_bundle", load)
        yield


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Gives the folder of a bundle, each made once."""
    made = {}

    def folder(**more):
        key = tuple(sorted(more.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("bundle")
            material.save_bundle(made[key], **more)
        return made[key]

    return folder


@pytest.fixture
def inline(monkeypatch):
    """Says which parts of scenes the network looks at in this process."""
    watch = material.Watch()
    opened, looked = SceneStages.open, SceneNetwork.__call__

    def open_scene(self, item):
        if watch.opening is not None:
            watch.opening(item.number)
        return opened(self, item)

    def look(self, job, part, pixels):
        if watch.before is not None:
            watch.before(job.number, part)
        said = looked(self, job, part, pixels)
        watch.done.append((job.number, part))
        watch.px += job.px // job.parts
        return said

    monkeypatch.setattr(SceneStages, "open", open_scene)
    monkeypatch.setattr(SceneNetwork, "__call__", look)
    return watch
