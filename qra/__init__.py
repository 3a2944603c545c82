"""What does quantization do to a neural network's adversarial robustness?"""

__version__ = "0.1.0"
