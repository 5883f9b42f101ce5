"""The house stands: floors, circles, where Ray and torch may be, how long a file may get.

Every module is parsed, never imported. Each rule is also tried on a small tree that breaks it.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = (
    {"errors", "config", "storage"},
    {"runs", "cluster", "sessions", "block_pool"},
    {"models", "data", "report", "metrics"},  # the last two take plain arrays
    {"training"},
    {"sweep", "scoring", "demo", "classifier"},
    {"jobs"},
)
"""Rooms from the ground up; a module imports from its own floor or below."""

NEIGHBOURS_APART = {"models", "data"}
SHARED = {("models", "satray.data.bands"), ("models", "satray.data.index")}
"""What rooms that do not know each other may still take from one another."""

RAY_FILES = {
    "satray.cluster",
    "satray.data.stream",
    "satray.block_pool",
    "satray.data.pipeline",
    "satray.training.workers.halt",
    "satray.training.workers.launch",
    "satray.training.workers.trainer",
    "satray.sweep.tuner",
    "satray.sweep.features",
}
TORCH = {"torch", "torchvision", "timm"}
TORCH_FREE_ROOMS = {"config", "storage", "runs", "jobs", "metrics"}
TORCH_FREE = {
    f"satray.data.{name}"
    for name in "labels split bands decode index statistics cache pipeline".split()  # noqa: SIM905
} | {
    "satray.training.workers.train_task",
    "satray.training.workers.trainer",
    "satray.scoring.pipeline",
    "satray.scoring.maps.jobs",
}
"""What processes import that never compute with torch."""
LONGEST = 600


@dataclass(frozen=True)
class Import:
    """One imported module, as far as it can be told."""

    target: str
    """Module, in full: `satray.data.labels`, `torch.nn`."""
    line: int
    """Line in the importing file."""
    eager: bool
    """Whether it happens when the importing module is imported."""


@dataclass(frozen=True)
class Module:
    """One source file."""

    path: Path
    """Relative to the root of the tree."""
    imports: tuple[Import, ...]
    """Everything it imports, wherever in the file."""
    lines: int
    """Length of the file."""


Tree = Mapping[str, Module]


def read_tree(root: Path) -> Tree:
    """Parse all modules of satray/ and jobs/, by name."""
    files = {}
    for top in ("satray", "jobs"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    tree = {}
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        is_package = path.name == "__init__.py"
        found = tuple(_imports(ast.parse(text), name, is_package, files))
        tree[name] = Module(path.relative_to(root), found, len(text.splitlines()))
    return tree


def _imports(tree: ast.Module, name: str, is_package: bool, known: Mapping) -> Iterator[Import]:
    def walk(node: ast.AST, eager: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, eager)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    here = name.split(".")
                    up = here[: len(here) - child.level + is_package]
                    base = ".".join([*up, base]).rstrip(".")
                for alias in child.names:
                    inner = f"{base}.{alias.name}"
                    yield Import(inner if inner in known else base, child.lineno, eager)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from walk(child, False)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    yield from walk(ast.Module([part], []), False)
                for part in child.orelse:
                    yield from walk(ast.Module([part], []), eager)
            else:
                yield from walk(child, eager)

    return walk(tree, True)


def room(module: str) -> str:
    """Second part of the name; `jobs` for all of jobs/, `` for satray itself."""
    parts = module.split(".")
    return "jobs" if parts[0] == "jobs" else ".".join(parts[1:2])


def chamber(module: str) -> str:
    """The package within a room that a module is of, `satray.training.plan`; else the module."""
    parts = module.split(".")
    return ".".join(parts[:3]) if len(parts) > 3 else module


def floor_of(module: str) -> int:
    """Height of a module's floor; satray itself (its version) is the ground."""
    if module == "satray":
        return 0
    for height, rooms in enumerate(FLOORS):
        if room(module) in rooms:
            return height
    raise AssertionError(f"{module}: room {room(module)!r} is on no floor; give it one in FLOORS")


def own(tree: Tree, name: str) -> list[Import]:
    """Imports of one module that point into the tree.

    `satray` itself is the front door: what it imports only when asked may stand on any floor.
    """
    taken = [i for i in tree[name].imports if i.eager or name != "satray"]
    return [i for i in taken if i.target.split(".")[0] in ("satray", "jobs")]


def at(tree: Tree, name: str, found: Import) -> str:
    return f"{tree[name].path}:{found.line} imports {found.target}"


# ---- the rules: each yields one line a violation


def upward(tree: Tree) -> Iterator[str]:
    for name in tree:
        for found in own(tree, name):
            if found.target == "satray":
                continue
            if floor_of(found.target) > floor_of(name):
                yield f"{at(tree, name, found)}: upward"
            here, there = room(name), room(found.target)
            apart = here != there and {here, there} <= NEIGHBOURS_APART
            if apart and (here, found.target) not in SHARED:
                yield f"{at(tree, name, found)}: {here} and {there} do not know each other"


def unknown(tree: Tree) -> Iterator[str]:
    for name in tree:
        for found in own(tree, name):
            if found.target not in tree:
                yield f"{at(tree, name, found)}: there is no such module"


def circles(tree: Tree) -> Iterator[str]:
    modules = {name: {i.target for i in own(tree, name)} - {name} for name in tree}
    rooms: dict[str, set[str]] = {}
    chambers: dict[str, set[str]] = {}
    for name, targets in modules.items():
        rooms.setdefault(room(name), set()).update(map(room, targets))
        chambers.setdefault(chamber(name), set()).update(map(chamber, targets))
    apart = {c: there - {c} for c, there in chambers.items()}
    for graph in (modules, {r: there - {r, ""} for r, there in rooms.items() if r}, apart):
        circle = _circle(graph)
        if circle:
            yield " -> ".join(circle)


def _circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done or name not in graph:
            return None
        for target in sorted(graph[name]):
            circle = visit(target, [*trail, name])
            if circle:
                return circle
        done.add(name)
        return None

    return next((c for name in sorted(graph) if (c := visit(name, []))), None)


def ray_elsewhere(tree: Tree) -> Iterator[str]:
    for name, module in tree.items():
        for found in module.imports:
            if found.target.split(".")[0] == "ray" and name not in RAY_FILES:
                yield f"{at(tree, name, found)}: Ray is not for this file"


def heavy(tree: Tree) -> Iterator[str]:
    """Torch reached by importing a module that must do without; for jobs/ also Ray."""
    for name in tree:
        if room(name) not in TORCH_FREE_ROOMS and name not in TORCH_FREE:
            continue
        barred = TORCH | {"ray"} if room(name) == "jobs" else TORCH
        trail = _reaches(tree, name, barred)
        if trail:
            yield " -> ".join(trail)


def _reaches(tree: Tree, start: str, barred: set[str]) -> list[str] | None:
    """The shortest way by eager imports from a module to a barred library."""
    seen = {start}
    trails = [[start]]
    for trail in trails:
        parents = trail[-1].split(".")
        targets = [".".join(parents[:n]) for n in range(1, len(parents))]  # their __init__ runs too
        targets += [i.target for i in tree[trail[-1]].imports if i.eager]
        for target in targets:
            if target.split(".")[0] in barred:
                return [*trail, target]
            if target in tree and target not in seen:
                seen.add(target)
                trails.append([*trail, target])
    return None


def long_files(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        if module.lines > LONGEST:
            yield f"{module.path} has {module.lines} lines; at most {LONGEST}"


RULES = [upward, unknown, circles, ray_elsewhere, heavy, long_files]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house(rule):
    tree = read_tree(ROOT)
    assert len(tree) > 20
    violations = list(dict.fromkeys(rule(tree)))
    assert not violations, "\n".join(violations)
