"""Two images say whether a network can be trained and attacked."""

import pytest
import torch
from torch import nn

from qra.data import to_pixels
from qra.dryrun import dry_run
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


class InPlace(Net):
    def forward(self, x):
        with torch.no_grad():
            x.sub_(0.5)
        return super().forward(x)


class InPlaceAtTests(Net):
    def forward(self, x):
        return super().forward(x - 0.5 if x.requires_grad else x.sub_(0.5))


class InList(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Conv2d(3, 3, 1)]

    def forward(self, x):
        return super().forward(self.hidden[0](x))


class Late(Net):
    def forward(self, x):
        if not hasattr(self, "last"):
            self.last = nn.Linear(4, 4)
        return self.last(super().forward(x))


class LateBuffer(Net):
    def forward(self, x):
        self.register_buffer("grid", torch.zeros(x.shape[-2:]))
        return super().forward(x + self.grid)


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


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
    "squeezed": (returning(torch.squeeze), r"returns float32 of shape \(4,\) for 1 image"),
    "in place": (InPlace, "changes its images in place"),
    "in place without gradients": (InPlaceAtTests, "changes its images in place"),
    "in a list": (InList, r"weights of shape \(3, 3, 1, 1\)|weights of shape \(3,\)"),
    "late layer": (Late, "makes its last.bias only when it first runs"),
    "late buffer": (LateBuffer, "makes its grid only when it first runs"),
    "lazy": (lazy, "makes its 1.bias only when it first runs"),
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


def test_what_a_forward_pass_computes_with_may_be_computed_from_parameters_or_constant():
    class Computing(Net):
        def __init__(self):
            super().__init__()
            nn.utils.parametrizations.weight_norm(self.conv)
            self.shift = torch.ones(3, 1, 1)

        def forward(self, x):
            return super().forward(x + self.shift) @ self.fc.weight[:, :4]

    assert dry_run(Computing(), IMAGES, 4, True) == 4
    run = lazy()
    run(IMAGES)
    assert dry_run(run, IMAGES, 4, True) == 4


def test_a_quantized_network_needs_no_ranges_yet():
    network = Net()
    convert(network, QuantScheme(Uniform(), CalibratedUniform(), 4, 4))
    assert dry_run(network, IMAGES, 4, True) == 4
