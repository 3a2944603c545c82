"""The four attacks and their cascade against the authors' code, run side by side."""

import pytest
import torch
from oracles import NETWORKS, STEPS, authors_attack, eps, images, labels, network, short

from qra.attacks import APGD, AttackState, fab
from qra.attacks.apgd import Climb
from qra.attacks.state import length
from qra.evaluation.autoattack import upstream
from qra.evaluation.robustness import robust
from qra.quant import freeze

MEMBERS = ("apgd_ce", "apgd_t", "fab_t", "square")
every_network = pytest.mark.parametrize("name", NETWORKS)
both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def wrong(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


@every_network
@both_norms
@pytest.mark.parametrize("member", MEMBERS)
def test_the_same_examples_break(name, norm, member):
    model, x = network(name), images()
    y = labels(model, x)
    theirs = wrong(model, authors_attack(member, model, norm, eps(name, norm)).perturb(x.clone(), y.clone()), y)
    x_adv = short(name, norm).members()[member](model, x, y)
    assert torch.equal(wrong(model, x_adv, y), theirs)
    assert (3 if member == "square" else 4) <= theirs.sum() < len(x)


@every_network
@both_norms
def test_one_chunk_on_the_frozen_network_ends_like_the_authors_call(name, norm):
    model, x = network(name), images(20, seed=2)
    y = labels(model, x)
    attack = short(name, norm, seed=3)
    ours = robust(model, attack, x, y, torch.arange(len(x)), attack_network=freeze(model))
    theirs = upstream(model, attack, x, y, batch_size=len(x))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("classes", [4, 5])
def test_fewer_classes_than_targets_end_like_the_authors_call(classes):
    model, x = network("mlp"), images()
    model.network[3] = torch.nn.Linear(32, classes).double()
    with torch.no_grad():
        y = model(x).argmax(1)
    ours = robust(model, short("mlp", "linf"), x, y, torch.arange(len(x)), attack_network=freeze(model))
    theirs = upstream(model, short("mlp", "linf"), x, y, batch_size=len(x))
    assert torch.equal(ours, theirs)
    assert 0 < theirs.sum() < len(x)


@both_norms
@pytest.mark.parametrize("steps", [1, 5, 100])
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "targeted_dlr"])
def test_the_best_points_of_apgd_are_the_authors_to_the_last_bit(norm, steps, loss):
    model, x = network("conv"), images()
    y = labels(model, x, wrong=0)
    member = "apgd_t" if loss == "targeted_dlr" else "apgd_ce"
    theirs = authors_attack(member, model, norm, eps("conv", norm), steps)
    theirs.loss = {"cross_entropy": "ce", "dlr": "dlr", "targeted_dlr": "dlr-targeted"}[loss]
    theirs.init_hyperparam(x)
    ours = APGD(eps("conv", norm), norm, loss, steps)
    state = AttackState(model, x, y)
    theirs.y_target = state.targets(torch.arange(len(x)), 2)
    torch.manual_seed(0)
    best, acc, best_loss, _ = theirs.attack_single_run(x, y)
    start = ours._start(x, torch.Generator().manual_seed(0))
    climb = Climb(ours, state, torch.arange(len(x)), 2 if loss == "targeted_dlr" else None, start)
    ever_fooled = climb.fooled
    for step in range(steps):
        climb.move(last=step == steps - 1)
        ever_fooled = ever_fooled | climb.fooled
        climb.learn()
    assert torch.equal(ever_fooled, ~acc.bool())
    assert torch.equal(climb.best, best)
    assert torch.equal(climb.best_loss, best_loss)


@both_norms
def test_the_nearest_images_of_fab_are_the_authors(norm):
    model, x = network("quantized"), images()
    y = labels(model, x, wrong=0)
    theirs = authors_attack("fab_t", model, norm, 1.0)
    theirs.target_class = 2
    nearest = theirs.attack_single_run(x, y, is_targeted=True)
    targets = AttackState(model, x, y).targets(torch.arange(len(x)), 2)
    x_adv, ours, distance = x, x, torch.full((len(x), 1, 1, 1), torch.inf)
    for _ in range(STEPS):
        found, fooled, x_adv = fab._Step(torch.inf, norm)(model, x, x_adv, y, targets)
        found_at = length(found - x, norm)
        closer = fooled[:, None, None, None] & (found_at < distance)
        ours, distance = torch.where(closer, found, ours), torch.where(closer, found_at, distance)
    assert distance.isfinite().sum() > 20
    torch.testing.assert_close(ours, nearest, rtol=0, atol=1e-5)


def test_examples_that_leave_do_not_disturb_the_others():
    model, x = network("conv"), images()
    y = labels(model, x, wrong=0)
    attack = APGD(eps("conv", "linf"), steps=STEPS)
    state = AttackState(model, x, y)
    start = attack._start(x, torch.Generator().manual_seed(0))
    whole, part = (Climb(attack, state, torch.arange(len(x)), None, start) for _ in range(2))
    kept = torch.arange(len(x)) % 3 == 0
    for step in range(STEPS):
        for climb in (whole, part):
            climb.move(last=False)
            climb.learn()
        if step == 2:
            part.keep(kept)
    assert torch.equal(part.left, kept.nonzero().squeeze(1))
    assert torch.equal(part.best, whole.best[kept])
