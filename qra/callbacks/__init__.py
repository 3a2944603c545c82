from qra.callbacks.adversarial_examples import AdversarialExamples
from qra.callbacks.catastrophic import CatastrophicOverfittingGuard
from qra.callbacks.diagnostics import TrainingDiagnostics
from qra.callbacks.distillation import TeacherDistillation
from qra.callbacks.evaluation import Evaluation, RobustnessEvaluation
from qra.callbacks.pwlq import PWLQCalibration
from qra.callbacks.quantization import QuantizationMonitor, QuantizationSummary
from qra.callbacks.results import ResultWriter

__all__ = [
    "AdversarialExamples",
    "CatastrophicOverfittingGuard",
    "Evaluation",
    "PWLQCalibration",
    "QuantizationMonitor",
    "QuantizationSummary",
    "ResultWriter",
    "RobustnessEvaluation",
    "TeacherDistillation",
    "TrainingDiagnostics",
]
