"""What does quantization do to a neural network's adversarial robustness?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qra.version import __version__

if TYPE_CHECKING:
    from qra.checkpoint import load
    from qra.evaluation.evaluate import evaluate

__all__ = ["__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``qra --help`` needs none of it."""
    if name == "load":
        return import_module("qra.checkpoint").load
    if name == "evaluate":
        return import_module("qra.evaluation.evaluate").evaluate
    if name in ("attacks", "callbacks", "data", "evaluation", "losses", "models", "modules", "quant"):
        return import_module(f"qra.{name}")
    raise AttributeError(f"module 'qra' has no attribute {name!r}")
