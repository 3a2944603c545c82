"""Cards of checkpoints: those that are published, and what a card takes over from a test."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from deploy import small
from deploy.exports import checkpoint

from qra import checkpoint as checkpoints
from qra.deploy.card import Card
from qra.deploy.card_text import markdown
from qra.deploy.checkpoint_card import card_of_checkpoint
from qra.describe import describe
from qra.evaluation import store
from qra.evaluation.identity import network_id
from qra.evaluation.outcome import Outcome

ROOT = Path(__file__).parents[2]


def test_the_published_cards_are_what_is_recorded_and_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("checkpoint_cards")
    cards = script.contents()
    assert len(cards) == 4
    for path, content in cards.items():
        assert path.with_suffix(".card.json").read_text() == json.dumps(content, indent=2) + "\n"
    page = (ROOT / "checkpoints/README.md").read_text()
    assert "\n".join(script.texts(cards.values())) == page.partition("cards.py -->\n\n")[2].partition("\n\n<!-- end")[0]


def test_a_recorded_number_is_one_of_a_card_and_of_its_text():
    recorded = json.loads((ROOT / "checkpoints/results/pact-w4a4-at.json").read_text())
    accuracy = recorded["outcomes"]["rounding_cascade_8"]["accuracy"]
    card = json.loads((ROOT / "checkpoints/pact-w4a4-at.card.json").read_text())
    assert card["robustbench"]["qra"]["robust"]["accuracy"] == accuracy
    assert f"| rounding cascade | eps 8/255 | {100 * accuracy:.2f} [" in markdown(card)


def test_a_network_that_does_not_describe_itself_is_named_by_its_class(tmp_path):
    network = small.trained(small.LSQ_PLUS, small.bottleneck())
    path = Path(checkpoint(tmp_path / "own.ckpt", network, small.LSQ_PLUS, {"class_path": "mine.Net"}))
    card = card_of_checkpoint(network, path, (3, 16, 16))
    assert card.network == {"class_path": "torch.nn.modules.Sequential"}


@pytest.fixture
def run(tmp_path):
    """A run directory with a checkpoint, its network and what a test found of it."""
    scheme = small.TRAINED["W2A2-DoReFa"]
    network = small.trained(scheme)
    path = Path(checkpoint(tmp_path / "best.ckpt", network, scheme))
    found = store.Gathered({
        "network": network_id(network, checkpoints.sha256(path), describe(scheme), None, False),
        "data": {"class": "ImageFolderDataModule", "sha256": "d" * 64},
        "signs": {"verdict": "suspect", "reasons": ["gradients are zero"]},
        "tests": [{"date": "2026-11-27T00:00:00+00:00", "device": "a CPU", "command": ["/home/me/qra"],
                   "versions": {"torch": "2.14.1", "qra": "0.2.0"}}],
    })  # fmt: skip
    found.add([Outcome("clean", "clean", {}, torch.arange(10), torch.arange(10) < 7)], 0)
    store.write(tmp_path, found)
    return path, network


def test_a_card_takes_over_what_a_test_found_of_the_checkpoint(run):
    path, network = run
    card = card_of_checkpoint(network, path, (3, 16, 16))
    assert card.tested["outcomes"]["clean"]["accuracy"] == 0.7
    text = markdown(card.content({}))
    assert "| clean |  | 70.00 [39.7, 89.2] |" in text
    assert "Gradients: suspect (gradients are zero)." in text
    assert "Tested 2026-11-27 on a CPU, torch 2.14.1, qra 0.2.0." in text
    assert card.robustbench["unreliable"] is True
    assert "/home/me" not in json.dumps(card.content({}))


def test_a_result_of_another_network_is_not_taken_over(run):
    path, _ = run
    other = small.trained(small.TRAINED["W2A2-DoReFa"])
    checkpoint(path, other.requires_grad_(False), small.TRAINED["W4A4-DoReFa"])
    assert card_of_checkpoint(other, path, (3, 16, 16)).tested is None


def test_a_result_that_contradicts_its_examples_is_refused(run):
    path, network = run
    file = path.parent / "result.json"
    file.write_text(file.read_text().replace('"accuracy": 0.7', '"accuracy": 0.9'))
    with pytest.raises(ValueError, match=r"correct.npz: contradicts result.json about clean"):
        card_of_checkpoint(network, path, (3, 16, 16))


def test_a_card_without_a_test_says_no_accuracy(tmp_path):
    scheme = small.TRAINED["W2A2-DoReFa"]
    network = small.trained(scheme)
    card = card_of_checkpoint(network, Path(checkpoint(tmp_path / "a.ckpt", network, scheme)), (3, 16, 16))
    assert isinstance(card, Card)
    assert card.tested is None
    assert "Accuracy" not in markdown(card.content({}))
