"""Read, forward, write: what scoring does with each item, and in which order.

An item (a scene, a block of tiles) is opened and read in parts by CPU tasks; each part goes through
the network in an actor, on a GPU or on CPU cores; and what came of all its parts is written by a
CPU task. Pixels and results travel between these processes as object references: the driver holds
a few bytes of each. Items are opened one after another as there is room for them, so that the
first is scored while others are still being looked at. What the network says of an item is held
until all its parts are looked at and its writing begins: of a scene's tiles 19 bytes each with two
classes, of its maps 4 a cell and class.

Here it is said what is done; `scheduler` says when, and `pipeline` does it on Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
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


Network = Callable[[Any, int, Any], Any]
"""What an actor computes with: an opened item, a part and its pixels -> what it says of them."""


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

    def network(self, gpu: bool) -> tuple[Network, str]:
        """Load the network, and say what computes it (`satray.score.engines`); once an actor."""
        raise NotImplementedError

    def write(self, opened: O, parts: Iterable[tuple[Any, Any]], engine: str) -> R:
        """Write what came of an item: of each part what was seen, and what the network says."""
        raise NotImplementedError

    def unopened(self, item: I, error: DecodeError) -> R:
        """Say that an item could not be opened: its process died; called in the driver."""
        del item
        raise error

    def failed(self, opened: O, error: DecodeError, kind: str) -> R:
        """Say that an item failed in `read`, `forward` or `write`; called in the driver."""
        del opened, kind
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

    def submit(self, kind: str, *given: Any) -> Hashable:
        """Have a stage done.

        Args:
            kind: `open`, `read`, `write`: see `timed`; `forward`: see `Forwarding`.
            given: what that stage is given.
        """

    def done(self, calls: Iterable[Hashable]) -> Iterable[Hashable]:
        """Wait until one of some calls is done at least, and give those that are."""

    def take(self, call: Hashable) -> tuple[Any, ...]:
        """What a call that is done gave, its head as it is; raises what the call raised."""


# The stages as calls; a head, which the driver looks at, comes before what is handed on


def timed(stages: Any, kind: str, *given: Any) -> tuple[Any, ...]:
    """Do a stage by its name.

    Returns:
        A head: its seconds, and the opened or ended item of `open`, the result of `write`. Then
        what the network is shown of a part that was read, and what else was seen in it.
    """
    begin = time.perf_counter()
    found = getattr(stages, kind)(*given)
    seconds = time.perf_counter() - begin
    if kind == "read":
        return (seconds, None), *found
    if isinstance(found, Started):
        return (seconds, found.opened), found.pixels, found.beside
    return (seconds, found), None, None


class Forwarding:
    """A network, loaded when it is first asked for something, and its clock."""

    def __init__(self, stages: Any, gpu: bool) -> None:
        self._stages, self._gpu = stages, gpu
        self._network: tuple[Network, str] | None = None
        self._idle_since = time.perf_counter()

    def load(self) -> tuple[Network, str]:
        """Load the network, where it is not; see `Stages.network`."""
        if self._network is None:
            self._network = self._stages.network(self._gpu)
            self._idle_since = time.perf_counter()
        return self._network

    def __call__(self, opened: Any, part: int, pixels: Any) -> tuple[Any, ...]:
        """Seconds of waiting and of computing, and the engine; what the network says."""
        if pixels is None:  # lost, and what read it again ended otherwise
            raise DecodeError("it changed while it was read")
        network, engine = self.load()
        begin = time.perf_counter()
        said = network(opened, part, pixels)
        end = time.perf_counter()
        waiting, self._idle_since = begin - self._idle_since, end
        return (waiting, end - begin, engine), said
