"""Deployment: a quantized network as an integer program, its differentiable twin, and files for inference engines."""
