"""The twin is an ordinary network: it is saved, loaded, refused where it was changed, and differentiated like one."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CALIBRATED, LSQ_PLUS, TRAINED, bottleneck, calibrated, images, in_float64, programmed, trained, usual
from torch.nn import functional as F

import qra
from qra.deploy.bounds import saturates_without_vnni, sums
from qra.deploy.ops import Convolution, Flatten, Linear, Part, Real, Requantize
from qra.deploy.program import Program
from qra.deploy.twin import IntegerNetwork, Sums
from qra.describe import describe
from qra.quant import freeze, gradient_mode, unrounded


@pytest.fixture(scope="module")
def network():
    return trained(TRAINED["W4A4-DoReFa"])


@pytest.fixture(scope="module")
def program(network):
    return programmed(network)[0]


@pytest.fixture
def file(program, tmp_path):
    program.save(tmp_path / "twin.safetensors")
    return tmp_path / "twin.safetensors"


def test_a_saved_program_is_the_same_program_and_the_same_twin(program, file):
    loaded, x = qra.load(file), images(3)
    assert Program.load(file).sha256 == program.sha256
    assert isinstance(loaded, IntegerNetwork)
    assert describe(loaded) == program.description
    assert torch.equal(loaded(x), IntegerNetwork(program)(x))


def test_a_program_is_always_the_same_file(program, tmp_path):
    contents = set()
    for number in range(8):
        program.save(tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("place", [-1, -5000])
def test_a_changed_file_is_refused(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    for load in (Program.load, qra.load):
        with pytest.raises(ValueError, match=r"sha256|not finite"):
            load(file)


def test_a_changed_operation_is_refused(file):
    content = file.read_bytes()
    for old, new in ((b'\\"stride\\\\\\":[2,2]', b'\\"stride\\\\\\":[1,1]'), (b'\\"low\\\\\\":0', b'\\"low\\\\\\":1')):
        changed = content.replace(old.replace(b'\\"', b'\\\\\\"', 1), new.replace(b'\\"', b'\\\\\\"', 1))
        assert changed != content
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="sha256"):
            Program.load(file)


def test_files_that_are_no_programs_are_refused(tmp_path):
    file = tmp_path / "twin.safetensors"
    for content in (b"", b"nothing", b"\xff" * 100, (2).to_bytes(8, "little") + b"{}"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is not an integer program"):
            Program.load(file)


def test_images_of_another_size_are_refused(program):
    with pytest.raises(ValueError, match=r"\(3, 32, 32\).*exported for \(3, 16, 16\)"):
        IntegerNetwork(program)(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("mode", ["ste", "ste_soft"])
@pytest.mark.parametrize(
    "scheme", usual(["W4A4-DoReFa", "W3A3-SAWB", "uniform", "pwlq", "LSQ+"], ("W4A4-DoReFa", "uniform", "LSQ+"))
)
def test_gradients_are_those_of_the_frozen_network(scheme, mode):
    """In float64, on bytes away from the ends of the calibrated range, where no rounding falls the other way."""
    if scheme == "LSQ+":
        network = trained(LSQ_PLUS, bottleneck())
    else:
        network = trained(TRAINED[scheme]) if scheme in TRAINED else calibrated(CALIBRATED[scheme])
    _, twin = programmed(network)
    gradients = []
    for each in (in_float64(network), copy.deepcopy(twin).double()):
        x = ((images(8, seed=5).double() * 255).round().clamp(5, 250) / 255).requires_grad_()
        with gradient_mode(each, mode):
            gradients.append(torch.autograd.grad(F.cross_entropy(each(x), torch.arange(8)), x)[0])
    expected, found = gradients
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_attack_time_copy_of_a_twin_is_the_twin(program, recwarn):
    twin, x = IntegerNetwork(program).eval(), images(4)
    assert torch.equal(freeze(twin)(x), twin(x))
    assert not recwarn.list


@pytest.mark.parametrize("scheme", ["W4A4-DoReFa", "uniform"])
def test_without_rounding_the_twin_is_the_network_without_rounding(scheme):
    network = trained(TRAINED[scheme]) if scheme in TRAINED else calibrated(CALIBRATED[scheme])
    x = images(4)
    expected = unrounded(in_float64(network))(x.double())
    found = unrounded(programmed(network)[1])(x)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_gradient_modes_reach_the_twin(program):
    twin, x = IntegerNetwork(program).eval(), images(2).requires_grad_()
    found = {}
    for mode in ("ste", "ste_soft", "hard"):
        with gradient_mode(twin, mode):
            found[mode] = torch.autograd.grad(twin(x).sum(), x, allow_unused=True)[0]
    assert found["hard"] is None or not found["hard"].any()
    assert not torch.equal(found["ste"], found["ste_soft"])


def test_every_byte_of_every_channel_gets_the_code_of_the_network():
    network = calibrated(CALIBRATED["uniform-layer"])
    _, twin = programmed(network)
    x = (torch.arange(256) / 255).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    exact = in_float64(network)
    normalized = exact.normalize((x.double() * 255).round() / 255)
    expected = exact.conv1.input_quantizer.grid(torch.float64).codes(normalized)
    assert torch.equal(twin.codes(x)["conv1.input_quantizer"].double(), expected)


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_every_way_of_sums_is_exact(data):
    groups, kernel, stride, padding, dilation = (data.draw(st.integers(low, 3)) for low in (1, 1, 1, 0, 1))
    weight = torch.randint(-128, 128, (2 * groups, 2, kernel, kernel), dtype=torch.int8)
    op = Convolution("conv", "image", weight, *[(n, n) for n in (stride, padding, dilation)], groups)
    x = torch.randint(0, 256, (2, 2 * groups, 9, 9)).float()
    expected = F.conv2d(x.double(), weight.double(), None, stride, padding, dilation, groups)
    sums = Sums(op, {"image": x.shape[1:], "conv": expected.shape[1:]}, (0, 255), 10**6)
    sums.find_way()
    assert sums.way == "plain"
    for way in ("plain", "unfolded", "float64"):
        sums.way = way
        assert torch.equal(sums(x).double(), expected)


def test_sums_beyond_what_float32_holds_are_made_in_float64():
    weight = torch.full((1, 600), 255, dtype=torch.int16)
    weight[0, 0] = 1
    sums = Sums(Linear("fc", "x", weight), {"x": (600,), "fc": (1,)}, (0, 255), 255 * 255 * 600)
    sums.find_way()
    assert sums.way == "float64"
    x = torch.full((1, 600), 255.0)
    assert sums(x).item() == torch.tensor(255.0 * 255 * 599 + 255).item()


def test_it_is_known_which_sums_saturate_without_vnni():
    assert saturates_without_vnni(programmed(trained(TRAINED["W4A4-DoReFa"]))[0]) == ("conv1",)
    wide = saturates_without_vnni(programmed(trained(TRAINED["W8A8-SAWB"]))[0])
    assert wide == ("conv1", *(f"stages.{stage}.0.conv{layer}" for stage in (0, 1) for layer in (1, 2)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("conv1", {"groups": 2}),
        ("conv1", {"stride": (0, 1)}),
        ("conv1", {"padding": (2**20, 2**20)}),
        ("stages.0.0.conv1", {"source": "conv1"}),
        ("fc", {"weight": torch.ones(10, 3, dtype=torch.int8)}),
        ("pool", {"kernel": (0, 4)}),
        ("relu1", {"high": 2**20}),
        ("relu1", {"scale": float("nan")}),
        ("logits", {"factors": torch.ones(2, 10)}),
        ("logits", {"offset": torch.ones(10, 4, 4)}),
    ],
)
def test_operations_that_do_not_fit_one_another_are_refused_by_name(program, name, change):
    ops = [replace(op, **change) if op.name == name else op for op in program.ops]
    with pytest.raises(ValueError, match=f"the operation {name} does not fit its inputs, or is too large"):
        IntegerNetwork(Program(tuple(ops), program.image_shape))


def test_an_image_of_any_size_is_refused_before_memory_is_taken(program):
    with pytest.raises(ValueError, match="too large"):
        IntegerNetwork(Program(program.ops, (3, 2**30, 2**30)))


def test_sums_are_bounded_by_the_code_of_largest_magnitude_of_either_sign():
    codes = Requantize("codes", (Part("image", 0, 1),), torch.ones(1, 1), torch.zeros(1), low=-8, high=7)
    weight = torch.tensor([[3, -3], [1, 0]], dtype=torch.int8)
    logits = Real("logits", (Part("fc", 0, 2),), torch.ones(1, 2), torch.zeros(2))
    program = Program((codes, Flatten("flat", "codes"), Linear("fc", "flat", weight), logits), (1, 1, 2))
    assert dict(sums(program)) == {"fc": 8 * 6}
