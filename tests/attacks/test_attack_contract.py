"""The contract of all attacks, ours and others': what a call leaves alone, and what an evaluation may rely on."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, SmallNet, SteppedNet, distance, draw_images, predict
from torch import nn

from qra import noise
from qra.attacks import (
    APGD,
    FAB,
    FGSM,
    FMN,
    PGD,
    Attack,
    AutoAttack,
    DisagreementPGD,
    GaussianStart,
    Polish,
    RoundingCascade,
    SideBySide,
    Square,
    UniformStart,
    UnroundedAPGD,
    WhiteBoxAttacks,
    ZeroStart,
)
from qra.evaluation.robustness import attack_examples
from qra.types import Batch


@dataclass(frozen=True)
class BestOfNoise(Attack):
    """A user's attack: the worst of some random images, drawn by index."""

    eps: float = 0.1
    norm: str = "linf"
    tries: int = 5

    def perturb(self, model, x, y, index, epoch):
        worst, largest = x.clone(), x.new_full((len(x),), -torch.inf)
        for number in range(self.tries):
            delta = noise.uniform(x.shape[1:], index, 7, epoch, number).to(x) * 2 - 1
            x_adv = (x + self.eps * delta).clamp(0, 1)
            loss = nn.functional.cross_entropy(model(x_adv), y, reduction="none")
            worst[loss > largest] = x_adv[loss > largest]
            largest = largest.maximum(loss)
        return worst


LINF, L2 = (0.05, "linf"), (0.4, "l2")
ATTACKS = [
    PGD(0.05, 0.0125, 4),
    PGD(0.05, 0.0125, 4, restarts=3, early_stop=True),
    PGD(0.05, 0.0125, 4, loss="dlr", early_stop=True),
    PGD(0.4, 0.1, 4, norm="l2", early_stop=True),
    PGD(0.05, 0.0125, 4, loss="kl", early_stop=True),
    FGSM(0.05),
    FGSM(0.05, start=UniformStart()),
    APGD(*LINF, steps=6),
    APGD(*LINF, "dlr", steps=6),
    APGD(*L2, "targeted_dlr", steps=4),
    FAB(*LINF, steps=4),
    FAB(*L2, steps=4),
    FMN(*LINF, steps=20),
    FMN(*L2, steps=20),
    Square(*LINF, queries=20),
    Square(*L2, queries=20),
    AutoAttack(*LINF, steps=4, queries=20),
    AutoAttack(*L2, steps=4, queries=20),
    WhiteBoxAttacks(*LINF, steps=4),
    UnroundedAPGD(0.05, steps=4, starts=2),
    Polish(0.05, queries=30),
    RoundingCascade(0.05, steps=4, queries=20, starts=2, polish=20),
    DisagreementPGD(0.05, 0.0125, 4),
    DisagreementPGD(0.05, 0.0125, 4, early_stop=True),
    BestOfNoise(0.05),
]


def named(attack):
    return f"{attack.key}-{attack.norm}" + ("-stop" if getattr(attack, "early_stop", False) else "")


every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=named)
evaluated_attack = pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if not isinstance(attack, DisagreementPGD)], ids=named
)


def attacked_model(attack):
    """What the attack is made for; logits of the first network say what is right."""
    if isinstance(attack, DisagreementPGD):
        return SideBySide(SmallNet(), SmallNet(1))
    return SteppedNet() if attack.searches_unrounded else SmallNet()


def judged(model):
    return model.student if isinstance(model, SideBySide) else model


@pytest.fixture
def examples(attack):
    """Network, images, labels, what the attack aims at, and indices."""
    model, x = attacked_model(attack), draw_images(0, 16)
    y = predict(judged(model), x)
    with torch.no_grad():
        aim = judged(model).eval()(x) if attack.aim == "logits" else y
    model.train()
    return model, x, y, aim, torch.arange(100, 116)


@every_attack
def test_images_stay_in_the_ball_and_in_the_pixel_range(attack, examples):
    model, x, _, aim, index = examples
    x_adv = attack(model, x, aim, index=index)
    assert distance(x_adv, x, attack.norm).max() <= attack.eps + 1e-6
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert x_adv.shape == x.shape
    assert x_adv.is_contiguous()
    assert not x_adv.requires_grad
    assert not torch.equal(x_adv, x)


@every_attack
def test_network_modes_gradients_and_generators_are_left_alone(attack, examples):
    model, x, _, aim, index = examples
    first = judged(model)
    first[1].eval()
    first(x).sum().backward()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    first[0].bias.requires_grad_(False)
    needs_gradient = [p.requires_grad for p in model.parameters()]
    before = x.clone(), aim.clone()
    attack(model, x, aim, index=index)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs_gradient
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert (p.grad is None) if gradient is None else torch.equal(p.grad, gradient)
    assert torch.equal(torch.get_rng_state(), random)
    assert not x.requires_grad
    assert torch.equal(x, before[0])
    assert torch.equal(aim, before[1])


@every_attack
def test_a_radius_of_zero_gives_the_images_back(attack, examples):
    model, x, _, aim, index = examples
    x_adv = replace(attack, eps=0)(model, x, aim, index=index)
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()


@every_attack
def test_an_example_does_not_depend_on_the_batch_around_it_or_the_attack_says_so(attack, examples):
    model, x, _, aim, index = examples
    whole = attack(model, x, aim, index=index)
    part = torch.tensor([11, 2, 5])
    alone = attack(model, x[part], aim[part], index=index[part])
    same = bool((alone - whole[part]).abs().max() < 1e-9)
    assert same or attack.needs_fixed_chunks


@every_attack
def test_an_attack_repeats_itself_in_either_mode_of_the_network(attack, examples):
    model, x, _, aim, index = examples
    in_training = attack(model.train(), x, aim, index=index)
    assert torch.equal(attack(model.eval(), x, aim, index=index), in_training)


@pytest.mark.parametrize("start", [ZeroStart(), UniformStart(), GaussianStart(0.3)])
@pytest.mark.parametrize("kind", [PGD, FGSM])
def test_a_random_start_is_another_one_in_another_epoch(kind, start):
    model, x = SmallNet(), draw_images(0)
    attack, y = kind(0.1, 0.03, start=start), predict(model, x)
    first = attack(model, x, y, epoch=1)
    assert torch.equal(attack(model, x, y, epoch=1), first)
    assert torch.equal(attack(model, x, y, epoch=2), first) == isinstance(start, ZeroStart)


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_attack_works_where_gradients_are_off(attack, mode, examples):
    model, x, _, aim, index = examples
    expected = attack(model, x, aim, index=index)
    with mode():
        # tensors made in inference mode cannot take part in gradients
        x_adv = attack(model, x.clone(), aim.clone(), index=index.clone())
        assert not torch.is_grad_enabled()
    assert torch.equal(x_adv, expected)


@every_attack
def test_channels_last_images_give_the_same_contiguous_result(attack, examples):
    model, x, _, aim, index = examples
    expected = attack(model, x, aim, index=index)
    last = torch.channels_last
    x_adv = attack(model.to(memory_format=last), x.to(memory_format=last), aim, index=index)
    assert x_adv.is_contiguous()
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-9)


@every_attack
def test_an_empty_batch_gives_an_empty_batch(attack, examples):
    model, x, _, aim, index = examples
    assert attack(model, x[:0], aim[:0], index=index[:0]).shape == (0, 3, 6, 6)


@every_attack
def test_its_name_tells_it_from_others_and_its_work_is_positive(attack):
    assert attack.title
    assert attack.key.replace("_", "").isalnum()
    assert attack.work(10) > 0
    assert attack.aim in ("labels", "targets", "logits")


def chunked(model, attack, batch, order):
    """What evaluations do: fixed chunks, in any order."""
    found = torch.zeros(len(batch.y), dtype=torch.bool)
    for number in order:
        part = slice(8 * number, 8 * number + 8)
        chunk = Batch(*(each[part] for each in batch))
        found[part] = attack_examples(model, attack.in_chunk(number), chunk).correct
    return found


@evaluated_attack
def test_in_fixed_chunks_the_order_of_work_does_not_matter(attack, examples):
    model, x, y, _, index = examples
    batch = Batch(x, y, index)
    forward, backward = (chunked(model, attack, batch, order) for order in (range(2), reversed(range(2))))
    assert torch.equal(forward, backward)
    if not attack.needs_fixed_chunks:
        assert torch.equal(forward, attack_examples(model, attack, batch).correct)


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.needs_fixed_chunks], ids=named)
def test_each_chunk_has_draws_of_its_own_and_a_cascade_those_of_its_members(attack):
    assert attack.in_chunk(0) == attack
    assert len({attack.in_chunk(number) for number in range(3)}) == 3
    seeds = {getattr(member, "seed", 2) for member in attack.in_chunk(2).members().values()}
    assert seeds <= {2}


@evaluated_attack
def test_what_is_broken_is_what_the_network_itself_gets_wrong(attack, examples):
    model, x, y, _, index = examples
    y = y.clone()
    y[:2] = (y[:2] + 1) % CLASSES
    found = attack_examples(model, attack, Batch(x, y, index))
    assert torch.equal(predict(model, found.x_adv) == y, found.correct)
    assert not found.correct[:2].any()
    assert (found.first_broken_by[:2] == 0).all()
    assert torch.equal(found.x_adv[:2], x[:2])
    assert 0 < int(found.correct.sum()) < len(x)


class Denying(nn.Module):
    """Right about one class whatever is done, so that its copy alone is fooled there."""

    def __init__(self, network, label):
        super().__init__()
        self.network, self.label = network, label

    def forward(self, x):
        logits = self.network(x)
        return logits + 1e6 * nn.functional.one_hot(torch.tensor(self.label), CLASSES)


@evaluated_attack
def test_an_example_that_only_the_copy_gets_wrong_is_not_broken(attack, examples):
    model, x, y, _, index = examples
    label = int(y.mode().values)
    judge, same = Denying(model, label).eval(), y == label
    found = attack_examples(judge, attack, Batch(x[same], y[same], index[same]), model.eval())
    assert found.correct.all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("early_stop", [False, True])
def test_the_first_restarts_of_more_are_those_of_fewer(norm, early_stop):
    model, x = SmallNet(), draw_images(4, 24)
    y, eps = predict(model, x), 0.05 if norm == "linf" else 0.35
    attack = PGD(eps, eps / 4, 3, norm=norm, early_stop=early_stop)
    batch = Batch(x, y, torch.arange(24))
    fewer, more = (attack_examples(model, replace(attack, restarts=number), batch) for number in (2, 3))
    assert (fewer.correct | ~more.correct).all()
    if early_stop:
        broken = ~fewer.correct
        assert torch.equal(fewer.x_adv[broken], more.x_adv[broken])


def test_a_targeted_attack_is_refused_where_there_are_only_labels():
    model, x = SmallNet(), draw_images(0, 4)
    with pytest.raises(ValueError, match="PGD is targeted"):
        attack_examples(model, PGD(targeted=True), Batch(x, predict(model, x), torch.arange(4)))


def test_an_attack_on_pairs_is_refused_where_there_is_one_network():
    model, x = SmallNet(), draw_images(0, 4)
    with pytest.raises(ValueError, match="side by side, not a SmallNet"):
        attack_examples(model, DisagreementPGD(), Batch(x, predict(model, x), torch.arange(4)))


@dataclass(frozen=True)
class Careless(Attack):
    eps: float = 0.02
    leave: str = "ball"

    def perturb(self, model, x, y, index, epoch):
        if self.leave == "shape":
            return x[:, :1]
        moved = x + {"ball": 0.05, "range": 0.02, "nan": torch.nan}[self.leave]
        return moved.clamp(0, 1) if self.leave == "ball" else moved


@pytest.mark.parametrize(
    ("leave", "reason"),
    [
        ("ball", r"Careless leaves its ball: it moves image 4\d by 0.05 \(12.75/255\), linf, but eps is 0.02"),
        ("range", r"Careless leaves the pixel range: image 4\d has a pixel 0.02 outside \[0, 1\]"),
        ("nan", "Careless leaves the pixel range"),
        ("shape", r"Careless returned images of shape \(8, 1, 6, 6\) for inputs of \(8, 3, 6, 6\)"),
    ],
)
def test_an_attack_of_ones_own_that_breaks_its_word_is_refused(leave, reason):
    model, x = SmallNet(), draw_images(0, 8)
    with pytest.raises(ValueError, match=reason):
        attack_examples(model, Careless(leave=leave), Batch(x, predict(model, x), torch.arange(40, 48)))


@given(
    seed=st.integers(0, 2**31),
    norm=st.sampled_from(["linf", "l2"]),
    start=st.sampled_from([ZeroStart(), UniformStart(), GaussianStart(0.5)]),
    eps=st.floats(0, 1),
    step_size=st.floats(0, 1),
    steps=st.integers(0, 3),
    early_stop=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=40, deadline=None)
def test_pgd_stays_in_the_ball_and_the_pixel_range_whatever_its_settings(
    seed, norm, start, eps, step_size, steps, early_stop, dtype
):
    model, x = SmallNet().to(dtype), draw_images(seed, 4).to(dtype)
    attack = PGD(eps, step_size, steps, 2, start, norm, early_stop=early_stop)
    x_adv = attack(model, x, torch.arange(4), index=torch.arange(4) + seed)
    assert distance(x_adv, x, norm).max() <= eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert x_adv.dtype == dtype
    assert x_adv.is_contiguous()
    assert not x_adv.requires_grad


def test_modes_come_back_when_the_network_raises():
    model, x = SmallNet(), draw_images(0)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        PGD()(model, x[:, :2], torch.zeros(8, dtype=torch.int64))
    assert [module.training for module in model.modules()] == modes


def test_accumulated_parameter_gradients_are_those_without_an_attack_in_between():
    """backward() in the inner loop would add to .grad between two accumulated batches."""
    attack, between, beforehand = PGD(0.1, 0.03, steps=2), SmallNet().eval(), SmallNet().eval()
    x = draw_images(0)
    y = predict(between, x)
    halves = [(x[:4], y[:4]), (x[4:], y[4:])]
    x_advs = [attack(beforehand, *half) for half in halves]
    for half, x_adv in zip(halves, x_advs, strict=True):
        nn.functional.cross_entropy(between(attack(between, *half)), half[1]).backward()
        nn.functional.cross_entropy(beforehand(x_adv), half[1]).backward()
    for p, expected in zip(between.parameters(), beforehand.parameters(), strict=True):
        assert torch.equal(p.grad, expected.grad)


@pytest.mark.parametrize(
    "attack", [PGD(0.1, 0.03, 3), PGD(0.1, 0.03, 3, restarts=2, early_stop=True), FGSM(0.1)], ids=named
)
@pytest.mark.parametrize("before", [torch.no_grad, torch.inference_mode])
def test_autocast_around_the_attack_keeps_the_training_gradients(attack, before):
    """Weights that autocast cached without gradients must not be met again with gradients, nor the reverse."""
    model, plain = (SmallNet().float().eval() for _ in range(2))
    x = draw_images(0).float()
    y = predict(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with before():
            model(x)
        x_adv = attack(model, x, y)
        loss = nn.functional.cross_entropy(model(x_adv), y)
    loss.backward()
    assert x_adv.dtype == torch.float32
    assert distance(x_adv, x, attack.norm).max() <= attack.eps + 1e-6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(plain(x_adv), y)
    loss.backward()
    for p, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, expected.grad)


@dataclass(frozen=True)
class MostHarmfulShift(Attack):
    """A user's attack, written without care for memory layout and graphs."""

    eps: float = 0.1

    def perturb(self, model, x, y, index, epoch):
        shift = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x + shift), y), shift)
        return (x + shift + self.eps * gradient.sign()).clamp(0, 1).to(memory_format=torch.channels_last)


def test_a_user_written_attack_gives_a_contiguous_result_without_a_graph():
    model, x = SmallNet(), draw_images(0)
    with torch.no_grad():
        x_adv = MostHarmfulShift()(model, x, predict(model, x))
    assert x_adv.is_contiguous()
    assert not x_adv.requires_grad
    assert model.training


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": torch.zeros(8, 3, 6, 6, dtype=torch.uint8)}, "divide bytes by 255"),
        ({"y": torch.zeros(7, dtype=torch.int64)}, "differ in length: 8, 7 and 8"),
        ({"index": torch.arange(3)}, "differ in length: 8, 8 and 3"),
    ],
)
def test_a_batch_of_bytes_or_of_several_lengths_is_refused(change, reason):
    batch = {"x": draw_images(0), "y": torch.zeros(8, dtype=torch.int64), **change}
    with pytest.raises(ValueError, match=reason):
        PGD()(SmallNet(), **batch)


@pytest.mark.parametrize("attack", [PGD(), PGD(targeted=True), APGD(), FAB(), FMN(), Square(), RoundingCascade()])
def test_what_are_no_labels_is_refused_by_every_attack_on_labels(attack):
    x, y = draw_images(0), torch.zeros(8, dtype=torch.int64)
    for wrong in (torch.zeros(8, CLASSES), nn.functional.one_hot(y, CLASSES), y[:, None]):
        with pytest.raises(ValueError, match=r"y has the shape \(8, \d\): .* needs (labels|target classes) \(N,\)"):
            attack(SmallNet(), x, wrong)


def test_labels_for_the_kl_loss_are_refused():
    with pytest.raises(ValueError, match=r"y has the shape \(8,\): PGD-10, kl needs reference logits \(N, C\)"):
        PGD(loss="kl")(SmallNet(), draw_images(0), torch.zeros(8, dtype=torch.int64))
