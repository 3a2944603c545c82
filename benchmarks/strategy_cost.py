"""Cost of a training step of each strategy relative to plain training, for float and quantized students."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from common import Timing, alternate, optimizer_steps, parser, report, times_as_long, untrained

from qra.attacks import PGD, DisagreementPGD, GaussianStart
from qra.models import resnet18
from qra.modules import (
    ARD,
    IAD,
    RRM,
    RSLAD,
    AdaAD,
    AdversarialTraining,
    ImageClassifier,
    LwF,
    Mart,
    RobustTransfer,
    Trades,
    TransferLoss,
    VanillaTraining,
)
from qra.quant import PACT, DoReFa, QuantScheme, calibrate, freeze
from qra.types import Batch

PLAIN = "plain"
SCHEMES = {"float": None, "W4A4": QuantScheme(DoReFa(), PACT(), 4, 4)}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark and return its rows."""
    options = parser(__doc__, batch_size=128)
    options.add_argument("--inner-steps", type=int, default=3, help="steps of the inner maximizations")
    options.add_argument("--wide-teacher", action="store_true", help="a ResNet18 teaches by logits, not a ResNet20")
    args = options.parse_args(argv)
    x = torch.rand(args.batch_size, 3, 32, 32, device=args.device)
    indices = torch.arange(args.batch_size, device=args.device)
    batch = Batch(x, indices % 10, indices)
    contestants = {
        f"{name}, {student}": training_step(make(scheme), batch)
        for student, scheme in SCHEMES.items()
        for name, make in strategies(args.inner_steps, args.wide_teacher, args.device).items()
    }
    timings = alternate(contestants, args.rounds, args.device)
    rows = [row(name, timings) for name in timings]
    teacher = "ResNet18 (features: ResNet20)" if args.wide_teacher else "ResNet20"
    notes = [
        "to plain: time of a step over that of plain training of the same student, in the same round",
        f"inner maximizations of {args.inner_steps} steps; teacher {teacher}, student ResNet20",
    ]
    report(f"training steps of {args.batch_size} images", rows, notes, args)
    return rows


def strategies(
    steps: int, wide_teacher: bool, device: torch.device
) -> dict[str, Callable[[QuantScheme | None], ImageClassifier]]:
    """Return constructors of the strategies to compare, plain training first."""
    on_labels, on_logits = PGD(steps=steps), PGD(steps=steps, start=GaussianStart(), loss="kl")
    transfers = {
        "RSLAD": RSLAD(on_logits),
        "ARD": ARD(on_labels),
        "ARD, kd_weight 0.5": ARD(on_labels, kd_weight=0.5),
        "IAD": IAD(on_labels),
        "AdaAD": AdaAD(DisagreementPGD(steps=steps, start=GaussianStart())),
        "RRM": RRM(),
        "LwF": LwF(),
    }
    return {
        PLAIN: lambda scheme: VanillaTraining(untrained(), scheme=scheme),
        "adversarial": lambda scheme: AdversarialTraining(untrained(), on_labels, scheme=scheme),
        "TRADES": lambda scheme: Trades(untrained(), on_logits, scheme=scheme),
        "MART": lambda scheme: Mart(untrained(), replace(on_labels, start=GaussianStart()), scheme=scheme),
    } | {
        name: lambda scheme, loss=loss: student_of_a_teacher(loss, scheme, wide_teacher, device)
        for name, loss in transfers.items()
    }


def student_of_a_teacher(
    loss: TransferLoss, scheme: QuantScheme | None, wide_teacher: bool, device: torch.device
) -> RobustTransfer:
    """Return a student with an untrained teacher, which costs as much as a trained one."""
    student = RobustTransfer(untrained(), loss, scheme=scheme)
    teacher = resnet18() if wide_teacher and not loss.by_features else untrained()
    student.learn_from(freeze(teacher.to(device)))
    return student


def training_step(module: ImageClassifier, batch: Batch) -> Callable[[], None]:
    """Return the module's own training step on one batch, with backward pass and optimizer."""
    module.to(batch.x.device)
    if module.scheme is not None:
        calibrate(module.network, [batch.x])
    return optimizer_steps(module, batch, 1)


def row(name: str, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Return one row of the table."""
    strategy, student = name.rsplit(", ", 1)
    taken = times_as_long(timings[name], timings[f"{PLAIN}, {student}"])
    return {
        "strategy": strategy,
        "student": student,
        "seconds": timings[name].median,
        "to plain": taken.pop("ratio"),
        **taken,
    }


if __name__ == "__main__":
    main()
