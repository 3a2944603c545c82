"""The gallery: every config that comes with qra, with its comment, its use and its text."""

import re
from itertools import takewhile
from pathlib import Path

from qra.front import shipped

ABOUT = {
    "attack": ("Attacks", "--model.attack {name}", "for adversarial training"),
    "callback": ("Callbacks", "--trainer.callbacks+ {name}", "one more evaluation, or quantization after training"),
    "data": ("Data", "--data {name}", "the images"),
    "debug": ("Debugging", "--config {name}", "after the config of the run"),
    "network": ("Networks", "--model.network {name}", "the architecture"),
    "optim": ("Optimizers and schedules", "--model.{key} {name}", "how weights are updated"),
    "pipeline": ("Pipelines", "qra {command} --config {name}", "whole runs"),
    "quant": ("Quantization in training", "--model.scheme {name}", "what is quantized, and how"),
    "study": ("Studies", "qra study run {name}", "many runs as one experiment"),
    "trainer": ("Devices", "--config {name}", "after the config of the run"),
    "transfer": ("Robust transfer", "--model.transfer {name}", "what a student learns from a teacher"),
}
"""Title, use and meaning of each folder; one that is not here is shown without a use."""


def pages() -> dict[str, str]:
    """An index, and a page a folder."""
    names = list(shipped.configs())
    folders = sorted({name.partition("/")[0] for name in names})
    found = {f"configs/{folder}.md": _page(folder, [name for name in names if _in(name, folder)]) for folder in folders}
    entries = "\n".join(folders)
    index = (
        "# Every config\n\nConfigs are called by these names from any directory; `qra configs` lists them, and "
        "`--print_config` shows what a command would run with them.\n"
    )
    return found | {"configs/index.md": f"{index}\n```{{toctree}}\n:maxdepth: 2\n\n{entries}\n```\n"}


def _in(name: str, folder: str) -> bool:
    return name.partition("/")[0] == folder


def _page(folder: str, names: list[str]) -> str:
    title, _, meaning = ABOUT.get(folder, (folder.capitalize(), "", ""))
    return "\n".join([f"# {title}\n", f"`{folder}/`: {meaning}.\n" if meaning else "", *map(_entry, names)])


def _entry(name: str) -> str:
    text = shipped.configs()[name].read_text()
    comment = list(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    body = "\n".join(text.splitlines()[len(comment) :]).strip()
    said = re.sub(r"(?<=\w)_(?=\w)", r"\_", " ".join(line.lstrip("# ") for line in comment))
    use = _use(name, body)
    return "\n".join(
        [f"## {name}\n", f"{said}\n", *([f"```console\n{use}\n```\n"] if use else []), f"```yaml\n{body}\n```\n"]
    )


def _use(name: str, body: str) -> str:
    _, use, _ = ABOUT.get(name.partition("/")[0], ("", "", ""))
    command = "test" if Path(name).name.startswith("ptq") else "fit"
    use = use.format(name=name, key="optimizer" if "torch.optim" in body else "schedule", command=command)
    return f"$ {use}" if use.startswith("qra") else use
