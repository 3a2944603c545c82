from qra.callbacks.adversarial_examples import AdversarialExamples
from qra.callbacks.attack_evaluation import AttackEvaluation
from qra.callbacks.autoattack import AutoAttackEvaluation, RoundingCascadeEvaluation
from qra.callbacks.base import Order, PipelineCallback, order
from qra.callbacks.catastrophic import CatastrophicOverfittingGuard
from qra.callbacks.checkpoint_files import CheckpointFiles
from qra.callbacks.corruption import CorruptionEvaluation
from qra.callbacks.diagnostics import TrainingDiagnostics
from qra.callbacks.distillation import TeacherDistillation
from qra.callbacks.evaluation import Evaluation
from qra.callbacks.loggers import RunLog
from qra.callbacks.masking import MaskingCheck
from qra.callbacks.measurement import Measurement
from qra.callbacks.pwlq import PWLQCalibration
from qra.callbacks.quantization import QuantizationMonitor, QuantizationSummary
from qra.callbacks.radius import RadiusEvaluation
from qra.callbacks.requantization import Requantization
from qra.callbacks.results import ResultWriter
from qra.callbacks.robustness import RobustnessEvaluation
from qra.callbacks.training_record import TrainingRecord

__all__ = [
    "AdversarialExamples",
    "AttackEvaluation",
    "AutoAttackEvaluation",
    "CatastrophicOverfittingGuard",
    "CheckpointFiles",
    "CorruptionEvaluation",
    "Evaluation",
    "MaskingCheck",
    "Measurement",
    "Order",
    "PWLQCalibration",
    "PipelineCallback",
    "QuantizationMonitor",
    "QuantizationSummary",
    "RadiusEvaluation",
    "Requantization",
    "ResultWriter",
    "RobustnessEvaluation",
    "RoundingCascadeEvaluation",
    "RunLog",
    "TeacherDistillation",
    "TrainingDiagnostics",
    "TrainingRecord",
    "order",
]
