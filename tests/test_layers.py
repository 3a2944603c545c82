"""Imports go down only: a part may use what lies below it, never what lies above or beside it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "qra"

LAYERS = {
    "version": 0, "types": 0, "noise": 0, "errors": 0, "environment": 1, "front": 1, "describe": 0, "schedules": 0,
    "memory": 0, "graphs": 0, "parts": 0, "precision": 0, "progress": 0, "files": 0, "writing": 0,
    "runs": 1,
    "losses": 1, "attacks": 1, "quant": 1, "models": 1, "data": 1,
    "evaluation": 2, "checkpoint": 2, "rebuild": 2, "weights": 2, "dryrun": 2,
    "modules": 3,
    "callbacks": 4,
    "resume": 4,
    "compare": 5, "doctor": 5, "study": 5, "report": 5, "trainer": 5,
    "tools": 6,
    "cli": 7, "__main__": 8,
}  # fmt: skip
NEIGHBOURS = {("attacks", "losses"), ("checkpoint", "rebuild"), ("checkpoint", "weights")}
LIGHTNING = {"progress", "resume", "modules", "callbacks", "data", "trainer", "cli"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported(ast.parse(path.read_text())):
        package, _, rest = name.partition(".")
        if package in ("lightning", "pytorch_lightning"):
            assert part in LIGHTNING, f"{part} imports {name}"
        target = rest.split(".")[0]
        if package == "qra" and target in LAYERS and target != part:
            below = LAYERS[target] < LAYERS[part]
            assert below or (part, target) in NEIGHBOURS, f"{part} imports {name}, which is not below it"


def test_every_part_has_a_layer():
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert parts == LAYERS.keys()


def test_every_folder_with_code_is_a_package():
    """Packages are what a wheel is sure to hold."""
    assert not [folder for folder in {path.parent for path in FILES} if not (folder / "__init__.py").exists()]
