"""Published weights by name: timm's, fetched once by the driver into the hub's own cache."""

import hashlib
import os
import socket
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from satray.config.train import VariantOptions
from satray.errors import InputError

UNPUBLISHED = ("simple_cnn",)
"""Backbones of our own, that nobody has published weights of."""
WORDS = ("pretrained", "imagenet")
"""What `weights` may be beside `none` and files; `pretrained:TAG` names one of timm's tags."""

# Where timm's default weights are newer than torchvision's, which the Planet report started from.
_TAGS = {"resnet18": "tv_in1k", "resnet34": "tv_in1k"}
_HUB = "https://huggingface.co"
_CONNECT_S = 2.0
_READ_S = 30.0


@dataclass(frozen=True)
class Published:
    """Weights that timm knows of, by name."""

    name: str
    """`ARCHITECTURE.TAG`."""

    hub: str | None
    """Repository of Hugging Face's hub."""

    file: str
    """File there."""

    url: str | None
    """Where else they are."""

    licence: str | None
    """As timm has it."""

    mean: tuple[float, ...]
    """Of red, green and blue in 0..1, as they were trained."""

    std: tuple[float, ...]
    """As `mean`."""


def is_word(source: str) -> bool:
    """Whether weights are named by a word, not by a file."""
    return source.partition(":")[0] in WORDS and "/" not in source


def sources_of(weights: str | Mapping[str, str], variant: VariantOptions) -> dict[str, str]:
    """What each tower starts from: a word, a file, or `none`, which unpublished backbones do.

    Args:
        weights: key of `train`.
        variant: its towers.

    Raises:
        InputError: no such tower or tag; or `imagenet`, or a tag, of an unpublished backbone.
    """
    towers = {tower.name: tower.backbone for tower in variant.towers}
    given = dict.fromkeys(towers, weights) if isinstance(weights, str) else dict(weights)
    unknown = [name for name in given if name not in towers]
    if unknown:
        raise InputError(f"weights: no tower {', '.join(unknown)}; accepted: {', '.join(towers)}")
    sources = dict.fromkeys(towers, "none") | given
    for name, source in sources.items():
        if is_word(source) and published(towers[name], source) is None:
            if source != "pretrained":
                raise InputError(
                    f"weights={source}: nobody has published any of {towers[name]}; accepted: a "
                    "file, pretrained (which then trains it from scratch), or none"
                )
            sources[name] = "none"
    return sources


@cache
def published(backbone: str, word: str = "pretrained") -> Published | None:
    """The weights that a word means for a backbone; None where none are published.

    Args:
        backbone: of timm, with a tag or without, or one of ours.
        word: pretrained, pretrained:TAG or imagenet.

    Raises:
        InputError: timm knows no such tag.
    """
    if backbone in UNPUBLISHED:
        return None
    import timm

    architecture, _, tag = backbone.partition(".")
    if word == "imagenet":
        tag = tag or _TAGS.get(architecture, "")
    else:
        tag = word.partition(":")[2] or tag
    name = f"{architecture}.{tag}" if tag else architecture
    try:
        cfg: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{architecture}.*")
        tags = ", ".join(each.partition(".")[2] for each in known) or "none"
        raise InputError(f"weights={word}: timm has no {name}; its tags: {tags}") from error
    if cfg is None or not cfg.has_weights:
        return None
    return Published(
        name=f"{architecture}.{cfg.tag}" if cfg.tag else architecture,
        hub=cfg.hf_hub_id or None,
        file=cfg.hf_hub_filename or "model.safetensors",
        url=cfg.url if str(cfg.url or "").startswith("http") else None,
        licence=cfg.license,
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
    )


def fetch(backbone: str, word: str = "pretrained") -> Path:
    """The file of published weights, from the hub's and torch's caches or from the network.

    What is cached opens no connection. Without a network it fails within seconds.

    Raises:
        InputError: there are none, or they cannot be fetched.
    """
    found = published(backbone, word)
    if found is None:
        raise InputError(f"weights={word}: nobody has published any of {backbone}")
    reasons: list[str] = []
    for fetch_from, place in ((_from_hub, found.hub), (_from_url, found.url)):
        if not place:
            continue
        try:
            return fetch_from(place, found.file)
        except (OSError, RuntimeError, ValueError) as error:
            reasons.append(" ".join(str(error).split())[:120] or type(error).__name__)
    raise InputError(_cannot(word, found.name, reasons[0] if reasons else "none can be read"))


def origin(backbone: str, source: str) -> dict[str, str | None]:
    """What a bundle tells of where a tower's weights come from."""
    if not is_word(source):
        return {"source": source}
    found = published(backbone, source)
    assert found is not None
    digest = hashlib.sha256(fetch(backbone, source).read_bytes()).hexdigest()
    place = f"{_HUB}/{found.hub}" if found.hub else found.url
    return {"source": place, "name": found.name, "sha256": digest, "licence": found.licence}


def refuse_unreachable(backbones: Mapping[str, str]) -> None:
    """Refuse early what would be fetched where the hub does not answer, before timm is imported.

    Args:
        backbones: of the towers whose weights are named by a word -> that word.

    Raises:
        InputError: nothing of a backbone is cached, and the hub cannot be reached.
    """
    wanted = {name: word for name, word in backbones.items() if name not in UNPUBLISHED}
    absent = [name for name in wanted if not _maybe_cached(name.partition(".")[0])]
    if not absent:
        return
    try:
        _reach_hub()
    except OSError as error:
        raise InputError(_cannot(wanted[absent[0]], absent[0], str(error))) from error


def _cannot(word: str, name: str, reason: str) -> str:
    return (
        f"weights={word}: cannot fetch those of {name}: {reason}; give a file (weights=FILE; "
        f"{_HUB}/timm lists them by that name: model.safetensors of it) or train from scratch "
        "(weights=none)"
    )


def _maybe_cached(architecture: str) -> bool:
    """Whether a cache holds something that may be of an architecture."""
    from huggingface_hub import constants

    hub = Path(constants.HF_HUB_CACHE).glob(f"models--timm--{architecture}.*")
    return any(hub) or any(_torch_folder().glob("*"))


def _torch_folder() -> Path:
    home = os.environ.get("TORCH_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"
    )
    return Path(home, "hub", "checkpoints").expanduser()


def _from_hub(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    _reach_hub()
    return Path(hf_hub_download(repository, name, etag_timeout=_CONNECT_S))


def _from_url(url: str, name: str) -> Path:
    import torch

    name = Path(urlsplit(url).path).name
    if not name.endswith((".pth", ".pt", ".safetensors")):
        raise ValueError(f"{url} is in a format that satray does not read")
    path = _torch_folder() / name
    if not path.exists():
        _reach(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_READ_S)  # torch.hub sets none of its own
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        finally:
            socket.setdefaulttimeout(before)
    return path


def _reach_hub() -> None:
    """Raise OSError where the hub is not to be asked, or does not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    _reach(constants.ENDPOINT)


def _reach(url: str) -> None:
    """Raise OSError within seconds where a host, or the proxy before it, does not answer.

    Resolvers may hang for longer than a connection, so both run in a thread that is not waited for.
    """
    scheme = urlsplit(url).scheme
    proxy = urllib.request.getproxies().get(scheme)
    target = urlsplit(proxy if proxy and "://" in proxy else f"//{proxy}" if proxy else url)
    port = target.port or (443 if (target.scheme or scheme) == "https" else 80)
    said = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection((target.hostname or "", port), _CONNECT_S).close()
            said[0] = ""
        except OSError as error:
            said[0] = str(error.strerror or error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_S + 0.2)
    if said[0]:
        raise OSError(f"{target.hostname} cannot be reached ({said[0]})")
