"""Two images say whether a network can be trained and attacked."""

import pytest
import torch
from jsonargparse import Namespace
from torch import nn

from qra.data import to_pixels
from qra.dryrun import dry_run, link_normalization, link_to_data
from qra.models import resnet20
from qra.quant import CalibratedUniform, QuantScheme, Uniform, convert

IMAGES = to_pixels(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


class Net(nn.Module):
    def __init__(self, classes=4, channels=3):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        return self.fc(self.relu(self.bn(self.conv(x))).mean((2, 3)))


def returning(change):
    class Changed(Net):
        def forward(self, x):
            return change(super().forward(x))

    return Changed


class CutOff(Net):
    def forward(self, x):
        return super().forward((x.detach() * 255).round() / 255)


class OfTheBatch(Net):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(6, track_running_stats=False)


WRONG = {
    "tuple": (returning(lambda y: (y, y)), "returns a tuple for 2 images"),
    "dict": (returning(lambda y: {"logits": y}), "returns a dict for 2 images"),
    "features": (returning(lambda y: y[:, :, None]), r"returns float32 of shape \(2, 4, 1\)"),
    "classes": (returning(lambda y: y.argmax(1)), r"returns int64 of shape \(2,\)"),
    "one image": (returning(lambda y: y[:1]), r"returns float32 of shape \(1, 4\)"),
    "channels": (lambda: Net(channels=1), r"cannot process images of the data, \(3, 8, 8\): .*1 channels, but got 3"),
    "half": (lambda: Net().half(), r"conv.weight is float16: make it float32"),
    "bfloat16": (lambda: Net().bfloat16(), r"conv.weight is bfloat16: make it float32"),
    "too few": (lambda: Net(classes=3), "has 3 classes, but the data has 4: set num_classes"),
    "not finite": (returning(lambda y: y / 0), "not finite"),
    "dropout": (returning(lambda y: nn.functional.dropout(y, 0.5, training=True)), "different logits for the same"),
    "noise": (returning(lambda y: y + torch.randn_like(y)), "different logits for the same images"),
    "batch": (OfTheBatch, "logits for an image depend on the other images of the batch"),
    "cut off": (CutOff, "no gradient reaches the network's input"),
    "numpy": (returning(lambda y: torch.from_numpy(y.detach().numpy())), "no gradient reaches the network's input"),
    "any error": (returning(lambda y: {}[3]), "cannot process images of the data"),
}


@pytest.mark.parametrize(("make", "reason"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_attacked_is_refused_in_one_line(make, reason):
    with pytest.raises(ValueError, match=reason) as error:
        dry_run(make(), IMAGES, 4, False)
    assert "\n" not in str(error.value)


def test_more_outputs_than_classes_are_refused_in_training_and_counted_in_a_test():
    assert dry_run(Net(classes=7), IMAGES, 4, False) == 7
    with pytest.raises(ValueError, match="has 7 classes, but the data has 4"):
        dry_run(Net(classes=7), IMAGES, 4, True)


def test_nothing_is_changed():
    network = Net().train()
    network.bn.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    generator, modes = torch.get_rng_state(), [module.training for module in network.modules()]
    assert dry_run(network, IMAGES, 4, True) == 4
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())


def test_a_quantized_network_needs_no_ranges_yet():
    network = Net()
    convert(network, QuantScheme(Uniform(), CalibratedUniform(), 4, 4))
    assert dry_run(network, IMAGES, 4, True) == 4


def network_config(class_path, **init_args):
    return Namespace(class_path=class_path, init_args=Namespace(**init_args))


def test_classes_and_channels_of_the_data_are_set_where_they_stand_at_their_defaults():
    network = network_config(
        "qra.models.resnet20", num_classes=10, mean=[0.4914, 0.4822, 0.4465], std=[0.2470, 0.2435, 0.2616]
    )
    assert link_to_data(network, 3, 1)
    assert link_normalization(network, lambda: ([0.5], [0.25]))
    made = resnet20(**network.init_args.as_dict())
    assert dry_run(made, IMAGES[:, :1], 3, True) == 3
    assert made.normalize.mean.flatten().tolist() == [0.5]
    assert not link_to_data(network, 3, 1)
    assert not link_normalization(network, lambda: ([0.6], [0.26]))


def test_classes_that_were_chosen_stay():
    network = network_config("qra.models.resnet20", num_classes=7)
    assert not link_to_data(network, 3, 3)
    assert network.init_args.num_classes == 7


def test_a_network_of_torchvision_inside_another_is_linked_too():
    inner = network_config("torchvision.models.resnet18", num_classes=1000)
    assert link_to_data(network_config("qra.models.Normalized", network=inner), 5, 3)
    assert inner.init_args.num_classes == 5


def test_nothing_is_measured_for_a_network_whose_normalization_was_chosen():
    chosen = network_config("qra.models.Normalized", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert not link_normalization(chosen, lambda: 1 / 0)


def test_data_with_the_default_number_of_classes_changes_nothing():
    assert not link_to_data(network_config("qra.models.resnet20", num_classes=10), 10, 3)
