"""The rooms of the library stand on floors, and an import only ever points down."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "helios_jax"

FLOORS = [
    {
        "errors",
        "lazy",
        "types",
        "fields",
        "config",
        "readers",
        "writers",
        "locks",
        "compile_cache",
        "progress",
        "devices",
        "version",
    },
    {"kernels", "cost"},
    {"models", "media", "diffusion"},
    {"checkpoint"},
    {"parallel"},
    {"data"},
    {"world"},
    {"nano"},
    {"sampling", "training"},
    {"evaluation", "memory", "demo"},
    {"doctor"},
    {"commands"},
]
"""Rooms and single files from the ground up. Rooms of one floor do not import one another, save
files on the ground."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ENTRANCES = {"__init__", "__main__"}
"""Files of the package itself, which open the rooms for whoever imports it."""


def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name below the package."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")) + sorted((LIBRARY / "kernels").rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        if parts[0] not in ("configs", "assets"):
            name = ".".join(part for part in parts if part != "__init__")
            found[name or "__init__"] = path
    return found


MODULES = modules()


def imports(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Modules of the library that a file imports, at its top or in a function, with the name that
    is taken from each ("" for the module itself)."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("helios_jax."):
                    yield alias.name.removeprefix("helios_jax."), ""
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, *([source] if source else [])])
            elif source == "helios_jax":
                source = ""
            elif source.startswith("helios_jax."):
                source = source.removeprefix("helios_jax.")
            else:
                continue
            for alias in node.names:
                inner = f"{source}.{alias.name}".strip(".")
                yield (inner, "") if inner in MODULES else (source or "__init__", alias.name)


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    """No file imports a room above its own or beside it."""
    here = room(name)
    if name.split(".")[-1] in ENTRANCES and here in (*ENTRANCES, "doctor"):
        return  # python -m helios_jax and python -m helios_jax.doctor begin with the commands
    for module, _ in imports(name, MODULES[name]):
        there = room(module)
        if there in ("configs", here):
            continue
        if there in ENTRANCES:
            assert here == "commands", f"{name} imports the package's own entrance"
            continue
        down = FLOOR[there] < FLOOR[here] or FLOOR[there] == FLOOR[here] == 0
        assert down, f"{name} imports {module}, which is not on a floor below {here}"


def test_no_files_import_one_another_in_a_circle():
    """Following imports, at the top of a file or in a function, never leads back to it."""
    graph = {}
    for name, path in MODULES.items():
        graph[name] = {module for module, _ in imports(name, path)} - {name}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done or name not in graph:
            return
        path.append(name)
        for module in sorted(graph[name]):
            # A package's lazy __init__ names the files below it.
            if not name.startswith(f"{module}.") and not module.startswith(f"{name}."):
                visit(module)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("name", MODULES)
def test_no_private_name_leaves_its_room(name):
    """A name with an underscore is used in its own room only."""
    for module, taken in imports(name, MODULES[name]):
        if room(module) != room(name) and room(module) not in ENTRANCES:
            assert not taken.startswith("_"), f"{name} takes {taken} from {module}"
            assert "._" not in f".{module}", f"{name} imports {module}"


@pytest.mark.parametrize("name", MODULES)
def test_no_import_hides_in_a_string(name):
    """No string names a function of another module, as "package.module:function" does."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            hidden = re.search(r"helios_jax\.[\w.]+:\w", node.value)
            assert not hidden, f"{name}: {hidden.group()}"


def test_models_load_nothing():
    """models/ reads no file and knows no solver: it imports kernels, ground and itself only."""
    for name, path in MODULES.items():
        if room(name) == "models":
            rooms = {room(module) for module, _ in imports(name, path)}
            assert rooms <= {"kernels", "models", *FLOORS[0]}, f"{name} imports {rooms}"
