"""Which part of the house may import which; CONTRIBUTING.md says why."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNTIME = {"errors", "files", "runtime"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "model": set(),
    "training": {"errors", "files", "model"},
    # Crops are cut, and clicked on, by what does so at run time.
    "training.clicks": {"errors", "files", "model", "training", "runtime.clicks"},
    "runtime": {"errors", "files", "runtime.*"},
    "export": set(),
    "runtime.tracking": RUNTIME,
    "runtime.cpu": RUNTIME | {"runtime.tracking"},
    "runtime.device": RUNTIME | {"runtime.tracking", "runtime.device.engines"},
    # The torch backend is the network itself, cut into graphs: `torch.py` alone imports what makes them.
    "runtime.device.engines": RUNTIME
    | {"runtime.cpu", "runtime.device", "export.graphs", "export.checkpoint", "model"},
    "runtime.host_driven": RUNTIME | {"runtime.tracking", "runtime.device", "runtime.device.engines"},
    "runtime.video": {"errors", "files"},
    "runtime.clicks": RUNTIME | {"runtime.tracking", "runtime.cpu", "runtime.video"},
    "runtime.job": RUNTIME | {"runtime.tracking", "runtime.video"},
    "export.checkpoint": RUNTIME | {"model"},
    "export.graphs": RUNTIME | {"model", "runtime.device.engines"},
    "export.parity": RUNTIME | {"model", "runtime.*", "export.graphs"},
    "export.build": RUNTIME | {"model", "runtime.*", "export.graphs", "export.checkpoint", "export.parity"},
    "benchmarks": RUNTIME,
    "benchmarks.accuracy": RUNTIME | {"model", "runtime.*", "export.*", "benchmarks"},
    "benchmarks.speed": RUNTIME | {"model", "runtime.*", "export.*", "benchmarks", "benchmarks.speed.report"},
    "benchmarks.services": RUNTIME | {"benchmarks.speed", "fleet", "runtime.*"},
    "benchmarks.speed.report": RUNTIME | {"benchmarks", "benchmarks.speed"},
    "benchmarks.gpu": RUNTIME | {"model", "runtime.*", "export.*"},
    "annotations": RUNTIME | {"runtime.job", "runtime.video"},
    "fleet": RUNTIME
    | {"annotations", "fleet.cluster", "runtime.device", "runtime.job", "runtime.video", "runtime.tracking"},
    "studio": RUNTIME | {"annotations", "runtime.clicks", "runtime.job", "runtime.video", "runtime.tracking"},
    "studio.server": RUNTIME | {"studio", "runtime.clicks", "runtime.video"},
    # Ray is joined or started in one place.
    "fleet.cluster": {"errors"},
    "serve": RUNTIME | {"annotations", "studio.server", "fleet.cluster"},
    "cli": {"*"},
}


def modules():
    """Module names below `jointrt`, and their files."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        top = parts[0]
        if top in ALLOWED or top in {name.partition(".")[0] for name in ALLOWED}:
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


MODULES = modules()


def wing(module):
    """The longest name in the table that holds a module."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in ALLOWED), parts[0])


def imports(module, *, types):
    """Modules of the project that a module imports, in functions too; with what is imported for types only or not."""
    path = MODULES[module]
    package = path.relative_to(ROOT).parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            skipped |= {id(child) for statement in node.body for child in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in skipped:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                yield whole if whole in MODULES else ".".join(base)


@pytest.mark.parametrize("module", MODULES)
def test_a_part_imports_only_what_it_may(module):
    own = wing(module)
    patterns = ALLOWED[own]
    for imported in imports(module, types=True):
        other = wing(imported) if imported else "jointrt"
        if other == "jointrt":
            assert own == "cli", f"{module} imports the package itself"
            continue
        allowed = other == own or any(
            other == p or (p.endswith("*") and other.startswith(p.removesuffix("*"))) for p in patterns
        )
        assert allowed, f"{module} imports {imported}: {own} may not import {other}"


def test_only_the_torch_backend_reaches_from_the_runtime_to_the_model():
    reaching = {
        module
        for module in MODULES
        if module.startswith("runtime.") and any(i.startswith(("export", "model")) for i in imports(module, types=True))
    }
    assert reaching == {"runtime.device.engines.torch", "runtime.device.engines.epilogues"}


def test_no_imports_go_in_a_circle():
    """Depth-first over the modules; those whose imports are being followed may not be met again."""
    done, following = set(), []

    def follow(module):
        if module in done or module not in MODULES:
            return
        assert module not in following, " -> ".join([*following[following.index(module) :], module])
        following.append(module)
        for imported in imports(module, types=False):
            # The command's package lists its modules; they take the application from one of them.
            if imported != wing(module):
                follow(imported)
        following.pop()
        done.add(module)

    for module in MODULES:
        follow(module)


def test_no_folder_is_crowded():
    folders = {}
    for path in MODULES.values():
        folders.setdefault(path.parent, []).append(path.name)
    assert max(len([n for n in names if n != "__init__.py"]) for names in folders.values()) <= 16


def test_every_package_is_installed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(("jointrt", *path.relative_to(ROOT).parts[:-1]))
        for path in MODULES.values()
        if path.name == "__init__.py"
    }
    assert found <= listed
