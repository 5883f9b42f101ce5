"""Scenes behind plain HTTP, as public catalogues have them, and in a store that misbehaves."""

import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from data.hostile import paged
from fault_proxy import FaultProxy
from score.scenes.scene_material import STORE, noise, write

from satray.config.base import StorageOptions
from satray.errors import DecodeError
from satray.score.scenes.find import find_scenes
from satray.score.scenes.open import Scene
from satray.storage import Storage


class _Ranges(SimpleHTTPRequestHandler):
    """Files of a folder, in parts when asked for parts."""

    def do_GET(self):
        path = Path(self.directory) / unquote(self.path).lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, asked = path.read_bytes(), self.headers.get("Range")
        first, last = 0, len(data) - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Last-Modified", "Fri, 01 May 2026 00:00:00 GMT")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[str]:
    """URL of a server of `tmp_path/web`."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    folder = tmp_path / "web"
    folder.mkdir()
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: _Ranges(*args, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_windows_over_http(tmp_path, served):
    values, two = noise(1, 600, 500), noise(2, 60, 50)
    write(tmp_path / "web" / "a b.tif", values, ("red",), tiled=True)
    (tmp_path / "web" / "pages.tif").write_bytes(paged(two[:1], two[1:]))
    (tmp_path / "web" / "bad.tif").write_bytes(b"no image")
    for name in ("a%20b", "bad", "gone", "pages"):
        item = {"type": "Feature", "stac_version": "1.1.0", "id": name, "properties": {}}
        bands = [{"name": "red"}, {"name": "nir"}] if name == "pages" else [{"name": "red"}]
        item["assets"] = {"data": {"href": f"{served}/{name}.tif", "bands": bands}}
        (tmp_path / f"{name}.json").write_text(json.dumps(item))
    found = find_scenes(str(tmp_path), STORE)
    assert [failure.scene for failure in found.failures] == ["gone"]
    scenes = {scene.scene: scene for scene in found.scenes}
    with Scene(scenes["a%20b"], ("red",), None, STORE) as scene:
        x_CHW, valid_HW = scene.read(100, 200, 50, 60)
    np.testing.assert_array_equal(x_CHW, values[:, 100:150, 200:260])
    assert valid_HW.all()
    with Scene(scenes["pages"], ("nir", "red"), None, STORE) as scene:
        np.testing.assert_array_equal(scene.read(3, 4, 50, 40)[0], two[::-1, 3:53, 4:44])
    with pytest.raises(DecodeError, match="not an image that is read here"):
        Scene(scenes["bad"], ("red",), None, STORE)


@pytest.mark.s3
def test_windows_of_a_scene_while_a_fifth_of_all_requests_fails(s3, tmp_path):
    pixels, bands = noise(3, 700, 700, "uint8"), ("red", "green", "blue")
    path = write(tmp_path / "a.tif", pixels, bands, tiled=True, blockxsize=128, blockysize=128)
    place = f"{s3.bucket('faults')}/a.tif"
    STORE.upload(Path(path), place)
    (ref,) = find_scenes(place, STORE).scenes
    with FaultProxy(s3.endpoint, 0.2) as proxy:
        storage = Storage(StorageOptions(endpoint=proxy.endpoint))
        for start in range(0, 400, 50):
            with Scene(ref, bands, bands, storage) as scene:
                found, valid = scene.read(start, 400 - start, 300, 300)
            assert valid.all()
            assert (found == pixels[:, start : start + 300, 400 - start : 700 - start]).all()
    assert proxy.faults > 5
