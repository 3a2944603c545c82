"""A tree of image files of every kind, from the first training to AutoAttack, by the command line alone."""

import json
import signal

import pytest
from commands import CONFIGS, qra
from same import end_of, same
from test_kills import start, wait_for

from tests.data.image_tree import make_tree, truncate

pytestmark = pytest.mark.slow

CLASSES = 12
DATA = [
    *("--data", str(CONFIGS / "data/streamed.yaml"), "--data.root", "tree", "--data.size", "64"),
    *("--data.batch_size", "36", "--data.val_size", "36", "--data.calibration_size", "36", "--data.workers", "2"),
]
SHORT = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
FEW = ["--evaluation.n", "12", "--evaluation.steps", "2", "--evaluation.eps", "[0, 2/255]"]
FIT = [*DATA, *SHORT, "--model.network", "network/torchvision-resnet18", "--model.val_attack", "null"]
FIT += ["--model.init_args.optimizer.init_args.lr", "0.01"]  # so few images do not bear more
AUTOATTACK = ["--trainer.callbacks+", "callback/autoattack", "--trainer.callbacks.n", "6"]


@pytest.fixture
def bad(tmp_path, monkeypatch):
    """A tree in the working directory with one truncated file, which is returned."""
    monkeypatch.chdir(tmp_path)
    files = make_tree("tree", {"train": 30, "val": 10}, CLASSES)
    truncate(files[0])
    return files[0]


def run_whole(*words):
    output, code = qra(*words)
    assert code == 0, output


def result(run):
    return json.loads((run / "result.json").read_text())


def test_a_tree_of_all_kinds_is_trained_on_quantized_and_attacked(bad, tmp_path):
    fit = ["fit", "--config", "pipeline/float-plain", *FIT, "--trainer.max_epochs", "2"]
    output, code = qra(*fit, "--run", "refused", "--data.val_size", "0", "--data.batch_size", "360")
    assert code == 2, output
    assert output.splitlines()[-1].startswith(
        f"qra: error: {bad} cannot be decoded as an image (image file is truncated"
    )
    bad.unlink()

    run_whole(*fit, "--run", "whole")
    process = start([*fit, "--run", "killed"])
    wait_for("killed/last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run_whole(*fit, "--run", "killed", "--ckpt_path", "last")
    assert same(end_of(tmp_path / "whole"), end_of(tmp_path / "killed"))

    test = ["test", *DATA, *SHORT, *FEW, *AUTOATTACK]
    best = ["--ckpt_path", "whole/best.ckpt"]
    (tmp_path / "tree/train").rename(tmp_path / "elsewhere")
    run_whole(*test, *best, "--run", "float")  # tests need no training images
    (tmp_path / "elsewhere").rename(tmp_path / "tree/train")
    run_whole(*test, *best, "--run", "ptq", "--trainer.callbacks+", "callback/ptq-uniform")
    qat = ["fit", "--config", "pipeline/qat-plain", *FIT, "--trainer.max_epochs", "1", "--run", "qat"]
    run_whole(*qat, "--model.init_from", "whole/best.ckpt")
    run_whole(*test, "--ckpt_path", "qat/best.ckpt")
    for run in ("float", "ptq", "qat"):
        outcomes = result(tmp_path / run)["outcomes"]
        assert outcomes["autoattack_8"]["title"] == "AutoAttack", outcomes.keys()
