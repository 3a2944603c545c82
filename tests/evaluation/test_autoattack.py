"""AutoAttack on chunks of a test set, and the files that keep what was found."""

import sys

import pytest
import torch
from torch import nn

from qra.attacks import AutoAttack
from qra.evaluation.autoattack import FIRST_BROKEN_BY, ROBUST, ChunkFiles, attack_chunk, fingerprint, outcomes, upstream
from qra.quant import PACT, DoReFa, QuantScheme, convert, freeze, gradient_mode

ATTACK = AutoAttack(0.03, steps=4, queries=15)
INDICES = torch.tensor([1, 3, 4, 8, 9])
SETTINGS = {"eps": 0.03, "network": "abc"}


def images(n=16):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(216, 5)
    )


@pytest.fixture
def y(network):
    with torch.no_grad():
        y = network.eval()(images()).argmax(1)
    network.train()
    y[:2] = (y[:2] + 1) % 5
    return y


def run(network, y, watch=lambda name, share, correct: None):
    with torch.inference_mode(False):
        frozen = freeze(network)
    return attack_chunk(network, frozen, ATTACK, images(), y, watch)


def test_each_example_has_the_fate_that_it_met_first(network, y):
    broken_by = run(network, y)
    assert (broken_by[:2] == FIRST_BROKEN_BY.index("clean")).all()
    assert (broken_by[2:] != FIRST_BROKEN_BY.index("clean")).all()
    assert (broken_by == FIRST_BROKEN_BY.index("apgd_ce")).any()
    x_adv = ATTACK.members()["apgd_ce"](network, images(), y)
    broken = network.eval()(x_adv).argmax(1) != y
    assert torch.equal(broken, broken_by <= FIRST_BROKEN_BY.index("apgd_ce"))


def test_who_watches_hears_of_each_attack_and_of_all_its_work(network, y):
    heard = []
    broken_by = run(network, y, lambda *news: heard.append(news))
    assert list(dict.fromkeys(name for name, _, _ in heard)) == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    shares = [share for _, share, _ in heard]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert heard[-1][2] == (broken_by == FIRST_BROKEN_BY.index(ROBUST)).sum()


def frame_tracer(*_):
    return None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("code", ["qra", "authors"])
def test_a_run_leaves_no_trace(network, y, mode, code):
    network[0].requires_grad_(False)
    network(images()).sum().backward()
    flags = [module.training for module in network.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    random, tracer, tf32 = torch.get_rng_state(), sys.gettrace(), torch.backends.cudnn.allow_tf32
    sys.settrace(frame_tracer)
    try:
        with mode(), torch.autocast("cpu", torch.bfloat16):
            broken_by = run(network, y) if code == "qra" else upstream(network, ATTACK, images(), y, 16)
        assert sys.gettrace() is frame_tracer
    finally:
        sys.settrace(tracer)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert [module.training for module in network.modules()] == flags
    for p, gradient in zip(network.parameters(), gradients, strict=True):
        assert (p.grad is None) if gradient is None else torch.equal(p.grad, gradient)
    robust = run(network, y) == FIRST_BROKEN_BY.index(ROBUST)
    assert torch.equal(broken_by == FIRST_BROKEN_BY.index(ROBUST), robust)


def test_outcomes_fall_from_attack_to_attack():
    broken_by = torch.tensor([0, 1, 2, 3, 4, 5], dtype=torch.uint8)
    found = {o.name: o for o in outcomes("autoattack_8", AutoAttack(), "chunked", torch.arange(6), broken_by)}
    assert {name: o.correct.tolist().count(True) for name, o in found.items()} == {
        "autoattack_8": 1,
        "autoattack_8.apgd_ce": 4,
        "autoattack_8.apgd_t": 3,
        "autoattack_8.fab_t": 2,
    }
    assert found["autoattack_8.apgd_t"].settings["attacks"] == ["apgd_ce", "apgd_t"]
    assert all(o.settings["init_args"]["seed"] == 0 for o in found.values())
    assert [o.name for o in outcomes("a", AutoAttack(), "upstream", torch.arange(6), broken_by)] == ["a"]


def files(tmp_path, settings=SETTINGS, indices=INDICES):
    return ChunkFiles(tmp_path / "autoattack_8", settings, indices, 3)


def test_a_chunk_comes_back_as_it_was_written(tmp_path):
    kept = files(tmp_path)
    assert [chunk.tolist() for chunk in kept.chunks] == [[1, 3, 4], [8, 9]]
    assert kept.read(0) is None
    kept.write(1, torch.tensor([5, 2], dtype=torch.uint8))
    assert files(tmp_path).read(1).tolist() == [5, 2]
    assert files(tmp_path).read(0) is None
    assert {path.name for path in kept.directory.iterdir()} == {"settings.json", "chunk-00001.npz"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_chunk_file_that_was_cut_short_is_not_there(tmp_path, share):
    files(tmp_path).write(0, torch.zeros(3, dtype=torch.uint8))
    path = tmp_path / "autoattack_8" / "chunk-00000.npz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert files(tmp_path).read(0) is None


def test_a_chunk_file_with_a_flipped_bit_is_not_there(tmp_path):
    files(tmp_path).write(0, torch.full((3,), 5, dtype=torch.uint8))
    path = tmp_path / "autoattack_8" / "chunk-00000.npz"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\5\5\5", b"\5\5\1"))
    assert files(tmp_path).read(0) is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("eps", 0.1, "eps is 0.03, not 0.1"), ("network", "abd", "network is abc, not abd"), ("n", 5, "n is None, not 5")],
)
def test_a_directory_of_another_evaluation_is_refused_and_the_difference_named(tmp_path, name, value, reason):
    files(tmp_path)
    with pytest.raises(ValueError, match=reason):
        files(tmp_path, {**SETTINGS, name: value})


def test_a_chunk_whose_settings_went_missing_is_not_taken_for_that_of_others(tmp_path):
    files(tmp_path).write(0, torch.zeros(3, dtype=torch.uint8))
    (tmp_path / "autoattack_8" / "settings.json").unlink()
    assert files(tmp_path, {**SETTINGS, "eps": 0.1}).read(0) is None
    assert files(tmp_path, {**SETTINGS, "eps": 0.1}, INDICES + 1).read(0) is None


def test_settings_that_were_cut_short_are_named(tmp_path):
    files(tmp_path)
    (tmp_path / "autoattack_8" / "settings.json").write_text('{"eps"')
    with pytest.raises(ValueError, match=r"settings.json: cannot be read"):
        files(tmp_path)


def test_a_fingerprint_is_that_of_weights_statistics_and_gradients(network):
    first = fingerprint(network)
    assert fingerprint(network.eval()) == first
    network[1].running_mean[0] += 1e-6
    changed = fingerprint(network)
    assert changed != first
    assert fingerprint(network, "4 bits") != changed
    convert(network, QuantScheme(DoReFa(), PACT(), 4, 4))
    quantized = fingerprint(network)
    with gradient_mode(network, "ste_soft"):
        assert fingerprint(network) != quantized
    assert fingerprint(network) == quantized
