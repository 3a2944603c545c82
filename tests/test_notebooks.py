"""The notebooks run from top to bottom, and are kept with small outputs and nothing else that a run leaves in them."""

import re

import nbformat
import pytest

import notebooks

ROOT = notebooks.ROOT
NOTEBOOKS = sorted(notebooks.FOLDER.glob("*.ipynb"))
LARGEST = 400_000
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def shown(notebook):
    """All outputs of a notebook."""
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@each_notebook
def test_a_notebook_is_sound_and_shows_what_it_made(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata == notebooks.METADATA
    assert notebook.cells[0].cell_type == "markdown"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert any("image/png" in output.get("data", {}) for output in shown(notebook))
    assert {output.output_type for output in shown(notebook)} <= {"stream", "display_data", "execute_result"}


@each_notebook
def test_what_a_notebook_shows_is_small_and_tells_nothing_of_the_machine(path):
    text = path.read_text()
    assert len(text) < LARGEST
    assert re.findall(r"/(?:home|root|tmp|work|Users)/[\w./-]*", text) == []


@each_notebook
def test_what_a_notebook_points_to_is_there(path):
    text = "".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    files = re.findall(r"\b(?:docs|configs)/[\w./-]*\w", text)
    assert all((path.parent / link).exists() for link in links), links
    assert all((ROOT / name).exists() for name in files), files


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery
@each_notebook
def test_a_notebook_runs(path, tmp_path):
    outputs = shown(notebooks.run(path, tmp_path))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    warnings = [output.text for output in outputs if output.get("name") == "stderr" and "Warning" in output.text]
    assert warnings == []
