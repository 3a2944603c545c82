"""A quantized network as an integer program: what is deployed and evaluated.

A program is an ordered list of operations with their tensors, see :mod:`qra.deploy.ops`. This module defines its file
format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

from qra.deploy.ops import IMAGE, KINDS, LOGITS, Op, Part, Real
from qra.files import open_regular, safetensors_metadata
from qra.writing import write_bytes

TWIN = "qra.deploy.twin.IntegerNetwork"
"""The network that runs a program."""
LIMIT = 2**31
"""Largest size of a program's file, in bytes."""
_DTYPES = {"int8": torch.int8, "int16": torch.int16, "float32": torch.float32}
_NAME = re.compile(r"[A-Za-z0-9_]{1,80}(\.[A-Za-z0-9_]{1,80}){0,20}")


@dataclass(frozen=True)
class Program:
    """A network from bytes to logits, see the module's description.

    Args:
        ops: The operations in order; the last is a :class:`qra.deploy.ops.Real` named ``logits``.
        image_shape: Channels, height and width of an image.

    Raises:
        ValueError: If names of operations are invalid, or an operation uses values that are not computed before it.
    """

    ops: tuple[Op, ...]
    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        known = {IMAGE}
        for op in self.ops:
            if not _NAME.fullmatch(op.name) or op.name in known:
                raise ValueError(f"an operation is named {op.name[:100]!r}: names must be unique names of modules")
            if missing := set(op.sources) - known:
                raise ValueError(
                    f"the operation {op.name} takes {min(missing)[:100]!r}, which no earlier operation makes"
                )
            known.add(op.name)
        if not self.ops or self.ops[-1].name != LOGITS or not isinstance(self.ops[-1], Real):
            raise ValueError("the last operation of a program must make logits")

    def __getitem__(self, name: str) -> Op:
        return next(op for op in self.ops if op.name == name)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by their names in the twin."""
        return {f"layers.{op.name}.{field}": getattr(op, field) for op in self.ops for field in op.tensors}

    @property
    def lines(self) -> tuple[str, ...]:
        """The operations without the contents of their tensors, as one line of JSON each."""
        return tuple(json.dumps(_plain(op), separators=(",", ":")) for op in self.ops)

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of the whole program."""
        return digest(self.lines, self.image_shape, self.tensors)

    @property
    def description(self) -> dict[str, Any]:
        """Class path and arguments that describe the twin in a file."""
        arguments = {"ops": list(self.lines), "image_shape": list(self.image_shape), "sha256": self.sha256}
        return {"class_path": TWIN, "init_args": arguments}

    def save(self, path: str | Path) -> None:
        """Write the program, and thereby its twin, in the safetensors format, completely or not at all.

        Args:
            path: File to write; ``qra.load`` loads the twin from it.
        """
        about = json.dumps({"network": self.description, "scheme": None})
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        write_bytes(path, pack_tensors(tensors, {"qra": about}))  # of several keys, the order would be random

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a program from an untrusted file.

        Raises:
            ValueError: If the file is not a program, or does not match its hash.
        """
        with open_regular(path, LIMIT) as file:
            content = file.read(LIMIT)
        try:
            about = json.loads(safetensors_metadata(content)["qra"])["network"]
            arguments = dict(about["init_args"])
            expected = str(arguments.pop("sha256"))
            program = assemble(arguments["ops"], arguments["image_shape"], parse_tensors(content))
        except (SafetensorError, KeyError, TypeError, RecursionError, json.JSONDecodeError):
            raise ValueError(f"{path}: is not an integer program: qra export writes one") from None
        except ValueError as reason:
            raise ValueError(f"{path}: {reason}") from None
        if program.sha256 != expected:
            raise ValueError(f"{path}: {TAMPERED}")
        return program


TAMPERED = "the integer program does not match its sha256: it was changed or is damaged; export it again"


def digest(lines: Sequence[str], image_shape: Sequence[int], tensors: Mapping[str, Tensor]) -> str:
    """Return a program's hash, hexadecimal.

    Args:
        lines: Operations, see :attr:`Program.lines`.
        image_shape: Channels, height and width.
        tensors: Tensors by name.
    """
    found = hashlib.sha256(json.dumps([*lines, list(image_shape)]).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.numpy().data)
    return found.hexdigest()


def assemble(lines: Sequence[str], image_shape: Sequence[int], tensors: Mapping[str, Tensor] | None) -> Program:
    """Build a program from the lines of a file.

    Args:
        lines: Operations, see :attr:`Program.lines`; untrusted.
        image_shape: Channels, height and width.
        tensors: The tensors by name; zeros if not given.

    Raises:
        ValueError: If the lines are not valid operations, or the tensors do not match them.
    """
    try:
        ops = tuple(_made(json.loads(line), tensors) for line in lines)
        channels, height, width = (_natural(length) for length in image_shape)
    except (TypeError, LookupError, AttributeError, RecursionError, json.JSONDecodeError) as reason:
        raise ValueError(f"holds an invalid operation ({type(reason).__name__})") from None
    program = Program(ops, (channels, height, width))
    if tensors is not None and (extra := tensors.keys() - program.tensors.keys()):
        raise ValueError(f"holds {min(extra)[:100]}, which belongs to no operation")
    return program


def _plain(op: Op) -> dict[str, Any]:
    values = {"op": type(op).__name__, **{field.name: getattr(op, field.name) for field in fields(op)}}
    for name in op.tensors:
        value = values[name]
        values[name] = [str(value.dtype).removeprefix("torch."), *value.shape]
    return values


def _made(values: dict[str, Any], tensors: Mapping[str, Tensor] | None) -> Op:
    kind = KINDS[values.pop("op")]
    for field in fields(kind):
        value = values[field.name] if field.default is dataclasses.MISSING else values.get(field.name, field.default)
        if field.name in kind.tensors:
            values[field.name] = _tensor(value, tensors, f"layers.{values['name']}.{field.name}")
        elif field.name == "parts":
            values[field.name] = tuple(
                Part(_text(source), _whole(start), _natural(stop)) for source, start, stop in value
            )
        elif field.type == "Pair":
            first, second = value
            values[field.name] = (_whole(first), _whole(second))
        elif field.type in ("int", "float", "float | None"):
            values[field.name] = _number(value, field.type)
        else:
            values[field.name] = _text(value)
    return kind(**values)


def _tensor(form: Any, tensors: Mapping[str, Tensor] | None, name: str) -> Tensor:
    dtype, shape = _DTYPES[form[0]], [_natural(length) for length in form[1:]]
    if tensors is None:
        return torch.zeros(shape, dtype=dtype)
    found = tensors[name]
    if found.dtype != dtype or list(found.shape) != shape:
        raise ValueError(f"its {name[:100]} is {found.dtype} of shape {tuple(found.shape)}, not as declared")
    return found


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"holds {str(value)[:40]!r} instead of a length")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"holds {str(value)[:40]!r} instead of a whole number")
    return value


def _number(value: Any, kind: str) -> Any:
    allowed = (int,) if kind == "int" else (int, float) if kind == "float" else (int, float, type(None))
    if type(value) not in allowed:
        raise ValueError(f"holds {str(value)[:40]!r} instead of a number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"holds {str(value)[:40]!r} instead of a name")
    return value
