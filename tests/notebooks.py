"""Run notebooks and keep what they show: ``python tests/notebooks.py [NAME ...]``, all if none are named."""

import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path, directory: Path) -> NotebookNode:
    """A notebook as it is after running from top to bottom in a directory of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, 4)
    given = {"OMP_NUM_THREADS": "1", "TMPDIR": str(directory)}
    given["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(directory)}}).execute()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return clean(notebook, str(directory))


def clean(notebook: NotebookNode, directory: str) -> NotebookNode:
    """A notebook with nothing of the machine that ran it."""
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
        for output in cell.get("outputs", ()):
            for place in (output, output.get("data", {})):
                for key in {"text", "text/plain", "text/markdown"} & place.keys():
                    place[key] = place[key].replace(directory, "TEMPORARY").replace(str(ROOT), ".")
    return notebook


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs of a cell, with what is printed in a row in one piece."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as temporary:
            done = run(FOLDER / f"{name}.ipynb", Path(temporary))
        nbformat.write(done, FOLDER / f"{name}.ipynb")
        print(name)
