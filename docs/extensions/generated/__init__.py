"""Pages that are made, not written: API, command line, configs, checkpoints and tutorials, from their sources."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from generated import api, checkpoints, commands, configs, tutorials

FOLDER = "generated"
"""Below docs/; nothing in it is kept."""
LINKS = {"](../notebooks/": "](generated/tutorials/"}
"""Where links of docs/ that lead out of it go on the site."""


def write(folder: Path) -> None:
    """Write all pages; those that are there and right are not touched, so that they are not built again."""
    pages: dict[str, str] = {}
    for part in (api, checkpoints, commands, configs, tutorials):
        pages |= part.pages()
    for old in folder.rglob("*.*"):
        if old.is_file() and str(old.relative_to(folder)) not in pages:
            old.unlink()
    for name, text in pages.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def _links(app: Sphinx, name: str, content: list[str]) -> None:
    for link, place in LINKS.items():
        content[0] = content[0].replace(link, place)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for sources."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir, FOLDER)))
    app.connect("source-read", _links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
