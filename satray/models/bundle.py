"""A trained model as a folder: `model.safetensors` and `model.json`. Scoring needs nothing else."""

from dataclasses import dataclass

import torch
from torch import Tensor

from satray.errors import InputError
from satray.models.network import Network
from satray.models.spec import (
    SPEC,
    WEIGHTS,
    BundleSpec,
    bundle_digest,
    digests_of,
    find_bundle,
    read_files,
)
from satray.models.weights import parse_safetensors
from satray.storage import Storage, join

__all__ = ["Bundle", "BundleSpec", "bundle_files", "load_bundle", "make_bundle"]


@dataclass(frozen=True)
class Bundle:
    """A network ready to score, in eval mode."""

    spec: BundleSpec
    """What the network expects and gives."""

    network: Network
    """The network, in eval mode and without gradients."""

    digests: dict[str, str]
    """SHA-256 of each of its files, by name."""

    @property
    def model_id(self) -> str:
        """First 12 hex digits of the SHA-256 of both files."""
        return bundle_digest(self.digests)[:12]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def features(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Each tower's features f_BDhw of stored pixels, by name.

        Args:
            pixels_BCHW: any dtype and device, bands exactly `spec.bands` in that order, all tiles
                of one shape.
        """
        return self.network.features(self.spec.preprocess()(pixels_BCHW.to(self.device)))

    @torch.inference_mode()
    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        """Raw logits_BK (float32, before the temperature) of stored pixels, as `features` takes."""
        return self.network.classify(self.features(pixels_BCHW))

    def scores(self, logits_BK: Tensor) -> Tensor:
        """Scores after the temperature, 0 to 1, in float64."""
        z_BK = logits_BK.double() / self.spec.temperature
        return z_BK.softmax(1) if self.spec.task == "multiclass" else z_BK.sigmoid()


def bundle_files(spec: BundleSpec, state: dict[str, Tensor]) -> dict[str, bytes]:
    """The bundle's files by name, weights first; the same values give the same bytes.

    Publish them in this order: a folder with `model.json` is then complete.

    Args:
        spec: what the network expects and gives.
        state: `state_dict` of a `Network`, on any device.
    """
    from safetensors.torch import save

    # Clones, since safetensors refuses tensors that share memory.
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}
    return {WEIGHTS: save(tensors), SPEC: spec.to_json()}


def make_bundle(files: dict[str, bytes], name: str, device: str = "cpu") -> Bundle:
    """A bundle from the bytes of its files.

    Args:
        files: `model.safetensors` and `model.json`.
        name: where they come from, for messages.
        device: torch device for the network.

    Raises:
        InputError: the files are no bundle, or do not belong together.
    """
    spec = BundleSpec.from_json(files[SPEC], join(name, SPEC))
    size = spec.size if spec.variant.head == "dense" else None
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
        network = Network(
            spec.variant, len(spec.classes), bands=spec.bands, dropout=spec.dropout, size=size
        )
    state = parse_safetensors(files[WEIGHTS], join(name, WEIGHTS))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # torch's own list of what is missing, left over or misshapen
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{join(name, WEIGHTS)} does not belong to its {SPEC}: {said}") from error
    network.requires_grad_(False).eval().to(device)
    if torch.device(device).type == "cuda":
        # Figures of a bundle are in true float32: cuDNN's convolutions would be in TF32.
        torch.backends.cudnn.allow_tf32 = False
    return Bundle(spec, network, digests_of(files))


def load_bundle(uri: str, storage: Storage, device: str = "cpu") -> Bundle:
    """Read a bundle.

    Args:
        uri: bundle folder, or the `out` of a train run.
        storage: how to reach it.
        device: torch device for the network.

    Raises:
        InputError: there is none, or it is broken.
    """
    folder = find_bundle(uri, storage)
    return make_bundle(read_files(folder, storage), folder, device)
