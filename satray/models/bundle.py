"""A trained model as a folder: `model.safetensors` and `model.json`. Scoring needs nothing else."""

import hashlib
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from satray.errors import InputError
from satray.models.network import Network
from satray.models.spec import BundleSpec
from satray.storage import Storage, join

__all__ = [
    "Bundle",
    "BundleSpec",
    "bundle_digest",
    "bundle_digests",
    "bundle_files",
    "find_bundle",
    "load_bundle",
    "make_bundle",
]

WEIGHTS = "model.safetensors"
SPEC = "model.json"


@dataclass(frozen=True)
class Bundle:
    """A network ready to score, in eval mode."""

    spec: BundleSpec
    """What the network expects and gives."""

    network: Network
    """The network, in eval mode and without gradients."""

    model_id: str
    """First 12 hex digits of the SHA-256 of both files."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @overload
    def logits(self, pixels_BCHW: Tensor, return_features: Literal[False] = ...) -> Tensor: ...
    @overload
    def logits(
        self, pixels_BCHW: Tensor, return_features: Literal[True]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    @torch.inference_mode()
    def logits(
        self, pixels_BCHW: Tensor, return_features: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Raw logits of stored pixels (before the temperature).

        Args:
            pixels_BCHW: any dtype and device, bands exactly `spec.bands` in that order, all tiles
                of one shape.
            return_features: also give each tower's features f_BDhw by name, for maps.

        Returns:
            logits_BK (float32, on the bundle's device), and the features on request.
        """
        x_BCHW = self.spec.preprocess()(pixels_BCHW.to(self.device))
        result: Tensor | tuple[Tensor, dict[str, Tensor]]
        result = self.network(x_BCHW, return_features=return_features)
        return result

    def scores(self, logits_BK: Tensor) -> Tensor:
        """Scores after the temperature, 0 to 1, in float64."""
        z_BK = logits_BK.double() / self.spec.temperature
        return z_BK.softmax(1) if self.spec.task == "multiclass" else z_BK.sigmoid()


def bundle_files(spec: BundleSpec, state: dict[str, Tensor]) -> dict[str, bytes]:
    """The bundle's files by name, weights first; the same values give the same bytes.

    Publish them in this order: a folder with `model.json` is then complete.

    Args:
        spec: what the network expects and gives.
        state: the `state_dict` of a `Network`, on any device.
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
    from safetensors import SafetensorError
    from safetensors.torch import load

    spec = BundleSpec.from_json(files[SPEC], join(name, SPEC))
    try:
        state = load(files[WEIGHTS])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{join(name, WEIGHTS)}: not a safetensors file: {error}") from error
    size = spec.size if spec.variant.head == "dense" else None
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
        network = Network(
            spec.variant, len(spec.classes), bands=spec.bands, dropout=spec.dropout, size=size
        )
    wanted = network.state_dict()
    wrong = sorted(wanted.keys() ^ state.keys())
    wrong += [key for key in wanted if key in state and wanted[key].shape != state[key].shape]
    if wrong:
        raise InputError(
            f"{join(name, WEIGHTS)}: does not belong to its {SPEC}: {len(wrong)} tensors missing, "
            f"unknown or of another shape, the first {wrong[0]}"
        )
    network.load_state_dict(state)
    network.requires_grad_(False).eval().to(device)
    return Bundle(spec, network, _digest(files)[:12])


def find_bundle(uri: str, storage: Storage) -> str:
    """The bundle folder of a URI: itself, or the `bundle/` below a train run's `out`.

    Raises:
        InputError: there is none.
    """
    for folder in (uri, join(uri, "bundle")):
        if storage.exists(join(folder, SPEC)):
            return folder
    raise InputError(
        f"{uri}: not a bundle: no {SPEC} in it or in its bundle/; accepted: the out of a finished "
        "train run, or its bundle folder"
    )


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
    return make_bundle(_read(folder, storage), folder, device)


def bundle_digest(uri: str, storage: Storage) -> str:
    """SHA-256 of both files of a bundle, as 64 hex digits; raises InputError if there is none."""
    return _digest(_read(find_bundle(uri, storage), storage))


def bundle_digests(uri: str, storage: Storage) -> dict[str, str]:
    """SHA-256 of each of a bundle's files, by name; raises InputError if there is none."""
    files = _read(find_bundle(uri, storage), storage)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _read(folder: str, storage: Storage) -> dict[str, bytes]:
    return {name: storage.read(join(folder, name)) for name in (SPEC, WEIGHTS)}


def _digest(files: dict[str, bytes]) -> str:
    """SHA-256 over the digests of both files, so that no byte can move from one to the other."""
    digests = [hashlib.sha256(files[name]).digest() for name in (SPEC, WEIGHTS)]
    return hashlib.sha256(b"".join(digests)).hexdigest()
