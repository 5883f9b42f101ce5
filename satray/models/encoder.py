"""A tower's backbone as a feature pyramid in one file, to be the encoder of a U-Net.

The network is timm's own (`features_only=True`), and the file's tensors have its names, so that
timm alone can read them too:

    encoder = timm.create_model("resnet18", features_only=True, in_chans=3)
    encoder.load_state_dict(safetensors.torch.load_file("rgb.safetensors"))

The file's metadata hold the bundle's whole `model.json` and the tower's name besides.

Legend: B tiles, C bands of the tower, H x W px, D channels of a level, h x w its cells.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from satray.errors import InputError, one_line
from satray.models.backbones import SIMPLE_CNN, SimpleCNN, timm_model
from satray.models.bundle import Bundle
from satray.models.preprocess import normalize
from satray.models.spec import BundleSpec
from satray.storage import Storage, absolute

FORMAT = "satray-encoder"


class Encoder(nn.Module):
    """x_BCHW (normalised, float32) -> features f_BDhw, one a level, from fine to coarse.

    Fresh random weights, in eval mode until `train()`; `load_encoder` and `encoder_of` give trained
    ones.
    """

    def __init__(self, spec: BundleSpec, tower: str) -> None:
        """Build it.

        Args:
            spec: of the bundle that the tower is of.
            tower: the tower's name.

        Raises:
            InputError: timm gives no pyramid of its backbone.
        """
        super().__init__()
        (options,) = (t for t in spec.variant.towers if t.name == tower)
        self.spec = spec
        self.tower = tower
        self.bands = options.bands
        self.net = _pyramid(options.backbone, len(options.bands))
        self.eval()

    @property
    def channels(self) -> tuple[int, ...]:
        """D of each level, from fine to coarse."""
        return tuple(self.net.feature_info.channels())

    @property
    def strides(self) -> tuple[int, ...]:
        """Px of the input from cell to cell of each level, from fine to coarse."""
        return tuple(self.net.feature_info.reduction())

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
        levels: list[Tensor] = self.net(x_BCHW)
        if getattr(self.net, "output_fmt", "NCHW") == "NHWC":
            levels = [f_BhwD.permute(0, 3, 1, 2) for f_BhwD in levels]
        return tuple(levels)


def encoder_of(bundle: Bundle, tower: str) -> Encoder:
    """One tower's backbone as an encoder on the CPU, with the bundle's weights.

    What the backbone has after the pyramid's last level (MobileNetV2's last convolution, say) is
    left out.

    Raises:
        InputError: timm gives no pyramid of its backbone.
    """
    encoder = _fresh(bundle.spec, tower)
    stored = bundle.network.backbones()[tower].body.state_dict()
    flat = {name.replace(".", "_"): value for name, value in stored.items()}
    state: dict[str, Tensor] = {}
    for name in _state(encoder):  # `blocks.0` may be `blocks_0` there, or lie within a wrapper
        plain = name.replace(".", "_")
        state[name] = flat[plain if plain in flat else plain.partition("_")[2]]
    encoder.net.load_state_dict(state)
    return encoder


def encoder_file(bundle: Bundle, tower: str) -> bytes:
    """One tower's backbone as an encoder file; the same bundle gives the same bytes.

    Raises:
        InputError: timm gives no pyramid of its backbone.
    """
    from safetensors.torch import save

    state = _state(encoder_of(bundle, tower))
    about = {
        "format": FORMAT,
        "tower": tower,
        "model_id": bundle.model_id,
        "bundle": json.loads(bundle.spec.to_json()),
    }
    # One entry, since safetensors writes several in any order.
    return save(
        {name: state[name].contiguous().clone() for name in sorted(state)},
        metadata={"satray": json.dumps(about, ensure_ascii=False)},
    )


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
        The encoder on the CPU, in eval mode, with gradients allowed.

    Raises:
        InputError: no such file, or it is no encoder file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = (storage or Storage()).read(absolute(uri))
    try:
        state = load(data)
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["satray"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}")
        spec = BundleSpec.from_json(json.dumps(about["bundle"]).encode(), "its model.json")
        encoder = _fresh(spec, about["tower"])
        encoder.net.load_state_dict(state)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        said = one_line(error)
        raise InputError(f"{uri}: no encoder that the job export wrote: {said}") from error
    except RuntimeError as error:  # torch's own list of what is missing, left over or misshapen
        raise InputError(f"{uri}: weights do not fit: {one_line(error)[:200]}") from error
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    return encoder


class _SimplePyramid(SimpleCNN):
    """`simple_cnn` as timm's `features_only` would give it: strides 2, 4, 8."""

    def __init__(self, in_chans: int) -> None:
        from timm.models import FeatureInfo

        super().__init__(in_chans)
        info = [
            {"num_chs": channels, "reduction": stride, "module": f"block{number}"}
            for number, channels, stride in ((1, 24, 2), (2, 48, 4), (5, self.num_features, 8))
        ]
        self.feature_info = FeatureInfo(info, (0, 1, 2))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        levels = []
        for block in self.children():
            x_BCHW = block(x_BCHW)
            levels.append(x_BCHW)
        return [levels[0], levels[1], levels[-1]]


def _pyramid(backbone: str, in_chans: int) -> Any:
    if backbone == SIMPLE_CNN:
        return _SimplePyramid(in_chans)
    try:
        return timm_model(backbone, in_chans, features_only=True)
    except AttributeError as error:  # of models that timm knows no features of
        raise InputError(f"backbone={backbone!r} gives no pyramid: {one_line(error)}") from error


def _fresh(spec: BundleSpec, tower: str) -> Encoder:
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
        return Encoder(spec, tower)


def _state(encoder: Encoder) -> dict[str, Tensor]:
    state: dict[str, Tensor] = encoder.net.state_dict()
    return state
