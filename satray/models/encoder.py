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
from timm.models import FeatureListNet
from torch import Tensor, nn

from satray.errors import InputError, one_line
from satray.models.backbones import SIMPLE_CNN, SimpleCNN, timm_model
from satray.models.bundle import Bundle
from satray.models.preprocess import normalize
from satray.models.spec import BundleSpec
from satray.models.weights import parse_safetensors
from satray.storage import Storage, absolute

FORMAT = "satray-encoder"


class Encoder(nn.Module):
    """x_BCHW (normalised, float32) -> features f_BDhw, one a level, from fine to coarse.

    Of random weights until `load_encoder` gives it trained ones; in eval mode until `train()`.
    """

    def __init__(self, spec: BundleSpec, tower: str) -> None:
        """Build the encoder of a bundle's tower; InputError where timm gives no pyramid of it."""
        super().__init__()
        (options,) = (t for t in spec.variant.towers if t.name == tower)
        self.spec = spec
        self.tower = tower
        self.bands = options.bands
        in_chans = len(options.bands)
        self.net: Any
        with torch.random.fork_rng(devices=[]):  # these first weights are thrown away
            if options.backbone == SIMPLE_CNN:
                self.net = FeatureListNet(SimpleCNN(in_chans), out_indices=(0, 1, 2))
            else:
                self.net = timm_model(options.backbone, in_chans, features_only=True)
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
        turned = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        return tuple(f.permute(0, 3, 1, 2) if turned else f for f in self.net(x_BCHW))


def encoder_file(bundle: Bundle, tower: str) -> bytes:
    """One tower's backbone as an encoder file; the same bundle gives the same bytes.

    What the backbone has after the pyramid's last level (MobileNetV2's last convolution, say) is
    left out.

    Raises:
        InputError: timm gives no pyramid of its backbone.
    """
    from safetensors.torch import save

    stored = bundle.network.backbones()[tower].body.state_dict()
    flat = {name.replace(".", "_"): value for name, value in stored.items()}
    state: dict[str, Tensor] = {}
    for name in sorted(Encoder(bundle.spec, tower).net.state_dict()):
        # timm calls `blocks.0` `blocks_0` in some pyramids, and puts a word before in others.
        plain = name.replace(".", "_")
        value = flat[plain if plain in flat else plain.partition("_")[2]]
        state[name] = value.detach().cpu().contiguous().clone()
    spec = json.loads(bundle.spec.to_json())
    about = {"format": FORMAT, "tower": tower, "model_id": bundle.model_id, "bundle": spec}
    # One entry, since safetensors writes several in any order.
    return save(state, metadata={"satray": json.dumps(about, ensure_ascii=False)})


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
    data = (storage or Storage()).read(absolute(uri))
    try:
        state = parse_safetensors(data, "its tensors")
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["satray"])
        spec = BundleSpec.from_json(json.dumps(about["bundle"]).encode(), "its model.json")
        encoder = Encoder(spec, about["tower"])
        encoder.net.load_state_dict(state)
    except (InputError, RuntimeError, ValueError, KeyError, TypeError) as error:
        said = one_line(error)[:200]
        raise InputError(f"{uri}: no encoder that the job export wrote: {said}") from error
    return encoder
