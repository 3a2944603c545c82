"""Reading configs, with errors that name the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from qra.front.shipped import SUFFIXES, hint, located
from qra.nesting import is_larger
from qra.renamed import present

LIMIT = 2**20
"""Maximum size of a config, in bytes."""
ENTRIES = 100_000
"""Maximum number of entries in all its mappings and lists: a few lines that repeat each other can make any number."""
_MERGE = "tag:yaml.org,2002:merge"


class _TwiceError(yaml.MarkedYAMLError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys in a mapping, of which the first would be silently dropped."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                word, line = (key.tag, key.value), key.start_mark.line + 1
                if word in lines:
                    problem = f"the key {key.value!r} is already in line {lines[word]}: keep one of the two"
                    raise _TwiceError(problem=problem, problem_mark=key.start_mark)
                lines[word] = line
        return node


def is_config(value: Any) -> bool:
    """Return whether a value is the path of a config file."""
    return isinstance(value, str) and value.endswith(SUFFIXES) and "\n" not in value


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file, with the current names of its keys and classes.

    Args:
        path: A regular file of at most 1 MiB.

    Raises:
        ValueError: If the file does not exist, cannot be read, is too large, or is not YAML.
    """
    file = Path(path)
    if file.is_symlink() and not file.exists():
        raise ValueError(f"{path} is a link to {file.readlink()}, which does not exist")
    if not file.exists():
        raise ValueError(f"there is no config file {path}{hint(str(path)) if not file.is_absolute() else ''}")
    if not file.is_file():
        raise ValueError(f"{path} is not a file: a config is a YAML file")
    if file.stat().st_size > LIMIT:
        raise ValueError(f"{path} has {file.stat().st_size:,} bytes: a config has at most {LIMIT:,}")
    try:
        content = _loaded(file.read_text(encoding="utf-8"))
        if is_larger(content, ENTRIES):
            raise RecursionError
        return present(content)
    except PermissionError:
        raise ValueError(f"{path} cannot be read: change its permissions") from None
    except UnicodeDecodeError as reason:
        raise ValueError(f"{path} is not UTF-8 text (byte {reason.start}): save it as UTF-8") from None
    except yaml.YAMLError as reason:
        mark = getattr(reason, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{place}: {_problem(reason)}") from None
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply, or repeats its parts too often") from None
    except ValueError as reason:  # a number with too many digits, or an impossible date
        raise ValueError(f"{path}: a value in it cannot be read: {str(reason).partition(';')[0]}") from None


def read_value(text: str) -> Any:
    """Return the value that the text of an option stands for.

    Args:
        text: A word, or YAML on one line.

    Raises:
        ValueError: If it is not YAML.
    """
    try:
        return _loaded(text)
    except yaml.YAMLError as reason:
        raise ValueError(f"{text!r} {_problem(reason)}") from None


def _loaded(text: str) -> Any:
    return yaml.load(text, _Loader)


def _problem(reason: yaml.YAMLError) -> str:
    problem = " ".join(str(getattr(reason, "problem", None) or reason).split())
    return problem if isinstance(reason, _TwiceError) else f"is not YAML: {problem}"


def check_config(path: str | Path) -> None:
    """Read a config and all configs that it names, to check them.

    Raises:
        ValueError: If one cannot be read, is empty, is not a mapping, or names itself.
    """
    _check(Path(path), ())


def check_part(path: str | Path) -> None:
    """Read a config that is the value of an option, if it exists, and all configs that it names, to check them.

    Raises:
        ValueError: If one cannot be read, is empty or names itself.
    """
    if Path(path).exists() or Path(path).is_symlink():
        _check(Path(path), (Path(path).parent,))


def _check(path: Path, above: tuple[Path, ...]) -> None:
    if path.resolve() in above:
        raise ValueError(f"{path}: includes itself, directly or through others")
    content = read_yaml(path)
    if content is None:
        raise ValueError(f"{path} is empty: it needs keys, such as model and data; qra configs lists whole ones")
    if not above and not isinstance(content, dict):
        raise ValueError(f"{path} is not a mapping of keys, but {type(content).__name__}")
    for key, value in leaves(content):
        if is_config(value):
            file = path.parent / value
            if not file.exists() and not file.is_symlink():
                raise ValueError(f"{path}: {key}: there is no config file {value}")
            _check(file, (*above, path.resolve()))


@cache
def whole_config(path: str) -> Any:
    """Return the content of a config, with the paths of other configs in it replaced by their contents.

    Args:
        path: Path of the config, or the name of a shipped one; neither it nor others in it may name themselves.
    """
    path = located(path)

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolved(item) for key, item in value.items()}
        if isinstance(value, list):
            return [resolved(item) for item in value]
        return whole_config(os.path.normpath(Path(path).parent / value)) if is_config(value) else value

    return resolved(read_yaml(path))


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of nested mappings, as ``a.b``, with their values; items of a list have the key of the list."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, f"{prefix}.{key}".lstrip("."))
    elif isinstance(content, list):
        for item in content:
            yield from leaves(item, prefix)
    else:
        yield prefix, content


def where(key: str, paths: Sequence[str]) -> Path | None:
    """Return the file that sets a key, the last of several; None if there is none.

    Args:
        key: Key such as ``model.network``; ``init_args`` in it is ignored.
        paths: Configs in the order in which they are read.
    """
    for path in reversed(paths):
        if (found := _where(_plain(key), Path(path), "")) is not None:
            return found
    return None


def _where(key: str, path: Path, prefix: str) -> Path | None:
    for name, value in leaves(read_yaml(path)):
        name = _plain(f"{prefix}.{name}".strip("."))
        inside = is_config(value) and (key == name or key.startswith(f"{name}."))
        if inside and (found := _where(key, path.parent / value, name)) is not None:
            return found
        if name == key or name.startswith(f"{key}."):
            return path
    return None


def _plain(key: str) -> str:
    return key.replace(".init_args", "")
