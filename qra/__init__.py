"""What does quantization do to a neural network's adversarial robustness?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qra.version import __version__

if TYPE_CHECKING:
    from qra.checkpoint import load
    from qra.evaluation.evaluate import evaluate
    from qra.quant.quantize import quantize

__all__ = ["__version__", "evaluate", "load", "quantize"]
_HOMES = {"load": "qra.checkpoint", "evaluate": "qra.evaluation.evaluate", "quantize": "qra.quant.quantize"}


def __getattr__(name: str) -> Any:
    """Import public names and subpackages on first access, because ``qra --help`` needs none of them."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in ("attacks", "callbacks", "data", "evaluation", "losses", "models", "modules", "quant"):
        return import_module(f"qra.{name}")
    raise AttributeError(f"module 'qra' has no attribute {name!r}")
