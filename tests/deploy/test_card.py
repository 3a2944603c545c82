"""The card of an export: written by what measures, read as a file of others."""

import json

import pytest
from deploy import small
from deploy.exports import FACTS, export

from qra.deploy import card, folder


@pytest.fixture
def directory(tmp_path):
    export(tmp_path / "out", small.trained(small.TRAINED["W2A2-DoReFa"]))
    return tmp_path / "out"


def test_a_card_says_sizes_hashes_and_what_is_not_known_yet(directory):
    content = json.loads((directory / card.FILE).read_text())
    for name, about in content["files"].items():
        assert about["bytes"] == (directory / name).stat().st_size
    assert set(content["files"]) == {card.MODEL, card.INTEGER, card.TWIN}
    text = (directory / card.TEXT).read_text()
    assert "Not measured yet: `qra deploy test DIR`." in text
    assert "uint8 x int8" in text
    assert "90.0 %" in text
    assert "Only images of 16 x 16." in text


def test_a_card_is_read_as_it_was_written(directory):
    assert card.read(directory) == card.Card(**FACTS)


def test_a_deployed_accuracy_stands_in_the_fields_of_robustbench(directory):
    outcomes = {
        "clean": {"title": "clean images", "role": "clean", "accuracy": 0.5, "n": 100, "norm": "linf", "eps": 0.0},
        "pgd20": {"title": "PGD-20", "role": "robust", "accuracy": 0.3, "n": 100, "norm": "linf", "eps": 8 / 255,
                  "pixels": "bytes", "gradient": "ste", "attack": {"class_path": "qra.attacks.PGD"}},
        "deployed": {"title": "as deployed", "role": "worst", "accuracy": 0.2, "n": 100, "norm": "linf",
                     "eps": 8 / 255, "pixels": "bytes", "members": ["pgd20"]},
    }  # fmt: skip
    made = card.Card(**{**FACTS, "deployed": {"outcomes": outcomes, "data": {"class": "CIFAR10DataModule"}}})
    fields = made.robustbench
    assert (fields["clean_acc"], fields["eps"], fields["dataset"]) == ("50.00", "8/255", "cifar10")
    assert fields["autoattack_acc"] is None
    assert (fields["qra"]["robust"]["accuracy"], fields["qra"]["robust"]["outcome"]) == (0.2, "deployed")


def test_a_name_of_others_draws_nothing(tmp_path):
    export(tmp_path / "out", small.trained(small.TRAINED["W2A2-DoReFa"]), name="[x](http://there) `a`\x1b[2J")
    text = (tmp_path / "out" / card.TEXT).read_text()
    assert "](" not in text.replace(r"\]", "")
    assert "\x1b" not in text


def test_a_changed_file_is_refused_by_name(directory):
    (directory / card.MODEL).write_bytes((directory / card.MODEL).read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"model.onnx: is not the exported file"):
        folder.read(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is truncated or not JSON"),
        ("[]", "is not a card of schema 1"),
        ('{"schema": 2}', "is not a card of schema 1"),
    ],
)
def test_a_file_that_is_no_card_is_refused(directory, content, message):
    (directory / card.FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        card.read(directory)


def test_a_card_with_values_of_another_kind_is_refused(directory):
    content = json.loads((directory / card.FILE).read_text())
    (directory / card.FILE).write_text(json.dumps({**content, "files": []}))
    with pytest.raises(ValueError, match="files has the wrong type, list"):
        card.read(directory)


@pytest.mark.parametrize("change", [{"deployed": {"n": 1}}, {"multiply_adds": {"a": "b"}}, {"image_shape": [3]}])
def test_a_card_that_cannot_be_shown_is_refused(directory, change):
    content = json.loads((directory / card.FILE).read_text())
    (directory / card.FILE).write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=r"card.json: is damaged"):
        card.read(directory)


def test_a_model_of_another_program_is_refused(directory, tmp_path):
    export(tmp_path / "other", small.trained(small.TRAINED["W4A4-DoReFa"]))
    (directory / card.MODEL).write_bytes((tmp_path / "other" / card.MODEL).read_bytes())
    content = json.loads((directory / card.FILE).read_text())
    (directory / card.FILE).write_text(json.dumps({**content, "files": card.files(directory)}))
    with pytest.raises(ValueError, match=r"model.onnx: was made from another program than twin.safetensors beside it"):
        folder.read(directory)


def test_a_directory_without_a_card_is_no_export(tmp_path):
    with pytest.raises(ValueError, match="is not an export"):
        folder.read(tmp_path)
