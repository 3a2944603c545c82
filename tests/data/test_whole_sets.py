"""Outside of ``qra.data`` nothing holds the tensors of a whole data set: it asks for labels, indices and batches."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "qra"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "data" not in path.parents)

IN_MEMORY = {"ImageData", "ImageSet", "TensorDataModule", "to_pixels"}
"""Names of ``qra.data`` by which whole sets, or pixels that are no batch, could be had."""


def offences(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qra.data"):
            yield from (f"imports {alias.name}" for alias in node.names if alias.name in IN_MEMORY)
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if node.attr in ("train", "test") and owner == "data":
                yield f"takes data.{node.attr}"
            if node.attr == "datamodule" and owner.endswith("trainer"):
                yield "takes trainer.datamodule instead of data_of(trainer)"


def test_nothing_outside_touches_a_whole_set():
    found = {str(path.relative_to(PACKAGE)): list(offences(path.read_text())) for path in FILES}
    assert len(found) > 100
    assert {path: seen for path, seen in found.items() if seen} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from qra.data import TensorDataModule",
        "from qra.data.augment import to_pixels",
        "x = trainer.datamodule.batch('test', indices)",
        "x = module.data.test.images[:2]",
        "y = data.train.labels",
    ],
)
def test_a_whole_set_would_be_seen(source):
    assert len(list(offences(source))) == 1
