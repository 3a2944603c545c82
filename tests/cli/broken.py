"""A network of one's own with a fault in it."""

from torch import Tensor, nn


class FailsInTraining(nn.Module):
    """A linear network that divides by zero in train mode.

    Args:
        after: Number of passes in train mode that go well.
    """

    def __init__(self, after: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.after -= 1
        return self.layers(x) / (1 if self.after >= 0 else self.after // 0)
