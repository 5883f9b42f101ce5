"""A job that counts words, and its own calls."""

import json
from collections.abc import Callable

from satray.config.base import ReadPath, Recipe, WrittenPath, key
from satray.errors import InputError
from satray.runs.job import Inputs, Job
from satray.runs.run import Outcome, Run
from satray.storage import Storage, join


class CountRecipe(Recipe):
    """Count the words of a text."""

    text: ReadPath = key(..., "file to read")
    minimum: int = key(0, "fewest words to accept", ge=0)
    speed: int = key(1, "how fast", identity=False)
    error_budget: float = key(0.5, "share of bad words to accept", identity=False)
    store: WrittenPath | None = key(None, "where something is kept", identity=False)
    more: str | None = key(None, "what its inner jobs read")
    schedule: bool = key(False, "share `out`")

    @property
    def shares_out(self) -> bool:
        return self.schedule

    def paths(self, *, written: bool = True) -> list[tuple[str, str]]:
        more = [("base.weights", self.more)] if self.more else []
        return more + super().paths(written=written)


class Counter:
    """The job, and what its work is to come to."""

    def __init__(self) -> None:
        self.calls = 0
        self.crash = False
        self.product = "count.json"
        self.verdict: str | None = None
        self.within: Callable[[], None] | None = None
        self.ray: list[bool] = []
        self.job = Job("count", CountRecipe, self.read, self.plan, self.work)

    def read(self, recipe: CountRecipe, storage: Storage) -> Inputs:
        if not storage.exists(recipe.text):
            raise InputError(f"text={recipe.text}: no such file")
        return Inputs({"text": storage.read(recipe.text).decode()})

    def plan(self, recipe: CountRecipe, found: Inputs, storage: Storage) -> list[str]:
        return [f"count {recipe.text}"]

    def work(self, recipe: CountRecipe, found: Inputs, run: Run) -> Outcome:
        self.calls += 1
        self.ray.append(run.ray)
        if self.within is not None:
            self.within()
        if recipe.store is not None:
            run.storage.write(join(recipe.store, "part"), b"x")
        words = run.storage.read(recipe.text).decode().split()
        if len(words) < recipe.minimum:
            raise InputError(f"text={recipe.text}: {len(words)} words")
        run.publish(self.product, json.dumps(len(words)).encode(), rows=1)
        if self.crash:
            run.storage.write(join(run.state, "checkpoint", "weights"), b"large")
            raise RuntimeError("boom")
        return Outcome(
            counts={"words": len(words)},
            summary=(f"{len(words)} words",),
            attempted=len(words),
            failed=words.count("bad"),
            error_budget=recipe.error_budget,
            verdict=self.verdict,
        )
