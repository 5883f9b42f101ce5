"""The tensors of a file that are meant for a backbone, in the backbone's names."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from satray.errors import InputError
from satray.models.backbones import Backbone
from satray.models.weight_files import unwrap

COUNTER = ".num_batches_tracked"
"""End of the names of counters that files from before PyTorch 0.4.1 lack; nothing uses them."""

# Copies of a network that follow another one in the same file: of two, the other is meant.
_FOLLOWERS = re.compile(r"encoder_k|momentum|target|ema")
# First name of torchvision's MobileNetV2 and its kin, which are told by place, not by name.
_BY_PLACE = "features.0.0.weight"
_LISTED = 3

Tensors = dict[str, Tensor]


def arranged(given: Tensors, backbone: Backbone, tower: str, source: str) -> tuple[str, Tensors]:
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
    known = {name for name in target if not name.endswith(COUNTER)}
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
            f"{source}: holds {listed([f'{p}*' for p in best], 'networks that fit')}; accepted: "
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
    theirs = [n for n in tensors if n.startswith("features.") and not n.endswith(COUNTER)]
    ours = [name for name in target if not name.endswith(COUNTER)]
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


def listed(names: Sequence[str], word: str) -> str:
    """`3 missing (a, b, ...)`."""
    more = ", ..." if len(names) > _LISTED else ""
    return f"{len(names)} {word} ({', '.join(names[:_LISTED])}{more})"
