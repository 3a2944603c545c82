import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from trivial import convolutional, data, linear, saved, sgd, trainer

from qra import checkpoint
from qra.attacks import PGD
from qra.callbacks import TeacherDistillation
from qra.models import ResNet
from qra.modules import RSLAD, AdversarialTraining, RobustTransfer, VanillaTraining
from qra.quant import PACT, DoReFa, QuantScheme

pytestmark = pytest.mark.filterwarnings("ignore:.*Checkpoint directory")

KL = PGD(steps=2, step_size=4 / 255, loss="kl")


@pytest.fixture(scope="module")
def robust_teacher(tmp_path_factory):
    torch.manual_seed(0)
    made = AdversarialTraining(linear(), optimizer=sgd, attack=PGD(steps=2))
    trainer().fit(made, data())
    return saved(made, tmp_path_factory.mktemp("teacher") / "robust.ckpt")


def brought(path, **settings):
    return TeacherDistillation(path, **{"network": linear(), **settings})


def student(**settings):
    torch.manual_seed(1)
    return RobustTransfer(linear(), RSLAD(KL), optimizer=sgd, **settings)


def fit(callback, module=None, datamodule=None, **settings):
    run = trainer(callbacks=[callback], **settings)
    run.fit(module or student(), datamodule or data())
    return run


def test_a_robust_teacher_is_measured_and_makes_the_student_robust(robust_teacher):
    callback = brought(robust_teacher)
    run = fit(callback)
    assert callback.accuracy == {"clean_acc": 1, "robust_acc": 1}
    assert run.callback_metrics["val/robust_acc"] == 1
    assert run.callback_metrics["train/teacher_kl"] < 0.1


def test_a_teacher_that_is_not_robust_is_refused_or_named(robust_teacher):
    weak = {"attack": PGD(eps=0.5, step_size=0.1, steps=10, early_stop=True)}
    module = student()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"100.0% clean and 0.0% under attack.*not robust.*if_not_robust to warn"):
        fit(brought(robust_teacher, **weak), module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    with pytest.warns(UserWarning, match="not robust"):
        fit(brought(robust_teacher, **weak, if_not_robust="warn"), module)


def test_the_teacher_adds_no_key_to_the_checkpoint(robust_teacher, tmp_path):
    run = fit(brought(robust_teacher), max_epochs=1)
    run.save_checkpoint(tmp_path / "student.ckpt")
    content = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert content["state_dict"].keys() == VanillaTraining(linear()).state_dict().keys()
    assert len(content["optimizer_states"][0]["param_groups"][0]["params"]) == 2


def test_the_file_must_be_the_one_expected(robust_teacher):
    digest = checkpoint.sha256(robust_teacher)
    fit(brought(robust_teacher, sha256=digest.upper()), max_epochs=1)
    with pytest.raises(ValueError, match=f"not the expected teacher: its sha256 is {digest}"):
        fit(brought(robust_teacher, sha256="0" * 64))


def test_a_resumed_run_measures_no_more_and_keeps_its_teacher(robust_teacher, tmp_path):
    run = fit(brought(robust_teacher), max_epochs=1)
    run.save_checkpoint(tmp_path / "half.ckpt")
    again = brought(robust_teacher, attack=PGD(eps=0.5, step_size=0.1, early_stop=True))  # would refuse
    module = student()
    trainer(callbacks=[again], max_epochs=2).fit(module, data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert again.accuracy["robust_acc"] == 1
    other = saved(VanillaTraining(linear()), tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="started with another teacher"):
        trainer(callbacks=[brought(other)]).fit(student(), data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)


def test_resuming_with_a_teacher_is_exact_to_the_bit(robust_teacher, tmp_path):
    whole, half, rest = student(), student(), student()
    fit(brought(robust_teacher), whole, max_epochs=4)
    fit(brought(robust_teacher), half, max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    run = trainer(callbacks=[brought(robust_teacher)], max_epochs=4)
    run.fit(rest, data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert run.global_step == 4 * 6
    assert all(torch.equal(value, rest.state_dict()[key]) for key, value in whole.state_dict().items())


class Images(type(data())):
    """The same data, 8 x 8 pixels."""

    def load(self):
        small = super().load()
        train = type(small.train)(small.train.images.repeat(1, 1, 2, 2), small.train.labels)
        return type(small)(train, train, small.class_names)


def residual(num_classes=2, scheme=None):
    torch.manual_seed(2)
    network = ResNet((1, 1), (4, 8), num_classes=num_classes)
    return VanillaTraining(network, scheme=scheme, optimizer=sgd)


@pytest.mark.parametrize("scheme", [None, QuantScheme(DoReFa(), PACT(), 4, 4)], ids=["float", "quantized"])
def test_a_teacher_of_another_architecture_describes_itself(tmp_path, scheme):
    path = saved(residual(scheme=scheme), tmp_path / "teacher.ckpt")
    callback = TeacherDistillation(path, if_not_robust="warn", least_robust_acc=0)
    module = RobustTransfer(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), RSLAD(KL), optimizer=sgd)
    datamodule = Images(batch_size=8, val_size=16, calibration_size=8, augment=False)
    fit(callback, module, datamodule, max_epochs=1)
    assert callback.accuracy.keys() == {"clean_acc", "robust_acc"}
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module.teacher(x), checkpoint.load(path)(x), rtol=1e-3, atol=1e-3)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    path = saved(residual(num_classes=7), tmp_path / "teacher.ckpt")
    with pytest.raises(ValueError, match=r"teacher.ckpt: the teacher has 7 classes, but the data has 2"):
        fit(TeacherDistillation(path))


def test_a_missing_or_foreign_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.ckpt: there is no such checkpoint"):
        fit(TeacherDistillation(str(tmp_path / "none.ckpt")))
    Path(tmp_path, "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text.ckpt: "):
        fit(TeacherDistillation(str(tmp_path / "text.ckpt")))
    path = saved(VanillaTraining(convolutional()), tmp_path / "undescribed.ckpt")
    with pytest.raises(ValueError, match="does not say how to rebuild its network"):
        fit(TeacherDistillation(path))


def test_a_student_that_learns_from_no_teacher_is_named(robust_teacher):
    with pytest.raises(ValueError, match="a teacher is given, but VanillaTraining does not use one"):
        fit(brought(robust_teacher), VanillaTraining(linear()))


def test_the_teacher_is_measured_on_validation_images(robust_teacher):
    module = student(val_attack=PGD())
    with pytest.raises(ValueError, match="val_size is 0, but the teacher is measured on validation images"):
        fit(brought(robust_teacher), module, data(val_size=0))


def test_testing_needs_no_teacher(tmp_path):
    run = trainer(callbacks=[TeacherDistillation(str(tmp_path / "gone.ckpt"))])
    run.test(student(), data(), verbose=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"least_robust_acc": 20}, "least_robust_acc is 20"),
        ({"if_not_robust": "cry"}, "choose one of refuse, warn"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TeacherDistillation("teacher.ckpt", **settings)
