"""Programs that run in turns, one request to the store at a time, in an order that a test draws."""

import threading
from collections.abc import Callable

from satray.errors import SatrayError


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Turns:
    """Runs programs in threads of which only one runs at a time, up to its next request."""

    def __init__(self, programs: dict[str, Callable[[], None]]) -> None:
        self.waiting: dict[str, threading.Semaphore] = {}
        self.orders: dict[str, str | None] = {}
        self.failures: list[BaseException] = []
        self.back = threading.Semaphore(0)
        self.names = threading.local()
        for name, program in programs.items():
            self.waiting[name] = threading.Semaphore(0)
            threading.Thread(target=self._run, args=(name, program), daemon=True).start()
        self.alive = list(programs)

    @property
    def who(self) -> str | None:
        """The program that runs; None outside of them."""
        return getattr(self.names, "name", None)

    def gate(self) -> str | None:
        """Wait for the next turn, and do what is ordered in it."""
        name = self.who
        if name is None:
            return None
        self.back.release()
        return self._await(name)

    def turn(self, number: int, order: str | None) -> None:
        """Let one of the programs that still run do its next request."""
        name = self.alive[number % len(self.alive)]
        self.orders[name] = order
        self.waiting[name].release()
        assert self.back.acquire(timeout=20), "a program hangs"
        if self.orders[name] == "ended":
            self.alive.remove(name)

    def finish(self) -> None:
        """Let all of them run to their ends."""
        while self.alive:
            self.turn(0, None)
        for failure in self.failures:
            raise failure

    def _await(self, name: str) -> str | None:
        assert self.waiting[name].acquire(timeout=60)
        order = self.orders[name]
        if order == "kill":
            raise Killed
        if order == "refuse":
            raise SatrayError("the store failed, after retries")
        return order

    def _run(self, name: str, program: Callable[[], None]) -> None:
        self.names.name = name
        try:
            self._await(name)
            program()
        except Killed:
            pass
        except SatrayError:  # what a job would report
            pass
        except BaseException as error:
            self.failures.append(error)
        self.orders[name] = "ended"
        self.back.release()
