from qra.study.grid import Cell, expand, select
from qra.study.stages import Stage, Study

__all__ = ["Cell", "Stage", "Study", "expand", "select"]
