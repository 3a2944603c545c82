"""The arguments of ``qra export``."""

from __future__ import annotations

import argparse


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``qra export``.

    Args:
        parser: Parser to add them to.
    """
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="checkpoint of a quantized network")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write to, new or empty")
    parser.add_argument(
        "--resolution", type=resolution, default=(32, 32), metavar="N", help="rows and columns, as 32 or 96x128"
    )
    parser.add_argument(
        "--form",
        choices=("qdq", "integer", "both"),
        default="both",
        help="model.onnx, which engines are fast on; model.integer.onnx, which is exact; or both",
    )
    parser.add_argument(
        "--pwlq",
        choices=("int8", "exact"),
        default="int8",
        help="piecewise linear weights requantized to 8 bits, or as three convolutions on their own grids",
    )
    parser.add_argument("--pack", choices=("true", "false"), default="true", help="few bits for few levels in the file")
    parser.add_argument("--opset", type=int, default=21, metavar="N", help="version of ONNX's operators")
    parser.add_argument(
        "--input", choices=("bytes", "float"), default="bytes", help="uint8, or float32 in [0, 1], rounded to bytes"
    )


def resolution(text: str) -> tuple[int, int]:
    """Return height and width given as ``32`` or ``96x128``.

    Raises:
        ValueError: If it is neither.
    """
    lengths = [int(part) for part in text.split("x")]
    if len(lengths) > 2 or min(lengths) < 1:
        raise ValueError
    return lengths[0], lengths[-1]
