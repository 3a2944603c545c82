import torch

from qra import noise


def test_a_draw_depends_on_the_index_and_not_on_its_place_in_the_batch():
    whole = noise.uniform((3, 4), torch.arange(10), 1, 2)
    part = noise.uniform((3, 4), torch.tensor([7, 2]), 1, 2)
    assert torch.equal(part, whole[[7, 2]])


def test_draws_of_other_keys_differ():
    index = torch.arange(5)
    draws = [noise.uniform((8,), index, *key) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0), (7,), (-7,)]]
    for i, first in enumerate(draws):
        assert all(not torch.equal(first, second) for second in draws[i + 1 :])


def test_a_key_may_be_any_whole_number():
    draws = [noise.uniform((8,), torch.arange(5), key) for key in (10**23, -(10**23), 5 - 2**100)]
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[2], noise.uniform((8,), torch.arange(5), 5))  # as every key, it counts by its low 32 bits


def test_uniform_draws_are_uniform_and_uncorrelated():
    u = noise.uniform((3, 32, 32), torch.arange(64), 3).double()
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u.flatten(), bins=64, min=0, max=1)
    expected = u.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 110  # chi-squared with 63 degrees of freedom, p < 0.0003
    rows = torch.corrcoef(u.flatten(1)).fill_diagonal_(0)
    assert rows.abs().max() < 5 / 3072**0.5


def test_normal_draws_are_standard_normal():
    z = noise.normal((3, 32, 32), torch.arange(64), 3).double()
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1


def test_integers_cover_their_range_evenly():
    draws = noise.integers(9, (), torch.arange(90_000), 5)
    counts = torch.bincount(draws, minlength=9)
    assert counts.numel() == 9
    assert (counts - 10_000).abs().max() < 500


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    noise.normal((4,), torch.arange(4), 0)
    assert torch.equal(before, torch.get_rng_state())
