import pytest
import torch

from qra.quant import lsq, pact, uniform_symmetric, uniform_unsigned

QUANTIZERS = {
    "pact": lambda x, a: pact(x, a, 4),
    "pact soft": lambda x, a: pact(x, a, 4, "ste_soft"),
    "lsq": lambda x, a: lsq(x, a / 15, 4, False),
    "lsq signed": lambda x, a: lsq(x, a / 7, 4, True),
    "unsigned": lambda x, a: uniform_unsigned(x, 4, a.detach()) * a,
    "symmetric": lambda x, a: uniform_symmetric(x, 4, a.detach()) * a,
}


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be instantiated")
def test_compilation_needs_no_graph_break_and_changes_nothing(gradients, name):
    x, upstream, alpha = torch.linspace(-1.5, 1.5, 97), torch.linspace(1, 2, 97), torch.tensor(0.8)
    torch.compiler.reset()
    compiled = torch.compile(QUANTIZERS[name], fullgraph=True, backend="aot_eager")
    expected = gradients(QUANTIZERS[name], [x, alpha], upstream)
    assert all(each.any() for each in expected)
    torch.testing.assert_close(gradients(compiled, [x, alpha], upstream), expected)
