"""AutoAttack as a callback: chunks, resumption, the end of test and the end of fit."""

import dataclasses
import json
import shutil

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from trivial import DarkOrBright, trainer

from qra import checkpoint
from qra.attacks import AutoAttack
from qra.callbacks import AutoAttackEvaluation, PWLQCalibration, ResultWriter
from qra.callbacks.attack_evaluation import choose
from qra.data import ImageData, ImageSet, balanced_subset
from qra.evaluation.chunks import shuffled
from qra.evaluation.outcome import read_correct
from qra.evaluation.robustness import robust
from qra.modules import VanillaTraining
from qra.quant import PACT, CalibratedUniform, DoReFa, QuantScheme, Uniform, freeze

ATTACK = AutoAttack("24/255", steps=3, queries=10)


class FiveGreys(DarkOrBright):
    """Five grey levels: one linear layer learns them, and an attack of a few levels breaks some examples."""

    def load(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(60) % 5
        noise = torch.randint(-20, 20, (60, 3, 6, 6), generator=generator)
        images = ImageSet((30 + 48 * labels[:, None, None, None] + noise).to(torch.uint8), labels)
        return ImageData(images, images, tuple("abcde"))


def data(**settings):
    return FiveGreys(**{"batch_size": 8, "val_size": 10, "calibration_size": 8, "augment": False, **settings})


def module():
    """A network that is correct about every image: the class whose grey is nearest."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    greys = (30 + 48 * torch.arange(5)) / 255
    with torch.no_grad():
        nn.init.constant_(network[0].weight, 1 / 3)
        nn.init.zeros_(network[0].bias)
        network[4].weight.copy_((20 * greys / 144)[:, None].expand(5, 144))
        network[4].bias.copy_(-10 * greys**2)
    return VanillaTraining(network, optimizer=lambda p: torch.optim.SGD(p, lr=1e-5), val_attack=None)


def evaluation(**settings):
    return AutoAttackEvaluation(**{"attack": ATTACK, "n": 24, "chunk_size": 10, **settings})


def run(directory, callbacks, *, loader=8, **settings):
    runner = trainer(callbacks=callbacks, default_root_dir=directory, **settings)
    runner.test(module(), data(batch_size=loader), verbose=False)
    return runner


def evaluated(directory, *, loader=8, **settings):
    callback = evaluation(**settings)
    run(directory, [callback, ResultWriter()], loader=loader)
    return callback.outcomes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, evaluated(directory)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(outcome.indices, second[name].indices) and torch.equal(outcome.correct, second[name].correct)
        for name, outcome in first.items()
    )


def test_some_examples_break_and_some_do_not(whole):
    _, outcomes = whole
    assert list(outcomes) == [f"autoattack_24{member}" for member in ("", ".apgd_ce", ".apgd_t", ".fab_t")]
    assert 0 < outcomes["autoattack_24"].accuracy < 1
    labels = torch.arange(60) % 5
    assert torch.equal(outcomes["autoattack_24"].indices, balanced_subset(labels, 24, 0))


def test_a_chunk_is_one_batch_with_a_seed_of_its_own(whole):
    _, outcomes = whole
    images = data()
    images.setup()
    x, y = images.data.test.images.float() / 255, images.data.test.labels
    indices = outcomes["autoattack_24"].indices
    network, correct = module().network, torch.zeros(60, dtype=torch.bool)
    for number, chunk in enumerate(shuffled(indices, 0).split(10)):
        attack = dataclasses.replace(ATTACK, seed=number)
        correct[chunk] = robust(network, attack, x[chunk], y[chunk], chunk, attack_network=freeze(network))
    assert torch.equal(correct[indices], outcomes["autoattack_24"].correct)


def test_the_loaders_batches_do_not_matter(whole, tmp_path):
    assert same(evaluated(tmp_path, loader=5), whole[1])


def test_the_outcomes_are_written(whole):
    directory, outcomes = whole
    written = json.loads((directory / "result.json").read_text())["outcomes"]
    assert {name: entry["accuracy"] for name, entry in written.items()} == {
        name: outcome.accuracy for name, outcome in outcomes.items()
    }
    assert written["autoattack_24"]["attack"]["init_args"]["steps"] == 3
    indices, correct = read_correct(directory / "correct.npz")["autoattack_24.apgd_t"]
    assert torch.equal(correct, outcomes["autoattack_24.apgd_t"].correct)
    assert torch.equal(indices, outcomes["autoattack_24"].indices)


def test_only_missing_and_damaged_chunks_are_run_again(whole, tmp_path):
    evaluated(tmp_path)
    first, second, third = sorted(tmp_path.glob("chunks/autoattack_24-*/*.npz"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:200])
    before = third.stat().st_mtime_ns
    assert same(evaluated(tmp_path), whole[1])
    assert third.stat().st_mtime_ns == before
    assert first.exists()


@pytest.mark.parametrize(
    "settings",
    [{"attack": AutoAttack("24/255", steps=4, queries=10)}, {"chunk_size": 11}, {"n": 20}, {"subset": "first"}],
)
def test_other_settings_are_measured_anew_beside_the_old_ones(whole, tmp_path, settings):
    shutil.copytree(whole[0], tmp_path / "run")
    found = evaluated(tmp_path / "run", **settings)
    assert same(found, evaluated(tmp_path / "alone", **settings))
    assert len(list((tmp_path / "run").glob("chunks/autoattack_24-*"))) == 2


def test_another_network_is_measured_anew(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    other, callback = module(), evaluation()
    with torch.no_grad():
        other.network[4].bias += torch.tensor([0.0, 2, 0, 0, 0])
    trainer(callbacks=[callback], default_root_dir=tmp_path / "run").test(other, data(), verbose=False)
    assert not same(callback.outcomes, whole[1])


def test_the_seed_of_a_subset_chooses_its_images_and_their_order(tmp_path):
    runner = run(tmp_path, [])
    for seed in (0, 1):
        indices = choose(runner, 24, "balanced", seed)
        assert torch.equal(indices, balanced_subset(torch.arange(60) % 5, 24, seed))
        chunks = evaluation(subset_seed=seed)._chunks(indices)
        assert torch.equal(torch.cat(chunks), shuffled(indices, seed))


class Mine(nn.Flatten):
    """A layer whose code may change."""


def test_chunks_are_known_by_the_data_the_scheme_and_the_code_of_the_network(tmp_path):
    runner = run(tmp_path, [])

    def settings(network, scheme=None):
        return evaluation()._settings(runner, VanillaTraining(network, scheme, val_attack=None), torch.arange(3))

    plain, mine = module().network, module().network
    mine[3] = Mine()
    assert settings(plain)["code"] == "" != settings(mine)["code"]
    assert settings(plain)["data"] == runner.datamodule.data_hash
    four, eight = (settings(module().network, QuantScheme(DoReFa(), PACT(), bits, 4)) for bits in (4, 8))
    assert four["network"] != eight["network"]


def test_more_images_than_there_are_are_refused(tmp_path):
    with pytest.raises(ValueError, match="n is 61, but there are only 60 test images"):
        evaluated(tmp_path, n=61)


def test_all_images_or_the_first_ones_are_taken(tmp_path):
    everything = evaluated(tmp_path / "all", n=None, chunk_size=100)["autoattack_24"]
    assert everything.indices.tolist() == list(range(60))
    first = evaluated(tmp_path / "first", n=7, subset="first")["autoattack_24"]
    assert first.indices.tolist() == list(range(7))


def test_upstream_on_one_batch_ends_like_one_chunk(tmp_path):
    one = evaluated(tmp_path, n=None, chunk_size=60)["autoattack_24"]
    upstream = evaluated(tmp_path, n=None, chunk_size=60, mode="upstream")
    assert list(upstream) == ["autoattack_24_upstream"]
    assert torch.equal(upstream["autoattack_24_upstream"].correct, one.correct)


def test_lightnings_inference_mode_changes_nothing(whole, tmp_path):
    callback = evaluation()
    run(tmp_path, [callback], inference_mode=False)
    assert same(callback.outcomes, whole[1])


def test_two_budgets_stand_side_by_side(whole, tmp_path):
    narrow = evaluation(attack=AutoAttack("4/255", "linf", 0, 3, 9, 10))
    round_ = evaluation(attack=AutoAttack(0.5, "l2", 0, 3, 9, 10))
    run(tmp_path, [evaluation(), narrow, round_, ResultWriter()])
    written = json.loads((tmp_path / "result.json").read_text())["outcomes"]
    assert {"autoattack_24", "autoattack_4", "autoattack_l2_0.5"} <= written.keys()
    assert narrow.outcomes["autoattack_4"].accuracy >= written["autoattack_24"]["accuracy"]


def fitted(directory, *callbacks):
    best = ModelCheckpoint(directory, "best", monitor="val/clean_acc", mode="max", save_weights_only=True)
    torch.manual_seed(0)
    trained = module()
    callbacks = [*callbacks, ResultWriter(), best]
    runner = trainer(callbacks=callbacks, default_root_dir=directory, enable_checkpointing=True, max_epochs=1)
    runner.fit(trained, data())
    return trained, best.best_model_path


def test_after_fit_the_best_weights_are_attacked(tmp_path):
    callback = evaluation()
    trained, best = fitted(tmp_path / "fit", callback)
    assert trained.training
    result = json.loads((tmp_path / "fit" / "result.json").read_text())
    assert result["checkpoint"]["sha256"] == checkpoint.sha256(best)
    other = module()
    checkpoint.load_weights(other.network, best)
    again = evaluation()
    trainer(callbacks=[again], default_root_dir=tmp_path / "test").test(other, data(), verbose=False)
    assert same(callback.outcomes, again.outcomes)


def test_after_fit_a_calibrated_network_is_attacked(tmp_path):
    scheme = QuantScheme(Uniform(), CalibratedUniform(), 8, 8, None)
    callback = evaluation()
    trained, _ = fitted(tmp_path, PWLQCalibration(scheme), callback)
    assert trained.scheme is not None
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["checkpoint"]["path"] == str(tmp_path / "calibrated.ckpt")
    assert callback.outcomes["autoattack_24"].n == 24


@pytest.mark.parametrize("name", ["n", "chunk_size"])
def test_nothing_to_do_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        evaluation(**{name: 0})


def test_a_faster_search_has_a_name_of_its_own_and_can_only_miss(whole, tmp_path):
    found = evaluated(tmp_path, search_precision="bfloat16")
    outcome = found["autoattack_24_bfloat16"]
    assert outcome.search_precision == "bfloat16"
    assert outcome.title == "shortened AutoAttack (3 steps, 10 queries)"
    assert "autoattack_24" not in found
    network, images = module().network, data()
    images.setup()
    x, y = images.data.test.images.float() / 255, images.data.test.labels
    chunk = shuffled(outcome.indices, 0)[:10]
    frozen = freeze(network)
    frozen.precision = "bfloat16"
    correct = robust(network, ATTACK, x[chunk], y[chunk], chunk, attack_network=frozen)
    assert torch.equal(correct[chunk.argsort()], outcome.correct[torch.isin(outcome.indices, chunk)])


def test_the_authors_code_searches_in_float32():
    with pytest.raises(ValueError, match=r"mode upstream needs search_precision float32 .* not tf32"):
        evaluation(mode="upstream", search_precision="tf32")
