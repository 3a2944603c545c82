"""A stand-in for CUDA graphs: work is done again on the same memory, and its results are written over the old ones."""

import torch


class Replaying:
    """Records on any device.

    Attributes:
        count: Number of things recorded.
    """

    def __init__(self):
        self.turn = 0
        self.count = 0

    def __call__(self, device):  # it makes itself: all that a test records shares its memory, as with CUDA graphs
        return self

    def rehearse(self, work):
        work()

    def record(self, work):
        self.count += 1
        results, with_gradients = work(), torch.is_grad_enabled()

        def replay():
            with torch.set_grad_enabled(with_gradients):
                again = work()
            with torch.no_grad():
                for old, new in zip(flat(results), flat(again), strict=True):
                    old.copy_(new)

        return results, replay


class Refusing(Replaying):
    """Records nothing, as where a network waits for the device."""

    def record(self, work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def flat(results):
    if results is None:
        return []
    return [results] if isinstance(results, torch.Tensor) else [each for each in results if each is not None]
