"""Exports of small networks, as ``qra export`` writes them."""

import torch
from deploy import small

from qra.checkpoint import KEY
from qra.deploy import card
from qra.deploy.onnx import to_onnx
from qra.describe import describe

FACTS = {
    "name": "small",
    "label": "W4A4",
    "network": {"class_path": "qra.models.ResNet", "init_args": {}},
    "scheme": None,
    "checkpoint": {"file": "best.ckpt", "sha256": "0" * 64},
    "export": {"form": "both"},
    "image_shape": [3, 16, 16],
    "parameters": 1234,
    "multiply_adds": {"uint8 x int8": 900, "float32": 100},
    "saturates_without_vnni": [],
    "limits": ["Only images of 16 x 16."],
}


def export(directory, network, forms=("qdq", "integer"), **facts):
    """Write the export of a network; return its program."""
    program, _ = small.programmed(network)
    directory.mkdir()
    program.save(directory / card.TWIN)
    for form in forms:
        file = directory / (card.MODEL if form == "qdq" else card.INTEGER)
        file.write_bytes(to_onnx(program, form, pack=False).SerializeToString())
    card.write(directory, card.Card(**{**FACTS, **facts}))
    return program


def checkpoint(path, network, scheme, description=None):
    """Write a checkpoint that describes its network; return its path."""
    about = {"network": description or describe(network), "scheme": describe(scheme), "calibration": None}
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, KEY: about}, path)
    return str(path)
