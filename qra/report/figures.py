"""The kinds of figures in a report, and the data that each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qra.report.charts import attacks, clean_against_robust, cost_bars, pareto_fronts
from qra.report.curves import heat_map, robustness_curves
from qra.report.radii import security_curves
from qra.report.results import Results
from qra.report.sensitivity import sensitivity
from qra.report.style import Drawing, settings
from qra.report.trends import trends


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Args:
        name: Name for people.
        draw: Function that draws the figures; it returns none if there are no data for them.
        needs: Description of the data that it needs.
    """

    name: str
    draw: Callable[[Results], Sequence[Drawing]]
    needs: str


KINDS = (
    Kind("robustness curves", robustness_curves, "accuracies at two budgets or more"),
    Kind("clean against robust accuracy", clean_against_robust, "clean and robust accuracy of a pipeline"),
    Kind("heat map", heat_map, "robust accuracy of quantized pipelines"),
    Kind(
        "fronts of robust accuracy against size and BitOPs", pareto_fronts, "cost and robust accuracy of two pipelines"
    ),
    Kind("attacks side by side", attacks, "a quantized pipeline attacked in two ways at one budget"),
    Kind(
        "accuracy over data size, calibration size, or any other axis of numbers",
        trends,
        "a pipeline with two values or more on such an axis",
    ),
    Kind("security curves", security_curves, "smallest perturbations (callback/fmn)"),
    Kind("sensitivity of layers", sensitivity, "a pipeline with and without other bits in two sets of layers or more"),
    Kind("time of each strategy", cost_bars, "fit times"),
)


def drawings(results: Results) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    """Return all figures for which there are data, and what is missing for each of the others."""
    made: list[Drawing] = []
    missing = []
    with settings():
        for kind in KINDS:
            found = kind.draw(results)
            made += found
            if not found:
                missing.append(f"{kind.name}: needs {kind.needs}")
    return tuple(made), tuple(missing)
