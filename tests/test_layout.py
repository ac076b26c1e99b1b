"""The layout: scripts on the top level, packages below, and imports that point one way."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from tests.helpers import ROOT

MODULES = {"network", "utils"}
# What a package may import, besides itself. Scripts may import all of them.
LOW = {"common"}
MIDDLE = LOW | MODULES | {"pose", "dataloader"}
ALLOWED = {
    "common": LOW,
    "utils": LOW,
    "network": LOW | {"utils"},
    "pose": MIDDLE - {"dataloader"},
    "dataloader": MIDDLE,
    "fusion": MIDDLE,
    "training": MIDDLE | {"fusion"},
    "prediction": MIDDLE | {"fusion", "training"},
    "demo_data": MIDDLE,
    "UCF_list": MIDDLE,
}
SOURCES = sorted([*ROOT.glob("*.py"), *(path for name in ALLOWED for path in ROOT.glob(f"{name}/*.py"))])


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of the project that a file imports, within functions as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name in known and name != module_name(path)}


GRAPH = {module_name(path): imported(path, {module_name(other) for other in SOURCES}) for path in SOURCES}


def test_top_level_files_are_scripts():
    modules = {path.stem for path in ROOT.glob("*.py") if '__name__ == "__main__"' not in path.read_text()}
    assert modules == MODULES


def test_imports_have_no_cycle():
    assert len(list(TopologicalSorter(GRAPH).static_order())) >= len(GRAPH)  # raises CycleError


def test_imports_point_one_way():
    scripts = {path.stem for path in ROOT.glob("*.py")} - MODULES
    for name, others in GRAPH.items():
        assert not others & scripts, f"{name} imports a script"
        package = name.split(".")[0]
        if package in ALLOWED:
            wrong = {other for other in others if other.split(".")[0] not in ALLOWED[package] | {package}}
            assert not wrong, f"{name} imports {wrong}"


def test_files_are_short_and_leave_the_path_alone():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 500, path
        assert not re.search(r"sys\.path\b|import \*", text), path
