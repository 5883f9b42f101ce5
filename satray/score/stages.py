"""Read, forward, write: what scoring does with each item, and in which order.

An item (a scene, a block of tiles) is opened and read in parts by CPU tasks; each part goes through
the network in an actor, on a GPU or on CPU cores; and what came of all its parts is written by a
CPU task. Pixels and results travel between these processes as object references: the driver holds
a few bytes of each. Items are opened one after another as there is room for them, so that the
first is scored while others are still being looked at.

Here it is said what is done; `scheduler` says when, and `pipeline` does it on Ray.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from satray.errors import DecodeError

AHEAD = 2
"""Parts in the hands of an actor: one is computed while the next arrives."""


class Opened(Protocol):
    """An item that can be scored: small, and sent along with each of its parts."""

    @property
    def parts(self) -> int:
        """How many parts it is read in; one at least."""

    @property
    def px(self) -> int:
        """Px that the network looks at, all parts together."""


I = TypeVar("I")  # noqa: E741
O = TypeVar("O", bound=Opened)  # noqa: E741
R = TypeVar("R")


@dataclass(frozen=True)
class Started(Generic[O]):
    """An item that was opened, and its first part."""

    opened: O
    """The item."""
    pixels: Any
    """What the network is shown of part 0."""
    beside: Any
    """What else was seen in it; goes to `write`."""


@dataclass(frozen=True)
class Ended(Generic[R]):
    """An item that needs no forward."""

    result: R
    """What became of it."""


class Network(Protocol):
    """What an actor computes with."""

    @property
    def engine(self) -> str:
        """Library and precision; see `satray.score.engines`."""

    def __call__(self, opened: Any, part: int, pixels: Any, /) -> Any:
        """What the network says of a part."""


class Stages(Generic[I, O, R]):
    """What is done with items of one kind; pickles small.

    A `DecodeError` of `open`, `read` or a network costs the item; any other error ends the run.
    """

    def open(self, item: I) -> Started[O] | Ended[R]:
        """Look at an item and read its first part."""
        raise NotImplementedError

    def read(self, opened: O, part: int) -> tuple[Any, Any]:
        """Read another part: what the network is shown of it, and what else was seen in it."""
        raise NotImplementedError

    def network(self, gpu: bool) -> Network:
        """Load the network; once in each actor."""
        raise NotImplementedError

    def write(self, opened: O, parts: Iterable[tuple[Any, Any]], engine: str) -> R:
        """Write what came of an item: of each part what was seen, and what the network says."""
        raise NotImplementedError

    def unopened(self, item: I, error: DecodeError) -> R:
        """Say that an item could not be opened: its process died; called in the driver."""
        del item
        raise error

    def failed(self, opened: O, error: DecodeError) -> R:
        """Say that a part could not be read or looked at; called in the driver."""
        del opened
        raise error


class Executor(Protocol):
    """Who does the stages; a call is named by something hashable until it is done."""

    readers: int
    """Parts that are read at once."""

    @property
    def networks(self) -> int:
        """Parts that are looked at, or wait for it beside a network that is up."""

    def grow(self, waiting: int) -> Iterable[Hashable]:
        """Start networks for so many parts that wait; calls that are done once they are up."""

    def open(self, item: Any) -> Hashable:
        """Call `open_item`."""

    def read(self, opened: Any, part: int) -> Hashable:
        """Call `read_part`."""

    def forward(self, opened: Any, part: int, pixels: Any) -> Hashable:
        """Have a network look at a part (`Forwarding`)."""

    def write(self, opened: Any, parts: list[tuple[Any, Any]], engine: str) -> Hashable:
        """Call `write_item`."""

    def done(self, calls: Iterable[Hashable]) -> Iterable[Hashable]:
        """Wait until one of some calls is done at least, and give those that are."""

    def take(self, call: Hashable) -> tuple[Any, ...]:
        """What a call that is done gave, its head as it is; raises what the call raised."""


# The stages as calls; a head, which the driver looks at, comes before what is handed on


def open_item(stages: Any, item: Any) -> tuple[Any, ...]:
    """Seconds with the opened or ended item; what the network is shown, what else was seen."""
    begin = time.perf_counter()
    found = stages.open(item)
    seconds = time.perf_counter() - begin
    if isinstance(found, Ended):
        return (seconds, found), None, None
    return (seconds, found.opened), found.pixels, found.beside


def read_part(stages: Any, opened: Any, part: int) -> tuple[Any, ...]:
    """Seconds; what the network is shown, what else was seen."""
    begin = time.perf_counter()
    pixels, beside = stages.read(opened, part)
    return (time.perf_counter() - begin,), pixels, beside


def write_item(stages: Any, opened: Any, parts: Iterable[Any], engine: str) -> tuple[Any, ...]:
    """Seconds with the result."""
    begin = time.perf_counter()
    result = stages.write(opened, parts, engine)
    return ((time.perf_counter() - begin, result),)


class Forwarding:
    """A network, loaded when it is first asked for something, and its clock."""

    def __init__(self, stages: Any, gpu: bool) -> None:
        self._stages, self._gpu = stages, gpu
        self._network: Network | None = None
        self._idle_since = time.perf_counter()

    def load(self) -> Network:
        """Load the network, where it is not."""
        if self._network is None:
            self._network = self._stages.network(self._gpu)
            self._idle_since = time.perf_counter()
        return self._network

    def __call__(self, opened: Any, part: int, pixels: Any) -> tuple[Any, ...]:
        """Seconds of waiting and of computing, and the engine; what the network says."""
        if pixels is None:  # lost, and what read it again ended otherwise
            raise DecodeError("it changed while it was read")
        network = self.load()
        begin = time.perf_counter()
        said = network(opened, part, pixels)
        end = time.perf_counter()
        waiting, self._idle_since = begin - self._idle_since, end
        return (waiting, end - begin, network.engine), said
