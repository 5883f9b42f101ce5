"""Which weights a tower starts from, and timm's published ones by name, fetched by the driver.

Without torch, and without timm until a word asks for it: planning reads what is meant alone.
"""

import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from satray.config.train import VariantOptions
from satray.errors import InputError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

UNPUBLISHED = ("simple_cnn",)
"""Backbones of our own, that nobody has published weights of."""
WORDS = ("pretrained", "imagenet")
"""What `weights` may be beside `none` and files; `pretrained:TAG` names one of timm's tags."""

# Of the built-in variants' backbones, those whose weights lie in the hub, below timm; Xception's
# have an address elsewhere.
_IN_HUB = ("resnet18", "mobilenetv2_100", "resnetv2_50", "inception_v3")
# Where timm's default weights are newer than torchvision's, which the Planet report started from.
_TAGS = {"resnet18": "tv_in1k", "resnet34": "tv_in1k"}
_HUB = "https://huggingface.co"
_DOWN = (500, 502, 503, 504)  # after which the hub's client asks again and again
_CONNECT_S = 2.0
_READ_S = 30.0


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
def published(backbone: str, word: str = "pretrained") -> "PretrainedCfg | None":
    """What timm knows of the weights that a word means for a backbone; None where there are none.

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
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{architecture}.*")
        tags = ", ".join(each.partition(".")[2] for each in known) or "none"
        raise InputError(f"weights={word}: timm has no {name}; its tags: {tags}") from error
    return cfg if cfg is not None and cfg.has_weights else None


def fetch(backbone: str, word: str = "pretrained") -> Path:
    """The file of published weights, from the hub's and torch's caches or from the network.

    What is cached opens no connection. Without a network it fails within seconds.

    Raises:
        InputError: there are none, or they cannot be fetched.
    """
    cfg = published(backbone, word)
    if cfg is None:
        raise InputError(f"weights={word}: nobody has published any of {backbone}")
    url = "" if cfg.hf_hub_id else str(cfg.url)
    try:
        return _from_url(url) if url else _from_hub(cfg)
    except Exception as error:  # also of the HTTP client that the hub's library has
        raise _cannot(word, full_name(cfg), error, url) from error


def refuse_unreachable(weights: str | Mapping[str, str], variant: VariantOptions) -> None:
    """Refuse a built-in variant's weights where they are not cached and the hub does not answer.

    `fetch` would say so too, but only after the seconds that timm takes to import.

    Args:
        weights: key of `train`, as given.
        variant: the towers.

    Raises:
        InputError: they cannot be fetched.
    """
    words = {
        tower.backbone: weights if isinstance(weights, str) else weights.get(tower.name, "none")
        for tower in variant.towers
    }
    wanted = [name for name, word in words.items() if is_word(word) and name in _IN_HUB]
    if not wanted:
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    absent = [name for name in wanted if not any(cache.glob(f"models--timm--{name}.*"))]
    if absent:
        try:
            _reach_hub()
        except OSError as error:
            raise _cannot(words[absent[0]], absent[0], error) from error


def _cannot(word: str, name: str, error: Exception, url: str = "") -> InputError:
    said = " ".join(str(error).split())[:120] or type(error).__name__
    place = url or f"{_HUB}/timm lists them by that name: model.safetensors of it"
    return InputError(
        f"weights={word}: cannot fetch those of {name}: {said}; give a file (weights=FILE; "
        f"{place}) or train from scratch (weights=none)"
    )


def full_name(cfg: "PretrainedCfg") -> str:
    """`ARCHITECTURE.TAG`."""
    return f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)


def origin(backbone: str, source: str, sha256: str | None) -> dict[str, str | None]:
    """What a bundle tells of where a tower's weights come from.

    Args:
        backbone: the tower's.
        source: of `sources_of`.
        sha256: of the file; None where there is none.
    """
    cfg = published(backbone, source) if is_word(source) else None
    if cfg is None:
        return {"source": source, "sha256": sha256} if sha256 else {"source": source}
    place = f"{_HUB}/{cfg.hf_hub_id}" if cfg.hf_hub_id else str(cfg.url)
    return {"source": place, "name": full_name(cfg), "sha256": sha256, "licence": cfg.license}


def _from_hub(cfg: "PretrainedCfg") -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    place = (str(cfg.hf_hub_id), cfg.hf_hub_filename or "model.safetensors")
    cached = try_to_load_from_cache(*place)
    if isinstance(cached, str):
        return Path(cached)
    # Its own client would try again for half a minute; and timm's `load_state_dict_from_hf` gives
    # tensors, not the file, whose digest a bundle names.
    _reach_hub()
    return Path(hf_hub_download(*place, etag_timeout=_CONNECT_S))


def _from_url(url: str) -> Path:
    from torch import hub

    path = Path(hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not path.exists():
        _reach(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:  # torch.hub has no timeout, and keeps what broke off
            with urllib.request.urlopen(url, timeout=_READ_S) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            stated, found = source.headers["Content-Length"], partial.stat().st_size
            if stated and int(stated) != found:
                raise OSError(f"the download broke off after {found:,} of {int(stated):,} bytes")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _reach_hub() -> None:
    """Raise OSError where the hub is not to be asked, or does not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    _reach(constants.ENDPOINT)


def _reach(url: str) -> None:
    """Raise OSError within seconds where a host, or the proxy before it, does not answer.

    Resolvers may hang for longer than a connection: the thread that asks is not waited for.
    """
    said = ["no answer"]

    def ask() -> None:
        try:
            asked = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(asked, timeout=_CONNECT_S).close()
            said[0] = ""
        except urllib.error.HTTPError as error:  # it answers, or a proxy does for it
            said[0] = f"HTTP {error.code}" if error.code in _DOWN else ""
        except OSError as error:
            said[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_CONNECT_S + 1)
    if said[0]:
        raise OSError(f"{urlsplit(url).hostname} cannot be reached ({said[0]})")
