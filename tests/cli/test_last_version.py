"""Files of the last version (``tests/golden/last-version``) are used by this one, old names and all."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from commands import qra

from qra import load, renamed
from qra.data import SyntheticDataModule
from qra.runs import completion
from qra.runs.completion import Training

HERE = Path(__file__).parents[1] / "golden/last-version"
CELLS = Path("runs/study")
QUANTIZED = CELLS / "qat-plain-pact-w4a4-calibration20"
GRADIENTS = "qra: evaluation.threats is now called evaluation.gradients: use the new name"


# of a newer one than the lowest that is allowed
pytestmark = pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning")


@pytest.fixture(autouse=True)
def _files():
    renamed.say.cache_clear()
    with zipfile.ZipFile(HERE / "files.zip") as archive:
        archive.extractall()
    for name in ("network.yaml", "study.yaml"):
        shutil.copy(HERE / name, name)


def printed(output):
    """The config among what a command printed."""
    return yaml.safe_load("\n".join(line for line in output.splitlines() if not line.startswith("qra: ")))


def result(run):
    return json.loads((Path(run) / "result.json").read_text())["outcomes"]


def test_its_trained_checkpoints_are_the_same_networks():
    data = SyntheticDataModule(train_size=40, test_size=20, val_size=20, batch_size=20, calibration_size=20)
    data.setup("test")
    test = data.data.test
    for path in sorted(CELLS.glob("*/best.ckpt")):
        with torch.no_grad():
            correct = load(path)(test.images / 255).argmax(1) == test.labels
        assert correct.float().mean() == pytest.approx(result(path.parent)["clean"]["accuracy"]), path


def test_its_calibrated_checkpoints_have_no_codes_and_are_refused_with_the_way_out():
    for path in sorted(CELLS.glob("*/calibrated.ckpt")):
        with pytest.raises(ValueError, match=r"has no codes .*: calibrate the float checkpoint again \(qra test"):
            load(path)


def test_its_training_goes_on():
    output, code = qra("fit", "--config", "run/config.yaml", "--run", "run", "--ckpt_path", "last")
    assert code == 0, output
    assert completion.read(Path("run")) == Training(True, 3, 3)


def test_its_chunks_of_autoattack_are_left_alone_with_a_line(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    old = {path: path.read_bytes() for path in (QUANTIZED / "autoattack_8").iterdir()}
    command = ["test", "--config", QUANTIZED / "test/config.yaml", "--ckpt_path", QUANTIZED / "best.ckpt"]
    output, code = qra(*command, "--run", QUANTIZED, "--evaluation.eps", "[8/255]")
    assert code == 0, output
    assert "autoattack_8 holds chunks of an earlier version in another order: it is not used; remove it" in caplog.text
    assert {path: path.read_bytes() for path in old} == old
    assert list((QUANTIZED / "chunks").glob("autoattack_8-*/chunk-*.npz"))


def test_its_study_is_done_and_reported_without_being_redone():
    left = {path: path.read_bytes() for path in CELLS.rglob("*") if path.is_file()}
    output, code = qra("study", "run", "study.yaml")
    assert code == 0, output
    assert "5 done" in output
    output, code = qra("report", CELLS)
    assert code == 0, output
    for column in ("PGD-2, transferred", "PGD-2, hard", "Square", "worst case"):
        assert column in (CELLS / "report/tables/gradients.md").read_text()
    assert {path: path.read_bytes() for path in left} == left


def test_its_keys_are_read_with_a_line_that_says_the_new_one():
    old = next(CELLS.glob("ptq*pwlq*/test/config.yaml"))
    assert "threats:" in old.read_text()
    output, code = qra("test", "--config", old, "--print_config")
    assert code == 0, output
    assert output.count(GRADIENTS) == 1
    config = printed(output)
    assert config["evaluation"]["gradients"] == ["ste", "ste_soft", "hard", "surrogate", "square"]
    assert "threats" not in config["evaluation"]


def test_its_options_are_read_with_a_line_that_says_the_new_one():
    words = ["--ckpt_path", QUANTIZED / "best.ckpt", "--evaluation.threats", "[hard, ste]", "--print_config"]
    output, code = qra("test", *words)
    assert code == 0, output
    assert output.count(GRADIENTS) == 1
    assert printed(output)["evaluation"]["gradients"] == ["hard", "ste"]


@pytest.mark.parametrize("place", ["config", "option"])
def test_its_class_paths_are_read_with_a_line_that_says_the_new_one(place):
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    old = "qra.modules.transfer_losses.RSLAD"
    config["model"]["class_path"] = "qra.modules.RobustTransfer"
    del config["model"]["init_args"]["attack"]
    words = []
    if place == "config":
        config["model"]["init_args"]["transfer"] = {"class_path": old}
    else:
        words = ["--model.transfer", old]
    Path("old.yaml").write_text(yaml.safe_dump(config))
    output, code = qra("fit", "--config", "old.yaml", *words, "--print_config")
    line = f"qra: {old} is now called qra.modules.RSLAD: use the new name"
    assert code == 0, output
    assert output.count(line) == 1
    transfer = printed(output)["model"]["init_args"]["transfer"]
    assert transfer["class_path"] == "qra.modules.RSLAD"
