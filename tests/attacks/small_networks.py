"""Small networks and images to attack."""

import torch
from torch import nn

CLASSES = 5


def draw_images(seed, n=8):
    """Float64 images (n, 3, 6, 6) in [0, 1], some pixels at its ends."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 3, 6, 6, generator=generator, dtype=torch.float64) * 1.2 - 0.1).clamp_(0, 1)


class SmallNet(nn.Sequential):
    """Convolution, BatchNorm with statistics of its own, dropout and a linear layer; in train mode."""

    def __init__(self, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            norm = nn.BatchNorm2d(6)
            super().__init__(
                nn.Conv2d(3, 6, 3, stride=2), norm, nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, CLASSES)
            )
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.2, 2)
        self.double()


class SteppedNet(SmallNet):
    """The same, of which activations are rounded straight through, and which knows what it is without that."""

    STEPS = 4

    def forward(self, x):
        *features, last = self
        for layer in features:
            x = layer(x)
        return last(x + ((x * self.STEPS).round() / self.STEPS - x).detach())

    def unrounded(self):
        plain = SmallNet()
        plain.load_state_dict(self.state_dict())
        return plain.eval()


class CountedNet(nn.Module):
    """Remembers how many examples each forward pass took."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.batch_sizes = []

    def forward(self, x):
        self.batch_sizes.append(len(x))
        return self.network(x)


@torch.no_grad()
def predict(model, x):
    """Class numbers in eval mode, (N,)."""
    training = model.training
    labels = model.eval()(x).argmax(1)
    model.train(training)
    return labels


def distance(x_adv, x, norm):
    return torch.linalg.vector_norm((x_adv - x).flatten(1), ord=float("inf") if norm == "linf" else 2, dim=1)
