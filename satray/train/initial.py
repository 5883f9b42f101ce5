"""The network's first weights: made once by the driver, seen to be trainable, and staged."""

from collections.abc import Callable, Iterable

from satray.errors import InputError
from satray.models.network import Network
from satray.models.weights import load_network_weights, read_weights
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.train.checkpoints import to_bytes
from satray.train.parallel import live_norms
from satray.train.setup import Setup
from satray.train.state import begin

FILE = "initial.pt"

Check = Callable[[Network, Setup], None]
"""Refuses a network that the job cannot train as asked."""


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
        if plan.micro_batch == 1 and not together and any(live_norms(network)):
            raise InputError(
                f"batch={plan.global_batch}: one tile a worker, and batch norm needs two; take at "
                f"least {2 * plan.workers * plan.accumulate}"
            )
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


def stage(setup: Setup, run: Run, check: Check = check_stages) -> str:
    """Write the first weights below the run's state, once; later calls find them.

    Args:
        setup: the run, resolved.
        run: its folder.
        check: refuses a network that the job cannot train as asked.

    Returns:
        URI of the state dict.

    Raises:
        InputError: weights that cannot be had, or do not fit; or a stage that cannot be trained.
    """
    uri = join(run.state, FILE)
    if run.storage.exists(uri):
        return uri
    network, lines = prepared(setup, run.storage, check)
    for line in lines:
        run.say(line)
    run.storage.write(uri, to_bytes(network.state_dict()))
    return uri


def prepared(
    setup: Setup, storage: Storage, check: Check = check_stages
) -> tuple[Network, tuple[str, ...]]:
    """The network with its first weights, seen to be trainable, and a line on each tower's weights.

    Raises:
        InputError: as `stage`.
    """
    begin(setup.recipe.seed)
    network = setup.network()
    check(network, setup)  # here, and not when the stage is reached after hours
    found = read_weights(setup.sources, setup.variant, storage)
    return network, load_network_weights(network, found, setup.recipe.first_conv)
