from qra.study.grid import Cell, Stage, Study, expand, select

__all__ = ["Cell", "Stage", "Study", "expand", "select"]
