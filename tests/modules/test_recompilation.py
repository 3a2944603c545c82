"""A compiled network is not compiled again and again, after which it would silently run eagerly."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from trivial import trainer

from qra import models
from qra.attacks import PGD
from qra.callbacks import QuantizationSummary
from qra.data import SyntheticDataModule
from qra.modules import AdversarialTraining
from qra.quant import PACT, DoReFa, QuantScheme

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute", "ignore:<class .torch.autograd.function.Function.> should not be instantiated"
)

LIMIT = 8
"""Graphs of training, validation and attacks, two sizes of batches each; batches of one image may be one more."""


class Graphs(Callback):
    """Counts what is compiled.

    Attributes:
        count: Number of graphs so far.
        before: The count before the first step.
        by_epoch: The count after each epoch.
    """

    def __init__(self):
        self.count, self.before, self.by_epoch = 0, None, []

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward

    def on_train_start(self, trainer, pl_module):
        self.before = self.count

    def on_train_epoch_end(self, trainer, pl_module):
        self.by_epoch.append(self.count)


@pytest.mark.parametrize("scheme", [None, QuantScheme(DoReFa(), PACT(alpha=2.0), 4, 4)], ids=["float", "pact"])
def test_networks_are_compiled_a_few_times_at_the_start(scheme, monkeypatch):
    torch.compiler.reset()
    graphs = Graphs()

    def compile_(module):
        module._compiled_call_impl = torch.compile(module._call_impl, backend=graphs)

    monkeypatch.setattr(nn.Module, "compile", compile_)
    module = AdversarialTraining(
        models.ResNet((1,), (4,)), PGD(steps=2), scheme=scheme, val_attack=PGD(steps=2, early_stop=True), compile=True
    )
    data = SyntheticDataModule(train_size=60, val_size=20, test_size=10, batch_size=16, calibration_size=16)
    trainer(
        max_epochs=3, precision="bf16-mixed", callbacks=[graphs, QuantizationSummary()], num_sanity_val_steps=0
    ).fit(module, data)
    assert graphs.before == 0
    first, *later = graphs.by_epoch
    assert 0 < first <= later[-1] <= min(first + 1, LIMIT)
