"""Put stored weights into a tower: key naming of timm, torchvision and Cadene.

The head of the stored network is left out, prefixes of training scripts are stripped, a first
convolution for other bands is adapted (`first_conv`), and what is missing or left over is listed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from satray.config.model import FirstConv, VariantOptions
from satray.errors import InputError
from satray.models.backbones import Backbone
from satray.models.first_conv import adapt_first_conv
from satray.models.network import Network
from satray.models.pretrained import fetch_imagenet
from satray.models.weight_files import parse_state, read_state, unwrap
from satray.storage import Storage

__all__ = [
    "WeightsReport",
    "fetch_imagenet",
    "load_network_weights",
    "load_weights",
    "parse_state",
    "read_state",
    "read_weights",
]

_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "body.", "net.", "_orig_mod.")
_HEADS = ("fc.", "last_linear.", "classifier.", "head.", "AuxLogits.", "aux.")
# Counters that files from before PyTorch 0.4.1 lack; nothing here uses them.
_COUNTER = ".num_batches_tracked"
# Share of tensors with a known name and another shape that tells another architecture: a few may
# differ between relatives (a stem), a ResNet-50's stages fit half of a ResNet-18 by chance.
_CLASHES = 0.05


@dataclass(frozen=True)
class WeightsReport:
    """What became of a file of weights in one tower."""

    tower: str
    """Name of the tower, or of its backbone."""

    source: str
    """Path, URI or `imagenet`."""

    loaded: int
    """Tensors taken over."""

    missing: tuple[str, ...]
    """Tensors of the backbone that the file has not, or in another shape; they stay random."""

    unexpected: tuple[str, ...]
    """Tensors of the file that the backbone has no place for."""

    head: tuple[str, ...]
    """Tensors of the stored network's head, left out on purpose."""

    def line(self) -> str:
        """One line for a person; names what does not fit."""
        text = f"weights of tower {self.tower}: {self.loaded} tensors from {self.source}"
        for word, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                more = ", ..." if len(names) > 5 else ""
                text += f"; {len(names)} {word}: {', '.join(names[:5])}{more}"
        return text


def read_weights(
    weights: str | Mapping[str, str], variant: VariantOptions, storage: Storage
) -> dict[str, tuple[str, dict[str, Tensor]]]:
    """Source and tensors for each tower that has pretrained weights; for the driver.

    Args:
        weights: the recipe's: `none`, `imagenet`, a file, or one of these a tower.
        variant: the towers.
        storage: how to reach files.

    Raises:
        InputError: an unknown tower, or weights that cannot be read or fetched.
    """
    towers = {tower.name: tower for tower in variant.towers}
    if not isinstance(weights, str):
        unknown = [name for name in weights if name not in towers]
        if unknown:
            raise InputError(
                f"weights: no tower {', '.join(unknown)}; accepted: {', '.join(towers)}"
            )
        chosen = dict(weights)
    else:
        chosen = dict.fromkeys(towers, weights)
    known: dict[tuple[str, str], dict[str, Tensor]] = {}
    found: dict[str, tuple[str, dict[str, Tensor]]] = {}
    for name, source in chosen.items():
        if source == "none":
            continue
        key = (source, towers[name].backbone if source == "imagenet" else "")
        if key not in known:
            known[key] = (
                fetch_imagenet(key[1]) if source == "imagenet" else read_state(source, storage)
            )
        found[name] = (source, known[key])
    return found


def load_network_weights(
    network: Network,
    weights: Mapping[str, tuple[str, dict[str, Tensor]]],
    first_conv: FirstConv = "kaiming",
) -> tuple[WeightsReport, ...]:
    """Load what `read_weights` found into a network's towers; raises as `load_weights` does."""
    bands = {tower.name: tower.bands for tower in network.variant.towers}
    backbones = network.backbones()
    return tuple(
        load_weights(state, backbones[name], bands[name], first_conv, tower=name, source=source)
        for name, (source, state) in weights.items()
    )


def load_weights(
    state: Mapping[str, object],
    backbone: Backbone,
    bands: Sequence[str],
    first_conv: FirstConv = "kaiming",
    *,
    tower: str = "",
    source: str = "weights",
) -> WeightsReport:
    """Load stored weights into a backbone.

    Args:
        state: a state dict, wrapped or not.
        backbone: takes the weights.
        bands: the tower's bands, in input order.
        first_conv: how the first convolution meets other bands.
        tower: the tower's name, for the report and to find it in a satray bundle's weights.
        source: where the state comes from, for messages.

    Raises:
        InputError: the file matches less than half of the backbone, or clashes with it in many
            shapes, or its first convolution cannot be adapted.
    """
    target = backbone.body.state_dict()
    wanted = {name for name in target if not name.endswith(_COUNTER)}
    first = f"{backbone.first_conv}.weight" if backbone.first_conv else ""
    tensors = _strip(unwrap(state), wanted, tower)
    tensors = _from_torchvision(tensors, target)
    head = tuple(name for name in tensors if name.startswith(_HEADS) and name not in target)
    fitting: dict[str, Tensor] = {}
    clashing: list[str] = []
    for name in target:
        if (stored := tensors.get(name)) is None:
            continue
        shape = target[name].shape
        if stored.ndim == 2 and shape == (*stored.shape, 1, 1):
            stored = stored[:, :, None, None]  # Cadene's oldest files keep pointwise weights flat
        if (
            name == first
            and stored.ndim == 4
            and shape[:1] + shape[2:] == (stored.shape[:1] + stored.shape[2:])
        ):
            stored = adapt_first_conv(stored.to(target[name].dtype), bands, first_conv)
        if stored.shape == shape:
            fitting[name] = stored
        else:
            clashing.append(name)
    loaded = wanted & fitting.keys()
    if 2 * len(loaded) < len(wanted):
        raise InputError(
            f"{source}: does not fit {backbone.name}: {len(loaded)} of its {len(wanted)} tensors "
            f"found; the file has {_sample(tensors)}, the backbone {_sample(target)}"
        )
    if len(clashing) > _CLASHES * len(wanted):
        raise InputError(
            f"{source}: does not fit {backbone.name}: {len(clashing)} of its {len(wanted)} tensors "
            f"have another shape, {clashing[0]} the first; is it another architecture?"
        )
    with torch.no_grad():
        for name, stored in fitting.items():
            target[name].copy_(stored)
    return WeightsReport(
        tower=tower or backbone.name,
        source=source,
        loaded=len(loaded),
        missing=tuple(name for name in target if name in wanted and name not in loaded),
        unexpected=tuple(name for name in tensors if name not in target and name not in head),
        head=head,
    )


def _strip(tensors: dict[str, Tensor], wanted: set[str], tower: str) -> dict[str, Tensor]:
    """Take off prefixes as long as more names fit then."""

    def fits(names: Mapping[str, Tensor]) -> int:
        # A torchvision MobileNetV2 fits by place, not by name: its own first names count.
        return len(wanted & names.keys()) + ("features.0.0.weight" in names)

    while True:
        prefixes = {prefix for prefix in _PREFIXES if any(n.startswith(prefix) for n in tensors)}
        # The towers of a satray bundle: the one of the same name first.
        towers = {m.group() for n in tensors if (m := re.match(r"towers\.[a-z0-9]+\.", n))}
        own = f"towers.{tower}."
        ordered = [*([own] if own in towers else sorted(towers)), *sorted(prefixes)]
        best, best_fits = tensors, fits(tensors)
        for prefix in ordered:
            cut = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
            nested = any(n.startswith((*_PREFIXES, "towers.")) for n in cut)
            if fits(cut) > best_fits or (best_fits == 0 and nested and best is tensors):
                best, best_fits = cut, fits(cut)
        if best is tensors:
            return tensors
        tensors = best


def _from_torchvision(tensors: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision MobileNetV2 in timm's names: the same tensors in the same order.

    torchvision's ResNets and InceptionV3 have timm's names already.
    """
    if "features.0.0.weight" not in tensors or "conv_stem.weight" not in target:
        return tensors
    theirs = [n for n in tensors if n.startswith("features.") and not n.endswith(_COUNTER)]
    ours = [name for name in target if not name.endswith(_COUNTER)]
    same = len(theirs) == len(ours) and all(
        # The first convolution may take other bands; it is adapted later.
        tensors[t].shape == target[o].shape or o == "conv_stem.weight"
        for t, o in zip(theirs, ours, strict=True)
    )
    if not same:
        return tensors
    renamed = {o: tensors[t] for t, o in zip(theirs, ours, strict=True)}
    rest = {n: v for n, v in tensors.items() if not n.startswith("features.")}
    return renamed | rest


def _sample(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(list(tensors)[:2]) or "nothing"
