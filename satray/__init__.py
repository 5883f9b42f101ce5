"""Transfer learning on satellite tiles as distributed batch jobs on Ray."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import: only where a bundle is loaded
    from satray.classifier import Classifier
    from satray.storage import Storage

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    uri: str, storage: "Storage | None" = None, device: str = "cpu", batch: int = 64
) -> "Classifier":
    """Read a trained bundle, ready to predict on arrays.

    Args:
        uri: the `out` of a train run, or a bundle folder: a local path or an object-store URI.
        storage: how to reach object stores; default: credentials, region and endpoint of boto3's
            chain.
        device: torch device that computes (`cpu`, `cuda`).
        batch: tiles a forward pass; more need more memory.

    Returns:
        A classifier with `predict(tiles)`, `cam(tiles, classes)` and `features(tiles)`.

    Raises:
        InputError: there is no bundle, or it is broken.
    """
    from satray.classifier import load_classifier

    return load_classifier(uri, storage, device, batch)
