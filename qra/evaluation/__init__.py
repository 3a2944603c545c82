"""What attacks leave of test examples: outcomes, protocols, statistics and figures."""

from qra.evaluation.outcome import Outcome
from qra.evaluation.robustness import robust

__all__ = ["Outcome", "robust"]
