"""What does quantization do to a neural network's adversarial robustness?"""

from qra.checkpoint import load

__all__ = ["load"]
