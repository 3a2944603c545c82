import copy

import pytest
import torch
from torch.nn import functional as F
from trivial import batch, convolutional, data, linear, sgd, silent, trainer

from qra.attacks import FGSM, PGD
from qra.callbacks import TrainingDiagnostics
from qra.modules import AdversarialTraining, VanillaTraining
from qra.types import Batch


@pytest.mark.parametrize(
    ("method", "precision"),
    [(VanillaTraining, "32-true"), (AdversarialTraining, "32-true"), (AdversarialTraining, "bf16-mixed")],
)
def test_both_methods_learn_what_is_easy(method, precision):
    run = trainer(precision=precision)
    run.fit(method(linear(), optimizer=sgd), data())
    assert run.callback_metrics["val/clean_acc"] == 1
    assert run.callback_metrics["val/robust_acc"] == 1
    assert run.callback_metrics["val/robust_loss"] > run.callback_metrics["val/clean_loss"]


def test_adversarial_loss_is_cross_entropy_on_the_attacks_examples():
    module = silent(AdversarialTraining(convolutional(), attack=PGD(steps=3)))
    module.network[4].p = 0.0
    b = batch()
    frozen = copy.deepcopy(module.network).eval()
    x_adv = module.attack(frozen, b.x, b.y, index=b.indices, epoch=0)
    expected = F.cross_entropy(copy.deepcopy(module.network)(x_adv), b.y)
    torch.testing.assert_close(module.training_loss(b), expected, rtol=1e-5, atol=1e-6)


def test_the_inner_loop_leaves_no_gradient_and_updates_no_statistics():
    module = silent(AdversarialTraining(convolutional(), attack=PGD(steps=3)))
    bn = module.network[1]
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    module.maximize(module.attack, batch())
    assert all(parameter.grad is None for parameter in module.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.network.state_dict().items())
    assert all(part.training for part in module.network.modules())
    module.training_loss(batch())
    assert bn.num_batches_tracked == 1


def test_start_noise_changes_with_the_epoch_and_not_with_the_batch():
    module = AdversarialTraining(linear(), attack=FGSM(start=PGD().start, step_size=0.0))
    b = batch()
    first = module.maximize(module.attack, b)
    part = Batch(*(value[2:4] for value in b))
    assert torch.equal(module.maximize(module.attack, part), first[2:4])
    later = module.attack(module.network, b.x, b.y, index=b.indices, epoch=1)
    assert not torch.equal(later, first)


def test_the_attack_network_follows_training_and_stays_out_of_the_checkpoint():
    module = VanillaTraining(convolutional()).eval()
    keys = set(module.state_dict())
    module.attack_network()
    with torch.no_grad():
        module.network[5].bias.add_(3)
    x = batch().x
    torch.testing.assert_close(module.attack_network()(x), module.network(x), rtol=1e-4, atol=1e-5)
    assert set(module.state_dict()) == keys
    assert len(list(module.parameters())) == len(list(module.network.parameters()))


@pytest.mark.parametrize("inference_mode", [True, False])
def test_validation_under_attack_works_in_inference_mode_too(inference_mode):
    run = trainer(inference_mode=inference_mode)
    module = VanillaTraining(linear(), val_attack=PGD(eps=0.5, step_size=0.1, steps=10))
    run.validate(module, data(), verbose=False)
    assert run.callback_metrics["val/robust_acc"] < 0.5


def test_evaluation_stays_in_float32_under_mixed_precision():
    module = VanillaTraining(convolutional())
    values = []
    for precision in ("32-true", "bf16-mixed"):
        run = trainer(precision=precision)
        run.validate(module, data(), verbose=False)
        values.append({name: float(value) for name, value in run.callback_metrics.items()})
    assert values[0] == values[1]


def test_a_network_that_was_loaded_for_evaluation_learns_in_train_mode():
    network = convolutional().eval()
    before = network[1].running_mean.clone()
    trainer(max_epochs=1).fit(VanillaTraining(network), data())
    assert not torch.equal(network[1].running_mean, before)


def test_a_resumed_run_goes_on_with_the_dropout_of_an_uninterrupted_one(tmp_path):
    network = convolutional()

    def fit(epochs, seed, **settings):
        torch.manual_seed(seed)
        module, run = (
            VanillaTraining(copy.deepcopy(network), optimizer=sgd, val_attack=None),
            trainer(max_epochs=epochs),
        )
        run.fit(module, data(), **settings)
        return module.network[5].weight, run

    whole, _ = fit(2, seed=1)
    fit(1, seed=1)[1].save_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(fit(2, seed=2, ckpt_path=tmp_path / "last.ckpt", weights_only=True)[0], whole)
    assert not torch.equal(fit(2, seed=2)[0], whole)


def test_a_checkpoint_of_lightning_makes_the_module_again(tmp_path):
    module, run = VanillaTraining(convolutional()), trainer(max_epochs=1)
    run.fit(module, data())
    run.save_checkpoint(tmp_path / "some.ckpt")
    again = VanillaTraining.load_from_checkpoint(tmp_path / "some.ckpt", network=convolutional())
    x = batch().x
    assert torch.equal(again.network.eval()(x), module.network.eval()(x))


def test_batches_of_other_loaders_are_refused_in_one_line():
    pairs = torch.utils.data.TensorDataset(torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64))
    run_data = data()
    run_data.setup()
    for loader, kind in (
        (torch.utils.data.DataLoader(pairs), "a list"),
        (run_data.test_dataloader(), "of torch.uint8"),
    ):
        with pytest.raises(ValueError, match=rf"a batch of the data is {kind}: .* qra.types.Batch\("):
            trainer().predict(VanillaTraining(linear()), loader)


@pytest.mark.parametrize("method", [VanillaTraining, AdversarialTraining])
def test_a_network_that_returns_more_in_training_is_refused_in_one_line(method):
    class Auxiliary(type(linear())):
        def forward(self, x):
            return (super().forward(x),) * 2 if self.training else super().forward(x)

    with pytest.raises(ValueError, match="the network returns a tuple in training mode: it must return only logits"):
        method(Auxiliary(*linear())).training_step(batch(), 0)


def test_a_module_of_ones_own_chooses_its_batches():
    class OwnSteps(VanillaTraining):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(self(x), y)

        def validation_step(self, batch, batch_idx):
            pass

    module = OwnSteps(linear())
    loader = torch.utils.data.DataLoader([(x, 0) for x in torch.rand(4, 3, 4, 4)])
    before = module.network[-1].weight.clone()
    trainer(max_epochs=1).fit(module, loader, loader)
    assert not module.network[-1].weight.equal(before)


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights():
    class Exploding(VanillaTraining):
        def training_loss(self, batch):
            loss = super().training_loss(batch)
            return loss * float("inf") if self.global_step == 5 else loss

    module = Exploding(linear(), optimizer=sgd)
    with pytest.raises(ValueError, match=r"the loss is inf at step 5 \(epoch 1\), where the learning rate is 0.05"):
        trainer(callbacks=[TrainingDiagnostics()]).fit(module, data())
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_adversarial_training_needs_an_attack_in_validation():
    with pytest.raises(ValueError, match="val_attack is none"):
        AdversarialTraining(linear(), val_attack=None)
    VanillaTraining(linear(), val_attack=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of torch.compile
def test_a_compiled_network_trains_to_the_same_weights_under_the_same_keys():
    network = convolutional()
    network[4].p = 0.0  # a compiled dropout draws other numbers
    states = []
    for compiled in (False, True):
        module = AdversarialTraining(copy.deepcopy(network), optimizer=sgd, compile=compiled, attack=PGD(steps=2))
        trainer(max_epochs=1).fit(module, data())
        states.append(module.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)


def test_logits_that_are_no_numbers_are_wrong_in_validation_too():
    made = silent(VanillaTraining(linear(), optimizer=sgd, val_attack=None))
    made._evaluate("clean", torch.tensor([[0.0, -torch.inf], [1.0, 0.0]]), torch.tensor([0, 0]))
    assert made.val_metrics["clean_acc"].compute() == 0.5
