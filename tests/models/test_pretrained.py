"""Published weights by name: what a word means, and what happens without a network."""

import http.server
import socket
import threading
import time

import pytest
import timm
import torch
from huggingface_hub import constants
from timm.models import PretrainedCfg

from satray.config.train import VariantOptions
from satray.errors import InputError
from satray.models.pretrained import (
    UNPUBLISHED,
    fetch,
    full_name,
    is_word,
    origin,
    published,
    refuse_unreachable,
    sources_of,
)
from satray.models.variant import BUILT_IN

CONNECT = socket.create_connection


@pytest.fixture(autouse=True)
def _empty_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", refused)


def refused(*_, **__):
    raise socket.gaierror(-2, "Name or service not known")


def hanging(*_, **__):
    time.sleep(60)
    refused()


def one_tower(backbone):
    tower = {"name": "rgb", "backbone": backbone, "bands": ("red", "green", "blue")}
    return VariantOptions.model_validate({"towers": [tower]})


def unreachable(backbone):
    refuse_unreachable("pretrained", one_tower(backbone))


HUB, GITHUB = "https://huggingface.co/timm", "https://github.com/rwightman"


@pytest.mark.parametrize(
    ("backbone", "connect", "look", "place"),
    [
        ("resnet18", refused, fetch, HUB),
        ("resnet18", hanging, fetch, HUB),
        ("resnet18", refused, unreachable, HUB),
        ("resnet18", hanging, unreachable, HUB),
        ("legacy_xception", refused, fetch, GITHUB),
    ],
)
def test_without_a_network_one_line_says_what_to_do_within_seconds(
    monkeypatch, tmp_path, backbone, connect, look, place
):
    published(backbone)  # timm is imported
    (tmp_path / "hub" / "models--timm--resnet50.a1_in1k").mkdir(parents=True)  # of no use here
    monkeypatch.setattr(socket, "create_connection", connect)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=rf"cannot fetch those of {backbone}.* cannot be reached \("
    ) as caught:
        look(backbone)
    assert time.monotonic() - start < 5
    told = str(caught.value)
    assert "\n" not in told
    assert f"weights=FILE; {place}" in told
    assert told.endswith("(weights=none)")


def test_the_hub_is_not_asked_for_what_it_lacks_or_a_cache_may_have(tmp_path):
    for backbone in ("simple_cnn", "legacy_xception", "rdnet_tiny"):  # what only timm knows
        unreachable(backbone)
    refuse_unreachable("none", one_tower("resnet18"))
    refuse_unreachable({"rgb": "weights.pth"}, one_tower("resnet18"))
    (tmp_path / "hub" / "models--timm--resnet18.a1_in1k").mkdir(parents=True)
    unreachable("resnet18")


def test_the_hub_is_asked_for_each_built_in_backbone_that_it_holds():
    for backbone in {tower.backbone for each in BUILT_IN.values() for tower in each.towers}:
        cfg = None if backbone in UNPUBLISHED else published(backbone)
        if cfg is None or not cfg.hf_hub_id:
            unreachable(backbone)
            continue
        assert cfg.hf_hub_id.startswith(f"timm/{backbone}.")
        with pytest.raises(InputError, match="cannot be reached"):
            unreachable(backbone)


@pytest.fixture
def host(monkeypatch):
    """A host by way of its URL: HEAD has `status`, and a body ends after 9 of 999 bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_HEAD(self):
            self.send_response(self.status)
            for name, value in (
                ("Content-Length", "999"),
                ("X-Repo-Commit", "a" * 40),
                ("ETag", f'"{"b" * 64}"'),
            ):
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(b"9 bytes..")
            self.close_connection = True

        def log_message(self, *_):
            pass

    monkeypatch.setattr(socket, "create_connection", CONNECT)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield url, Handler
        server.shutdown()


def test_a_host_that_cannot_serve_is_not_asked_again_and_again(host):
    host[1].status = 503
    with pytest.raises(InputError, match=r"127\.0\.0\.1 cannot be reached \(HTTP 503\); give a f"):
        unreachable("resnet18")


@pytest.mark.parametrize("in_hub", [True, False])
def test_a_download_that_breaks_off_is_said_in_one_line_and_leaves_nothing(
    monkeypatch, tmp_path, host, in_hub
):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between what the hub's client tries
    url, _ = host
    backbone = "resnet18" if in_hub else "elsewhere"
    if not in_hub:
        cfg = PretrainedCfg(url=f"{url}/elsewhere.pth", architecture="elsewhere")
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
    for _ in range(2):
        with pytest.raises(InputError, match=rf"cannot fetch those of {backbone}.*weights=FILE"):
            fetch(backbone)
    assert not [path for path in (tmp_path / "hub").rglob("*.pth*") if path.is_file()]


def test_offline_is_told_as_such(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set; give a file"):
        fetch("resnet18")


def test_what_is_cached_needs_no_network(tmp_path):
    # legacy_xception has no hub id, only an address
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"conv1.weight": torch.ones(2)}, folder / "xception-43020ad28.pth")
    assert fetch("legacy_xception") == folder / "xception-43020ad28.pth"
    folder = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"weights")
    assert fetch("resnet18").read_bytes() == b"weights"
    with pytest.raises(InputError, match=r"weights=imagenet: cannot fetch those of resnet18\.tv"):
        fetch("resnet18", "imagenet")


def test_a_bundle_tells_where_its_weights_came_from_though_they_are_gone():
    told = origin("legacy_xception", "pretrained", "f00")
    assert told.pop("source").startswith("https://github.com/")
    assert told == {"name": "legacy_xception.tf_in1k", "sha256": "f00", "licence": "apache-2.0"}
    assert origin("resnet18", "pretrained", "f00")["source"].startswith(
        "https://huggingface.co/timm/"
    )
    assert origin("resnet18", "/w.pth", "f00") == {"source": "/w.pth", "sha256": "f00"}
    assert origin("resnet18", "none", None) == {"source": "none"}


@pytest.mark.parametrize(
    ("backbone", "word", "name"),
    [
        ("resnet18", "pretrained", "resnet18.a1_in1k"),
        ("resnet18", "imagenet", "resnet18.tv_in1k"),
        ("resnet18", "pretrained:tv_in1k", "resnet18.tv_in1k"),
        ("resnet18.tv_in1k", "pretrained", "resnet18.tv_in1k"),
        ("tf_efficientnet_lite0", "pretrained", "tf_efficientnet_lite0.in1k"),
        ("inception_v3", "imagenet", "inception_v3.tv_in1k"),
    ],
)
def test_what_a_word_means(backbone, word, name):
    assert full_name(published(backbone, word)) == name
    assert is_word(word)


def test_files_are_no_words_and_absent_tags_are_told_with_those_that_there_are():
    assert not is_word("/data/pretrained:x.pth")
    assert not is_word("s3://bucket/imagenet.pth")
    with pytest.raises(InputError, match=r"timm has no resnet18\.nope; its tags: .*tv_in1k"):
        published("resnet18", "pretrained:nope")


@pytest.mark.parametrize("backbone", ["simple_cnn", "resnet200"])
def test_unpublished_backbones_start_from_nothing_unless_more_is_asked_for(backbone):
    tower = {"name": "rgb", "backbone": backbone, "bands": ["red", "green", "blue"]}
    variant = VariantOptions.model_validate({"towers": [tower]})
    assert published(backbone) is None
    assert sources_of("pretrained", variant) == {"rgb": "none"}
    with pytest.raises(InputError, match=f"nobody has published any of {backbone}"):
        sources_of("imagenet", variant)
