"""Published weights by name: what a word means, and what happens without a network."""

import socket
import time

import pytest
import torch
from huggingface_hub import constants

from satray.config.train import VariantOptions
from satray.errors import InputError
from satray.models.pretrained import (
    fetch,
    full_name,
    is_word,
    origin,
    published,
    refuse_unreachable,
    sources_of,
)


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


def one_tower(backbone):
    tower = {"name": "rgb", "backbone": backbone, "bands": ("red", "green", "blue")}
    return VariantOptions.model_validate({"towers": [tower]})


def unreachable(backbone):
    refuse_unreachable("pretrained", one_tower(backbone))


@pytest.mark.parametrize("look", [fetch, unreachable])
@pytest.mark.parametrize(
    ("backbone", "connect"),
    [("resnet18", refused), ("resnet18", hanging), ("legacy_xception", refused)],
)
def test_without_a_network_one_line_says_what_to_do_within_seconds(
    monkeypatch, backbone, look, connect
):
    published(backbone)  # timm is imported
    monkeypatch.setattr(socket, "create_connection", connect)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=rf"cannot fetch those of {backbone}.* cannot be reached \("
    ) as caught:
        look(backbone)
    assert time.monotonic() - start < 5
    told = str(caught.value)
    assert "\n" not in told
    assert "weights=FILE; https://huggingface.co/timm" in told
    assert told.endswith("(weights=none)")


def test_the_hub_is_not_asked_for_what_it_lacks_or_a_cache_may_have(tmp_path):
    unreachable("simple_cnn")
    refuse_unreachable("none", one_tower("resnet18"))
    refuse_unreachable({"rgb": "weights.pth"}, one_tower("resnet18"))
    for held in ("timm--resnet18.a1_in1k", "naver-ai--rdnet_tiny.nv_in1k"):
        folder = tmp_path / "hub" / f"models--{held}"
        folder.mkdir(parents=True)
        unreachable("resnet18")
        folder.rmdir()


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
    told = origin("legacy_xception", "pretrained")
    assert (told["name"], told["licence"]) == ("legacy_xception.tf_in1k", "apache-2.0")
    assert len(told["sha256"]) == 64
    assert origin("legacy_xception", "/w.pth") == {"source": "/w.pth"}
    folder = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"weights")
    assert fetch("resnet18").read_bytes() == b"weights"
    with pytest.raises(InputError, match=r"weights=imagenet: cannot fetch those of resnet18\.tv"):
        fetch("resnet18", "imagenet")


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
