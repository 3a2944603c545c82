import pytest
import torch
from torch import nn

from qra import models
from qra.attacks import PGD, AutoAttack
from qra.evaluation.robustness import attack_examples, is_correct
from qra.parts import Parts
from qra.quant import freeze
from qra.types import Batch

pytestmark = pytest.mark.filterwarnings("ignore:out of memory with")


class Small(nn.Module):
    """Has no memory for more than some images."""

    def __init__(self, network, most):
        super().__init__()
        self.network, self.most = network, most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {len(x)} images")
        return self.network(x)


def double(x, y):
    if len(x) > 3:
        raise torch.OutOfMemoryError
    return 2 * x, y + 1


def test_work_goes_on_with_half_as_many_rows_and_its_results_stay():
    x, y = torch.arange(10.0), torch.arange(10)
    parts = Parts()
    with pytest.warns(UserWarning, match="with 10 images at a time: continuing with 5"):
        twice, more = parts(double, x, y)
    assert torch.equal(twice, 2 * x)
    assert torch.equal(more, y + 1)
    assert parts.limit == 3


def test_a_single_row_that_does_not_fit_is_an_error():
    def never(x):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        Parts()(never, torch.zeros(4))


@pytest.mark.filterwarnings("ignore:.*batch normalization is not folded")
def test_a_chunk_of_autoattack_ends_alike_with_little_memory():
    torch.manual_seed(0)
    network = models.ResNet((1, 1), (4, 8)).eval()
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = network(x).argmax(1)
    attack = AutoAttack("2/255", steps=3, targets=2, queries=9)
    batch = Batch(x, y, torch.arange(len(x)))
    broken_by = attack_examples(network, attack, batch, freeze(network)).first_broken_by
    assert len(broken_by.unique()) > 1
    small = Small(network, 4)
    assert torch.equal(attack_examples(small, attack, batch, freeze(small)).first_broken_by, broken_by)
    assert is_correct(small, x, y).all()


@pytest.mark.filterwarnings("ignore:.*batch normalization is not folded")
@pytest.mark.parametrize("stop", [False, True])
def test_pgd_ends_alike_with_little_memory(stop):
    attack = PGD("2/255", "1/255", steps=3, early_stop=stop)
    torch.manual_seed(0)
    network = models.ResNet((1, 1), (4, 8)).eval()
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = network(x).argmax(1)
    torch.testing.assert_close(attack(freeze(Small(network, 4)), x, y), attack(freeze(network), x, y))
