"""Speed of the published W4A4 network on inference engines, in float and in integers, and whether predictions agree.

    python benchmarks/deploy_speed.py --batch-size 32 --rounds 15

Each round runs every variant once. Times are CPU times of one thread, which other work on the machine affects little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
from common import alternate, parser, report, speed_ratio
from torch import nn

import qra
from qra.attacks.pixels import LEVELS
from qra.data.synthetic import draw_images
from qra.deploy.engine import Engine
from qra.deploy.lower import lower
from qra.deploy.onnx import Form, to_onnx
from qra.environment import has_vnni

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "pact-w4a4-at.ckpt"
CONTESTANTS: tuple[tuple[str, Form, str, bool], ...] = (
    ("float, onnxruntime", "float", "onnxruntime", False),
    ("float, OpenVINO in float32", "float", "openvino", False),
    ("float, OpenVINO with its defaults", "float", "openvino", True),
    ("integer form, onnxruntime", "integer", "onnxruntime", False),
    ("QDQ, onnxruntime", "qdq", "onnxruntime", False),
    ("QDQ, onnxruntime with its defaults", "qdq", "onnxruntime", True),
    ("QDQ, OpenVINO in float32", "qdq", "openvino", False),
)
"""Name, form of the model, engine, and whether it runs without the options that keep its results faithful."""


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    args = _arguments(arguments)
    torch.set_num_threads(1)
    network = qra.load(CHECKPOINT)
    program = lower(network, (32, 32))
    models = {form: to_onnx(program, form).SerializeToString() for form in ("float", "integer", "qdq")}
    engines = {
        name: Engine(models[form], engine, engine_defaults=defaults) for name, form, engine, defaults in CONTESTANTS
    }
    images = draw_images(torch.arange(args.batch_size) % 10, 0).numpy()
    timings = alternate(
        {name: partial(engine.run, images) for name, engine in engines.items()}, args.rounds, args.device, process_time
    )
    base = timings[CONTESTANTS[0][0]]
    rows = [
        {
            "run by": name,
            "ms": 1000 * timings[name].median,
            **speed_ratio(timings[name], base),
            "decisions that differ": _differ(network, engines[name], args.images) if form != "float" else "-",
        }
        for name, form, _, _ in CONTESTANTS
    ]
    sizes = ", ".join(f"{form} {len(content) / 1024:.1f} KiB" for form, content in models.items())
    vnni = "" if has_vnni() else "; this processor has no VNNI"
    notes = [
        f"ratio: times as fast as {CONTESTANTS[0][0]}, median, lowest and highest of rounds, processor time{vnni}",
        f"decisions: of {args.images} synthetic images, against the network before export",
        f"files: {sizes}",
    ]
    report(f"W4A4 ResNet20, batches of {args.batch_size}", rows, notes, args)
    return rows


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, batch_size=32)
    options.add_argument("--images", type=int, default=500, help="images on which decisions are compared")
    return options.parse_args(arguments)


@torch.no_grad()
def _differ(network: nn.Module, engine: Engine, count: int) -> int:
    """Return the number of synthetic images on which an engine's prediction differs from the network's."""
    x = draw_images(torch.arange(count) % 10, 1) / LEVELS
    return sum(int((network(part).argmax(1) != engine(part).argmax(1)).sum()) for part in torch.split(x, 50))


if __name__ == "__main__":
    main()
