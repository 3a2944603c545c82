"""Weights of a network in files of the layouts in which others publish them."""

import argparse
import collections
import os
import sys
import time

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import qra
from qra import checkpoint
from qra.models import Normalized, resnet20
from qra.quant import PACT, DoReFa, QuantScheme, convert

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = resnet20()
    with torch.no_grad():
        made(X)  # statistics other than the first ones
    return made.eval()


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def nested(state):
    tree = {}
    for name, value in state.items():
        *path, last = name.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree


def trained(state):
    momenta = {number: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)} for number in range(3)}
    return {
        "epoch": 7,
        "best": torch.tensor(0.5),
        "net": state,
        "optimizer": {"state": momenta, "param_groups": [{"lr": 0.1}]},
    }


LAYOUTS = {
    "bare": dict,
    "ordered": collections.OrderedDict,
    "pairs": lambda state: list(state.items()),
    "nested": nested,
    **{f"in {key}": lambda state, key=key: {key: state} for key in ("state_dict", "model", "net", "model_state_dict")},
    "in two": lambda state: {"checkpoint": {"model": state}},
    **{f"{prefix}*": prefixed(prefix) for prefix in ("module.", "model.", "network.", "_orig_mod.", "any.word.")},
    "module._orig_mod.model.*": prefixed("module._orig_mod.model."),
    "module.* in state_dict": lambda state: {"state_dict": prefixed("module.")(state)},
    "with optimizer": trained,
    "half": lambda state: {name: v.half() if v.is_floating_point() else v for name, v in state.items()},
    "float64": lambda state: {name: v.double() if v.is_floating_point() else v for name, v in state.items()},
    "parameters": lambda state: {name: nn.Parameter(v, requires_grad=False) for name, v in state.items()},
    "averaged": lambda state: {"n_averaged": torch.tensor(9), **prefixed("module.")(state)},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_found_in_every_layout(tmp_path, network, layout, legacy):
    torch.save(layout(network.state_dict()), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    loaded = qra.load(tmp_path / "w.pth", resnet20())
    tolerance = 0.05 if layout is LAYOUTS["half"] else 0
    assert loaded.fc.weight.dtype == torch.float32
    torch.testing.assert_close(loaded(X), network(X), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_are_read(tmp_path, network, prefix):
    save_file(prefixed(prefix)(network.state_dict()), tmp_path / "w.safetensors")
    assert torch.equal(qra.load(tmp_path / "w.safetensors", resnet20())(X), network(X))


def test_names_in_a_file_do_not_draw_on_the_terminal(tmp_path, network):
    torch.save({"state_dict": {**network.state_dict(), "\x1b[31mevil\n": torch.ones(3)}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"\[31mevil, which this one lacks$"):
        qra.load(tmp_path / "a.ckpt", network)


def test_what_is_taken_off_and_missing_and_left_out_is_said_in_one_line(tmp_path, network, caplog):
    state = {f"module.{name}": v for name, v in network.state_dict().items() if "num_batches" not in name}
    del state["module.normalize.mean"]
    state["module.mu"] = network.normalize.mean[None]
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    assert torch.equal(qra.load(tmp_path / "w.pth", resnet20())(X), network(X))
    (line,) = caplog.messages
    for part in ("w.pth: ", "removed module. from", "normalize.mean", "num_batches_tracked", "left out module.mu"):
        assert part in line


def test_nothing_is_said_of_a_checkpoint_of_a_run(tmp_path, network, caplog):
    torch.save(
        {"state_dict": prefixed("network.")(network.state_dict()), "qra": {"network": network.description}},
        tmp_path / "w",
    )
    assert torch.equal(qra.load(tmp_path / "w")(X), network(X))
    assert caplog.messages == []


def test_a_network_inside_a_normalization_takes_the_weights_of_the_bare_one(tmp_path):
    bare = torchvision.models.resnet18(num_classes=10).eval()
    torch.save({"state_dict": bare.state_dict()}, tmp_path / "w.pth")
    loaded = qra.load(
        tmp_path / "w.pth", Normalized(torchvision.models.resnet18(num_classes=10), (0.5,) * 3, (0.2,) * 3)
    )
    torch.testing.assert_close(loaded(X), bare((X - 0.5) / 0.2))


def test_where_two_places_fit_the_key_must_be_said(tmp_path, network):
    torch.manual_seed(1)
    other = resnet20().eval()
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": other.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="fit under state_dict and under state_dict_ema: choose by --weights_key"):
        qra.load(tmp_path / "w.pth", resnet20())
    assert torch.equal(qra.load(tmp_path / "w.pth", resnet20(), weights_key="state_dict_ema")(X), other(X))
    with pytest.raises(ValueError, match="has no weights under ema, but under state_dict, state_dict_ema"):
        qra.load(tmp_path / "w.pth", resnet20(), weights_key="ema")


def test_one_of_two_networks_is_taken_where_it_is_asked_for(tmp_path, network):
    torch.manual_seed(1)
    other = resnet20().eval()
    state = {**prefixed("student.")(network.state_dict()), **prefixed("teacher.")(other.state_dict())}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"lacks: take the weights under state_dict\.student alone by --weights_key"):
        qra.load(tmp_path / "w.pth", resnet20())
    assert torch.equal(qra.load(tmp_path / "w.pth", resnet20(), weights_key="state_dict.student")(X), network(X))
    assert torch.equal(qra.load(tmp_path / "w.pth", resnet20(), weights_key="state_dict.teacher")(X), other(X))


@pytest.mark.parametrize("unit", [1, 255])
def test_pixels_that_a_file_normalizes_otherwise_are_refused(tmp_path, network, unit):
    state = {name: v for name, v in network.state_dict().items() if "normalize" not in name}
    own = {"mu": unit * network.normalize.mean[None], "sigma": unit * network.normalize.std.flatten()}
    torch.save({**state, **own}, tmp_path / "w.pth")
    assert torch.equal(qra.load(tmp_path / "w.pth", resnet20())(X), network(X))
    torch.save({**state, **own, "sigma": torch.full((3,), 0.5 * unit)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"it normalizes pixels by sigma = .*5, .*: give it the mean and std of"):
        qra.load(tmp_path / "w.pth", resnet20())


def test_a_network_that_normalizes_nothing_is_not_one_that_does(tmp_path):
    bare = torchvision.models.squeezenet1_1(num_classes=10)
    torch.save({"model": bare.state_dict(), "mean": torch.zeros(3)}, tmp_path / "w.pth")
    qra.load(tmp_path / "w.pth", torchvision.models.squeezenet1_1(num_classes=10))
    torch.save({**prefixed("model.")(bare.state_dict()), "normalizer.mean": torch.full((3,), 0.5)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"it normalizes pixels by normalizer\.mean = 0\.5, 0\.5, 0\.5, unlike this"):
        qra.load(tmp_path / "w.pth", torchvision.models.squeezenet1_1(num_classes=10))


def changed(name, change):
    return lambda state: {**state, name: change(state[name])}


WRONG = {
    "nan": (changed("fc.bias", lambda v: v * torch.nan), "fc.bias holds values that are not finite"),
    "inf": (changed("bn1.running_var", lambda v: v / 0), "bn1.running_var holds values that are not finite"),
    "float64": (changed("fc.bias", lambda v: v.double() + 1e300), "fc.bias holds values that are not finite"),
    "variance": (changed("bn1.running_var", lambda v: -v), "bn1.running_var holds variances below 0: it is damaged"),
    "complex": (changed("fc.weight", lambda v: v * 1j), "fc.weight holds complex64"),
    "integer": (changed("fc.weight", lambda v: v.long()), "fc.weight holds int64"),
    "shape": (changed("fc.weight", lambda v: v[:3]), r"fc.weight has the shape \(3, 64\), not \(10, 64\)"),
    "sparse": (changed("fc.weight", lambda v: v.to_sparse()), "fc.weight is not a plain tensor"),
    "meta": (changed("fc.weight", lambda v: v.to("meta")), "fc.weight is not a plain tensor"),
    "no tensor": (changed("fc.weight", lambda v: [1.0]), "it has no fc.weight"),
    "missing": (lambda state: {name: v for name, v in state.items() if name != "fc.bias"}, "it has no fc.bias"),
    "too many": (lambda state: {**state, "head.weight": torch.zeros(3)}, "it has head.weight, which this one lacks$"),
    "too many inside": (lambda state: prefixed("a.")({**state, "b": torch.zeros(3)}), "it has a.b, which .* lacks$"),
    "nothing": (lambda state: {"epoch": 3}, "no state_dict"),
    "one tensor": (lambda state: torch.zeros(3), "no state_dict"),
    "numbers": (lambda state: {"state_dict": dict.fromkeys(state, 1.0)}, "no state_dict"),
    "description": (lambda state: {"state_dict": state, "qra": 3}, "by a int"),
    "huge view": (changed("fc.weight", lambda v: torch.zeros(1).expand(2**30, 8)), "take more than"),
}


def test_a_clip_level_that_is_no_number_is_refused_by_name(tmp_path):
    network = resnet20()
    convert(network, QuantScheme(DoReFa(), PACT(), 4, 4))
    state = network.state_dict()
    torch.save({**state, "relu1.alpha": state["relu1.alpha"] * torch.nan}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: its relu1\.alpha holds values that are not finite"):
        qra.load(tmp_path / "w.pth", network)


@pytest.mark.parametrize(("layout", "reason"), WRONG.values(), ids=WRONG)
def test_weights_that_cannot_be_are_refused_with_their_name(tmp_path, network, layout, reason):
    torch.save(layout(network.state_dict()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"w.pth: .*{reason}"):
        qra.load(tmp_path / "w.pth", resnet20())


def test_a_description_that_nests_a_thousand_deep_is_refused(tmp_path, network):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # to write it; reading takes no depth
    description = {"class_path": "qra.models.resnet20", "init_args": {}}
    for _ in range(1000):
        description = {"class_path": "qra.models.Normalized", "init_args": {"network": description}}
    torch.save({"state_dict": network.state_dict(), "qra": {"network": description}}, tmp_path / "w.pth")
    sys.setrecursionlimit(limit)
    with pytest.raises(ValueError, match=r"w\.pth: cannot be rebuilt .*nests deeper"):
        qra.load(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", [dict, list])
def test_a_small_file_that_repeats_itself_without_end_is_refused(tmp_path, kind):
    repeated = {"w": torch.zeros(1)}
    for _ in range(8):
        repeated = {str(i): repeated for i in range(99)} if kind is dict else [repeated] * 99
    torch.save({"model": {"w": torch.zeros(1)}, "qra": {"network": repeated}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: has more than the 500,000 entries"):
        checkpoint.read(tmp_path / "w.pth")


def test_pickled_objects_are_named_with_what_to_do(tmp_path, network):
    torch.save({"args": argparse.Namespace(lr=0.1), "model": network.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth: holds pickled objects \(argparse.Namespace\).*save only its weights"):
        qra.load(tmp_path / "w.pth", resnet20())


class Zeros:
    def __reduce__(self):
        return bytearray, (2**40,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path, legacy):
    torch.save(
        {"state_dict": {"w": torch.zeros(1)}, "x": Zeros()}, tmp_path / "w", _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ValueError, match="w: cannot be read: it is larger"):
        checkpoint.read(tmp_path / "w")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(50), bytes(100), b"\x02" + bytes(7) + b"{}x"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth: "):
        checkpoint.read(tmp_path / "w.pth")


def test_a_pipe_and_a_device_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="is not a regular file"):
            checkpoint.read(path)
    assert time.monotonic() - start < 1


class WithBuffers(nn.Module):
    """Normalizes inside, as many networks of RobustBench do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.tensor((0.5, 0.4, 0.3)).view(3, 1, 1))
        self.register_buffer("sigma", torch.full((3, 1, 1), 0.2))
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.conv((x - self.mu) / self.sigma).mean((2, 3)))


@pytest.mark.parametrize("kept", [True, False])
def test_a_network_that_normalizes_inside_takes_files_with_and_without_its_buffers(tmp_path, kept, caplog):
    network = WithBuffers().eval()
    state = {f"module.{name}": v for name, v in network.state_dict().items() if kept or name not in ("mu", "sigma")}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
    assert torch.equal(qra.load(tmp_path / "w.pt", WithBuffers())(X), network(X))
    assert ("mu, sigma, which stay unchanged" in caplog.text) != kept


def test_a_learned_weight_that_is_called_like_a_statistic_must_be_there(tmp_path):
    network = nn.Module()
    network.mu = nn.Parameter(torch.zeros(64, 3))
    network.fc = nn.Linear(2, 2)
    torch.save(network.fc.state_dict(prefix="fc."), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="it has no mu"):
        qra.load(tmp_path / "w.pt", network)
