"""Learning from a teacher: every transfer loss, on students and teachers of every kind."""

import copy

import pytest
import torch
from torch import nn
from trivial import batch, convolutional, data, linear, sgd, silent, trainer

from qra import losses
from qra.attacks import FGSM, PGD, DisagreementPGD, SideBySide
from qra.modules import ARD, IAD, RRM, RSLAD, AdaAD, AdversarialTraining, LwF, RobustTransfer
from qra.quant import LSQ, PACT, DoReFa, LSQActivation, QuantScheme, freeze

pytestmark = pytest.mark.filterwarnings("ignore:.*not robust")

KL = PGD(steps=2, step_size=4 / 255, loss="kl")
CE = PGD(steps=2, step_size=4 / 255)
TRANSFERS = [
    RSLAD(KL), ARD(CE, 4.0), ARD(CE, 4.0, 0.5), IAD(CE), IAD(CE, warmup_epochs=1), AdaAD(DisagreementPGD(steps=2)),
    RRM(0.5), LwF(),
]  # fmt: skip
PACT_4 = QuantScheme(DoReFa(), PACT(), 4, 4)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def name(transfer):
    return f"{type(transfer).__name__}-{getattr(transfer, 'kd_weight', '')}{getattr(transfer, 'warmup_epochs', '')}"


@pytest.fixture(scope="module")
def robust_network():
    """A linear network that its data's brightness, and nothing faint, decides."""
    torch.manual_seed(0)
    made = AdversarialTraining(linear(), optimizer=sgd, attack=PGD(steps=2))
    trainer().fit(made, data())
    return made.network.requires_grad_(False).eval()


def student(transfer, teacher, network=None, **settings):
    made = RobustTransfer(network or linear(), transfer, **{"optimizer": sgd, **settings})
    made.learn_from(freeze(teacher))
    return made


@pytest.mark.parametrize("transfer", TRANSFERS, ids=name)
def test_every_transfer_makes_the_student_robust(robust_network, transfer):
    made = student(transfer, robust_network)
    run = trainer()
    run.fit(made, data())
    assert run.callback_metrics["val/clean_acc"] == 1
    assert run.callback_metrics["val/robust_acc"] == 1


@pytest.mark.parametrize("scheme", [PACT_4, QuantScheme(LSQ(), LSQActivation(), 4, 4)], ids=["pact", "lsq"])
@pytest.mark.parametrize("transfer", TRANSFERS, ids=name)
def test_every_transfer_trains_a_quantized_student_in_mixed_precision(transfer, scheme):
    made = student(transfer, convolutional(), convolutional(), scheme=scheme)
    before = copy.deepcopy(made.network.state_dict())
    trainer(max_epochs=1, precision="bf16-mixed").fit(made, data())
    after = made.network.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(after["0.weight"], before["0.weight"])


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(robust_network):
    b = batch()
    label_loss = losses.cross_entropy(robust_network(b.x), b.y).mean()
    expected = {AdaAD(DisagreementPGD(steps=2)): 0, RRM(0.5): 0.5 * label_loss - 1, LwF(): label_loss}
    for transfer, loss in expected.items():
        made = silent(student(transfer, robust_network, copy.deepcopy(robust_network).requires_grad_()))
        assert made.training_loss(b).item() == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize("transfer", TRANSFERS, ids=name)
def test_the_teacher_is_no_part_of_the_student(robust_network, transfer):
    alone = RobustTransfer(linear(), transfer)
    taught = student(transfer, robust_network)
    assert taught.state_dict().keys() == alone.state_dict().keys()
    assert len(list(taught.parameters())) == len(list(alone.parameters()))
    assert len(list(taught.modules())) == len(list(alone.modules()))


@pytest.mark.parametrize("transfer", TRANSFERS, ids=name)
def test_no_training_step_moves_the_teacher(transfer):
    teacher = convolutional()
    before = copy.deepcopy(teacher.state_dict())
    made = student(transfer, teacher, convolutional())
    silent(made).training_loss(batch()).backward()
    frozen = made.teacher
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not any(part.training for part in frozen.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen.parameters())
    x = batch().x
    torch.testing.assert_close(frozen(x), copy.deepcopy(teacher).eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("transfer", "clean", "graphs"), [
    (RSLAD(KL), 1, 0), (ARD(CE), 1, 0), (ARD(CE, 4.0, 0.5), 1, 0), (IAD(CE), 1, 0), (RRM(), 1, 0), (LwF(), 1, 0),
    (AdaAD(DisagreementPGD(steps=2)), 0, 2),
], ids=lambda value: name(value) if not isinstance(value, int) else "")  # fmt: skip
def test_the_teacher_sees_clean_images_once_and_a_graph_only_in_the_attack_that_needs_it(transfer, clean, graphs):
    made = silent(student(transfer, convolutional(), convolutional()))
    seen = []
    b = batch()
    made.teacher.check(b.x)  # the copy is compared with the teacher once
    made.teacher.network.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[0].requires_grad)))
    made.training_loss(b)
    assert sum(torch.equal(x, b.x) for x, _ in seen) == clean
    assert sum(graph for _, graph in seen) == graphs


class Wide(nn.Module):
    """A network of another architecture, whose last linear layer has 20 features."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 20, 4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(20, 2)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("transfer", TRANSFERS[:6], ids=name)
def test_a_teacher_of_another_architecture_teaches_by_logits(transfer):
    silent(student(transfer, Wide(), convolutional())).training_loss(batch()).backward()


@pytest.mark.parametrize("transfer", [RRM(), LwF()], ids=name)
def test_features_of_another_width_are_refused_with_both_widths(transfer):
    with pytest.raises(ValueError, match="the student has 64 and the teacher 20: use a teacher of the student's"):
        student(transfer, Wide(), convolutional())


def test_a_network_without_a_linear_layer_has_no_features_to_compare():
    pooled = nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten())
    with pytest.raises(ValueError, match="has no linear layer"):
        student(RRM(), pooled, linear())


def test_features_are_what_the_last_linear_layer_is_given():
    made = silent(student(LwF(), Wide(), Wide()))
    x = batch().x
    logits, features = made.features(x)
    torch.testing.assert_close(features, made.network.body(x))
    torch.testing.assert_close(logits, made.network.head(features))
    assert features.requires_grad
    assert not made.teacher_features(x).requires_grad


def test_the_attack_of_adaad_raises_the_disagreement_of_both_networks_more_than_one_that_sees_the_student_alone():
    torch.manual_seed(1)
    pupil, teacher = Wide().eval(), Wide().eval()
    b = batch(64)

    def disagreement(x):
        return losses.kl(pupil(x), teacher(x)).mean()

    settings = {"eps": 0.1, "step_size": 0.025, "steps": 10}
    x_adv = DisagreementPGD(**settings)(SideBySide(pupil, teacher), b.x, b.y)
    alone = PGD(**settings, loss="kl")(pupil, b.x, teacher(b.x).detach())
    assert disagreement(x_adv) > disagreement(alone) > disagreement(b.x)
    assert (x_adv - b.x).abs().max() <= 0.1 + 1e-6


def test_the_gradient_of_adaads_attack_flows_through_both_networks():
    pupil, teacher = Wide().double(), Wide().double()
    x = torch.rand(3, 3, 4, 4, dtype=torch.float64)
    attack = DisagreementPGD()
    gradient, _ = attack.gradient(SideBySide(pupil, teacher), x, torch.zeros(3, dtype=torch.int64))
    step, place = 1e-6, (1, 2, 3, 0)
    moved = [x.clone(), x.clone()]
    moved[0][place] += step
    moved[1][place] -= step
    with torch.no_grad():
        up, down = (losses.kl(pupil(z), teacher(z)).sum() for z in moved)
    assert gradient[place].item() == pytest.approx((up - down).item() / (2 * step), rel=1e-4)


@pytest.mark.parametrize("settings", [{"loss": "dlr"}, {"targeted": True}])
def test_the_attack_on_agreement_has_no_other_loss(settings):
    with pytest.raises(ValueError, match="DisagreementPGD defines its own loss"):
        DisagreementPGD(**settings)


def test_the_attack_on_agreement_wants_two_networks():
    with pytest.raises(ValueError, match="side by side, not a Wide: it is the inner maximization of AdaAD"):
        DisagreementPGD()(Wide(), batch().x, batch().y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RSLAD(CE), "the attack has the loss cross_entropy, but .* set its loss to kl"),
        (lambda: RSLAD(FGSM()), "the attack has the loss cross_entropy, but .* set its loss to kl"),
        (lambda: ARD(KL), "the attack has the loss kl, but .* its loss cannot be kl"),
        (lambda: IAD(KL), "its loss cannot be kl"),
        (lambda: RSLAD(natural_weight=2), "natural_weight is 2"),
        (lambda: ARD(temperature=0), "temperature is 0"),
        (lambda: ARD(kd_weight=1.5), "kd_weight is 1.5"),
        (lambda: IAD(beta=-1), "beta is -1"),
        (lambda: IAD(warmup_epochs=-1), "warmup_epochs is -1"),
        (lambda: RRM(-1), "cross_entropy_weight is -1"),
        (lambda: LwF(float("nan")), "feature_weight is nan"),
    ],
)
def test_a_transfer_refuses_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_a_teacher_training_is_refused_and_testing_is_not():
    made = RobustTransfer(linear())
    with pytest.raises(ValueError, match="RobustTransfer has no teacher: add"):
        trainer().fit(made, data())
    trainer().validate(made, data(), verbose=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of torch.compile
@pytest.mark.parametrize("transfer", [RSLAD(KL), AdaAD(DisagreementPGD(steps=2)), LwF(), RRM()], ids=name)
def test_a_compiled_student_learns_the_same_from_a_compiled_teacher(transfer):
    network, teacher = convolutional(), convolutional()
    network[4].p = 0.0  # a compiled dropout draws other numbers
    states = []
    for compiled in (False, True):
        made = student(transfer, teacher, copy.deepcopy(network), compile=compiled)
        trainer(max_epochs=1).fit(made, data())
        states.append(made.state_dict())
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-4)


def test_the_teacher_is_trusted_fully_in_so_many_epochs_and_no_longer():
    made, epochs = student(IAD(PGD(steps=1), warmup_epochs=1), linear()), []
    made.teacher.register_forward_hook(lambda *_: epochs.append(made.current_epoch))
    trainer(max_epochs=2, limit_train_batches=1, limit_val_batches=0).fit(made, data())
    assert epochs == [0, 1, 1]  # on clean images, and later on adversarial ones too


def test_a_fully_trusted_teacher_is_matched_without_softening():
    made, given = silent(student(IAD(PGD(eps=0), warmup_epochs=1), linear())), batch()
    expected = losses.kl(made.network(given.x), made.teacher_logits(given.x)).mean()
    assert made.training_loss(given).item() == pytest.approx(expected.item(), rel=1e-4)


def test_adaad_compares_with_the_teacher_on_the_same_images_clean_or_adversarial():
    made, given = silent(student(AdaAD(natural_weight=0.3), linear())), batch()
    x_adv = given.x.flip(0)
    made.maximize = lambda *_, **__: x_adv
    clean, adversarial = (losses.kl(made.network(x), made.teacher_logits(x)).mean() for x in (given.x, x_adv))
    expected = 0.3 * clean + 0.7 * adversarial
    assert made.training_loss(given).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_distance_that_is_logged_is_that_of_the_student_from_its_teacher():
    made = silent(student(RSLAD(KL), linear()))
    logits, taught = torch.randn(2, 6, 2).unbind()
    made.log_transfer(batch(), taught, logits, 2 * logits)
    expected = nn.functional.kl_div(logits.log_softmax(1), taught.softmax(1), reduction="batchmean")
    assert float(made._means.news()["teacher_kl"]) == pytest.approx(float(expected), rel=1e-5)
