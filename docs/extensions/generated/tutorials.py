"""The notebooks as pages: the same files, with links to other pages of the site."""

import json

from generated.packages import ROOT


def pages() -> dict[str, str]:
    """An index, and the notebooks."""
    files = sorted((ROOT / "notebooks").glob("*.ipynb"))
    found = {f"tutorials/{file.name}": _described(file.read_text().replace("](../docs/", "](../../")) for file in files}
    lines = [f"- [{_title(text)}]({name.partition('/')[2]})" for name, text in found.items()]
    index = "# Tutorials\n\nNotebooks that run from top to bottom on a laptop, in minutes, without any download.\n\n"
    entries = "\n".join(file.stem for file in files)
    listed = "\n".join(lines)
    return found | {"tutorials/index.md": f"{index}{listed}\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"}


def _described(text: str) -> str:
    """Describe the images of a notebook by the headings above them, for those who cannot see them."""
    notebook = json.loads(text)
    heading = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = next((line.lstrip("# ") for line in map(str.strip, cell["source"]) if line[:1] == "#"), heading)
        elif cell["cell_type"] == "code":
            cell["metadata"]["mystnb"] = {"image": {"alt": f"Figure: {heading}"}}
    return json.dumps(notebook, indent=1)


def _title(text: str) -> str:
    for cell in json.loads(text)["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if line.startswith("# "):
                return line.removeprefix("# ")
    raise ValueError("a notebook has no title")
