"""A known configuration, told to Optuna as if it had suggested it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from satray.tune.axes import choice, same

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Told:
    """Stands for a trial of Optuna's that suggested a known configuration.

    Args:
        configuration: what it suggested.
        keys: parameter's name -> key of the configuration.
    """

    def __init__(self, configuration: Mapping[str, Any], keys: Mapping[str, str]) -> None:
        self._configuration = configuration
        self._keys = keys
        self.parameters: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The number that it was."""
        from optuna.distributions import FloatDistribution

        return float(self._note(name, FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The whole number that it was."""
        from optuna.distributions import IntDistribution

        return int(self._note(name, IntDistribution(low, high)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice that it was."""
        from optuna.distributions import CategoricalDistribution

        return self._note(name, CategoricalDistribution(choices), choices)

    def _note(self, name: str, distribution: BaseDistribution, choices: Any = None) -> Any:
        value = self._configuration[self._keys[name]]
        if choices is not None:
            value = next(each for each in choices if same(each, choice(value)))
        self.parameters[name] = value
        self.distributions[name] = distribution
        return value
