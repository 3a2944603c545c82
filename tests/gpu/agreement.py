"""What a published network does on CIFAR-10, example by example, on one device or another.

``python tests/gpu/agreement.py IMAGES`` runs it on the CPU (a quarter of an hour on a core) and stores what it finds in
``float-at-cpu.npz``. IMAGES: the folder with ``train/CLASS/*`` and ``test/CLASS/*``.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from qra.cli import main

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).with_name("float-at-cpu.npz")
CONFIGS = ROOT / "configs"


def measure(images, accelerator, directory):
    """Clean accuracy, PGD-20 and AutoAttack of ``checkpoints/float-at.ckpt``.

    Args:
        images: Folder of the images.
        accelerator: Lightning's name of the device.
        directory: Run directory.

    Returns:
        What :func:`outcomes` returns.
    """
    callback = ["--trainer.callbacks+", CONFIGS / "callback/autoattack.yaml", "--trainer.callbacks.n", 250]
    arguments = [
        *("test", "--config", CONFIGS / "pipeline/float-at.yaml", "--ckpt_path", ROOT / "checkpoints/float-at.ckpt"),
        *("--data", CONFIGS / "data/image_folder.yaml", "--data.init_args.root", images),
        *("--evaluation.n", 500, "--evaluation.eps", "[8/255]", *callback, "--trainer.callbacks.chunk_size", 250),
        *("--trainer.accelerator", accelerator, "--trainer.devices", 1, "--run", directory),
    ]
    main([str(argument) for argument in arguments])
    return outcomes(directory)


def outcomes(directory):
    """Which of their examples each evaluation of a finished run got correct, and of which files that is the truth.

    Returns:
        Arrays ``NAME.indices`` and ``NAME.correct`` for the evaluations ``clean`` (every tenth image), ``pgd20_8`` and
        ``autoattack_8``; ``checkpoint`` and ``data``, sha256.
    """
    result = json.loads(Path(directory, "result.json").read_text())
    found = {name: np.array(result[name]["sha256"]) for name in ("checkpoint", "data")}
    with np.load(Path(directory, "correct.npz"), allow_pickle=False) as arrays:
        for name, step in (("clean", 10), ("pgd20_8", 1), ("autoattack_8", 1)):
            for key in (f"{name}.indices", f"{name}.correct"):
                found[key] = arrays[key][::step]
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        np.savez_compressed(STORED, **measure(sys.argv[1], "cpu", directory))
