"""Put stored weights into a tower: what is loaded is what was meant, or it is refused.

A file is `.safetensors`, or what `torch.save` wrote; code in it is not run. It may name its tensors
as timm or torchvision do, or as a repository whose names timm knows to convert, behind
whatever prefix a training script put before them. The head of the stored network is left out, and a
first convolution for other bands is adapted (`adapt_first_conv`). Below the head nothing may be
missing, left over, or of another shape. A norm of the tokens' mean (timm's `fc_norm`) becomes that
of each token, since maps are made of tokens.

timm's `load_state_dict` and `clean_state_dict` would not do: they read local files, by extension,
know four wrappers and two prefixes, and cannot say in a line what is wrong with a file.
"""

import inspect
import io
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from satray.config.train import FirstConv, VariantOptions
from satray.errors import InputError, listed, one_line
from satray.models.backbones import AFTER_FEATURES, Backbone
from satray.models.network import Network
from satray.models.pretrained import fetch, full_name, is_word, published
from satray.models.spec import SPEC, BundleSpec
from satray.models.variant import RGB
from satray.storage import Storage, join, parent

SENTINEL2 = (
    *("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078"),
    *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22"),
)
"""Bands of Sentinel-2's level 1C in file order, B01 to B12, as weights for 13 bands take them."""

# What training scripts wrap a state dict in, outermost first.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "ema", "net", "weights")
# Counters that files from before PyTorch 0.4.1 lack; nothing uses them.
_COUNTER = ".num_batches_tracked"
# What timm's files call the functions that convert the names of other repositories.
_CONVERTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
# First name of torchvision's MobileNetV2 and its kin, which are told by place, not by name.
_BY_PLACE = "features.0.0.weight"
_LISTED = 3
_HEADS = (
    *(f"{name}." for name in AFTER_FEATURES),
    *("last_linear.", "AuxLogits.", "aux.", "aux_classifier.", "projector.", "projection_head."),
    *("head_dist.", "heads_dist."),
)

Tensors = dict[str, Tensor]


class Stored(NamedTuple):
    """What a tower starts from."""

    source: str
    """Path, URI, or name of published weights."""

    tensors: Tensors
    """By name, on the CPU."""

    bands: Mapping[str, tuple[str, ...]] = {}
    """Of a satray bundle's weights: the bands of each of its towers."""


def read_weights(
    sources: Mapping[str, str], variant: VariantOptions, storage: Storage
) -> dict[str, Stored]:
    """The weights of each tower that has any; for the driver.

    Args:
        sources: of `satray.models.pretrained.sources_of`.
        variant: the towers.
        storage: how to reach files.

    Raises:
        InputError: weights that cannot be fetched; no such file, or one that is broken, holds code,
            or no tensors (`.safetensors` or PyTorch's: its content tells).
    """
    known: dict[tuple[str, str], Stored] = {}
    found: dict[str, Stored] = {}
    for tower in variant.towers:
        source = sources.get(tower.name, "none")
        if source == "none":
            continue
        key = (source, tower.backbone if is_word(source) else "")
        if key not in known:
            known[key] = _read(source, tower.backbone, storage)
        found[tower.name] = known[key]
    return found


def _read(source: str, backbone: str, storage: Storage) -> Stored:
    if is_word(source):
        path, cfg = fetch(backbone, source), published(backbone, source)
        name = f"{full_name(cfg)} ({source}; {cfg.license or 'no licence'})" if cfg else source
        return Stored(name, _parse(path.read_bytes(), path.name))
    about, bands = join(parent(source), SPEC), {}
    if storage.exists(about):
        spec = BundleSpec.from_json(storage.read(about), about)
        bands = {tower.name: tower.bands for tower in spec.variant.towers}
    return Stored(source, _parse(storage.read(source), source), bands)


def parse_safetensors(data: bytes, name: str) -> Tensors:
    """The tensors of a `.safetensors` file's bytes, on the CPU; raises InputError if it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state: Tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: not a safetensors file: {error}") from error
    return state


def load_network_weights(
    network: Network, weights: Mapping[str, Stored], first_conv: FirstConv = "kaiming"
) -> tuple[str, ...]:
    """Load what `read_weights` found into a network's towers, as `load_weights` does each.

    Returns:
        A line for a person on each tower that has weights.
    """
    bands = {tower.name: tower.bands for tower in network.variant.towers}
    backbones = network.backbones()
    return tuple(
        load_weights(stored, backbones[name], bands[name], first_conv, tower=name)
        for name, stored in weights.items()
    )


def load_weights(
    stored: Stored,
    backbone: Backbone,
    bands: Sequence[str],
    first_conv: FirstConv = "kaiming",
    *,
    tower: str = "",
) -> str:
    """Load stored weights into a backbone; where they are refused it stays as it was.

    Args:
        stored: the weights, of a file read.
        backbone: takes the weights.
        bands: the tower's bands, in input order.
        first_conv: how the first convolution meets other bands.
        tower: the tower's name, to find it in a satray bundle's weights, and for the line.

    Returns:
        A line for a person: how many tensors from where, and which part of a file that holds more.

    Raises:
        InputError: the weights are another architecture's (tensors below the head are missing,
            left over or of another shape), several networks fit, numbers are not finite, or the
            first convolution cannot be adapted.
    """
    source, target = stored.source, backbone.body.state_dict()
    prefix, tensors = _arranged(stored.tensors, backbone, tower, source)
    wanted = [name for name in target if not name.endswith(_COUNTER)]
    for name in wanted:
        values = tensors.get(name, target[name])
        if not (values.is_floating_point() and values.isfinite().all()):
            raise InputError(f"{source}: {name} ({values.dtype}) holds no finite numbers")
    first = f"{backbone.first_conv}.weight"
    if first in tensors and first in target:
        stem, wide = tensors[first], target[first]
        if stem.ndim == 4 and stem[:, :1].shape == wide[:, :1].shape:
            known = stored.bands.get(tower)
            if known is None and len(stored.bands) == 1:
                (known,) = stored.bands.values()
            try:
                tensors[first] = adapt_first_conv(stem.to(wide.dtype), bands, first_conv, known)
            except InputError as error:
                raise InputError(f"{source}: {error}") from None
    _refuse_others(tensors, target, wanted, backbone, source)
    with torch.no_grad():
        for name in target.keys() & tensors.keys():
            target[name].copy_(tensors[name])
    others = sum(not name.startswith(prefix) for name in stored.tensors)
    left = f", its part {prefix}* ({others} others left out)" if others else ""
    return f"weights of tower {tower or backbone.name}: {len(wanted)} tensors from {source}{left}"


def adapt_first_conv(
    stored_OIkk: Tensor,
    bands: Sequence[str],
    how: FirstConv,
    stored_bands: Sequence[str] | None = None,
) -> Tensor:
    """Weights of a first convolution for a tower's bands: w_OCkk, C = len(bands).

    Each band takes its own weights by name, whatever the order, and the others are filled:

    - `kaiming`: drawn anew by `kaiming_normal_` on a (O, 1, k, k) part each (the Planet report);
    - `zero`: zeros, so that the outputs are those of the stored network;
    - `mean`: the mean over the stored bands;
    - `copy`: the stored bands in turn, by the channel's place.

    With `kaiming` and `zero` the weights taken by name are kept bit for bit. With `mean` and `copy`
    all weights of C > 1 bands are multiplied by I / C, so that the sum over channels stays what it
    was; one band takes the sum over all. For red, green, blue, `copy` is timm's `adapt_input_conv`.

    Weights for as many bands, none of which is among the tower's, are taken as they are, in their
    places; so they are by one band that is repeated (`nir, nir, nir`).
    `in_place` knows no names: the first bands take the stored weights whatever they are, the others
    are drawn. So the Planet report's code does, whose files are blue, green, red, near-infrared:
    its blue meets the filters of red.

    Args:
        stored_OIkk: the stored weights.
        bands: the tower's bands, in input order.
        how: `kaiming` and `in_place` draw from torch's global generator.
        stored_bands: names of the I stored bands; by default red, green, blue for 3 and
            `SENTINEL2` for 13.

    Raises:
        InputError: stored weights for bands that nobody has named, or `zero` without any of them.
    """
    stored, wanted = stored_OIkk.shape[1], len(bands)
    names = tuple(stored_bands or {3: RGB, 13: SENTINEL2}.get(stored, ()))
    if stored == wanted and (len(set(bands)) == 1 or not set(names) & set(bands)):
        return stored_OIkk
    if len(names) != stored:
        raise InputError(
            f"weights: the first convolution takes {stored} bands, the tower {wanted} "
            f"({', '.join(bands)}); accepted: as many, 3 (red, green, blue), 13 (Sentinel-2, B01 "
            f"to B12), or a bundle's weights beside its {SPEC}"
        )
    if how in ("mean", "copy") and wanted == 1:
        return stored_OIkk.sum(1, keepdim=True)
    takes: list[int | None] = [place if place < stored else None for place in range(wanted)]
    if how != "in_place":
        free = list(names)
        for place, band in enumerate(bands):
            takes[place] = free.index(band) if band in free else None
            if band in free:  # a repeated name is filled like another band
                free[free.index(band)] = ""
    if how == "zero" and not any(channel is not None for channel in takes):
        raise InputError(
            f"first_conv=zero would blind a tower of {', '.join(bands)}, none of them "
            f"{', '.join(names)}; accepted: kaiming, mean, copy"
        )
    parts: list[Tensor] = []
    for place, channel in enumerate(takes):
        if channel is None and how == "copy":
            channel = place % stored
        if channel is not None:
            parts.append(stored_OIkk[:, channel : channel + 1])
        elif how == "mean":
            parts.append(stored_OIkk.mean(1, keepdim=True))
        elif how == "zero":
            parts.append(torch.zeros_like(stored_OIkk[:, :1]))
        else:
            parts.append(nn.init.kaiming_normal_(torch.empty_like(stored_OIkk[:, :1])))
    w_OCkk = torch.cat(parts, 1)
    return w_OCkk * (stored / wanted) if how in ("mean", "copy") else w_OCkk


def _parse(data: bytes, name: str) -> Tensors:
    # Told by content, since files are renamed: a zip archive or a pickle; a header's length, JSON.
    if data.startswith((b"PK", b"\x80")):
        state = _unpickled(data, name)
    elif data[8:10] == b'{"' or name.endswith(".safetensors"):
        state = parse_safetensors(data, name)
    else:
        begins = f"it begins {data[:24]!r}" if data else "it is empty"
        raise InputError(f"{name}: not a PyTorch file: {begins}")
    tensors = _unwrap(state)
    if not tensors:
        raise InputError(f"{name}: holds no tensors by name; accepted: a state dict")
    return tensors


def _unpickled(data: bytes, name: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on pickle protocols; what fails is told below
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # of many classes, by what in the file is broken
            said = f"not a PyTorch file: {one_line(error)[:160]}"
            if re.search("weights_only|unsupported|torchscript", str(error), re.IGNORECASE):
                said = (
                    "more than tensors in it (a whole model, TorchScript), which may run code and "
                    "is not loaded; accepted: tensors alone, as torch.save(model.state_dict(), "
                    "FILE) writes them, or .safetensors"
                )
            raise InputError(f"{name}: {said}") from error


def _unwrap(state: object) -> Tensors:
    """The tensors of a state dict, which may be wrapped: by a usual name, or in the only dict."""

    def holds_tensors(value: object) -> bool:
        return isinstance(value, dict) and any(isinstance(one, Tensor) for one in value.values())

    for _ in range(3):
        if not isinstance(state, dict):
            return {}
        inner = [state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)]
        if not inner and not holds_tensors(state):
            inner = [value for value in state.values() if holds_tensors(value)]
            inner = inner if len(inner) == 1 else []
        if not inner:
            break
        state = inner[0]
    if not isinstance(state, dict):
        return {}
    return {
        name: value.detach() if value.layout is torch.strided else value.detach().to_dense()
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _refuse_others(
    tensors: Tensors, target: Tensors, wanted: list[str], backbone: Backbone, source: str
) -> None:
    """Raise where tensors below the head are missing, left over, or of another shape."""
    classifier = getattr(backbone.body, "default_cfg", {}).get("classifier") or ()
    named = (classifier,) if isinstance(classifier, str) else classifier
    heads = (*_HEADS, *(f"{name}." for name in named))
    rest = [n for n in tensors if n not in target and not n.startswith(heads)]
    clashing = [
        f"{name} ({_size(tensors[name])} for {_size(target[name])})"
        for name in wanted
        if name in tensors and tensors[name].shape != target[name].shape
    ]
    told = [
        f"{len(names)} {word} ({listed(names, _LISTED)})"
        for names, word in (
            ([n for n in wanted if n not in tensors], f"of its {len(wanted)} tensors missing"),
            ([n for n in rest if not n.endswith(_COUNTER)], "unexpected"),
            (clashing, "of another shape"),
        )
        if names
    ]
    if told:
        raise InputError(
            f"{source}: does not fit {backbone.name}: {'; '.join(told)}; accepted: weights of this "
            "very architecture (its head apart), or another variant"
        )


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _arranged(given: Tensors, backbone: Backbone, tower: str, source: str) -> tuple[str, Tensors]:
    """The tensors that are meant for a backbone, in its names, and what stood before these."""
    target = backbone.body.state_dict()

    def fits(tensors: Tensors) -> int:
        return sum(name in target and v.shape == target[name].shape for name, v in tensors.items())

    prefix, own = _part(given, target, tower, source)
    # names as they are, by torchvision's places, or as timm converts them
    found = max((own, _by_place(own, target), _converted(own, backbone)), key=fits).copy()
    if "norm.weight" in target.keys() - found.keys():  # each token is normalised, not their mean
        for part in ("weight", "bias"):
            if f"fc_norm.{part}" in found:
                found[f"norm.{part}"] = found.pop(f"fc_norm.{part}")
    return prefix, found


def _part(tensors: Tensors, target: Tensors, tower: str, source: str) -> tuple[str, Tensors]:
    """The part of a file that has most of the wanted names, and what stands before them in it.

    Raises:
        InputError: several parts have as many, and nothing says which is meant.
    """
    known = {name for name in target if not name.endswith(_COUNTER)}
    known |= {_BY_PLACE} if "conv_stem.weight" in target else set()
    counts: Counter[str] = Counter()
    for name in tensors:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if name[start:] in known)
    if not counts:
        return "", tensors
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    best = [p for p in best if p.endswith(f"towers.{tower}.body.")] or best
    if len(best) > 1 and 2 * most >= len(known):
        raise InputError(
            f"{source}: holds {len(best)} networks that fit "
            f"({listed([f'{p}*' for p in best], _LISTED)}); accepted: a file with the one meant"
        )
    prefix = best[0]
    return prefix, {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _converted(tensors: Tensors, backbone: Backbone) -> Tensors:
    """What timm makes of other repositories' names, for the backbones that it does so for."""
    module = sys.modules[type(backbone.body).__module__]
    for name in _CONVERTERS:
        convert: Callable[..., object] | None = getattr(module, name, None)
        if convert is None:
            continue
        takes = len(inspect.signature(convert).parameters)
        try:
            return _unwrap(convert(*(dict(tensors), backbone.body)[:takes])) or tensors
        except Exception:  # it was written for others; what does not fit is told in a moment
            break
    return tensors


def _by_place(tensors: Tensors, target: Tensors) -> Tensors:
    """A torchvision MobileNetV2 in timm's names: the same tensors in the same order.

    torchvision's ResNets and InceptionV3 have timm's names already.
    """
    if _BY_PLACE not in tensors or "conv_stem.weight" not in target:
        return tensors
    theirs = [n for n in tensors if n.startswith("features.") and not n.endswith(_COUNTER)]
    ours = [name for name in target if not name.endswith(_COUNTER)]
    # The first convolution may take other bands; it is adapted later.
    if [tensors[n].shape for n in theirs[1:]] != [target[n].shape for n in ours[1:]]:
        return tensors
    return {our: tensors[their] for our, their in zip(ours, theirs, strict=True)}
