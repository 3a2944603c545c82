"""Imports go down only: a part may use what lies below it, never what lies above or beside it."""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "qra"

LAYERS = (
    (
        "types",
        "version",
        "noise",
        "errors",
        "describe",
        "memory",
        "graphs",
        "parts",
        "precision",
        "nesting",
        "triton_kernels",
        "files",
        "pickle_check",
        "writing",
        "renamed",
        "palette",
        "coordinates",
        "durations",
        "terminal",
        "running",
    ),
    ("checks", "progress", "timing"),
    ("schedules", "environment", "front", "runs", "losses", "attacks", "quant", "models", "data"),
    ("deploy.ops",),
    ("deploy.program", "deploy.bounds"),
    ("deploy.twin",),
    ("evaluation", "checkpoint", "checkpoint_file", "rebuild", "weights", "dryrun", "parsing"),
    ("modules",),
    ("callbacks", "resume"),
    ("trainer", "probe"),
    ("plan",),
    ("compare", "doctor", "study", "report"),
    ("deploy",),
    ("tools",),
    ("cli",),
    ("__main__",),
)
"""The parts, from the ground up; those of a layer do not use each other, but for ``NEIGHBOURS``.

A file of a part may have a layer of its own.
"""
LAYER = {part: layer for layer, parts in enumerate(LAYERS) for part in parts}
NEIGHBOURS = {
    ("attacks", "losses"),
    ("files", "errors"),
    ("files", "nesting"),
    ("deploy.bounds", "deploy.program"),
    ("checkpoint", "checkpoint_file"),
    ("checkpoint", "rebuild"),
    ("checkpoint", "weights"),
    ("checkpoint_file", "rebuild"),
    ("checkpoint_file", "weights"),
    ("evaluation", "dryrun"),
}
LIGHTNING = {"running", "resume", "modules", "callbacks", "data", "trainer", "probe", "plan", "cli"}


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(names):
    """The part that a module belongs to, given its names below ``qra``."""
    own = ".".join(names[:2])
    return own if own in LAYER else names[0]


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    part = part_of(path.relative_to(ROOT).with_suffix("").parts)
    for name in imported(parsed(path)):
        package, _, rest = name.partition(".")
        if package in ("lightning", "pytorch_lightning"):
            assert part in LIGHTNING, f"{part} imports {name}"
        target = part_of(rest.split("."))
        if package == "qra" and target in LAYER and target != part:
            below = LAYER[target] < LAYER[part]
            assert below or (part, target) in NEIGHBOURS, f"{part} imports {name}, which is not below it"


def module_of(path):
    names = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def test_no_file_needs_itself_through_others():
    """Nor for types alone: what is read together is written together."""
    modules = {module_of(path): path for path in FILES}
    needs = {module: set() for module in modules}
    for module, path in modules.items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                needs[module] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                needs[module] |= {name if name in modules else node.module for name in inner}
    graphlib.TopologicalSorter({module: found & modules.keys() for module, found in needs.items()}).prepare()


QUICK = ("qra.compare", "qra.deploy.command", "qra.deploy.export", "qra.report.command", "qra.study.command")
SLOW = {"lightning", "torchvision"}
"""Packages that take longer to import than torch."""


def test_commands_that_need_neither_lightning_nor_torchvision_do_not_wait_for_them():
    modules = {module_of(path): path for path in FILES}
    queue = list(QUICK)
    for module in queue:
        body = parsed(modules[module]).body
        names = {name for node in body if isinstance(node, ast.Import | ast.ImportFrom) for name in imported(node)}
        assert SLOW.isdisjoint(name.partition(".")[0] for name in names), f"{module} is imported by a quick command"
        names |= {name.rpartition(".")[0] for name in names}
        queue += (names & modules.keys()).difference(queue)
    assert len(queue) > 100


def test_every_part_has_a_layer():
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert parts == {part for part in LAYER if "." not in part}


def test_every_folder_with_code_is_a_package():
    """Packages are what a wheel is sure to hold."""
    assert not [folder for folder in {path.parent for path in FILES} if not (folder / "__init__.py").exists()]
