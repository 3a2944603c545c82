"""Deployment: a quantized network as a program of integers, its differentiable twin, and files for engines."""
