"""Engines by name, made and not tried."""

from collections.abc import Mapping
from pathlib import Path

import torch

from satray.errors import InputError
from satray.models.backbones import Backbone
from satray.models.bundle import Bundle
from satray.scoring.engine.exported import ExportCache
from satray.scoring.engine.fused import FusedTrunk
from satray.scoring.engine.onnx_trunk import OnnxTrunk
from satray.scoring.engine.trunk import (
    EagerTrunk,
    Engine,
    EngineName,
    TowerEngine,
    Trunk,
    UnfitError,
    bands_taken,
)


def build(
    bundle: Bundle,
    engines: Mapping[str, EngineName],
    *,
    threads: int | None = None,
    folder: Path | None = None,
) -> Engine:
    """The engine that `pick` chose, in another process, without trying it again.

    Args:
        bundle: as `pick` had it.
        engines: by tower, of a `Choice`.
        threads: of ONNX Runtime; default as many as torch has.
        folder: where exported graphs are kept; default `exported.default_folder()`.

    Raises:
        InputError: a tower's engine cannot be made here.
    """
    maker = Maker(bundle, threads or torch.get_num_threads(), ExportCache(folder))
    trunks: dict[str, Trunk] = {}
    for tower in bundle.network.backbones():
        try:
            trunks[tower] = maker.make(engines[tower], tower)
        except UnfitError as error:
            raise refusal(engines[tower], tower, str(error)) from error
    return TowerEngine(bundle, trunks)


class Maker:
    """Makes a bundle's trunks."""

    def __init__(self, bundle: Bundle, threads: int, cache: ExportCache) -> None:
        """Take the bundle.

        Args:
            bundle: on the device that is to compute; its network stays as it is.
            threads: of ONNX Runtime.
            cache: where exported graphs are kept.
        """
        self.bundle = bundle
        self.bands = {tower: len(taken) for tower, taken in bands_taken(bundle).items()}
        self._threads, self._cache = threads, cache

    def make(self, engine: EngineName, tower: str) -> Trunk:
        """One tower's trunk; raises UnfitError where the engine cannot run it."""
        backbone = self.bundle.network.backbones()[tower]
        bands, key = self.bands[tower], self._key(tower)
        return make_trunk(engine, backbone, bands, self._threads, self._cache, key)

    def exported(self, tower: str) -> bool:
        """Whether the tower's graph is at hand."""
        return self._cache.has(*self._key(tower))

    def _key(self, tower: str) -> tuple[str, ...]:
        return self.bundle.model_id, tower


def make_trunk(
    engine: EngineName,
    backbone: Backbone,
    bands: int,
    threads: int,
    cache: ExportCache,
    key: tuple[str, ...],
) -> Trunk:
    """One backbone's trunk; see `OnnxTrunk` for the arguments.

    Raises:
        UnfitError: the engine cannot run the backbone; the message says why.
    """
    if engine == "eager":
        return EagerTrunk(backbone)
    device = next(backbone.parameters()).device.type
    if device != "cpu":
        raise UnfitError(f"it runs on CPUs only, and the network is on {device}")
    if engine == "fused":
        return FusedTrunk(backbone)
    return OnnxTrunk(backbone, bands, threads, cache, key)


def refusal(engine: EngineName, tower: str, why: str) -> InputError:
    """That an engine asked for does not do, in one line."""
    return InputError(f"engine: {engine} cannot run tower {tower}: {why}; accepted: auto, eager")
