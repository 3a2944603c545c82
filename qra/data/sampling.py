"""Which images are used, and in which order: splits, subsets and batches as pure functions of labels and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from qra import noise
from qra.checks import check_in
from qra.noise import Stream

# Each use of a seed draws its own numbers.


def val_split(labels: Tensor, val_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cut validation images from a training set, class by class.

    Every class gives in proportion to its size, so classes of one size give equal counts (to within one image).

    Args:
        labels: Class numbers of the training set, (N,).
        val_size: Number of validation images.
        seed: Names the split.

    Returns:
        Sorted positions of the training images, and of the validation images.

    Raises:
        ValueError: If ``val_size`` is negative, or leaves nothing to train on.
    """
    if not 0 <= val_size < len(labels):
        raise ValueError(
            f"val_size is {val_size}, but the training set has {len(labels)} images: val_size must be at least 0 and "
            "smaller than that"
        )
    order = _stratified_order(labels, seed, Stream.SPLIT)
    return order[val_size:].sort().values, order[:val_size].sort().values


def nested_subset(labels: Tensor, indices: Tensor, fraction: float, seed: int) -> Tensor:
    """Take a share of some images, class by class; a smaller share is contained in every larger one.

    Args:
        labels: Class numbers of the whole data set, (N,).
        indices: Positions of the images to choose from, (M,).
        fraction: Share to take, in (0, 1].
        seed: Names the nest of subsets.

    Returns:
        ``round(fraction * M)`` sorted members of ``indices``.

    Raises:
        ValueError: If ``fraction`` is not in (0, 1].
    """
    check_in("fraction", fraction, "(0, 1]")
    return indices[stratified_prefix(labels[indices], round(fraction * len(indices)), seed)].sort().values


def balanced_subset(labels: Tensor, n: int, seed: int) -> Tensor:
    """Choose images for an evaluation, as evenly over the classes as the data set is.

    Args:
        labels: Class numbers of the data set, (N,).
        n: Number of images; it need not be a multiple of the number of classes.
        seed: Names the nest of subsets: a smaller ``n`` chooses from the same images.

    Returns:
        Sorted positions, (n,).

    Raises:
        ValueError: If ``n`` is not in 1..N.
    """
    if not 1 <= n <= len(labels):
        raise ValueError(f"a subset of {n} images was asked of a set of {len(labels)}: choose 1 to {len(labels)}")
    return stratified_prefix(labels, n, seed).sort().values


def stratified_prefix(labels: Tensor, n: int, seed: int) -> Tensor:
    """First ``n`` positions of a fixed random order whose every prefix holds the classes in proportion."""
    return _stratified_order(labels, seed, Stream.SUBSET)[:n]


def _stratified_order(labels: Tensor, seed: int, stream: int) -> Tensor:
    """Random order of all positions whose every prefix holds the classes in proportion to their sizes."""
    positions = torch.arange(len(labels))
    shuffled = noise.uniform((), positions, seed, stream).argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    classes = labels[by_class]
    offsets = noise.uniform((), torch.arange(len(counts)), seed, stream, Stream.OFFSET).double()
    # The j-th of a class of c images comes once the share (j + offset) / c of the order has passed.
    shares = (positions - starts[classes] + offsets[classes]) / counts[classes]
    return by_class[shares.argsort(stable=True)]


class IndexBatches(Sampler[Tensor]):
    """Batches of data set indices: one global batch after the other, dealt out to the ranks of a run.

    The global batches depend on the seed and the epoch alone. Each rank takes every ``world_size``-th item of each of
    them, so a pass uses every index exactly once, with any number of ranks, and all ranks take the same number of
    batches: a last batch with fewer items than ranks joins the one before it.

    Args:
        indices: Data set indices to use, (N,).
        batch_size: Items of one global batch.
        shuffle: Draw a new order each epoch; otherwise keep the order of ``indices``.
        seed: Names the sequence of orders.
        rank: This process.
        world_size: Number of processes.
        drop_last: Leave out a last batch that is not full.
        length: Batches of an epoch, all full: the indices are gone through again and again, each time in another order,
            until there are as many. One pass if not given.

    Attributes:
        begin: Says, when an iteration begins, how many batches of the epoch a training has had before it was resumed.

    Raises:
        ValueError: If some rank would get an empty batch, or all would get none.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        length: int | None = None,
    ) -> None:
        least = max(world_size, batch_size if drop_last else 1)
        if batch_size < world_size or len(indices) < least:
            raise ValueError(
                f"{len(indices)} images in batches of {batch_size} do not give each of {world_size} processes a share: "
                "use more images, fewer devices, or another batch_size"
            )
        self.indices = indices
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.length = length
        self.epoch = 0
        self.begin: Callable[[], int] = lambda: 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order that the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[Tensor]:
        # A generator: the epoch is read at the first batch, since Lightning calls `set_epoch` after `iter` on resuming.
        sizes = self._sizes()
        passes = -(-sum(sizes) // len(self.indices))
        order = torch.cat([self._order(number) for number in range(passes)])[: sum(sizes)]
        for batch in torch.split(order, sizes)[self.begin() :]:
            yield batch[self.rank :: self.world_size]

    def _order(self, number: int) -> Tensor:
        """The order of one pass of the epoch."""
        if not self.shuffle:
            return self.indices
        again = (number,) if number else ()
        keys = noise.uniform((), self.indices, self.seed, self.epoch, Stream.SHUFFLE, *again)
        return self.indices[keys.argsort(stable=True)]

    def _sizes(self) -> list[int]:
        """Sizes of the global batches."""
        if self.length is not None:
            return [self.batch_size] * self.length
        full, rest = divmod(len(self.indices), self.batch_size)
        sizes = [self.batch_size] * full
        if rest == 0 or self.drop_last:
            return sizes
        if rest < self.world_size:
            return [*sizes[:-1], self.batch_size + rest]
        return [*sizes, rest]
