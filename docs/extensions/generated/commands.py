"""The command line: every command with every option, from what ``--help`` is made of."""

import argparse
from collections.abc import Iterable, Iterator

from qra.front import help as screens
from qra.front import options, tool_arguments

Row = tuple[str, str, str]
"""An option, its default, and what is said of it."""


def pages() -> dict[str, str]:
    """One page."""
    lines = ["# Command line\n", "```text", screens.screen(), "```\n"]
    for name, text in screens.COMMANDS.items():
        lines += [f"## qra {name}\n", f"{_sentence(text)}\n"]
        if name in options.RUNS:
            lines += _run(name)
        else:
            lines += _tool(name, tool_arguments.PARSERS[name]())
    return {"commands.md": "\n".join(lines) + "\n"}


def _run(name: str) -> Iterator[str]:
    about = screens.ABOUT.get(name)
    if about:
        yield f"```console\n$ {about[1]}\n```\n"
    found = options.run_options(name)
    for group, title in screens.GROUPS.items():
        rows = [(f"{o.name} {o.metavar}".strip(), o.default or "", o.text) for o in found if o.group == group]
        if rows:
            yield f"### {(title or f'qra {name}: the run').partition(':')[0]} ({name})\n" if title else ""
            yield from _table(rows)


def _tool(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    commands = tool_arguments.commands_of(parser)
    for command, sub in commands.items():
        yield f"### qra {name} {command}\n"
        yield f"{_sentence(sub.description or '')}\n"
        yield from _table(_arguments(sub))
    if not commands:
        yield from _table(_arguments(parser))


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Row]:
    for action in parser._actions:
        if action.default == argparse.SUPPRESS:
            continue
        name = action.option_strings[-1] if action.option_strings else ""
        value = "" if action.nargs == 0 else action.metavar or action.dest.upper()
        yield f"{name} {value}".strip(), tool_arguments.default_of(action), (action.help or "").replace("%%", "%")


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield "| option | default | what it is |\n|---|---|---|"
    for name, default, text in rows:
        yield f"| {_code(name)} | {_code(default)} | {_prose(text)} |"
    yield ""


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _prose(text: str) -> str:
    for role in (":class:", ":func:", ":meth:", ":attr:", ":mod:"):
        text = text.replace(role, "")
    parts = text.replace("``", "`").replace("`~", "`").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*") for part in parts[::2]]  # outside of code
    return _cell("`".join(parts))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _sentence(text: str) -> str:
    text = _prose(text.rstrip("."))
    return f"{text[:1].upper()}{text[1:]}."
