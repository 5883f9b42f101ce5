"""Put stored weights into a tower: what is loaded is what was meant, or it is refused.

A file may name its tensors as timm, torchvision or Cadene do, or as a repository whose names timm
knows to convert, behind whatever prefix a training script put before them. The head of the stored
network is left out, and a first convolution for other bands is adapted (`first_conv`). Below the
head nothing may be missing, left over, or of another shape.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from satray.config.train import FirstConv, VariantOptions
from satray.errors import InputError
from satray.models.backbones import AFTER_FEATURES, Backbone
from satray.models.first_conv import adapt_first_conv
from satray.models.network import Network
from satray.models.pretrained import fetch, is_word, published
from satray.models.weight_files import parse_state, read_state, unwrap
from satray.storage import Storage

__all__ = [
    "WeightsReport",
    "load_network_weights",
    "load_weights",
    "parse_state",
    "read_state",
    "read_weights",
]

# Counters that files from before PyTorch 0.4.1 lack; nothing uses them.
_COUNTER = ".num_batches_tracked"
# Copies of a network that follow another one in the same file: of two, the other is meant.
_FOLLOWERS = re.compile(r"encoder_k|momentum|target|ema")
# First name of torchvision's MobileNetV2 and its kin, which are told by place, not by name.
_BY_PLACE = "features.0.0.weight"
_LISTED = 3
_HEADS = (
    *(f"{name}." for name in AFTER_FEATURES),
    *("last_linear.", "AuxLogits.", "aux.", "aux_classifier.", "projector.", "projection_head."),
)

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class WeightsReport:
    """What became of a file of weights in one tower."""

    tower: str
    """Name of the tower, or of its backbone."""

    source: str
    """Path, URI, or name of published weights."""

    loaded: int
    """Tensors taken over: all that the backbone has."""

    head: tuple[str, ...]
    """Tensors of the stored network's head, left out on purpose."""

    part: str = ""
    """What stands before the names of the tensors taken, where the file holds others besides."""

    others: int = 0
    """Tensors outside that part, left out."""

    def line(self) -> str:
        """One line for a person."""
        text = f"weights of tower {self.tower}: {self.loaded} tensors from {self.source}"
        if self.others:
            text += f", its part {self.part}* ({self.others} others left out)"
        return text


Stored = tuple[str, Tensors]
"""Name of what a tower starts from, and its tensors."""


def read_weights(
    sources: Mapping[str, str], variant: VariantOptions, storage: Storage
) -> dict[str, Stored]:
    """Name and tensors for each tower that has pretrained weights; for the driver.

    Args:
        sources: of `satray.models.pretrained.sources_of`.
        variant: the towers.
        storage: how to reach files.

    Raises:
        InputError: weights that cannot be read or fetched.
    """
    backbones = {tower.name: tower.backbone for tower in variant.towers}
    known: dict[tuple[str, str], Stored] = {}
    found: dict[str, Stored] = {}
    for name, source in sources.items():
        if source == "none":
            continue
        key = (source, backbones[name] if is_word(source) else "")
        if key not in known:
            known[key] = _read(source, backbones[name], storage)
        found[name] = known[key]
    return found


def _read(source: str, backbone: str, storage: Storage) -> Stored:
    if not is_word(source):
        return source, read_state(source, storage)
    path, entry = fetch(backbone, source), published(backbone, source)
    name = source if entry is None else f"{entry.name} ({source}; {entry.licence or 'no licence'})"
    return name, parse_state(path.read_bytes(), path.name)


def load_network_weights(
    network: Network,
    weights: Mapping[str, Stored],
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
    """Load stored weights into a backbone; where they are refused it stays as it was.

    Args:
        state: a state dict, wrapped or not.
        backbone: takes the weights.
        bands: the tower's bands, in input order.
        first_conv: how the first convolution meets other bands.
        tower: the tower's name, for the report and to find it in a satray bundle's weights.
        source: where the state comes from, for messages.

    Raises:
        InputError: the weights are another architecture's (tensors below the head are missing,
            left over or of another shape), several networks fit, numbers are not finite, or the
            first convolution cannot be adapted.
    """
    target = backbone.body.state_dict()
    wanted = {name for name in target if not name.endswith(_COUNTER)}
    given = unwrap(state)
    prefix, tensors = _arranged(given, backbone, tower, source)
    first = f"{backbone.first_conv}.weight" if backbone.first_conv else ""
    for name in wanted & tensors.keys():
        tensors[name] = _unflattened(tensors[name], target[name])
    stem = tensors.get(first)
    if stem is not None and stem.ndim == 4 and stem.shape[1] != 0:
        wide = target[first]
        if stem.shape[:1] + stem.shape[2:] == wide.shape[:1] + wide.shape[2:]:
            try:
                stem = stem.to(wide.dtype) if stem.is_floating_point() else stem
                tensors[first] = adapt_first_conv(stem, bands, first_conv)
            except InputError as error:
                raise InputError(f"{source}: {error}") from None
    heads = (*_HEADS, *_classifiers(backbone))
    head = tuple(name for name in tensors if name.startswith(heads) and name not in target)
    _refuse_others(tensors, target, wanted, head, f"{source}: does not fit {backbone.name}")
    for name in sorted(wanted):
        if target[name].is_floating_point() and not tensors[name].is_floating_point():
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise InputError(f"{source}: {name} is {kind}; accepted: floating-point numbers")
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{source}: {name} holds numbers that are not finite")
        if name.endswith("running_var") and (tensors[name] < 0).any():
            raise InputError(f"{source}: {name} holds variances below 0")
    with torch.no_grad():
        for name in target.keys() & tensors.keys():
            target[name].copy_(tensors[name])
    return WeightsReport(
        tower=tower or backbone.name,
        source=source,
        loaded=len(wanted),
        head=head,
        part=prefix,
        others=sum(not name.startswith(prefix) for name in given),
    )


def _refuse_others(
    tensors: Tensors, target: Tensors, wanted: set[str], head: Sequence[str], what: str
) -> None:
    """Raise where tensors below the head are missing, left over, or of another shape."""
    missing = [name for name in target if name in wanted and name not in tensors]
    rest = [name for name in tensors if name not in target and name not in head]
    clashing = [
        f"{name} ({_size(tensors[name])} for {_size(target[name])})"
        for name in target
        if name in wanted and name in tensors and tensors[name].shape != target[name].shape
    ]
    told = [
        _listed(names, word)
        for names, word in (
            (missing, f"of its {len(wanted)} tensors missing"),
            ([name for name in rest if not name.endswith(_COUNTER)], "unexpected"),
            (clashing, "of another shape"),
        )
        if names
    ]
    if told:
        raise InputError(
            f"{what}: {'; '.join(told)}; accepted: weights of this very architecture (its head "
            "apart), or another variant"
        )


def _unflattened(stored: Tensor, wanted: Tensor) -> Tensor:
    """Cadene's oldest files keep pointwise weights flat."""
    flat = stored.ndim == 2 and wanted.shape == (*stored.shape, 1, 1)
    return stored[:, :, None, None] if flat else stored


def _classifiers(backbone: Backbone) -> tuple[str, ...]:
    """Names of the head in timm's own files."""
    named = getattr(backbone.body, "default_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _arranged(given: Tensors, backbone: Backbone, tower: str, source: str) -> tuple[str, Tensors]:
    """The tensors that are meant for a backbone, in its names, and what stood before those names.

    Names are first taken as they are; of files that fit as little as half, the names before timm
    converts them.
    """
    target = backbone.body.state_dict()

    def fits(tensors: Tensors) -> int:
        return sum(name in target and v.shape == target[name].shape for name, v in tensors.items())

    prefix, own = _part(given, target, tower, source)
    own = _by_place(own, target)
    found = max((_converted(own, backbone), own), key=fits)
    if 2 * fits(found) < len(target):
        foreign = _converted(_bare(given), backbone)
        _, foreign = _part(foreign, target, tower, source)
        if fits(foreign) > fits(found):
            return "", foreign
    return prefix, dict(found)


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
    best = [p for p in best if not _FOLLOWERS.search(p)] or best
    if len(best) > 1 and 2 * most >= len(known):
        raise InputError(
            f"{source}: holds {_listed([f'{p}*' for p in best], 'networks that fit')}; accepted: "
            "a file with the one that is meant"
        )
    prefix = best[0]
    return prefix, {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _bare(tensors: Tensors) -> Tensors:
    """The tensors without the words that all their names begin with."""
    first = {name.split(".", 1)[0] for name in tensors if "." in name}
    while len(first) == 1 and all("." in name for name in tensors):
        tensors = {name.split(".", 1)[1]: value for name, value in tensors.items()}
        first = {name.split(".", 1)[0] for name in tensors if "." in name}
    return tensors


def _converted(tensors: Tensors, backbone: Backbone) -> Tensors:
    """What timm makes of other repositories' names, for the backbones that it does so for."""
    module = sys.modules[type(backbone.body).__module__]
    convert: Callable[..., object] | None = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        found = convert(dict(tensors), backbone.body)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
            TypeError, ValueError):  # fmt: skip
        return tensors  # it was written for others; what does not fit is told in a moment
    return unwrap(found) or tensors


def _by_place(tensors: Tensors, target: Tensors) -> Tensors:
    """A torchvision MobileNetV2 in timm's names: the same tensors in the same order.

    torchvision's ResNets and InceptionV3 have timm's names already.
    """
    if _BY_PLACE not in tensors or "conv_stem.weight" not in target:
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


def _listed(names: Sequence[str], word: str) -> str:
    """`3 missing (a, b, ...)`."""
    more = ", ..." if len(names) > _LISTED else ""
    return f"{len(names)} {word} ({', '.join(names[:_LISTED])}{more})"
