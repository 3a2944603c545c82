"""Training images per second, plain and adversarial, and the cost of loading and augmenting in comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from common import Timing, alternate, optimizer_steps, parser, report, speed_ratio, untrained

from qra.attacks import PGD
from qra.data import ImageData, ImageSet, TensorDataModule, random_crop_flip, to_pixels
from qra.data.resident import AugmentedImages
from qra.modules import AdversarialTraining, VanillaTraining
from qra.types import Batch

LOADING_LIMIT = 0.05
"""Largest acceptable cost of loading and augmenting, as a share of a training step."""


@dataclass(frozen=True)
class Setting:
    """Computational settings of a training step."""

    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        parts = (
            "bfloat16" if self.bfloat16 else "float32",
            "channels-last" * self.channels_last,
            "compiled" * self.compiled,
        )
        return ", ".join(filter(None, parts))


Key = tuple[str, Setting]
"""Training method and setting."""
PLAIN_FLOAT32 = ("plain", Setting())
LOADING = ("loading and augmenting", Setting())


class RandomBytes(TensorDataModule):
    """Random images in the shape of CIFAR-10."""

    def __init__(self, images: int, batch_size: int) -> None:
        super().__init__(batch_size, val_size=0, calibration_size=1)
        self.images = images

    def load(self) -> ImageData:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (self.images, 3, 32, 32), dtype=torch.uint8, generator=generator)
        data = ImageSet(images, torch.arange(self.images) % 10)
        return ImageData(data, data, tuple("0123456789"))


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = parser(__doc__, batch_size=128)
    options.add_argument("--steps", type=int, default=3, help="training steps of one measurement")
    options.add_argument(
        "--inner-steps", type=int, nargs="*", default=[3, 10], help="steps of adversarial training's PGD"
    )
    options.add_argument("--images", type=int, default=50_000, help="images to load from")
    args = options.parse_args(argv)
    data = RandomBytes(args.images, args.batch_size)
    data.setup()
    batch = next(batches(data, args.device))
    contestants: dict[Key, Callable[[], object]] = {
        (method, setting): training_steps(inner_steps, setting, batch, args.steps)
        for method, inner_steps in ({"plain": 0} | {f"PGD-{n} AT": n for n in args.inner_steps}).items()
        for setting in settings(args.compile)
    }
    contestants[LOADING] = lambda: [len(batch.y) for batch in batches(data, args.device)]
    timings = alternate(contestants, args.rounds, args.device)
    for key, timing in timings.items():  # from here on per batch
        count = len(timing.result) if key == LOADING else args.steps
        timing.seconds = [seconds / count for seconds in timing.seconds]
    rows = [row(key, timings, args.batch_size) for key in timings]
    report(f"training steps of {args.batch_size} images", rows, notes(timings), args)
    return rows


def settings(compiled: bool) -> list[Setting]:
    """Return the settings to compare for each training method, plain float32 first."""
    eager = [Setting(last, bfloat16) for last in (False, True) for bfloat16 in (False, True)]
    return eager + [Setting(True, bfloat16, True) for bfloat16 in (False, True) if compiled]


def batches(data: TensorDataModule, device: torch.device) -> Iterator[Batch]:
    """Yield one epoch of batches as in a run: loaded, moved to the device, augmented, and converted to pixels.

    On a GPU, the images stay on the device and are augmented for the whole epoch at once.
    """
    if device.type == "cuda":
        train = data.data.train
        assert train is not None
        kept = ImageSet(train.images.to(device), train.labels.to(device))
        augmented = AugmentedImages(kept.images, data.train_indices, data.seed).of_pass(0)
        sampler = data.train_dataloader().sampler
        for chosen in sampler:
            indices = chosen.to(device, non_blocking=True)
            yield Batch(to_pixels(augmented[indices]), kept.labels[indices], indices)
        return
    for batch in data.train_dataloader():
        yield Batch(to_pixels(random_crop_flip(batch.x, batch.indices, data.seed, 0)), batch.y, batch.indices)


def training_steps(inner_steps: int, setting: Setting, batch: Batch, count: int) -> Callable[[], None]:
    """Return a function that runs a training module's own step on one batch, and the optimizer's, ``count`` times."""
    method = partial(AdversarialTraining, attack=PGD(steps=inner_steps)) if inner_steps else VanillaTraining
    module = method(untrained(), channels_last=setting.channels_last, compile=setting.compiled)
    return optimizer_steps(module, batch, count, setting.bfloat16)


def row(key: Key, timings: Mapping[Key, Timing], batch_size: int) -> dict[str, Any]:
    """Return one row of the table, from the seconds of one batch."""
    method, setting = key
    return (
        {"step": method, "setting": str(setting), "images/s": batch_size / timings[key].median}
        | speed_ratio(timings[key], timings[PLAIN_FLOAT32])
        | {"to own float32": speed_ratio(timings[key], timings[method, Setting()])["ratio"]}
    )


def notes(timings: Mapping[Key, Timing]) -> list[str]:
    """Return notes on the baseline of the ratios, and on whether loading and augmenting are cheap."""
    fastest = min((key for key in timings if key != LOADING), key=lambda key: timings[key].median)
    lines = ["ratio: to a plain step in float32 without channels-last, in the same round"]
    for key in (PLAIN_FLOAT32, fastest):
        share = 1 / speed_ratio(timings[LOADING], timings[key])["ratio"]
        verdict = "below" if share < LOADING_LIMIT else "NOT below"
        lines.append(f"{LOADING[0]}: {share:.2%} of a {key[0]} step in {key[1]}, {verdict} {LOADING_LIMIT:.0%}")
    return lines


if __name__ == "__main__":
    main()
