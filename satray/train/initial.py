"""The network's first weights: the driver makes them once, and keeps them in the run's state."""

from satray.errors import InputError
from satray.models.network import Network
from satray.models.weights import load_network_weights, read_weights
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.train.checkpoints import INITIAL, to_bytes
from satray.train.process import begin, live_norms
from satray.train.setup import Setup, unchanged


def prepare(setup: Setup, run: Run) -> str:
    """Write the first weights; later calls find them.

    Args:
        setup: the run, resolved.
        run: its folder.

    Returns:
        The URI of the network's state dict.

    Raises:
        InputError: as `prepared`.
    """
    uri = join(run.state, INITIAL)
    with run.activity("preparing"):
        if not run.storage.exists(uri):
            network, lines = prepared(setup, run.storage)
            for line in lines:
                run.say(line)
            run.storage.write(uri, to_bytes(network.state_dict()))
    return uri


def prepared(setup: Setup, storage: Storage) -> tuple[Network, tuple[str, ...]]:
    """The network with its first weights, seen to be trainable, and a line on each tower's weights.

    Raises:
        InputError: weights that cannot be had, or do not fit; or a stage that cannot be trained.
    """
    begin(setup.recipe.seed)
    network = setup.network()
    _check_stages(network, setup)  # here, and not when the stage is reached after hours
    found = read_weights(setup.weights, setup.variant, storage)
    return network, load_network_weights(network, found, setup.recipe.first_conv)


def _check_stages(network: Network, setup: Setup) -> None:
    """See that every stage trains blocks that there are, in batches that batch norm can use."""
    plan, recipe = setup.plan, setup.recipe
    alone = plan.local_batch == recipe.accumulate
    for number, stage in enumerate(recipe.stages):
        try:
            network.set_trainable(stage.trainable)
        except InputError as error:
            raise InputError(f"stages.{number}.{error}") from None
        network.train()
        if alone and any(live_norms(network)):
            raise InputError(
                f"batch={plan.global_batch}: one tile a worker, and batch norm needs two; take at "
                f"least {2 * plan.workers * recipe.accumulate}"
            )
    network.set_trainable("all")


def outlook(setup: Setup, storage: Storage, *lines: str) -> list[str]:
    """What a job would do: what it starts from, what `stages.N.trainable` may name, some lines.

    Raises:
        InputError: as `prepared`; or the archive is not the one that was indexed.
    """
    network, loaded = prepared(setup, storage)
    names = []
    for name, backbone in network.backbones().items():
        blocks = ", ".join(backbone.blocks)
        names.append(f"trainable: head, all, or of tower {name} ({backbone.name}): {blocks}")
    if len(names) > 1:
        names.append(
            "trainable: a block that all towers have stands for all of them; TOWER.block for one"
        )
    return [*setup.lines, *loaded, *names, *lines, *unchanged(setup, storage)]
