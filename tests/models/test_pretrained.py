import socket
import time

import pytest
import torch

from satray.errors import InputError
from satray.models import pretrained


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


@pytest.mark.parametrize("backbone", ["resnet18", "legacy_xception", "resnetv2_50"])
def test_offline_fails_quickly_in_one_line(backbone):
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"cannot fetch those of {backbone}: .*weights=none") as e:
        pretrained.fetch_imagenet(backbone)
    assert "\n" not in str(e.value)
    assert "cannot be reached" in str(e.value)
    assert time.monotonic() - start < 10


def test_what_is_cached_needs_no_network(tmp_path):
    # legacy_xception has no hub id, only this address
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"conv1.weight": torch.ones(2)}, folder / "xception-43020ad28.pth")
    assert torch.equal(pretrained.fetch_imagenet("legacy_xception")["conv1.weight"], torch.ones(2))


def test_the_documents_weights_are_torchvisions():
    assert "resnet18-f37072fd" in pretrained._config("resnet18").url
    assert pretrained._config("inception_v3").tag == "tv_in1k"


def test_simple_cnn_has_none():
    with pytest.raises(InputError, match="simple_cnn has none"):
        pretrained.fetch_imagenet("simple_cnn")
