"""Windows of a scene from a store that misbehaves."""

import numpy as np
import pytest
from fault_proxy import FaultProxy
from scoring_material import write_tile

from satray.config.base import StorageOptions
from satray.score.scenes.find import find_scenes
from satray.score.scenes.open import open_scene
from satray.storage import Storage


@pytest.mark.s3
def test_windows_of_a_scene_while_a_fifth_of_all_requests_fails(s3, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 700, 700), dtype=np.uint8)
    bands, blocks = ("red", "green", "blue"), {"blockxsize": 128, "blockysize": 128}
    write_tile(tmp_path / "a.tif", pixels, bands, tiled=True, **blocks)
    place = f"{s3.bucket('faults')}/a.tif"
    Storage().upload(tmp_path / "a.tif", place)
    (ref,) = find_scenes(place, Storage()).scenes
    with FaultProxy(s3.endpoint, 0.2) as proxy:
        storage = Storage(StorageOptions(endpoint=proxy.endpoint))
        for start in range(0, 400, 50):
            with open_scene(ref, bands, bands, storage) as scene:
                found, valid = scene.read(start, 400 - start, 300, 300)
            assert valid.all()
            assert (found == pixels[:, start : start + 300, 400 - start : 700 - start]).all()
    assert proxy.faults > 5
