"""Deployed models as networks: pixels in, logits out, computed by an inference engine."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qra import version
from qra.attacks.pixels import LEVELS
from qra.checks import check_count
from qra.files import CHECKPOINT_LIMIT, open_regular, plain

OUTPUT = "logits"
MOST_THREADS = 64
"""Largest number of threads, except on machines with more processors."""
_SLACK = 1e-6  # tolerance for pixels outside of [0, 1] by rounding

Arrays = dict[str, NDArray[Any]]


class Runtime(ABC):
    """A model loaded by an engine.

    Args:
        model: Content of an ONNX file.
        threads: Number of threads per run.
        options: Options of the engine, by the engine's own names.

    Raises:
        ValueError: If the engine is not installed, or rejects the model or an option.
    """

    name: ClassVar[str]
    """Package of the engine."""
    extra: ClassVar[str]
    """Extra of this distribution that installs the engine."""
    faithful: ClassVar[Mapping[str, str]]
    """Options without which the engine's decisions differ from those of the program."""

    image_shape: tuple[int, ...]
    """Shape of the model's input without the batch dimension."""
    takes_bytes: bool
    """Whether the input is uint8; otherwise it is float32 in [0, 1]."""

    @abstractmethod
    def __init__(self, model: bytes, threads: int, options: Mapping[str, str]) -> None: ...

    @abstractmethod
    def run(self, images: NDArray[Any]) -> Arrays:
        """Return all outputs, by name, for images of the model's input type, (N, C, H, W)."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """Return all options of the engine that are in effect."""


class OnnxRuntime(Runtime):
    """onnxruntime on the CPU."""

    name = "onnxruntime"
    extra = "deploy"
    # rewriting QDQ graphs rounds biases to the scale of the accumulator, which changes codes in every layer
    faithful: ClassVar[Mapping[str, str]] = {"session.disable_quant_qdq": "1"}

    def __init__(self, model: bytes, threads: int, options: Mapping[str, str]) -> None:
        package = needed(self.name, self.extra)
        self._options = package.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.log_severity_level = 3
        self._entries = dict(options)
        for key, value in options.items():
            self._options.add_session_config_entry(key, value)
        try:
            self._session = package.InferenceSession(model, self._options, providers=["CPUExecutionProvider"])
        except Exception as reason:  # its exceptions have no common base class
            raise ValueError(_refusal(self, reason)) from None
        taken, *others = self._session.get_inputs()
        self._outputs = [output.name for output in self._session.get_outputs()]
        shape = [length if isinstance(length, int) else None for length in taken.shape]
        _check_own([*shape, *others], taken.type in ("tensor(uint8)", "tensor(float)"), self._outputs)
        self._input, self.image_shape = taken.name, tuple(taken.shape[1:])
        self.takes_bytes = taken.type == "tensor(uint8)"

    def run(self, images: NDArray[Any]) -> Arrays:
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: images}), strict=True))

    def settings(self) -> dict[str, str]:
        names = (name for name in dir(self._options) if not name.startswith("_"))
        values = {name: getattr(self._options, name) for name in names}
        plain_values = {name: str(value) for name, value in values.items() if not callable(value)}
        return {**plain_values, **self._entries, "providers": ", ".join(self._session.get_providers())}


class OpenVINO(Runtime):
    """OpenVINO on the CPU."""

    name = "openvino"
    extra = "openvino"
    # otherwise float operations run in bfloat16 where the processor supports it, and inputs of linear layers are
    # rounded to 8 bits in groups, each with its own scale
    faithful: ClassVar[Mapping[str, str]] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }

    def __init__(self, model: bytes, threads: int, options: Mapping[str, str]) -> None:
        package = needed(self.name, self.extra)
        given = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1", **options}
        try:
            read = package.Core().read_model(model)
            self._compiled = package.Core().compile_model(read, "CPU", given)
        except Exception as reason:
            raise ValueError(_refusal(self, reason)) from None
        taken, *others = self._compiled.inputs
        self._outputs = {name: output for output in self._compiled.outputs for name in output.get_names()}
        shape: list[Any] = [length.get_length() if length.is_static else None for length in taken.get_partial_shape()]
        kind = taken.get_element_type().to_dtype()
        _check_own([*shape, *others], kind in (np.uint8, np.float32), self._outputs)
        self.image_shape, self.takes_bytes = tuple(shape[1:]), kind == np.uint8
        self._request = self._compiled.create_infer_request()

    def run(self, images: NDArray[Any]) -> Arrays:
        found = self._request.infer({0: images}, share_inputs=True)
        return {name: np.array(found[output]) for name, output in self._outputs.items()}

    def settings(self) -> dict[str, str]:
        names = (str(name) for name in self._compiled.get_property("SUPPORTED_PROPERTIES"))
        return {name: str(self._compiled.get_property(name)) for name in names if name != "SUPPORTED_PROPERTIES"}


RUNTIMES: Mapping[str, type[Runtime]] = {runtime.name: runtime for runtime in (OnnxRuntime, OpenVINO)}


class Engine(nn.Module):
    """A deployed model run by an engine, as a network for attacks that need no gradients.

    Images are rounded to bytes first, as on a device. The options that keep an engine faithful to the program are set,
    and contradicting options are rejected.

    Args:
        model: The ONNX file, or its content.
        runtime: Name of the engine: ``onnxruntime`` or ``openvino``.
        threads: Number of threads per run.
        options: Further options of the engine, by the engine's own names.
        engine_defaults: Whether the engine runs with its default options, to measure how they change decisions.

    Raises:
        ValueError: If the engine is unknown or not installed, an option would make it unfaithful, or it rejects the
            model.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        runtime: str = "onnxruntime",
        threads: int = 1,
        options: Mapping[str, str] | None = None,
        engine_defaults: bool = False,
    ) -> None:
        super().__init__()
        check_threads(threads)
        kind, options = kind_of(runtime), dict(options or {})
        if not engine_defaults:
            _check_faithful(kind, options)
            options = {**options, **kind.faithful}
        needed(kind.name, kind.extra)
        content = model if isinstance(model, bytes) else read_model(model)
        self.threads, self.engine_defaults = threads, engine_defaults
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self.runtime = kind(content, threads, options)
        except ValueError as reason:
            raise ValueError(f"{'the model' if isinstance(model, bytes) else model}: {reason}") from None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, float32 (N, classes), of pixels in [0, 1], (N, C, H, W)."""
        return self.outputs(x)[OUTPUT]

    @torch.no_grad()
    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return all outputs of the model, by name.

        Args:
            x: Pixels in [0, 1], (N, C, H, W), which are rounded to bytes.

        Raises:
            ValueError: If the size is not the model's, or values are not floating-point numbers in [0, 1].
        """
        if not x.is_floating_point():
            raise ValueError(f"x is {x.dtype}: an engine takes floating-point pixels in [0, 1] (divide bytes by 255)")
        if not bool(((x >= -_SLACK) & (x <= 1 + _SLACK)).all()):
            raise ValueError("x has pixels outside [0, 1] or that are not numbers")
        found = self.run((x.detach().cpu() * LEVELS).round().clamp(0, LEVELS).to(torch.uint8).numpy())
        return {name: torch.from_numpy(array).to(x.device) for name, array in found.items()}

    def run(self, images: NDArray[np.uint8]) -> Arrays:
        """Return all outputs of the model, by name, for images as a device receives them.

        Args:
            images: Bytes, (N, C, H, W).

        Raises:
            ValueError: If they are not uint8 or not of the model's size, or the engine fails.
        """
        if images.dtype != np.uint8:
            raise ValueError(f"the images are {images.dtype}: the model takes uint8, the bytes of an image")
        if images.shape[1:] != self.runtime.image_shape:
            raise ValueError(
                f"the model takes images of {self.runtime.image_shape}, not of {images.shape[1:]}: export it again for "
                "another resolution"
            )
        taken = images if self.runtime.takes_bytes else images.astype(np.float32) / np.float32(LEVELS)
        try:
            return self.runtime.run(taken)
        except Exception as reason:
            raise ValueError(f"{self.runtime.name} fails on {len(images)} images: {_said(reason)}") from None

    def record(self) -> dict[str, Any]:
        """Return what runs and how, ready for JSON."""
        return {
            "engine": self.runtime.name,
            "version": metadata.version(self.runtime.name),
            "engine_defaults": self.engine_defaults,
            "threads": self.threads,
            "model_sha256": self.sha256,
            "options": self.runtime.settings(),
        }


def check_threads(count: int) -> None:
    """Reject an invalid number of threads, or one so large that engines would only wait.

    Raises:
        ValueError: If it is not positive, or above 64 and the number of processors.
    """
    check_count("threads", count)
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if count > most:
        raise ValueError(f"threads is {count}: it must be at most {most}")


def _check_own(shape: Sequence[Any], is_image: bool, outputs: Container[str]) -> None:
    """Reject a model whose inputs or outputs are not those of an export.

    Args:
        shape: Lengths of its input's dimensions, None where any length is accepted, and any further inputs.
        is_image: Whether the input's type is one for images, uint8 or float32.
        outputs: Names of its outputs.
    """
    unlike = len(shape) != 4 or shape[0] is not None or not all(isinstance(length, int) for length in shape[1:])
    if unlike or not is_image or OUTPUT not in outputs:
        raise ValueError(
            "is not a model of qra export, which takes any number of images of one size, uint8 or float32, and returns "
            f"{OUTPUT!r}"
        )


def needed(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ValueError: If it is not installed. The message gives the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError:
        other = ", or name other --engines" if package in RUNTIMES else ""
        raise ValueError(f"{package} is not installed: {version.extra(extra)}{other}") from None


def read_model(path: str | Path) -> bytes:
    """Return the content of an ONNX file.

    Raises:
        ValueError: If it does not exist, is not a regular file or is too large.
    """
    try:
        with open_regular(path, CHECKPOINT_LIMIT) as file:
            return file.read(CHECKPOINT_LIMIT)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such model; qra export writes it") from None


def kind_of(name: str) -> type[Runtime]:
    """Return the engine with a given name.

    Raises:
        ValueError: If there is none.
    """
    if name not in RUNTIMES:
        raise ValueError(f"there is no engine {name!r}: choose {' or '.join(RUNTIMES)}")
    return RUNTIMES[name]


def _check_faithful(kind: type[Runtime], options: Mapping[str, str]) -> None:
    for name, value in kind.faithful.items():
        if options.get(name, value) != value:
            raise ValueError(
                f"{kind.name}: {name}={options[name]} changes decisions: it must be {value}; the engine's own "
                "defaults are measured by --engine_defaults true"
            )


def _refusal(runtime: Runtime, reason: Exception) -> str:
    """Return one line that says why an engine does not load a model."""
    said = _said(reason)
    advice = "; a newer engine, or an export with --pack false, may help" if "opset" in said or "type" in said else ""
    return f"{runtime.name} {metadata.version(runtime.name)} cannot load it: {said}{advice}"


def _said(reason: Exception) -> str:
    """Return an engine's message in one line, without positions in its source."""
    return plain(re.sub(r"Exception from \S+:\d+:\s*", "", str(reason)) or reason)[:200]
