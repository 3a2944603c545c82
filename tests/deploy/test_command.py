"""``qra deploy`` from the words of a command line to its files, and what it refuses."""

import json
from argparse import Namespace

import pytest
from deploy import small
from deploy.exports import export

import qra.cli  # noqa: F401, which silences what jsonargparse says of its own names
from qra.deploy import card
from qra.deploy.command import _white_box, main

DATA = ["--data", "qra.data.SyntheticDataModule", "--data.image_size", "16", "--data.train_size", "40",
        "--data.test_size", "20", "--data.val_size", "10", "--data.calibration_size", "10"]  # fmt: skip
OFF = {"autoattack": False, "cascade": False}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("deploy") / "out"
    export(path, small.trained(small.TRAINED["W4A4-DoReFa"]))
    return path


def test_a_test_writes_parity_a_page_every_decision_and_the_card(directory, capsys):
    main(["test", str(directory), *DATA, "--n", "10", "--queries", "3", "--engines", "[onnxruntime]"])
    parity = json.loads((directory / "parity.json").read_text())
    assert parity["n"] == 10
    assert [run["name"] for run in parity["runs"]] == ["onnxruntime", "onnxruntime, integer form"]
    assert set(parity["files"]) == {card.MODEL, card.INTEGER, card.TWIN}
    page = (directory / "parity.html").read_text()
    assert page.count("<section class='claim") == 2
    assert "src='http" not in page
    assert (directory / "decisions.npz").exists()
    text = (directory / card.TEXT).read_text()
    assert "Not measured yet" not in text
    assert card.read(directory).deployed["runs"][0]["verdict"] == parity["runs"][0]["verdict"]
    assert "robust" in capsys.readouterr().out


def test_white_box_attacks_are_chosen_by_a_word():
    titles = {word: _white_box(Namespace(**{**OFF, word: True}, eps=8 / 255)).title for word in OFF}
    assert titles == {"autoattack": "AutoAttack", "cascade": "rounding cascade"}


def test_a_bench_writes_times_into_the_card(directory, capsys):
    main(["bench", str(directory), "--batch", "[2]", "--rounds", "1", "--engines", "onnxruntime"])
    rows = card.read(directory).speed["rows"]
    assert [row["name"] for row in rows] == [f"onnxruntime, {name}" for name in ("float", card.MODEL, card.INTEGER)]
    assert f"{card.MODEL}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the test images by --data"),
        ([*DATA, "--engines", "[tensorrt]"], "there is no engine 'tensorrt'"),
        ([*DATA, "--n", "0"], "n is 0"),
        ([*DATA, "--threads", "0"], "threads is 0"),
        ([*DATA, "--threads", "9999"], "threads is 9999: it must be at most"),
        ([*DATA, "--autoattack", "--cascade"], "not allowed with"),
        ([*DATA, "--config", "config.yaml"], "--config says how to make the network of --ckpt_path: give both"),
        ([*DATA, "--set", "onnxruntime.session.disable_quant_qdq=0"], "changes decisions"),
        ([*DATA, "--set", "threads=1"], "write ENGINE.NAME=VALUE"),
        ([*DATA, "--data.image_size", "32"], "export the network for this resolution"),
        ([*DATA, "--data.classes", "4"], "has 10 classes, but the data has 4"),
    ],
)
def test_a_wrong_test_is_refused_in_one_line(directory, words, message):
    with pytest.raises(ValueError, match=message) as found:
        main(["test", str(directory), "--engines", "[onnxruntime]", *words])
    assert "\n" not in str(found.value)


def test_a_directory_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not an export"):
        main(["bench", str(tmp_path)])


def test_a_tool_without_a_command_says_which_there_are():
    with pytest.raises(ValueError, match="test or bench"):
        main([])
