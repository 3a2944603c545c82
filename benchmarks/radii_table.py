"""The table of ``docs/results.md`` on the distance of adversarial images.

Usage: ``python benchmarks/radii_table.py RUNS``, where RUNS has a run directory NAME for each network of that page,
    tested by its commands with ``callback/fmn``. Missing runs are reported. The table is written between two marks in
    the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from results_page import NETWORKS, PAGE, PARENT, between_marks, missing

from qra.attacks.pixels import LEVELS
from qra.evaluation.measured import read_measured
from qra.evaluation.outcome import read_result
from qra.evaluation.radii import Radii, paired_radii, read_radii

OUTCOME = "fmn_8"
COLUMNS = ("network", "bits", "n", "median", "quartiles", "wrong", "correct at 8/255", "nearer", "farther")
PAIRED = ("median of the pairs: parent, this", "p")


def main(runs: Path) -> None:
    found = {name: radii_in(runs / name) for name in NETWORKS if (runs / name / "result.json").exists()}
    between_marks(PAGE, Path(__file__).name, [*table(found), *missing(found)])


def radii_in(run: Path) -> Radii:
    """Return the radii of a run, which must agree with its result."""
    outcomes = read_result(run / "result.json")["outcomes"]
    return read_radii(run, {OUTCOME: read_measured(OUTCOME, outcomes[OUTCOME])})[OUTCOME]


def table(found: Mapping[str, Radii]) -> Iterator[str]:
    """Yield a row per network, in levels of 255, starting with the float parent, to which all others are compared."""
    yield f"| {' | '.join((*COLUMNS, *PAIRED))} |"
    yield "|---" * len((*COLUMNS, *PAIRED)) + "|"
    parent = found[PARENT]
    for name in (PARENT, *(name for name in found if name != PARENT)):
        radii = found[name]
        known = radii.summary()
        if known["censored"]:
            raise ValueError(f"{name}: FMN left {known['censored']} images unbroken, where the page says none")
        low, high = (LEVELS * end for end in known["quartiles"])
        correct = 100 * float(radii.correct(8 / LEVELS).double().mean())
        cells = (
            *NETWORKS[name],
            str(len(radii.indices)),
            f"{LEVELS * radii.median:.2f}",
            f"{low:.2f} to {high:.2f}",
            str(known["wrong"]),
            f"{correct:.1f}",
            *(compared(parent, radii) if name != PARENT else [""] * 4),
        )
        yield f"| {' | '.join(cells)} |"


def compared(parent: Radii, radii: Radii) -> tuple[str, str, str, str]:
    """Return the comparison of two networks on the images that both were attacked on."""
    pair = paired_radii(parent, radii)
    assert pair is not None, "both took images in one order"
    first, second = (f"{LEVELS * median:.2f}" for median in pair.medians)
    return str(pair.nearer), str(pair.farther), f"{first}, {second} (n = {pair.n})", f"{pair.p:.2g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
