"""The network's first weights: made once by the driver, and staged for the workers."""

import io
from collections.abc import Callable

import torch

from satray.models.network import Network
from satray.models.weights import load_network_weights, read_weights
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.train.loop.stage_check import check_stages
from satray.train.loop.state import seed_all
from satray.train.setup import Setup

FILE = "initial.pt"

Check = Callable[[Network, Setup], None]
"""Refuses a network that the job cannot train as asked."""


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
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    run.storage.write(uri, buffer.getvalue())
    return uri


def prepared(
    setup: Setup, storage: Storage, check: Check = check_stages
) -> tuple[Network, tuple[str, ...]]:
    """The network with its first weights, seen to be trainable, and a line on each tower's weights.

    Raises:
        InputError: as `stage`.
    """
    seed_all(setup.recipe.seed)
    network = setup.network()
    check(network, setup)  # here, and not when the stage is reached after hours
    found = read_weights(setup.sources, setup.variant, storage)
    reports = load_network_weights(network, found, setup.recipe.first_conv)
    return network, tuple(report.line() for report in reports)


def load(network: torch.nn.Module, storage: Storage, uri: str) -> None:
    """Give a network the first weights that `stage` wrote."""
    network.load_state_dict(torch.load(io.BytesIO(storage.read(uri)), weights_only=True))
