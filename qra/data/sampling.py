"""Splits, subsets and batches of images as pure functions of labels and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from qra import noise
from qra.checks import check_in
from qra.noise import Stream

# Each use of a seed has its own stream of random numbers.


def val_split(labels: Tensor, val_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split off validation images from a training set, stratified by class.

    Each class contributes in proportion to its size, so classes of equal size contribute equally (to within one image).

    Args:
        labels: Class numbers of the training set, (N,).
        val_size: Number of validation images.
        seed: Seed of the split.

    Returns:
        Sorted positions of the training images and of the validation images.

    Raises:
        ValueError: If ``val_size`` is negative or leaves no training images.
    """
    if not 0 <= val_size < len(labels):
        raise ValueError(
            f"val_size is {val_size}, but the training set has {len(labels)} images: val_size must be at least 0 and "
            "smaller than that"
        )
    order = _stratified_order(labels, seed, Stream.SPLIT)
    return order[val_size:].sort().values, order[:val_size].sort().values


def nested_subset(labels: Tensor, indices: Tensor, fraction: float, seed: int) -> Tensor:
    """Take a fraction of some images, stratified by class; smaller fractions are nested in larger ones.

    Args:
        labels: Class numbers of the whole data set, (N,).
        indices: Positions of the images to choose from, (M,).
        fraction: Fraction to take, in (0, 1].
        seed: Seed of the nested subsets.

    Returns:
        ``round(fraction * M)`` sorted members of ``indices``.

    Raises:
        ValueError: If ``fraction`` is not in (0, 1].
    """
    check_in("fraction", fraction, "(0, 1]")
    return indices[stratified_prefix(labels[indices], round(fraction * len(indices)), seed)].sort().values


def balanced_subset(labels: Tensor, n: int, seed: int) -> Tensor:
    """Choose images for an evaluation, with classes in the proportions of the data set.

    Args:
        labels: Class numbers of the data set, (N,).
        n: Number of images; it need not be a multiple of the number of classes.
        seed: Seed of the nested subsets: a smaller ``n`` chooses a subset of the images of a larger one.

    Returns:
        Sorted positions, (n,).

    Raises:
        ValueError: If ``n`` is not in 1..N.
    """
    if not 1 <= n <= len(labels):
        raise ValueError(f"a subset of {n} images was requested from {len(labels)}: choose 1 to {len(labels)}")
    return stratified_prefix(labels, n, seed).sort().values


def stratified_prefix(labels: Tensor, n: int, seed: int) -> Tensor:
    """Return the first ``n`` positions of a fixed random order of which every prefix has the classes in proportion."""
    return _stratified_order(labels, seed, Stream.SUBSET)[:n]


def _stratified_order(labels: Tensor, seed: int, stream: int) -> Tensor:
    """Return a random order of all positions of which every prefix has the classes in proportion to their sizes."""
    positions = torch.arange(len(labels))
    shuffled = noise.uniform((), positions, seed, stream).argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    classes = labels[by_class]
    offsets = noise.uniform((), torch.arange(len(counts)), seed, stream, Stream.OFFSET).double()
    # Item j of a class of c images comes once the fraction (j + offset) / c of the order has passed.
    shares = (positions - starts[classes] + offsets[classes]) / counts[classes]
    return by_class[shares.argsort(stable=True)]


class IndexBatches(Sampler[Tensor]):
    """Batches of data set indices: a sequence of global batches, each divided among the ranks of a run.

    The global batches depend only on the seed and the epoch. Each rank takes every ``world_size``-th item of each of
    them, so a pass uses every index exactly once with any number of ranks, and all ranks get the same number of
    batches: a last batch with fewer items than ranks is merged into the one before it.

    Args:
        indices: Data set indices to use, (N,).
        batch_size: Items per global batch.
        shuffle: Whether to draw a new order each epoch; otherwise the order of ``indices`` is kept.
        seed: Seed of the sequence of orders.
        rank: Rank of this process.
        world_size: Number of processes.
        drop_last: Whether to drop a last batch that is not full.
        length: Number of batches per epoch, all full. The indices are passed through repeatedly, each time in another
            order, until there are as many. One pass if not given.

    Attributes:
        begin: Called when an iteration begins; returns how many batches of the epoch were done before training was
            resumed.

    Raises:
        ValueError: If a rank would get an empty batch, or no batches.
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
        """Select the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[Tensor]:
        # A generator: the epoch is read at the first batch, because on resuming Lightning calls `set_epoch` after
        # `iter`.
        sizes = self._sizes()
        passes = -(-sum(sizes) // len(self.indices))
        order = torch.cat([self._order(number) for number in range(passes)])[: sum(sizes)]
        for batch in torch.split(order, sizes)[self.begin() :]:
            yield batch[self.rank :: self.world_size]

    def _order(self, number: int) -> Tensor:
        """Return the order of one pass of the epoch."""
        if not self.shuffle:
            return self.indices
        again = (number,) if number else ()
        keys = noise.uniform((), self.indices, self.seed, self.epoch, Stream.SHUFFLE, *again)
        return self.indices[keys.argsort(stable=True)]

    def _sizes(self) -> list[int]:
        """Return the sizes of the global batches."""
        if self.length is not None:
            return [self.batch_size] * self.length
        full, rest = divmod(len(self.indices), self.batch_size)
        sizes = [self.batch_size] * full
        if rest == 0 or self.drop_last:
            return sizes
        if rest < self.world_size:
            return [*sizes[:-1], self.batch_size + rest]
        return [*sizes, rest]
