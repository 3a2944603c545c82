import copy

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from trivial import convolutional, data, sgd, trainer

from qra import checkpoint
from qra.attacks import PGD
from qra.callbacks import PWLQCalibration, ResultWriter, RobustnessEvaluation
from qra.deploy import checkpoint_card
from qra.describe import describe
from qra.evaluation.outcome import read_result
from qra.modules import VanillaTraining
from qra.quant import PACT, PWLQ, CalibratedUniform, DoReFa, QuantScheme, Uniform, quantize_after_training


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


SCHEME = QuantScheme(PWLQ(), CalibratedUniform(), 3, 5, None)


def module(scheme=None):
    return VanillaTraining(convolutional(), scheme, optimizer=sgd, val_attack=None)


def runner(tmp_path, callback, **settings):
    return trainer(callbacks=[callback], default_root_dir=tmp_path, inference_mode=False, **settings)


def network_after_test(tested, tmp_path, callback):
    """Test a module in a run of its own."""
    runner(tmp_path, callback).test(tested, data(), verbose=False)
    return tested.network.eval()


def calibration_images():
    run_data = data()
    run_data.setup()
    return run_data.data.train.images[run_data.calibration_indices].float() / 255


@pytest.mark.parametrize("weight", [PWLQ(), Uniform()], ids=["pwlq", "uniform"])
def test_a_test_run_quantizes_on_the_calibration_images(tmp_path, weight):
    scheme = QuantScheme(weight, CalibratedUniform(), 3, 5, None)
    tested = module()
    expected = copy.deepcopy(tested.network).eval()
    fixed = quantize_after_training(expected, scheme, calibration_images().split(4))
    network = network_after_test(tested, tmp_path, PWLQCalibration(scheme))
    assert tested.scheme == fixed
    x = torch.rand(8, 3, 4, 4)
    assert torch.equal(network(x), expected(x))


def test_uniform_weights_of_one_bit_more_are_measured_beside_piecewise_linear_ones(tmp_path):
    tested, callback = module(), PWLQCalibration(SCHEME)
    expected = copy.deepcopy(tested.network).eval()
    uniform = QuantScheme(Uniform(), CalibratedUniform(), 4, 5, None)
    quantize_after_training(expected, uniform, calibration_images().split(4))
    network_after_test(tested, tmp_path, callback)
    images = data().load().test
    outcome = callback.outcomes["clean_uniform4"]
    assert torch.equal(outcome.correct, expected(images.images.float() / 255).argmax(1) == images.labels)
    widest = PWLQCalibration(QuantScheme(PWLQ(), CalibratedUniform(), 8, 8, None))
    network_after_test(module(), tmp_path, widest)
    assert not widest.outcomes


def test_the_settings_reach_the_calibration(tmp_path):
    tested = module()
    expected = copy.deepcopy(tested.network).eval()
    quantize_after_training(expected, SCHEME, [calibration_images()], bias_corrected=True)
    network = network_after_test(tested, tmp_path, PWLQCalibration(SCHEME, bias_correction=True, batch_size=8))
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in network.state_dict().items())


def test_adversarial_images_calibrate_other_ranges(tmp_path):
    first = module()
    second = copy.deepcopy(first)
    clean = network_after_test(first, tmp_path, PWLQCalibration(SCHEME))
    attack = PGD(eps=0.2, step_size=0.1, steps=2)
    adversarial = network_after_test(second, tmp_path, PWLQCalibration(SCHEME, attack=attack))
    assert torch.equal(clean[0].weight, adversarial[0].weight)
    assert clean[0].input_quantizer.high != adversarial[0].input_quantizer.high


def test_the_calibrated_checkpoint_is_tested_as_it_is(tmp_path):
    tested = module()
    network = network_after_test(tested, tmp_path, PWLQCalibration(SCHEME))
    again = module()
    runner(tmp_path, PWLQCalibration(SCHEME)).test(
        again, data(), ckpt_path=tmp_path / "calibrated.ckpt", verbose=False, weights_only=True
    )
    plain = module()  # without the callback
    trainer(inference_mode=False).test(
        plain, data(), ckpt_path=tmp_path / "calibrated.ckpt", verbose=False, weights_only=True
    )
    x = torch.rand(8, 3, 4, 4)
    for other in (again, plain):
        assert other.scheme == tested.scheme
        assert torch.equal(other.network.eval()(x), network(x))


def result_of(directory, path, *callbacks, eps=0.0, seed=0):
    """The result in a directory after one more test."""
    callbacks = [*callbacks, RobustnessEvaluation([eps], steps=1, n=4), ResultWriter()]
    run = trainer(callbacks=callbacks, default_root_dir=directory, inference_mode=False)
    run.test(module(), data(split_seed=seed), ckpt_path=path, verbose=False, weights_only=True)
    return read_result(directory / "result.json")


@pytest.fixture
def float_checkpoint(tmp_path):
    saver = trainer()
    saver.strategy.connect(module())
    saver.save_checkpoint(tmp_path / "float.ckpt", weights_only=True)
    return tmp_path / "float.ckpt"


def test_a_network_calibrated_on_other_images_is_another(tmp_path, float_checkpoint):
    results = [result_of(tmp_path, float_checkpoint, PWLQCalibration(SCHEME), seed=seed) for seed in (0, 0, 1)]
    first, again, other = (result["network"] for result in results)
    assert first == again != other
    assert (tmp_path / "earlier/1/result.json").exists()


def test_what_a_calibrating_test_found_is_of_the_checkpoint_that_it_saved(tmp_path, float_checkpoint):
    path = tmp_path / "calibrated.ckpt"
    found = result_of(tmp_path, float_checkpoint, PWLQCalibration(SCHEME))["outcomes"]
    assert checkpoint_card.tested_beside(path, "", checkpoint.sha256(path))["outcomes"]["pgd1_0"] == {
        key: value for key, value in found["pgd1_0"].items() if key not in ("test", "examples")
    }
    assert found.keys() < result_of(tmp_path, path, eps=8 / 255)["outcomes"].keys()
    assert checkpoint_card.tested_beside(path, "", checkpoint.sha256(float_checkpoint)) is None


def test_the_calibrated_checkpoint_is_loaded_from_python(tmp_path):
    network = network_after_test(module(), tmp_path, PWLQCalibration(SCHEME))
    loaded = checkpoint.load(tmp_path / "calibrated.ckpt", convolutional())
    x = torch.rand(8, 3, 4, 4)
    assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (
            PWLQCalibration(QuantScheme(PWLQ(), CalibratedUniform(), 4, 5, None)),
            "weight_bit_width was 3 and is 4",
        ),
        (PWLQCalibration(SCHEME, bias_correction=True), "bias_correction was False and is True"),
        (PWLQCalibration(SCHEME, attack=PGD()), "attack was None and is {'class_path': 'qra.attacks.PGD'"),
    ],
)
def test_calibrating_again_with_other_settings_is_refused(tmp_path, callback, reason):
    network_after_test(module(), tmp_path, PWLQCalibration(SCHEME))
    with pytest.raises(ValueError, match=r"calibrated.ckpt: was already calibrated") as error:
        runner(tmp_path, callback).test(module(), data(), ckpt_path=tmp_path / "calibrated.ckpt", weights_only=True)
    assert reason in str(error.value)


def test_the_end_of_training_calibrates_the_best_checkpoint(tmp_path):
    best = ModelCheckpoint(tmp_path, "best", monitor="val/clean_acc", mode="max", save_weights_only=True)
    trained = module()
    run = trainer(
        callbacks=[PWLQCalibration(SCHEME), best], default_root_dir=tmp_path, enable_checkpointing=True, max_epochs=3
    )
    run.fit(trained, data())
    expected = checkpoint.load(tmp_path / "best.ckpt", convolutional())
    quantize_after_training(expected, SCHEME, calibration_images().split(4))
    found = checkpoint.load(tmp_path / "calibrated.ckpt", convolutional())
    x = torch.rand(8, 3, 4, 4)
    assert torch.equal(found(x), expected(x))
    last = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert last["qra"]["scheme"] is None


def test_training_goes_on_after_a_calibration_in_test(tmp_path):
    tested = module()
    network_after_test(tested, tmp_path, PWLQCalibration(SCHEME))
    tested.network.train()
    logits = tested.network(torch.rand(4, 3, 4, 4))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
    assert all(parameter.grad is not None for parameter in tested.network.parameters())


def test_a_network_trained_through_quantization_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"trained with quantization, to W4A4 .*float one"):
        network_after_test(module(QuantScheme()), tmp_path, PWLQCalibration(SCHEME))


def test_wrong_settings_are_refused_at_construction():
    with pytest.raises(ValueError, match="batch_size is 0"):
        PWLQCalibration(SCHEME, batch_size=0)
    with pytest.raises(ValueError, match="PACT must be trained"):
        PWLQCalibration(QuantScheme(DoReFa(), PACT(), 4, 4))


def test_the_checkpoint_says_how_it_was_calibrated(tmp_path):
    network_after_test(module(), tmp_path, PWLQCalibration(SCHEME))
    record = checkpoint.read(tmp_path / "calibrated.ckpt")["qra"]["calibration"]
    assert record["init_args"]["scheme"] == describe(SCHEME)
    assert record["init_args"]["images"] == 8
