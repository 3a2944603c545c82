import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.data import IndexBatches, balanced_subset, nested_subset, val_split
from qra.data.workers import PassBatches

EQUAL = torch.arange(200) % 10
labels_of_any_balance = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(torch.tensor)
seeds = st.integers(0, 5)


def counts(labels):
    return torch.bincount(labels, minlength=10)


@given(labels_of_any_balance, st.data(), seeds)
@settings(max_examples=30, deadline=None)
def test_a_val_split_is_a_partition(labels, data, seed):
    size = data.draw(st.integers(0, len(labels) - 1))
    train, val = val_split(labels, size, seed)
    assert len(val) == size
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(len(labels)))


@given(st.integers(0, 199), seeds)
@settings(max_examples=20, deadline=None)
def test_a_val_split_of_equal_classes_takes_equal_shares(size, seed):
    taken = counts(EQUAL[val_split(EQUAL, size, seed)[1]])
    assert taken.max() - taken.min() <= 1


def test_a_val_split_depends_on_the_seed_alone():
    torch.manual_seed(0)
    first = val_split(EQUAL, 50, seed=3)[1]
    torch.manual_seed(1)
    assert torch.equal(first, val_split(EQUAL, 50, seed=3)[1])
    assert not torch.equal(first, val_split(EQUAL, 50, seed=4)[1])


@pytest.mark.parametrize("size", [-1, 200])
def test_a_val_split_that_leaves_nothing_is_refused(size):
    with pytest.raises(ValueError, match=f"val_size is {size}, but the training set has 200 images"):
        val_split(EQUAL, size, seed=0)


@given(labels_of_any_balance, st.data(), seeds)
@settings(max_examples=40, deadline=None)
def test_a_smaller_fraction_is_contained_in_a_larger_one(labels, data, seed):
    indices = torch.tensor(data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1, unique=True)))
    small, large = sorted(data.draw(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1))))
    inner, outer = (nested_subset(labels, indices, fraction, seed) for fraction in (small, large))
    assert len(inner) == round(small * len(indices))
    assert set(inner.tolist()) <= set(outer.tolist()) <= set(indices.tolist())


@given(st.floats(0.05, 1), seeds)
@settings(max_examples=20, deadline=None)
def test_a_fraction_takes_its_share_of_a_rare_class_too(fraction, seed):
    labels = (torch.arange(200) % 20 == 7).long()  # 190 and 10
    subset = nested_subset(labels, torch.arange(200), fraction, seed)
    assert abs((labels[subset] == 1).sum() - 10 * fraction) <= 1.2


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        nested_subset(EQUAL, torch.arange(200), fraction, seed=0)


@given(st.integers(1, 200), seeds)
@settings(max_examples=20, deadline=None)
def test_an_evaluation_subset_is_sorted_and_balanced_whatever_its_size(n, seed):
    subset = balanced_subset(EQUAL, n, seed)
    taken = counts(EQUAL[subset])
    assert len(subset) == n
    assert (subset.diff() > 0).all()
    assert taken.max() - taken.min() <= 1


def test_evaluation_subsets_are_nested():
    assert set(balanced_subset(EQUAL, 33, 1).tolist()) < set(balanced_subset(EQUAL, 77, 1).tolist())


@pytest.mark.parametrize("n", [0, 201])
def test_an_evaluation_subset_larger_than_the_data_is_refused(n):
    with pytest.raises(ValueError, match="choose 1 to 200"):
        balanced_subset(EQUAL, n, seed=0)


@st.composite
def plans(draw):
    """Images, batch size and ranks that go together, with a shuffle and an epoch."""
    world_size = draw(st.integers(1, 5))
    batch_size = draw(st.integers(world_size, 12))
    drop_last = draw(st.booleans())
    indices = 100 + torch.randperm(draw(st.integers(batch_size if drop_last else world_size, 50)))
    settings = {"shuffle": draw(st.booleans()), "seed": draw(seeds), "drop_last": drop_last}
    return indices, batch_size, world_size, settings, draw(st.integers(0, 3))


def batches_of_ranks(indices, batch_size, world_size, settings, epoch):
    """What each rank gets: a list of batches for every rank."""
    samplers = [IndexBatches(indices, batch_size, rank=r, world_size=world_size, **settings) for r in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


def order_of_epoch(ranks):
    """Put the ranks' batches together again as the order of the whole epoch."""
    order = []
    for parts in zip(*ranks, strict=True):
        whole = torch.empty(sum(map(len, parts)), dtype=torch.int64)
        for rank, part in enumerate(parts):
            whole[rank :: len(ranks)] = part
        order.append(whole)
    return torch.cat(order)


@given(plans())
@settings(max_examples=60, deadline=None)
def test_ranks_get_equally_many_batches_and_none_is_empty(plan):
    ranks = batches_of_ranks(*plan)
    indices, batch_size, world_size, settings, _ = plan
    lengths = {len(batches) for batches in ranks}
    assert lengths == {len(IndexBatches(indices, batch_size, rank=0, world_size=world_size, **settings))}
    assert all(len(batch) > 0 for batches in ranks for batch in batches)


@given(plans())
@settings(max_examples=60, deadline=None)
def test_each_index_comes_exactly_once_unless_the_last_batch_is_dropped(plan):
    indices, batch_size, _, settings, _ = plan
    seen = order_of_epoch(batches_of_ranks(*plan))
    if settings["drop_last"]:
        assert len(seen) == len(indices) // batch_size * batch_size
        assert len(set(seen.tolist())) == len(seen)
        assert set(seen.tolist()) <= set(indices.tolist())
    else:
        assert torch.equal(seen.sort().values, indices.sort().values)


@given(plans())
@settings(max_examples=60, deadline=None)
def test_the_order_does_not_depend_on_the_number_of_ranks(plan):
    indices, batch_size, _, settings, epoch = plan
    alone = order_of_epoch(batches_of_ranks(indices, batch_size, 1, settings, epoch))
    assert torch.equal(order_of_epoch(batches_of_ranks(*plan)), alone)


@given(plans())
@settings(max_examples=40, deadline=None)
def test_global_batches_have_the_size_asked_for_but_the_last(plan):
    ranks = batches_of_ranks(*plan)
    sizes = [sum(map(len, parts)) for parts in zip(*ranks, strict=True)]
    _, batch_size, world_size, settings, _ = plan
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] < batch_size + world_size
    assert not settings["drop_last"] or sizes[-1] == batch_size


def test_a_shuffled_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return order_of_epoch(batches_of_ranks(torch.arange(40), 8, 1, {"shuffle": True, "seed": seed}, epoch))

    assert torch.equal(order(1, 2), order(1, 2))
    assert not torch.equal(order(1, 2), order(1, 3))
    assert not torch.equal(order(1, 2), order(2, 2))


def test_an_order_that_is_not_shuffled_is_kept():
    indices = torch.tensor([5, 3, 9, 1])
    assert torch.equal(order_of_epoch(batches_of_ranks(indices, 2, 1, {"shuffle": False, "seed": 0}, 7)), indices)


def test_the_epoch_counts_when_the_first_batch_is_taken():
    sampler = IndexBatches(torch.arange(40), 8, shuffle=True, seed=0)
    begun = iter(sampler)
    sampler.set_epoch(3)
    assert torch.equal(torch.cat(list(begun)), torch.cat(list(sampler)))


@pytest.mark.parametrize(
    ("n", "batch_size", "world_size", "drop_last"),
    [(10, 0, 1, False), (10, 2, 3, False), (2, 4, 3, False), (3, 4, 1, True)],
)
def test_a_plan_that_leaves_a_rank_without_work_is_refused(n, batch_size, world_size, drop_last):
    with pytest.raises(ValueError, match=f"{n} images in batches of {batch_size}"):
        IndexBatches(torch.arange(n), batch_size, False, 0, 0, world_size, drop_last)


@pytest.mark.parametrize("kind", [IndexBatches, PassBatches])
def test_what_was_done_of_an_epoch_before_a_resumption_is_not_dealt_out_again(kind):
    whole, rest = (kind(torch.arange(10), 2, True, 0, length=7) for _ in range(2))
    rest.begin = lambda: 3
    assert list(map(str, rest)) == list(map(str, whole))[3:]
