"""`learning_rate: auto`: range tests before training, once a run."""

from __future__ import annotations

from dataclasses import replace

from satray.runs.run import Run
from satray.train.landscape.findings import Finding
from satray.train.landscape.task import explore
from satray.train.plan.setup import Setup


def settle(setup: Setup, run: Run, initial: str) -> tuple[Setup, tuple[Finding, ...]]:
    """Find the learning rates that the recipe leaves open.

    Args:
        setup: the run, resolved.
        run: its folder; what was found is kept in its state.
        initial: URI of the network's first weights, from which each test starts.

    Returns:
        The set-up with a plan that has all rates, and what was found; nothing where all rates
        were given.

    Raises:
        TrainingError: see `explore`.
    """
    wanted = [stage.number for stage in setup.plan.stages if stage.peak is None]
    if not wanted:
        return setup, ()
    found = explore(setup, run, initial, wanted)
    rates: list[float | None] = [None] * len(setup.plan.stages)
    for finding in found:
        run.say(finding.line())
        for number in finding.stages:
            rates[number] = finding.learning_rate
    return replace(setup, plan=setup.plan.with_rates(rates)), found
