"""Whether a network can be trained as the stages say, seen before anything starts."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from satray.errors import InputError
from satray.models.network import Network
from satray.train.loop.parallel import live_norms
from satray.train.setup import Setup


def check_stages(network: Network, setup: Setup, stages: Iterable[int] | None = None) -> None:
    """See that every stage trains blocks that there are, in batches that batch norm can use.

    The network is then in training mode, with all of it trainable.

    Args:
        network: of the run.
        setup: the run, resolved.
        stages: which of them, 0 for the first; None: all.

    Raises:
        InputError: names the stage and what is accepted.
    """
    plan, options = setup.plan, setup.recipe.stages
    # Such norms see the tiles of all workers.
    together = setup.recipe.sync_batchnorm and plan.workers > 1
    for number in range(len(options)) if stages is None else stages:
        check_trainable(network, options[number].trainable, f"stages.{number}.")
        if plan.micro_batch == 1 and not together:
            refuse_single(network, plan.global_batch, plan.workers * plan.accumulate)
    network.set_trainable("all")


def check_trainable(network: Network, trainable: str, where: str = "") -> None:
    """Choose what trains, in training mode.

    Args:
        network: of the run.
        trainable: see `Network.set_trainable`.
        where: what stands before `trainable` in the recipe's key.

    Raises:
        InputError: there is no such block.
    """
    try:
        network.set_trainable(trainable)
    except InputError as error:
        raise InputError(f"{where}{error}") from None
    network.train()


def refuse_single(network: nn.Module, batch: int, workers: int) -> None:
    """Refuse a batch of one tile a worker where batch norm, as the network stands, needs two.

    Raises:
        InputError: it does.
    """
    if any(not isinstance(norm, nn.SyncBatchNorm) for norm in live_norms(network)):
        raise InputError(
            f"batch={batch}: one tile a worker, and batch norm needs two; take at least "
            f"{2 * workers}"
        )


def block_lines(network: Network) -> list[str]:
    """What `stages.N.trainable` may name, a line a tower."""
    lines = []
    for name, backbone in network.backbones().items():
        blocks = ", ".join(backbone.blocks)
        lines.append(f"trainable: head, all, or of tower {name} ({backbone.name}): {blocks}")
    if len(lines) > 1:
        lines.append(
            "trainable: a block that all towers have stands for all of them; TOWER.block for one"
        )
    return lines
