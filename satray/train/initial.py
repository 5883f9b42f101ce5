"""The network's first weights: made once by the driver, seen to be trainable, and staged."""

from satray.errors import InputError
from satray.models.network import Network
from satray.models.weights import load_network_weights, read_weights
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.train.checkpoints import to_bytes
from satray.train.measure import complete
from satray.train.parallel import live_norms
from satray.train.setup import Setup
from satray.train.state import begin

FILE = "initial.pt"


def check_stages(network: Network, setup: Setup) -> None:
    """See that every stage trains blocks that there are, in batches that batch norm can use.

    The network is then in training mode, with all of it trainable.

    Raises:
        InputError: names the stage and what is accepted.
    """
    plan = setup.plan
    # Such norms see the tiles of all workers.
    together = setup.recipe.sync_batchnorm and plan.workers > 1
    for number, stage in enumerate(setup.recipe.stages):
        try:
            network.set_trainable(stage.trainable)
        except InputError as error:
            raise InputError(f"stages.{number}.{error}") from None
        network.train()
        alone = plan.local_batch == setup.recipe.accumulate
        if alone and not together and any(live_norms(network)):
            raise InputError(
                f"batch={plan.global_batch}: one tile a worker, and batch norm needs two; take at "
                f"least {2 * plan.workers * setup.recipe.accumulate}"
            )
    network.set_trainable("all")


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


def prepare(setup: Setup, run: Run) -> tuple[Setup, str]:
    """What a job does before it trains: measure what is not known yet, write the first weights.

    Returns:
        The set-up with mean and deviation, and what `stage` gives.

    Raises:
        InputError: as `measure.complete` and `stage`.
    """
    with run.activity("preparing"):
        setup = complete(setup, run)
        return setup, stage(setup, run)


def stage(setup: Setup, run: Run) -> str:
    """Write the first weights below the run's state, once; later calls find them.

    Args:
        setup: the run, resolved.
        run: its folder.

    Returns:
        URI of the state dict.

    Raises:
        InputError: weights that cannot be had, or do not fit; or a stage that cannot be trained.
    """
    uri = join(run.state, FILE)
    if run.storage.exists(uri):
        return uri
    network, lines = prepared(setup, run.storage)
    for line in lines:
        run.say(line)
    run.storage.write(uri, to_bytes(network.state_dict()))
    return uri


def prepared(setup: Setup, storage: Storage) -> tuple[Network, tuple[str, ...]]:
    """The network with its first weights, seen to be trainable, and a line on each tower's weights.

    Raises:
        InputError: as `stage`.
    """
    begin(setup.recipe.seed)
    network = setup.network()
    check_stages(network, setup)  # here, and not when the stage is reached after hours
    found = read_weights(setup.weights, setup.variant, storage)
    return network, load_network_weights(network, found, setup.recipe.first_conv)
