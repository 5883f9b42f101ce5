"""A tower's backbone as a feature pyramid in one file, to be the encoder of a U-Net.

The file is a safetensors file: the backbone's weights, and in its metadata the bundle's whole
`model.json`, the tower, and where in the backbone each level of the pyramid comes from.

Legend: B tiles, C bands of the tower, H x W px, D channels of a level, h x w its cells.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from satray.errors import InputError
from satray.models.backbones import Backbone, build
from satray.models.bundle import Bundle
from satray.models.preprocess import normalize
from satray.models.spec import BundleSpec
from satray.storage import Storage, absolute

FORMAT = "satray-encoder"
STRIDES = (2, 4, 8, 16, 32)
PROBE = (448, 256)
"""Height and width of the input by which levels are found, in px: far from square, so that maps
with channels last and attention within windows are not taken for levels."""


@dataclass(frozen=True)
class Level:
    """One level of the pyramid."""

    stride: int
    """Px of the input from cell to cell; a power of two (of nets without padding, nearly)."""

    channels: int
    """D."""

    module: str | None
    """Module of the backbone's body whose output it is; None: the backbone's last features."""


class Encoder(nn.Module):
    """x_BCHW (normalised, float32) -> features f_BDhw, one a level, from fine to coarse.

    Weights are as trained, with gradients allowed; the module is in eval mode until `train()`.
    """

    def __init__(
        self, backbone: Backbone, spec: BundleSpec, tower: str, levels: tuple[Level, ...]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        self.tower = tower
        self.levels = levels
        (self.bands,) = (t.bands for t in spec.variant.towers if t.name == tower)

    @property
    def channels(self) -> tuple[int, ...]:
        """D of each level, from fine to coarse."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level in px, from fine to coarse."""
        return tuple(level.stride for level in self.levels)

    def normalize(self, pixels_BCHW: Tensor) -> Tensor:
        """Input of stored pixels as in training, but neither resized nor cropped.

        Args:
            pixels_BCHW: stored pixels, bands `spec.bands` in that order, any height and width.

        Returns:
            x_BCHW, float32, the tower's bands.
        """
        way = self.spec.preprocess()
        x_BCHW = normalize(way.values(pixels_BCHW), way.mean, way.std)
        return x_BCHW[:, [self.spec.bands.index(band) for band in self.bands]]

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of a batch; h is about H / stride, exactly where H is a multiple of it."""
        return _pyramid(self.backbone, self.levels, x_BCHW)


def encoder_file(bundle: Bundle, tower: str, levels: tuple[Level, ...]) -> bytes:
    """One tower's backbone as an encoder file; the same bundle gives the same bytes.

    Args:
        bundle: trained bundle.
        tower: name of one of its towers.
        levels: of its backbone; see `find_levels`.
    """
    from safetensors.torch import save

    backbone = bundle.network.backbones()[tower]
    state = backbone.state_dict()
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}
    about = {
        "format": FORMAT,
        "tower": tower,
        "model_id": bundle.model_id,
        "levels": json.dumps([asdict(level) for level in levels]),
        "bundle": bundle.spec.to_json().decode(),
    }
    return _sorted_header(save(tensors, metadata=about))


def load_encoder(uri: str, storage: Storage | None = None) -> Encoder:
    """Read an encoder that the job `export` wrote.

        encoder = load_encoder("runs/export/encoder/rgb.safetensors")
        x_BCHW = encoder.normalize(pixels_BCHW)         # as stored, any height and width
        for f_BDhw, stride in zip(encoder(x_BCHW), encoder.strides):
            ...                                         # D: encoder.channels

    Args:
        uri: the file: a local path or an object-store URI.
        storage: how to reach object stores.

    Returns:
        The encoder on the CPU, in eval mode; up to five levels, strides 2 to 32.

    Raises:
        InputError: no such file, or it is no encoder file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = (storage or Storage()).read(absolute(uri))
    try:
        state = load(data)
        about = _header(data).get("__metadata__", {})
        if about.get("format") != FORMAT:
            raise InputError("a safetensors file, but no encoder that the job export wrote")
        levels = tuple(Level(**entry) for entry in json.loads(about["levels"]))
        spec = BundleSpec.from_json(about["bundle"].encode(), "its model.json")
        (tower,) = (t for t in spec.variant.towers if t.name == about["tower"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri}: not an encoder file: {error}") from error
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
        backbone = build(tower.backbone, len(tower.bands))
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f"{uri}: weights do not fit {tower.backbone}: {line}") from error
    return Encoder(backbone, spec, tower.name, levels).eval()


def find_levels(backbone: Backbone) -> tuple[Level, ...]:
    """The levels of a backbone: for each stride the last output before the next.

    Found by one forward pass of zeros: among the body's blocks first; where none has a stride
    (a stem that takes two in one block), among the modules within. The coarsest level is the
    backbone's own last features. Maps with channels last are no levels but for the coarsest.
    """
    found: dict[tuple[int, int], Level] = {}  # depth, stride -> last module

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            stride = _stride(output)
            if stride is not None:
                found[_depth(backbone, name), stride] = Level(stride, output.shape[1], name)

        return note

    handles = [
        module.register_forward_hook(look(name))
        for name, module in backbone.body.named_modules()
        if name
    ]
    training = backbone.training
    first = next(backbone.parameters())
    try:
        with torch.inference_mode():
            last_BDhw = backbone.eval()(first.new_zeros(1, _bands(backbone), *PROBE))
    finally:
        backbone.train(training)
        for handle in handles:
            handle.remove()
    coarsest = _stride(last_BDhw)
    if coarsest is None:
        raise InputError(f"backbone={backbone.name!r} gives features of no stride up to 32")
    levels = []
    for stride in (stride for stride in STRIDES if stride < coarsest):
        depths = sorted(depth for depth, there in found if there == stride)
        if depths:
            levels.append(found[depths[0], stride])
    return (*levels, Level(coarsest, backbone.dim, None))


def _pyramid(backbone: Backbone, levels: tuple[Level, ...], x_BCHW: Tensor) -> tuple[Tensor, ...]:
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: kept.__setitem__(name, output)

    names = [level.module for level in levels if level.module is not None]
    handles = [backbone.block(name).register_forward_hook(keep(name)) for name in names]
    try:
        last_BDhw = backbone(x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return (*(kept[name] for name in names), last_BDhw)


def _stride(output: Any) -> int | None:
    """Stride of a map of the probing input; None where it is no map, or not one of `STRIDES`."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        return None
    found = {
        2 ** round(math.log2(side / cells))
        for side, cells in zip(PROBE, output.shape[2:], strict=True)
    }
    return found.pop() if len(found) == 1 and found <= set(STRIDES) else None


def _depth(backbone: Backbone, name: str) -> int:
    """How deep a module lies; containers of blocks do not count."""
    return name.count(".") - any(name.startswith(f"{top}.") for top in _containers(backbone))


def _containers(backbone: Backbone) -> set[str]:
    return {block.split(".")[0] for block in backbone.blocks if "." in block}


def _bands(backbone: Backbone) -> int:
    """C: input channels of the first convolution (or patch embedding)."""
    first = next(m for m in backbone.body.modules() if isinstance(m, nn.Conv2d))
    return first.in_channels


def _header(data: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header


def _sorted_header(data: bytes) -> bytes:
    """The same file with its header's keys in order: safetensors writes metadata in any order."""
    header = json.dumps(_header(data), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    old = 8 + int.from_bytes(data[:8], "little")
    return len(header).to_bytes(8, "little") + header + data[old:]
