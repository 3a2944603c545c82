"""The twin and the integer form on onnxruntime are the same to the last bit, and what the network computes."""

import pytest
import torch
from small import CALIBRATED, TRAINED, calibrated, images, in_float64, programmed, resnet, run, trained, usual

from qra.deploy.onnx import to_onnx
from qra.quant.network import activation_quantizers

NETWORKS = {
    **{name: lambda scheme=scheme: trained(scheme) for name, scheme in TRAINED.items()},
    **{f"projection-{name}": lambda s=TRAINED[name]: trained(s, resnet(True)) for name in ("W4A4-DoReFa", "W8A8-SAWB")},
    **{name: lambda scheme=scheme: calibrated(scheme) for name, scheme in CALIBRATED.items()},
    "pwlq-corrected": lambda: calibrated(CALIBRATED["pwlq"], True),
    "pwlq-projection": lambda: calibrated(CALIBRATED["pwlq"], True, resnet(True)),
}


@pytest.fixture(scope="module", params=usual(NETWORKS))
def made(request):
    network = NETWORKS[request.param]()
    return network, *programmed(network)


@pytest.mark.parametrize("optimized", [False, True], ids=["as written", "optimized"])
def test_the_twin_is_the_integer_form_bit_for_bit(made, optimized):
    _, program, twin = made
    model, x = to_onnx(program), images(7)
    with torch.no_grad():
        expected = twin(x)
    assert torch.equal(run(model, x, optimized=optimized)[0], expected)
    alone = run(model, x[:1], optimized=optimized, threads=2)[0]
    assert torch.equal(alone, expected[:1])


@torch.no_grad()
def test_each_layer_of_the_twin_has_the_codes_of_the_network_in_float64(made):
    """Given the same codes before it, for a tie that falls the other way has others follow."""
    network, _, twin = made
    x, exact, found = images(16), in_float64(network), {}
    codes = twin.codes(x)

    def force(name):
        def hook(quantizer, arguments, _):
            grid = quantizer.grid(torch.float64)
            found[name] = grid.codes(arguments[0].clone())
            return grid.dequantize(codes[name].double())

        return hook

    for name, quantizer in activation_quantizers(exact).items():
        quantizer.register_forward_hook(force(name))
    logits = exact((x.double() * 255).round() / 255)
    assert codes.keys() == found.keys()
    differences = torch.cat([(codes[name] - found[name]).abs().flatten() for name in codes])
    assert differences.max() <= 1
    assert (differences > 0).sum() <= 1 + 1e-5 * len(differences)
    assert torch.allclose(twin(x).double(), logits, rtol=1e-5, atol=1e-5 * float(logits.abs().max()))
