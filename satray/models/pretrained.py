"""ImageNet weights by name: the driver fetches them once."""

import contextlib
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from satray.errors import InputError
from satray.models.backbones import SIMPLE_CNN
from satray.models.weight_files import parse_state

# Where timm's default weights are newer than torchvision's, which the Planet report started from.
_TAGS = {"resnet18": "resnet18.tv_in1k", "resnet34": "resnet34.tv_in1k"}
_CONNECT_S = 5.0
_READ_S = 30.0


def fetch_imagenet(backbone: str) -> dict[str, Tensor]:
    """Pretrained ImageNet weights of a backbone, from the local caches or the network.

    The hub's and torch's own caches are used, so that a second call opens no connection. Without
    a network it fails within seconds.

    Raises:
        InputError: there are none, or they cannot be fetched.
    """
    cfg = _config(backbone)
    reasons: list[str] = []
    for fetch, place in ((_from_hub, cfg.hf_hub_id), (_from_url, cfg.url)):
        if not place:
            continue
        try:
            path = fetch(place)
            return parse_state(path.read_bytes(), str(path))
        except (OSError, RuntimeError, ValueError) as error:
            reasons.append((str(error).strip() or type(error).__name__).splitlines()[0][:120])
    told = reasons[-1] if reasons else "none are published in a format that satray reads"
    raise InputError(
        f"weights=imagenet: cannot fetch those of {backbone}: {told}; give a file "
        "(weights=PATH, .safetensors or .pth) or weights=none"
    )


def _config(backbone: str) -> Any:
    if backbone == SIMPLE_CNN:
        raise InputError(f"weights=imagenet: {SIMPLE_CNN} has none; accepted: a file, or none")
    import timm

    cfg = timm.get_pretrained_cfg(_TAGS.get(backbone, backbone), allow_unregistered=True)
    if cfg is None:
        raise InputError(f"weights=imagenet: timm knows none of {backbone}; give a file, or none")
    return cfg


def _from_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    name = "model.safetensors"
    cached = try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    _reach(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    with _patience():
        return Path(hf_hub_download(repository, name, etag_timeout=_CONNECT_S))


def _from_url(url: str) -> Path:
    name = Path(urlsplit(url).path).name
    if not name.endswith((".pth", ".pt", ".safetensors")):
        raise ValueError(f"{url} is in a format that satray does not read")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        _reach(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _patience():
            torch.hub.download_url_to_file(url, str(path), progress=False)
    return path


def _reach(url: str) -> None:
    """Raise OSError within seconds where a host, or the proxy before it, does not answer."""
    scheme = urlsplit(url).scheme
    proxy = urllib.request.getproxies().get(scheme)
    target = urlsplit(proxy if proxy and "://" in proxy else f"//{proxy}" if proxy else url)
    port = target.port or (443 if (target.scheme or scheme) == "https" else 80)
    try:
        socket.create_connection((target.hostname or "", port), _CONNECT_S).close()
    except OSError as error:
        raise OSError(f"{target.hostname} cannot be reached ({error.strerror or error})") from error


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """A limit on every read of a socket that sets none itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_READ_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
